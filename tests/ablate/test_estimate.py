"""What a study will take: from trials that ran, with the uncertainty said, and held against the budget."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ablate.errors import OverBudget
from ablate.estimate import Estimate, TrialTime, check, estimate, trial_time
from ablate.ledger import Ledger, Used
from ablate.loading import load
from ablate.offers import Offers
from ablate.plan import plan
from ablate.study import Arm, Study
from ablate.trial import Cause, TrialFiles, TrialSpec

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def study() -> Study:
    return load(REPOSITORY / "studies" / "smoke.yaml", ["expected_trial_s=10", "executor=inline"])


@pytest.fixture(scope="module")
def offers(study: Study) -> Offers:
    return Offers(study.trainer)


def ran(
    root: Path, study: Study, offers: Offers, seconds: list[float], name: str = "smoke", code: str | None = None, **levels: Any
) -> Ledger:
    """A ledger with trials that took so long."""
    ledger = Ledger(root / name / "ledger.db")
    document = {"study": study.model_dump(mode="json", by_alias=True) | {"study": name}, "base": {}}
    ledger.freeze(document, code or offers.code_version(), "")
    for index, took in enumerate(seconds):
        config = offers.config({**study.baseline, **levels}, index)
        spec = TrialSpec(f"{name}{index}", index, config, study.trainer.callable, "", "")
        ledger.add_arms("settings", [Arm(name="a", levels={})])
        ledger.add_trials("settings", "a", [spec])
        TrialFiles(root, spec.signature).directory.mkdir(parents=True)
        TrialFiles(root, spec.signature).spec.write_text(spec.to_json())
        lost = ledger.start_attempt(spec.signature, "w", gpus=0.5)
        ledger.finish_attempt(spec.signature, lost, cause=Cause.LOST, message="", seconds=took / 4)
        number = ledger.start_attempt(spec.signature, "w", gpus=0.5)
        ledger.finish_attempt(spec.signature, number, cause=None, message="", seconds=took * 3 / 4)
    return ledger


def test_without_any_trial_the_trainers_word_counts_and_is_not_trusted(study: Study, offers: Offers, tmp_path: Path) -> None:
    found = trial_time(study, offers, tmp_path)
    stated = offers.expected_seconds(offers.config(study.baseline, 0))
    assert stated is not None
    assert found == TrialTime(stated, stated / 3, stated * 3, "stated by the trainer, not measured here; may be wrong by a factor 3")


def test_a_pilot_is_better_than_a_word_and_own_trials_are_better_than_both(study: Study, offers: Offers, tmp_path: Path) -> None:
    found = trial_time(study, offers, tmp_path, pilot_s=20.0)
    assert (found.seconds, found.low, found.high) == (20.0, 10.0, 40.0)
    assert "a pilot of the baseline" in found.source
    ran(tmp_path, study, offers, [30.0, 31.0, 32.0]).close()
    few = trial_time(study, offers, tmp_path, pilot_s=20.0)
    assert (few.seconds, few.high) == (pytest.approx(31.0), pytest.approx(46.5))
    assert few.source == "median of 3 trials of this study; may be wrong by a factor 1.5"


def test_enough_trials_speak_for_their_own_spread(study: Study, offers: Offers, tmp_path: Path) -> None:
    ran(tmp_path, study, offers, [30.0, 31.0, 32.0, 33.0, 60.0]).close()
    found = trial_time(study, offers, tmp_path)
    assert (found.seconds, found.low, found.high) == tuple(pytest.approx(x) for x in (32.0, 30.0, 60.0))
    assert found.source == "median of 5 trials of this study"


def test_trials_of_another_study_are_scaled_by_what_the_trainer_expects(study: Study, offers: Offers, tmp_path: Path) -> None:
    steps = offers.config(study.baseline, 0)["loop"]["steps"]  # type: ignore[index]
    longer = {"loop.steps": 5 * steps}
    expected = [offers.expected_seconds(offers.config({**study.baseline, **more}, 0)) or 0.0 for more in ({}, longer)]
    assert expected[1] > 1.5 * expected[0]
    ran(tmp_path, study, offers, [100.0] * 6, name="other", **longer).close()
    found = trial_time(study, offers, tmp_path)
    assert found.seconds == pytest.approx(100.0 * expected[0] / expected[1])
    assert found.source == "6 trials of study other; may be wrong by a factor 2"


def test_other_code_is_no_evidence(study: Study, offers: Offers, tmp_path: Path) -> None:
    ran(tmp_path, study, offers, [100.0] * 6, name="other", code="before").close()
    assert "stated by the trainer" in trial_time(study, offers, tmp_path).source


def test_what_is_done_is_not_to_come_and_lost_attempts_cost_gpu_hours(study: Study, offers: Offers, tmp_path: Path) -> None:
    planned = plan(study, offers)
    assert estimate(study, offers, planned, tmp_path).trials == planned.trials_at_most
    ledger = ran(tmp_path, study, offers, [36.0] * 4)
    found = estimate(study, offers, planned, tmp_path)
    first = study.phases[0].name
    assert found.trials == planned.trials_at_most - (4 if first == "settings" else 0)
    assert found.used.gpu_seconds == pytest.approx(4 * 36.0 / 2)
    ledger.conclude(first, {})
    ledger.event("done", "")
    ledger.close()
    assert estimate(study, offers, planned, tmp_path).trials == 0
    check(estimate(study.model_copy(update={"budget": study.budget.model_copy(update={"trials": 1})}), offers, planned, tmp_path))


def budgeted(study: Study, **budget: float) -> Study:
    return study.model_copy(update={"budget": study.budget.model_copy(update={"trials": None, "hours": None, **budget})})


@pytest.mark.parametrize(
    ("budget", "said"),
    [
        ({"trials": 109}, "budget.trials: 10 used and at most 100 trials to come do not fit into 109. Set budget.trials to 110,"),
        (
            {"hours": 1.88},
            "budget.hours: 0.5 used and at most 1.39 hours to come (a guess) do not fit into 1.88. Set budget.hours to 1.89,",
        ),
        ({"gpu_hours": 1.6}, "budget.gpu_hours: 0.25 used and at most 1.39 GPU-hours to come (a guess) do not fit into 1.6."),
        ({}, ""),
        ({"trials": 110, "hours": 2.0, "gpu_hours": 1.64}, ""),
    ],
)
def test_a_budget_that_is_not_enough_is_named_with_the_estimate_and_the_mend(study: Study, budget: dict[str, float], said: str) -> None:
    used = Used(10, 1800.0, frozenset(), 900.0)
    found = Estimate(budgeted(study, **budget), 100, TrialTime(100.0, 50.0, 200.0, "a guess"), 2, 0.5, used)
    if not said:
        check(found)
        assert found.document()["over_budget"] == []
        return
    with pytest.raises(OverBudget) as caught:
        check(found)
    assert said in str(caught.value)
    assert "--yes" in str(caught.value)
    assert caught.value.exit_code == 2


def test_how_a_study_runs_may_change_between_runs_and_what_it_asks_may_not(study: Study, offers: Offers, tmp_path: Path) -> None:
    ledger = ran(tmp_path, study, offers, [])
    changed = {"budget": study.budget.model_copy(update={"trials": 999}), "workers": 7, "attempts": 5}
    document = {"study": study.model_copy(update=changed).model_dump(mode="json", by_alias=True) | {"study": "smoke"}, "base": {}}
    ledger.freeze(document, offers.code_version(), "")
    frozen = ledger.frozen()
    assert frozen is not None
    assert frozen.document == document
    (event,) = [event.text for event in ledger.events() if event.kind == "steered"]
    assert "workers: 2 -> 7." in event
    assert "budget.trials: 20 -> 999." in event
    ledger.close()
