"""Short before long: real trials that pause at a rung and go on from their checkpoint, or stop there."""

from __future__ import annotations

import pytest
from toyplace import Toyplace

from ablate.trial import TrialFiles, TrialState, read_metrics, result_of


@pytest.mark.slow
def test_trials_pause_at_a_rung_and_nothing_is_done_twice(place: Toyplace) -> None:
    place.write(step_s=0.02)
    text = (place.directory / "toy.yaml").read_text()
    text = text.replace("set: {", "set: {probed: true, ").replace("steps: [4, 6]", "gain: [0.0, 1.0, -1.0]")
    text = text[: text.index("  - name: most")] + "rungs: [2]\nconfirm: false\n"
    text = text.replace("baseline: {steps: 4}", "baseline: {steps: 6, gain: 0.0}").replace("at_most: 3}", "at_most: 3, check: 0}")
    (place.directory / "toy.yaml").write_text(text)
    place.ablate("run", "toy.yaml", "--no-mlflow")
    arms = {arm["name"]: arm for arm in place.json("report", "toy")["phases"][0]["arms"]}
    assert [arms[name]["verdict"] for name in ("gain=1", "gain=-1")] == ["adopt", "reject"]
    assert "Stopped at step 2" in arms["gain=-1"]["reason"]
    done = [record for record in place.records() if record.state is TrialState.DONE]
    assert len(done) == 6
    for record in done:
        assert record.attempts == 2, "to the rung, and on from there"
        files = TrialFiles(place.runs, record.signature)
        result = result_of(place.runs, record.signature)
        assert result is not None
        steps = [step for step, _ in read_metrics(files.attempt(result.attempt))]
        assert steps == list(range(6))
    starts = sorted(path.name.split("-from-")[1].split("-")[0] for path in (place.directory / "counts").iterdir())
    assert starts == ["0"] * 9 + ["3"] * 6
    assert {record.state for record in place.records()} == {TrialState.DONE, TrialState.QUEUED}, "the rest may go on another day"
    assert "started" not in place.ablate("run", "toy.yaml", "--no-mlflow")
