"""Whole schedules of faults on a virtual clock: whatever strikes, every trial ends exactly once, with the result of an undisturbed run."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest
import simulated
from simulated import Faults, World

from ablate.execution.attempt import carry_over
from ablate.execution.fleet import Fleet
from ablate.trial import AttemptFiles

QUIET = Faults(controller_s=0, worker_s=0, stop_s=0, never_starts=0, late_outcome=0)


@pytest.fixture
def root() -> Iterator[Path]:
    """In memory where the machine has such a folder: thousands of small files are written durably."""
    shared = Path("/dev/shm")
    folder = Path(tempfile.mkdtemp(prefix="simulated-", dir=shared if shared.is_dir() else None))
    yield folder / "runs"
    shutil.rmtree(folder)


def schedule(seed: int, root: Path, faults: Faults) -> World:
    with pytest.MonkeyPatch.context() as patch:
        world = World(seed, root, patch, faults)
        world.run()
    world.check()
    return world


def schedules(seeds: Iterable[int], root: Path) -> None:
    for seed in seeds:
        schedule(seed, root.parent / str(seed) / "runs", Faults())
        shutil.rmtree(root.parent / str(seed))


def test_an_undisturbed_schedule_trains_each_trial_once(root: Path) -> None:
    world = schedule(0, root, QUIET)
    assert world.now < 60


@pytest.mark.parametrize("first", range(0, 40, 10))
def test_random_schedules_of_faults_lose_nothing_and_run_nothing_twice(root: Path, first: int) -> None:
    schedules(range(first, first + 10), root)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("first", range(1000, 2000, 100))
def test_a_thousand_random_schedules(root: Path, first: int) -> None:
    schedules(range(first, first + 100), root)


def without_adoption(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Fleet, "adopt", lambda self: [])


def without_the_earlier_metrics(patch: pytest.MonkeyPatch) -> None:
    def carried_over(earlier: AttemptFiles, files: AttemptFiles) -> None:
        carry_over(earlier, files)
        files.metrics.write_bytes(b"")

    patch.setattr(simulated, "carry_over", carried_over)


@pytest.mark.parametrize("defect", [without_adoption, without_the_earlier_metrics])
def test_a_planted_defect_is_found(root: Path, defect: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch) -> None:
    defect(monkeypatch)
    with pytest.raises(AssertionError, match=r"more than once|a gap"):
        schedules(range(20), root)
