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
