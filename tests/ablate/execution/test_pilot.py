"""The pilot: real steps of a real trainer, extrapolated; nothing of it stays but its time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from stage import Stage

from ablate.errors import StudyError, TrainerError
from ablate.estimate import keep_pilot, kept_pilot, trial_time
from ablate.execution.pilot import extrapolated, pilot
from ablate.offers import Offers
from ablate.study import Study


@pytest.fixture
def study(monkeypatch: pytest.MonkeyPatch) -> Study:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2] / "contracts"), prepend=":")
    return Stage(Path(".")).study()


def with_baseline(study: Study, **levels: Any) -> Study:
    return study.model_copy(update={"baseline": levels})


def test_a_long_trial_is_cut_short_and_extrapolated_from_its_steps(study: Study, tmp_path: Path) -> None:
    long = with_baseline(study, steps=4000, step_s=0.02)
    found = pilot(long, Offers(long.trainer), seconds=0.4)
    assert found.step_s is not None
    assert 0.02 <= found.step_s < 0.2
    assert found.trial_s == pytest.approx(found.start_s + 4000 * found.step_s, rel=0.01)
    assert 3 <= found.steps_run < 100
    assert "with the steps of steps a trial takes" in found.said


def test_a_trial_that_ends_in_time_is_its_own_measure(study: Study) -> None:
    short = with_baseline(study, steps=5, step_s=0.01)
    found = pilot(short, Offers(short.trainer), seconds=5.0)
    assert (found.step_s, found.setting) == (None, None)
    assert 0.05 <= found.trial_s < 5.0


def test_a_baseline_that_does_not_run_is_told_with_its_cause(study: Study) -> None:
    broken = with_baseline(study, steps=5, **{"fault.kind": "crash", "fault.step": 1})
    with pytest.raises(TrainerError, match=r"the pilot of the baseline gave no time: crash: RuntimeError: planted crash"):
        pilot(broken, Offers(broken.trainer), seconds=5.0)


def test_the_time_of_a_pilot_is_kept_for_the_same_baseline_alone(study: Study, tmp_path: Path) -> None:
    one, other = with_baseline(study, steps=5), with_baseline(study, steps=6)
    keep_pilot(one, Offers(one.trainer), tmp_path, 7.5)
    assert kept_pilot(one, Offers(one.trainer), tmp_path) == 7.5
    assert trial_time(one, Offers(one.trainer), tmp_path).seconds == 7.5
    assert kept_pilot(other, Offers(other.trainer), tmp_path) is None


SAMPLES = [(3.0, 0), (4.0, 10), (5.0, 20)]


@pytest.mark.parametrize(
    ("config", "setting", "expected"),
    [
        ({"loop": {"steps": 100, "warmup_steps": 50}}, None, 13.0),
        ({"steps": 10, "max_steps": 200}, None, 23.0),
        ({"steps": 100, "train": {"max_iters": 100}}, None, 13.0),
        ({"steps": 100, "train": {"length": 40}}, "train.length", 7.0),
    ],
)
def test_the_steps_of_a_trial_are_found_by_their_name(config: dict[str, Any], setting: str | None, expected: float) -> None:
    assert extrapolated("s", config, SAMPLES, setting).trial_s == pytest.approx(expected)


@pytest.mark.parametrize("config", [{}, {"length": 100}, {"steps": 100, "epochs": 30}, {"steps": 7}, {"steps": "many"}, {"steps": True}])
def test_steps_that_cannot_be_told_are_asked_for(config: dict[str, Any]) -> None:
    with pytest.raises(StudyError, match=r"Name it: --pilot-steps PATH"):
        extrapolated("s", config, SAMPLES, None)
