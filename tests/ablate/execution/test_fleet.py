"""Workers that do not start: how often that is tried."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from pathlib import Path

import pytest
from simulated import TIMING

from ablate.errors import AblateError, NotWritable
from ablate.execution.base import WorkerFiles, WorkerSettings
from ablate.execution.fleet import Fleet


class Stillborn:
    """An executor whose launchers all end before any worker reports."""

    def submit(self, workers: Sequence[WorkerFiles]) -> None:
        """Nothing comes of it."""

    def poll(self) -> None:
        """Nothing is to be seen."""

    def close(self) -> None:
        """Nothing is left."""

    def pending(self, worker: WorkerFiles) -> str | None:
        return None

    def coming(self, worker: WorkerFiles) -> bool:
        return False

    def failure(self, worker: WorkerFiles) -> str | None:
        return "its launcher was killed."

    def alive(self, worker: WorkerFiles) -> bool:
        return False

    def cancel(self, worker: WorkerFiles) -> None:
        """Nothing runs."""


def fleet_in(directory: Path) -> Fleet:
    settings = WorkerSettings(lease=str(directory / "lease"), lease_s=15, idle_s=0.25, path=[], environment={})
    return Fleet(directory, Stillborn(), TIMING, settings, lambda event: None)


def test_workers_that_fail_to_start_together_are_one_try_of_three(tmp_path: Path) -> None:
    fleet = fleet_in(tmp_path)
    for _ in range(2):
        fleet.grow(4)
        assert len(fleet.look()) == 4
    fleet.grow(4)
    with pytest.raises(AblateError, match="3 tries in a row gave none: its launcher was killed"):
        fleet.look()


def test_what_workers_run_lies_in_folders_that_are_closed_to_others(tmp_path: Path) -> None:
    workers = tmp_path / "workers"
    workers.mkdir(mode=0o775)
    workers.chmod(0o775)  # as an earlier version left it, whatever the umask
    fleet_in(workers).grow(2)
    folders = [workers, *workers.iterdir()]
    assert len(folders) == 3
    assert {stat.S_IMODE(folder.stat().st_mode) for folder in folders} == {0o700}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give a folder to another user")
def test_no_worker_is_started_from_another_users_folder(tmp_path: Path) -> None:
    workers = tmp_path / "workers"
    workers.mkdir()
    os.chown(workers, 12345, -1)
    with pytest.raises(NotWritable, match="expected a folder of user 0, who starts workers from it, but it is of user 12345"):
        fleet_in(workers).grow(1)
    assert not list(workers.iterdir())
