"""The budget as the user meets it: refused before anything starts, or ended where it is spent."""

from __future__ import annotations

import pytest
from toyplace import Toyplace


@pytest.mark.slow
def test_a_run_beyond_the_budget_is_refused_without_yes_and_goes_on_with_more(place: Toyplace) -> None:
    place.write(more="executor: inline\nbudget: {trials: 4}")
    refused = place.ablate("run", "toy.yaml", "--no-mlflow", code=2)
    assert "trials to come do not fit into 4. Set budget.trials to" in refused
    assert not list(place.runs.glob("trials/*"))
    assert "run it with --yes" in place.ablate("run", "toy.yaml", "--detach", code=2)
    (over,) = place.json("plan", "toy.yaml")["estimate"]["over_budget"]
    assert over in refused
    ended = place.ablate("run", "toy.yaml", "--no-mlflow", "--yes", code=3)
    assert "raise budget.trials" in ended
    place.ablate("run", "toy.yaml", "budget.trials=40", "--no-mlflow")
    status = place.json("status")
    assert (status["state"], status["budget"]["trials"]) == ("done", 40)
    assert place.json("plan", "toy.yaml")["estimate"]["trials_to_come_at_most"] == 0


@pytest.mark.slow
def test_a_pilot_is_printed_and_used(place: Toyplace) -> None:
    place.write(step_s=0.01)
    printed = place.ablate("plan", "toy.yaml", "--pilot")
    assert "pilot: a whole trial of the baseline took" in printed
    assert "a pilot of the baseline, extrapolated; may be wrong by a factor 2" in printed
    assert "a pilot of the baseline" in place.json("plan", "toy.yaml")["estimate"]["source"]
    assert not list(place.runs.glob("trials/*"))


@pytest.mark.slow
def test_hours_that_end_in_the_middle_of_a_phase_end_the_run_there_and_more_of_them_go_on(place: Toyplace) -> None:
    place.write(step_s=0.4, more="workers: 1\nattempts: 1\nbudget: {hours: 0.001}")
    ended = place.ablate("run", "toy.yaml", "--no-mlflow", "--yes", code=3)
    assert "The budget is spent. Running trials save a checkpoint first" in ended
    assert "of 0.001 hours are used. Nothing is lost: raise budget.hours in the study file and run the same command again. " in ended
    status = place.json("status")
    assert (status["state"], status["trials"]["failed"]) == ("stopped", 0)
    done = status["trials"]["done"]
    assert done < 6, "the phase had six to do"
    again = place.ablate("run", "toy.yaml", "--no-mlflow", "--yes", code=3)
    assert "are used. Nothing is lost" in again
    assert place.json("status")["trials"]["done"] == done, "nothing more was begun"
    place.ablate("run", "toy.yaml", "budget.hours=1", "trainer.set.step_s=0.4", "--no-mlflow")
    assert place.json("status")["state"] == "done"
