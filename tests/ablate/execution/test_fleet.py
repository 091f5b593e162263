"""Workers that do not start: how often that is tried."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from simulated import TIMING

from ablate.errors import AblateError
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


def test_workers_that_fail_to_start_together_are_one_try_of_three(tmp_path: Path) -> None:
    settings = WorkerSettings(lease=str(tmp_path / "lease"), lease_s=15, idle_s=0.25, path=[], environment={})
    fleet = Fleet(tmp_path, Stillborn(), TIMING, settings, lambda event: None)
    for _ in range(2):
        fleet.grow(4)
        assert len(fleet.look()) == 4
    fleet.grow(4)
    with pytest.raises(AblateError, match="3 tries in a row gave none: its launcher was killed"):
        fleet.look()
