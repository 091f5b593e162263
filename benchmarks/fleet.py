"""What the controller costs for each worker that it looks after: real queue, ledger and files; workers and time on paper.

    PYTHONPATH=. python benchmarks/fleet.py [WORKERS ...]

Every worker trains trials of 10 minutes of virtual time and reports every 10 s. Half an hour is played; counted are the controller's own
CPU time and its calls of the file system (opens, stats, listings, renames, links, new and removed files) for each second of it.
"""

from __future__ import annotations

import heapq
import itertools
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from unittest import mock

from ablate.errors import Interrupted
from ablate.execution.base import Identity, Order, Timing, WorkerFiles
from ablate.execution.pool import Queue
from ablate.trial import Outcome, TrialFiles, metric_line
from benchmarks.nothing import open_ledger, specs, study
from benchmarks.side import machine

SIZES = (10, 100, 1_000)
TRIAL_S, REPORT_S, PLAYED_S = 600.0, 10.0, 1800.0
CALLS = ("open", "stat", "lstat", "scandir", "listdir", "rename", "replace", "link", "unlink", "mkdir", "rmdir", "utime", "fsync")


@dataclass
class Counted:
    """Calls of the file system by the controller; what paper workers do is not counted."""

    calls: int = 0
    cpu_s: float = 0.0
    on: bool = True


@dataclass
class Paper:
    """Workers and a clock on paper (an `Executor` and a `Clock`)."""

    counted: Counted
    now: float = 0.0
    queue: Queue | None = None
    _events: list[tuple[float, int, Callable[[], None]]] = field(default_factory=list)
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    def now_s(self) -> float:
        return self.now

    def wait(self, seconds: float) -> None:
        """Let so much time pass, and the workers work."""
        self.counted.on = False
        cpu, until = time.process_time(), self.now + seconds
        while self._events and self._events[0][0] <= until:
            self.now, _, event = heapq.heappop(self._events)
            event()
        self.now = until
        self.counted.cpu_s -= time.process_time() - cpu
        self.counted.on = True
        if self.now >= PLAYED_S and self.queue is not None:
            raise Interrupted("played")

    def _in(self, seconds: float, event: Callable[[], None]) -> None:
        heapq.heappush(self._events, (self.now + seconds, next(self._numbers), event))

    def submit(self, workers: Sequence[WorkerFiles]) -> None:
        for worker in workers:
            self._in(1.0 + 9 * (next(self._numbers) % 97) / 97, lambda worker=worker: self._born(worker))  # type: ignore[misc]

    def _born(self, worker: WorkerFiles) -> None:
        Identity.own().write(worker.identity)
        self._take(worker)

    def _take(self, worker: WorkerFiles) -> None:
        path = next(iter(worker.orders()), None)
        order = None if path is None else Order.read(path)
        if path is None or order is None:
            self._in(1.0, lambda: self._take(worker))
            return
        path.rename(worker.current)
        files = TrialFiles(Path(order.root), order.signature).attempt(order.attempt)
        files.began.write_text('{"at": 0}')
        self._train(worker, order, 0)

    def _train(self, worker: WorkerFiles, order: Order, step: int) -> None:
        files = TrialFiles(Path(order.root), order.signature).attempt(order.attempt)
        with files.metrics.open("a") as stream:
            stream.write(metric_line(step, {"train/loss": 1.0 / (step + 1)}))
        if step * REPORT_S < TRIAL_S:
            self._in(REPORT_S, lambda: self._train(worker, order, step + 1))
            return
        outcome = Outcome(order.signature, order.attempt, None, "", TRIAL_S, {"probe/total": 1.0}, (), {}, None)
        files.outcome.write_text(outcome.to_json())
        worker.current.unlink()
        self._take(worker)

    def poll(self) -> None: ...
    def close(self) -> None: ...
    def pending(self, worker: WorkerFiles) -> str | None:
        return None

    def coming(self, worker: WorkerFiles) -> bool:
        return False

    def failure(self, worker: WorkerFiles) -> str | None:
        return None

    def alive(self, worker: WorkerFiles) -> bool:
        """By its heartbeat, as with Slurm: one look at a file."""
        worker.identity.stat()
        return True

    def cancel(self, worker: WorkerFiles) -> None: ...


@contextmanager
def counting(counted: Counted) -> Iterator[None]:
    """Count this thread's calls of the file system."""

    def wrapped(call: Callable[..., object]) -> Callable[..., object]:
        def counts(*args: object, **kwargs: object) -> object:
            counted.calls += counted.on
            return call(*args, **kwargs)

        return counts

    with mock.patch.multiple(os, **{name: wrapped(getattr(os, name)) for name in CALLS}), mock.patch("io.open", wrapped(open)):
        yield


def played(workers: int) -> dict[str, float]:
    """Half an hour of so many workers."""
    counted = Counted()
    with tempfile.TemporaryDirectory(prefix="fleet-") as folder:
        root = Path(folder) / "runs"
        paper, ledger = Paper(counted), open_ledger(root, "fleet")
        found = study("fleet", workers)
        try:
            with Queue(ledger, root, found, on_event=lambda event: None, timing=Timing(), executor=paper, clock=paper) as queue:
                paper.queue = queue
                try:
                    with counting(counted):
                        counted.cpu_s -= time.process_time()
                        queue.complete(specs(0, int(workers * PLAYED_S / TRIAL_S) + workers))
                except Interrupted:
                    counted.cpu_s += time.process_time()
                paper.queue = None
            done = sum(record.state.value == "done" for record in ledger.trials())
        finally:
            ledger.close()
    return {"done": done, "cpu": counted.cpu_s / PLAYED_S, "calls": counted.calls / PLAYED_S}


ROWS = (
    ("trials done in half an hour", "done", ".0f"),
    ("controller, share of a core", "cpu", ".1%"),
    ("its calls of the file system a second", "calls", ".0f"),
)


def main() -> None:
    sizes = [int(size) for size in sys.argv[1:]] or list(SIZES)
    found = {size: played(size) for size in sizes}
    print(f"{machine()}\n")
    print(f"| workers | {' | '.join(f'{size:,}' for size in sizes)} |\n| --- |{' --- |' * len(sizes)}")
    for name, key, form in ROWS:
        print(f"| {name} | {' | '.join(format(found[size][key], form) for size in sizes)} |")


if __name__ == "__main__":
    main()
