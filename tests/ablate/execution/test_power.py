"""The power goes at any moment: what was not synced is gone, and the next run neither loses a result nor trains one again."""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from stage import Stage

from ablate.execution.pool import Queue
from ablate.ledger import Ledger
from ablate.trial import TrialState, result_of


class PowerFailure(BaseException):
    pass


class Disk:
    """What a disk really holds: files as of their last sync, names as of the last sync of their folder.

    The ledger is SQLite's, whose own syncs cannot be seen from here: it is taken as it is.
    """

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self._contents: dict[tuple[int, int], bytes] = {}
        self._names: dict[tuple[int, int], dict[str, tuple[tuple[int, int], bool]]] = {}
        self.left: float = float("inf")
        self._sync = os.fsync
        patch.setattr(os, "fsync", self.fsync)

    def fsync(self, handle: int) -> None:
        self._sync(handle)
        path = Path(os.readlink(f"/proc/self/fd/{handle}"))
        if path.is_dir():
            self._names[self._inode(path)] = {entry.name: (self._inode(entry), entry.is_dir()) for entry in path.iterdir()}
        else:
            self._contents[self._inode(path)] = path.read_bytes()
        self.moment()

    def moment(self) -> None:
        """One at which the power may go."""
        self.left -= 1
        if self.left == 0:
            raise PowerFailure

    @staticmethod
    def _inode(path: Path) -> tuple[int, int]:
        found = path.stat()
        return found.st_dev, found.st_ino

    def after_power_failure(self, root: Path, into: Path) -> None:
        """Lay out what is left of a folder whose own name was synced."""
        into.mkdir()
        self._lay_out(self._inode(root), into)
        for ledger in root.glob("*/ledger.db*"):
            (into / ledger.parent.name).mkdir(exist_ok=True)
            shutil.copy2(ledger, into / ledger.parent.name / ledger.name)

    def _lay_out(self, folder: tuple[int, int], into: Path) -> None:
        for name, (inode, is_folder) in self._names.get(folder, {}).items():
            if is_folder:
                (into / name).mkdir()
                self._lay_out(inode, into / name)
            else:
                (into / name).write_bytes(self._contents.get(inode, b""))


def failing(moment: int, folder: Path, started: Callable[[Disk], Stage]) -> tuple[bool, Stage]:
    """A run whose power goes at this moment; whether it came to it, and what is left."""
    with pytest.MonkeyPatch.context() as patch:
        disk = Disk(patch)
        stage = started(disk)
        disk.left = moment
        turn = Queue._turn

        def ended(self: Queue, **given: Any) -> bool:
            happened = turn(self, **given)
            disk.moment()
            return happened

        patch.setattr(Queue, "_turn", ended)
        try:
            stage.complete([stage.spec(0), stage.spec(1, steps=3)])
        except PowerFailure:
            disk.left = float("inf")
            disk.after_power_failure(stage.root, folder / "after")
            return True, Stage(folder / "after", executor="inline", timing=stage.timing)
        return False, stage


def test_no_result_is_lost_and_none_is_made_twice_wherever_the_power_goes(tmp_path: Path) -> None:
    done_before = 0
    for moment in itertools.count(1):
        folder = tmp_path / str(moment)
        folder.mkdir()
        went, stage = failing(moment, folder, lambda disk, folder=folder: Stage(folder / "runs", executor="inline"))  # type: ignore[misc]
        specs = [stage.spec(0), stage.spec(1, steps=3)]
        if not went:
            break
        ledger = Ledger(stage.root / stage.name / "ledger.db")
        done = [record.signature for record in ledger.trials({TrialState.DONE})]
        ledger.close()
        for signature in done:
            assert result_of(stage.root, signature) is not None, f"a result is lost where the power goes at moment {moment}"
        before = {spec.signature: len(stage.starts(spec.replicate)) for spec in specs}
        stage.complete(specs)
        stage.check_done(specs)
        for signature in done:
            replicate = next(spec.replicate for spec in specs if spec.signature == signature)
            assert len(stage.starts(replicate)) == before[signature], "it is trained again"
        done_before += len(done)
    assert moment > 12
    assert done_before > 5
