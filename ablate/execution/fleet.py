"""The workers of a study: started, adopted from a dead controller, given orders, let go."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

from ablate.errors import AblateError
from ablate.execution.base import Executor, Order, QueueEvent, Timing, WorkerFiles, WorkerSettings
from ablate.execution.clock import SYSTEM, Clock
from ablate.execution.slots import VARIABLE, Slots
from ablate.study import Study

START_FAILURES = 3
"""Tries in a row, of as many workers as are missing, of which some never reported and none did, before the run gives up."""

TAKEN_BACK = "taken back"
"""A worker that was asked for and is no longer wanted: nobody's failure."""

HELD = 2
"""Orders that a worker has at most: the one it runs and the next, so that it never waits for the controller."""


@dataclass
class Member:
    """A worker as the controller knows it."""

    files: WorkerFiles
    since: float
    """When it was started, by the controller's clock."""
    born: bool = False
    held: dict[tuple[str, int], Order] = field(default_factory=dict)
    gpu: str | None = None
    """The GPU that was given to it."""
    gpus: float = 0.0
    """How many it holds, for the budget."""
    waits: str | None = None
    """Why it has not had its turn yet."""
    queued: float | None = None
    """When it was first seen waiting for its turn; none: it does not, or is known to have waited too long."""
    overdue: bool = False

    @property
    def leaving(self) -> bool:
        """It takes nothing new."""
        return self.files.leave.exists()


@dataclass(frozen=True)
class Patience:
    """How long a worker may wait for its turn, in a scheduler's queue."""

    longest_s: float | None = None
    take_back: bool = False
    """What becomes of it then: it is taken back, and no other takes its place as long as some run."""

    @staticmethod
    def of(study: Study) -> Patience:
        """That of a study."""
        if study.executor != "slurm" or study.slurm.pending_min is None:
            return Patience()
        return Patience(60 * study.slurm.pending_min, study.slurm.pending_then == "take_back")


class Fleet:
    """The workers of one study.

    Args:
        directory: `runs/<study>/workers`.
        settings: What each worker must know before anything else.
    """

    def __init__(
        self,
        directory: Path,
        executor: Executor,
        timing: Timing,
        settings: WorkerSettings,
        on_event: Callable[[QueueEvent], None],
        clock: Clock = SYSTEM,
        slots: Slots | None = None,
        patience: Patience | None = None,
    ) -> None:
        self.directory, self.executor, self.timing, self.settings, self.on_event = directory, executor, timing, settings, on_event
        self.clock = clock
        self.slots, self.patience = slots or Slots(), patience or Patience()
        self.members: list[Member] = []
        self._failures = 0
        self._most: int | None = None
        """Workers for which there is room; none: as many as wanted."""

    def adopt(self) -> list[Order]:
        """Take over the live workers of an earlier controller and clear away the dead.

        Returns:
            The orders that the live ones hold.
        """
        self.directory.mkdir(parents=True, exist_ok=True)
        self.executor.poll()
        for directory in sorted(entry for entry in self.directory.iterdir() if entry.is_dir()):
            files = WorkerFiles(directory)
            if not files.identity.exists() and not files.leave.exists() and self.executor.coming(files):
                self.members.append(Member(files, self.clock.now_s(), gpus=self.slots.gpus_each))
                self.on_event(QueueEvent("worker", worker=files.id, text="adopted, on its way"))
            elif not files.identity.exists():
                self._turn_away(files)
            elif self.executor.alive(files):
                orders = [order for order in map(Order.read, [files.current, *files.orders()]) if order is not None]
                gpu, gpus = self._given(files)
                held = {order.key: order for order in orders}
                self.members.append(Member(files, self.clock.now_s(), born=True, held=held, gpu=gpu, gpus=gpus))
                self.on_event(QueueEvent("worker", worker=files.id, text="adopted"))
            else:
                shutil.rmtree(directory, ignore_errors=True)
        return [order for member in self.members for order in member.held.values()]

    def _given(self, files: WorkerFiles) -> tuple[str | None, float]:
        """The GPU of a worker that an earlier controller started."""
        try:
            gpu = WorkerSettings.read(files).environment.get(VARIABLE)
        except (OSError, ValueError, TypeError):
            return None, 0.0
        return gpu, self.slots.gpus_each if gpu in self.slots.devices else 0.0

    def _turn_away(self, files: WorkerFiles) -> None:
        # Its launcher may still be at work: it is told to leave as soon as it comes, and forgotten once it cannot come.
        if files.leave.exists() and time.time() - files.leave.stat().st_mtime > 10 * self.timing.birth_s:
            shutil.rmtree(files.directory, ignore_errors=True)
        else:
            files.leave.touch()

    def grow(self, wanted: int) -> None:
        """Start workers until there are so many; those whose time is up do not count, because their followers may have to queue."""
        fresh: list[WorkerFiles] = []
        wanted = wanted if self._most is None else min(wanted, self._most)
        present = sum(self.settings.stay_s is None or not member.leaving for member in self.members)
        for _ in range(wanted - present):
            files = WorkerFiles(self.directory / f"w{secrets.token_hex(4)}")
            gpu = self.slots.next_free(member.gpu for member in self.members)
            chosen = {} if gpu is None else {VARIABLE: gpu}
            files.create(replace(self.settings, environment={**self.settings.environment, **chosen}))
            self.members.append(Member(files, self.clock.now_s(), gpu=gpu, gpus=self.slots.gpus_each))
            fresh.append(files)
        if fresh:
            self.executor.submit(fresh)

    def look(self) -> list[Member]:
        """See who was born and who died.

        Returns:
            The dead, no longer members; what they held is for the caller to settle.

        Raises:
            AblateError: No worker can be started.
        """
        dead, failed = [], ""
        for member in self.members:
            if member.born:
                if not self.executor.alive(member.files):
                    dead.append(member)
            elif member.files.identity.exists():
                member.born, self._failures = True, 0
                self.on_event(QueueEvent("worker", worker=member.files.id, text="ready"))
            else:
                failure = self._unborn(member)
                if failure is not None:
                    dead.append(member)
                    failed = failure if failure != TAKEN_BACK else failed
        self.members = [member for member in self.members if member not in dead]
        if failed:  # workers that were started together fail together: one try
            self._give_up_after(failed)
        return dead

    def _unborn(self, member: Member) -> str | None:
        waits = self.executor.pending(member.files)
        if waits is not None:
            member.since = self.clock.now_s()
            if waits != member.waits:
                self.on_event(QueueEvent("worker", worker=member.files.id, text=f"pending ({waits})"))
            member.waits = waits
            return self._overdue(member, waits)
        failure = self.executor.failure(member.files)
        if failure is None and self.clock.now_s() - member.since > self.timing.birth_s:
            failure = f"it did not report within {self.timing.birth_s:g} s. Log: {member.files.log}"
        if failure is not None:
            member.files.leave.touch()
        return failure

    def _overdue(self, member: Member, waits: str) -> str | None:
        """Why a worker that waits is taken back."""
        now = self.clock.now_s()
        member.queued = now if member.queued is None else member.queued
        if self.patience.longest_s is None or member.overdue or now - member.queued < self.patience.longest_s:
            return None
        member.overdue = True
        longest = f"slurm.pending_min ({self.patience.longest_s / 60:.3g} min)"
        if not self.patience.take_back:
            mend = "It goes on waiting; ask for less under `slurm:`, or see `squeue --start`."
            self.on_event(QueueEvent("worker", worker=member.files.id, text=f"has waited longer than {longest}: {waits}. {mend}"))
            return None
        self._most = len(self.members) - 1 if self._most is None else self._most - 1
        member.files.leave.touch()
        self.executor.cancel(member.files)
        if self._most == 0:
            raise AblateError(
                f"{self.directory}: no job of Slurm began within {longest}: {waits}. Ask for less under `slurm:`, "
                "raise pending_min, or set pending_then=wait. Nothing is lost: the same command goes on."
            )
        self.on_event(QueueEvent("worker", worker=member.files.id, text=f"taken back: it waited longer than {longest}: {waits}"))
        return TAKEN_BACK

    def _give_up_after(self, failure: str) -> None:
        self._failures += 1
        if self._failures >= START_FAILURES:
            raise AblateError(
                f"{self.directory}: expected a worker to start but {self._failures} tries in a row gave none: {failure} "
                "Run `ablate doctor`, or use `executor=inline`. Nothing is lost: the same command goes on."
            )

    def next_free(self) -> Member | None:
        """The worker that should get the next order: one without work, else one whose next order does not wait yet."""
        open_ = [member for member in self.members if member.born and len(member.held) < HELD and not member.leaving]
        return min(open_, key=lambda member: len(member.held), default=None)

    def give(self, member: Member, order: Order) -> None:
        """Put an order into a worker's inbox."""
        beside = member.files.directory / f".{order.file_name}"
        beside.write_text(order.to_json())
        os.replace(beside, member.files.inbox / order.file_name)

    def rebalance(self) -> None:
        """Move orders that wait behind a running trial to workers without work; the order's rename decides who has it."""
        idle = [member for member in self.members if member.born and not member.held and not member.leaving]
        for member in self.members:
            if not idle:
                return
            for path in member.files.orders() if len(member.held) > 1 else []:
                order = Order.read(path)
                if order is None or not idle:
                    continue
                with contextlib.suppress(FileNotFoundError):
                    os.rename(path, idle[-1].files.inbox / path.name)
                    member.held.pop(order.key, None)
                    idle.pop().held[order.key] = order

    def take_back(self, members: Iterable[Member]) -> list[Order]:
        """Empty inboxes; what was there is now no worker's."""
        taken = []
        for member in members:
            for path in member.files.orders():
                order, mine = Order.read(path), member.files.directory / ".taken-back"
                with contextlib.suppress(FileNotFoundError):
                    os.rename(path, mine)
                    mine.unlink()
                    if order is not None:
                        member.held.pop(order.key, None)
                        taken.append(order)
        return taken

    def release(self, key: tuple[str, int]) -> None:
        """An attempt ended; its worker holds it no more."""
        for member in self.members:
            member.held.pop(key, None)

    def holding(self, key: tuple[str, int]) -> Member | None:
        """The worker that holds an attempt."""
        return next((member for member in self.members if key in member.held), None)

    def let_go(self, patience_s: float = 2.0) -> None:
        """Tell all workers to leave and see the idle ones off; one that still runs a trial leaves after it."""
        for member in self.members:
            with contextlib.suppress(OSError):  # a full disk: the lease ends them
                member.files.leave.touch()
        until = self.clock.now_s() + patience_s
        waiting = [member for member in self.members if member.born and not member.held]
        while self.clock.now_s() < until:
            self.executor.poll()
            waiting = [member for member in waiting if self.executor.alive(member.files)]
            if not waiting:
                break
            self.clock.wait(self.timing.idle_s)
