"""The last word: fresh replicates at the study's end, and `ablate confirm` under other settings."""

from __future__ import annotations

import json

import pytest
from toyplace import Toyplace


@pytest.fixture
def place(tmp_path_factory: pytest.TempPathFactory) -> Toyplace:
    found = Toyplace(tmp_path_factory.mktemp("toy"))
    found.write()
    text = (found.directory / "toy.yaml").read_text()
    text = text.replace('trainer: {callable: "toy', 'trainer: {confirm: {checkpoint_every: 2}, callable: "toy').replace(
        "at_most: 3", "at_most: 8"
    )
    (found.directory / "toy.yaml").write_text(text)
    found.ablate("run", "toy.yaml", "--no-mlflow")
    return found


@pytest.mark.slow
def test_the_winner_meets_the_baseline_on_fresh_replicates_and_later_under_other_settings(place: Toyplace) -> None:
    document = place.json("report", "toy")
    assert [phase["name"] for phase in document["phases"]] == ["more", "most", "confirmation"]
    last = document["phases"][-1]
    assert [(arm["name"], arm["verdict"]) for arm in last["arms"]] == [("baseline", "baseline"), ("winner", "adopt")]
    assert ", and together confirmed on fresh replicates" in document["answer"]["headline"][0]
    assert document["winner_levels"] == {"steps": 8}
    rows = list(place.json("trials", "toy", "--phase", "confirmation")["trials"])
    seeds = sorted({place.rpartition(" r")[2] if " r" in place else place.rpartition("/r")[2] for row in rows for place in row["places"]})
    assert seeds[:3] == ["2000", "2001", "2002"]
    specs = [json.loads((place.runs / "trials" / row["signature"] / "trial.json").read_text())["config"] for row in rows]
    assert {spec["checkpoint_every"] for spec in specs} == {2}, "trainer.confirm holds for these trials alone"
    said = place.ablate("confirm", "toy.yaml", "trainer.set.step_s=0.001", "--no-mlflow")
    assert "The answer of toy held: probe/total" in said
    name = next(path.name for path in place.runs.iterdir() if path.name.startswith("toy.confirm-"))
    held = place.json("report", name)
    assert [arm["verdict"] for arm in held["phases"][0]["arms"]] == ["baseline", "adopt"]
    places = [where for trial in place.json("trials", name)["trials"] for where in trial["places"]]
    assert all(any(where.endswith(str(seed)) for where in places) for seed in (500, 501, 502))
    assert "started" not in place.ablate("confirm", "toy.yaml", "trainer.set.step_s=0.001", "--no-mlflow")
    assert "is what the winner changes" in place.ablate("confirm", "toy.yaml", "baseline.steps=5", code=2)


def test_nothing_adopted_leaves_nothing_to_confirm(tmp_path_factory: pytest.TempPathFactory) -> None:
    place = Toyplace(tmp_path_factory.mktemp("toy"))
    place.write()
    text = (place.directory / "toy.yaml").read_text()
    (place.directory / "toy.yaml").write_text(text.replace("maximize", "minimize"))
    place.ablate("run", "toy.yaml", "--no-mlflow")
    assert [phase["name"] for phase in place.json("report", "toy")["phases"]] == ["more", "most"]
    assert "nothing is adopted yet" in place.ablate("confirm", "toy.yaml", code=2)
