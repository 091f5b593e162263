"""Short forms of the benchmarks: what was won stays won. Ratios within one run, with bounds far from the figures found."""

from __future__ import annotations

import pytest

from benchmarks import metric_points, overhead

pytestmark = pytest.mark.slow


def test_a_trial_costs_much_less_than_a_submitit_job() -> None:
    found = overhead.measure(40, 1, {"submitit local": 4})
    (ours, _), (theirs, _) = found["ablate"][0], found["submitit local"][0]
    assert 4 * ours < theirs


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")  # MLflow's own
def test_points_reach_mlflow_much_faster_than_one_by_one() -> None:
    found = metric_points.rates(3000)
    assert found["ablate"] > 5 * found["log_metric, one by one"]
