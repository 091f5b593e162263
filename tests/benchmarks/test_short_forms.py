"""Short forms of the benchmarks: what was won stays won. Ratios within one run, with bounds far from the figures found."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import optuna
import pytest

from benchmarks import crops, indexing, metric_points, overhead, peer_step, report, tuning, verdicts
from benchmarks.side import have_peers
from trainer.config import from_mapping
from trainer.data import foreground_mask, load_scans

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.slow


def test_a_trial_costs_much_less_than_a_submitit_job() -> None:
    found = overhead.measure(40, 1, {"submitit local": 4})
    (ours, _), (theirs, _) = found["ablate"][0], found["submitit local"][0]
    assert 4 * ours < theirs


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")  # MLflow's own
def test_points_reach_mlflow_faster_than_its_own_ways() -> None:
    found = metric_points.rates(20_000)
    assert found["ablate"] > 20 * found["log_metric, one by one"]
    assert found["ablate"] > 2 * found["log_batch, 1000 a call"]


def test_crops_hold_their_ratio_and_cost_few_times_their_copying(tmp_path: Path) -> None:
    voxels = load_scans(from_mapping({"data.phantom.size_voxels": 96, "data.phantom.scans": 3}))[0].voxels
    np.save(tmp_path / "scan.npy", voxels)
    np.save(tmp_path / "mask.npy", foreground_mask(voxels, "body", -500.0).view(np.uint8))
    found = crops.measure(tmp_path, (48, 24), 3, visits=80, peers=have_peers())
    assert not any(one["violations"] for one in found[crops.OURS])
    ours = statistics.median(one["cpu_s"] for one in found[crops.OURS])
    assert ours < 25 * statistics.median(one["cpu_s"] for one in found[crops.FLOOR])
    peers = [statistics.median(one["cpu_s"] for one in found[name]) for name in crops.PEERS if name in found]
    assert all(2 * ours < one for one in peers)


def test_a_step_reaches_much_of_the_machines_product_rate() -> None:
    found = peer_step.measure(peer_step.Case("phantom_cpu", 32, 4, 4), 1, 3, peers=have_peers())
    assert statistics.median(one["flops"] / one["cpu_s"] / one["rate"] for one in found["ours"]) > 0.2
    if "MONAI" in found:
        ours, theirs = (statistics.median(one["cpu_s"] for one in found[name]) for name in ("ours", "MONAI"))
        assert ours < theirs


def test_a_second_look_at_scans_reads_none_of_them(tmp_path: Path) -> None:
    indexing.scans(tmp_path, 12)
    found = indexing.measure(tmp_path, 1, peers=have_peers())
    first, again = (found["ablate's trainer"][which][0] for which in ("first", "again"))
    assert 4 * again["cpu_s"] < first["cpu_s"]
    if have_peers():
        assert first["cpu_s"] < found["MONAI PersistentDataset"]["first"][0]["cpu_s"]


def test_points_measured_twice_find_as_much_as_points_measured_four_times_and_know_how_sure_they_are() -> None:
    """At half of the trials, with generous bounds."""
    found = {}
    for replicates in (2, 4):
        found[replicates] = [
            one for seed in range(40) if (one := tuning.tuned(tuning.cliff, tuning.Design(12, replicates), seed)) is not None
        ]
    lacking = {replicates: statistics.mean(one.lacking for one in some) for replicates, some in found.items()}
    assert lacking[2] < max(0.5, 2 * lacking[4])
    assert statistics.mean(one.off**2 for one in found[2]) < 2**2


def test_the_worse_half_of_the_points_may_stop_at_a_rung_where_half_of_an_effect_shows() -> None:
    """A quarter of the trials less, with generous bounds."""
    whole, halved = tuning.Design(12, 2), tuning.Design(12, 2, halve=True, rung=0.3)
    assert halved.trials < 0.75 * whole.trials
    found = {design: [one for seed in range(40) if (one := tuning.tuned(tuning.cliff, design, seed))] for design in (whole, halved)}
    lacking = {design: statistics.mean(one.lacking for one in some) for design, some in found.items()}
    assert lacking[halved] < max(0.6, 2 * lacking[whole])
    assert statistics.mean(one.off**2 for one in found[halved]) < 2**2


def cpu_s(*command: str) -> float:
    """CPU seconds of `python -m ...`, the least of three."""
    seconds = []
    for _ in range(3):
        before = os.times()
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        subprocess.run([sys.executable, "-m", *command], cwd=ROOT, check=True, stdout=subprocess.DEVNULL, env=environment)
        after = os.times()
        seconds.append(after.children_user + after.children_system - before.children_user - before.children_system)
    return min(seconds)


def test_a_plan_costs_few_times_its_help() -> None:
    assert cpu_s("ablate", "plan", "studies/collapse.yaml") < 8 * cpu_s("ablate", "--help")


def test_the_report_of_500_trials_is_small_and_opens_hardly_later_than_one_of_few(tmp_path: Path) -> None:
    few, many = tmp_path / "few", tmp_path / "many"
    few.mkdir()
    many.mkdir()
    short, _ = report.written(few, flags=1, levels=3, points=2)
    long, trials = report.written(many, flags=5, levels=66, points=21)
    assert trials >= 500
    assert long.stat().st_size < 15e6
    one, other = (statistics.median(taken.first_s for taken in found) for found in report.openings([short, long], 3))
    assert other < 3 * one


def test_the_first_phase_is_decided_as_by_all_its_trials_with_fewer_steps_than_the_pruners_take() -> None:
    """On the trials that were really run."""
    trials = verdicts.kept()
    whole, _, sparing = (verdicts.ours(rules, trials) for rules in verdicts.RULES.values())
    assert len(whole.adopted) == 2
    assert sparing.adopted == whole.adopted
    assert sparing.steps < 0.6 * whole.steps
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        assert all(sparing.steps < pruner(trials, 0).steps for pruner in verdicts.PRUNERS.values())
