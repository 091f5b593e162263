"""`ablate more`: fresh replicates of one arm, in a study of its own."""

from __future__ import annotations

import pytest
from stage import until
from toyplace import Toyplace

from ablate.cli.dashboard import _more
from ablate.errors import StudyError
from ablate.further import further
from ablate.study import Study

STUDY = {
    "study": "asked",
    "question": "Is it better?",
    "trainer": {"callable": "toy_trainer:train"},
    "baseline": {"steps": 4},
    "otherwise": "next.yaml",
    "objective": {"metric": "probe/total", "direction": "maximize", "smallest_effect": 0.02},
    "replicates": {"start": 3, "at_most": 5},
    "phases": [{"name": "flags", "design": "one_at_a_time", "factors": {"steps": [4, 6]}, "replicates": {"start": 4, "at_most": 8}}],
}
OWN = {"phase": "flags", "name": "baseline", "levels": {"steps": 4}}
ARM = {"phase": "flags", "name": "steps=6 & more", "levels": {"steps": 6}}


def test_each_call_asks_for_replicates_that_nobody_had_before() -> None:
    study = Study.model_validate(STUDY)
    calls: list[int] = []
    seen = set(range(8))
    for count in (3, None, 5):
        alone = further(study, ARM, OWN, calls, count)
        calls.append(alone.replicates.start)
        numbers = set(range(alone.replicates.first, alone.replicates.first + alone.replicates.at_most))
        assert not numbers & seen
        seen |= numbers
        assert list(alone.phases[0].components.values()) == [{"steps": 6}]
        assert list(alone.phases[0].components) == ["steps_6_more"]
    assert alone.otherwise is None, "the next study belongs to the first one's answer"
    assert calls == [3, 8, 5]
    assert alone.study == "asked.more-3"


def test_what_cannot_be_asked_is_said() -> None:
    study = Study.model_validate(STUDY)
    with pytest.raises(StudyError, match="differs from its baseline"):
        further(study, OWN, OWN, [])
    with pytest.raises(StudyError, match="at least 3"):
        further(study, ARM, OWN, [], 2)
    with pytest.raises(StudyError, match="at most 4"):
        further(study, ARM, OWN, [480, 8], 20)


@pytest.mark.slow
def test_an_arm_meets_its_baseline_on_fresh_replicates_and_the_answer_stays(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = Toyplace(tmp_path_factory.mktemp("toy"))
    place.write()
    place.ablate("run", "toy.yaml", "--no-mlflow")
    before = place.json("report", "toy")
    assert "Did you mean toy?" in place.ablate("more", "toi", "most/steps=8", code=2)
    assert "expected one arm" in place.ablate("more", "toy", "baseline", code=2)
    said = place.ablate("more", "toy", "most/steps=8", "--replicates", "4", "--no-mlflow")
    assert "toy.more-1" in said
    assert place.runs.joinpath("toy.more-1/report.html").exists()
    found = place.json("report", "toy.more-1")
    assert [(arm["verdict"], arm["replicates"]) for arm in found["phases"][0]["arms"]] == [("baseline", 4), ("adopt", 4)]
    assert found["phases"][0]["arms"][0]["levels"] == before["phases"][1]["arms"][0]["levels"]
    places = [where for trial in place.json("trials", "toy.more-1")["trials"] for where in trial["places"]]
    assert {int(where.rpartition("r")[2]) for where in places} == {3, 4, 5, 6}
    assert place.json("report", "toy")["phases"] == before["phases"]
    monkeypatch.chdir(place.directory)
    for name, value in place.environment.items():
        monkeypatch.setenv(name, value)
    try:
        said = _more(place.runs, "toy", "most", "steps=8")  # the dashboard's button
        assert "toy.more-2" in said
        until(lambda: (place.runs / "toy.more-2" / "report.html").exists(), 120)
    finally:
        place.end_all()
    assert place.json("report", "toy.more-2")["phases"][0]["arms"][1]["replicates"] == 3
