"""Trials in the controller's own process, one at a time: for debugging, where a breakpoint in the trainer must hold."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence

from ablate.execution.base import Identity, Order, WorkerFiles, WorkerSettings, thread_environment
from ablate.execution.lease import Liveness
from ablate.execution.worker import Worker
from ablate.trial import Cause


class Inline:
    """One worker that works when it is polled. It cannot be ended from outside: only a trainer that reports can be stopped.

    Args:
        asked: Why the running trial should stop, asked at each of its reports.
        starting: Told of each order before it is run.
    """

    def __init__(
        self, threads_per_worker: int, silence_s: float, asked: Callable[[], Cause | None], starting: Callable[[Order], None]
    ) -> None:
        os.environ.update(thread_environment(threads_per_worker))
        self._liveness = Liveness(silence_s)
        self._asked, self._starting = asked, starting
        self._workers: list[Worker] = []

    def submit(self, workers: Sequence[WorkerFiles]) -> None:
        """The worker of each directory is here at once."""
        for files in workers:
            worker = Worker(files, WorkerSettings.read(files), self._asked)
            if os.getcwd() not in sys.path:
                sys.path.insert(0, os.getcwd())
            Identity.own().write(files.identity)
            self._workers.append(worker)

    def poll(self) -> None:
        """Run the next order of each worker."""
        for worker in self._workers:
            order = worker.take()
            if order is not None:
                self._starting(order)
                worker.finish(order)

    def close(self) -> None:
        """Nothing was taken."""

    def pending(self, worker: WorkerFiles) -> str | None:
        """Nobody waits for a process of this machine."""
        return None

    def coming(self, worker: WorkerFiles) -> bool:
        """Nobody can tell; one that comes finds that it is not wanted."""
        return False

    def failure(self, worker: WorkerFiles) -> str | None:
        """Nothing to fail."""
        return None

    def alive(self, worker: WorkerFiles) -> bool:
        """A worker of this process, or a process that an earlier run with another executor left behind."""
        if any(own.files == worker for own in self._workers):
            return not worker.leave.exists()
        identity = Identity.read(worker.identity)
        return identity is not None and identity.pid != os.getpid() and self._liveness.alive(worker)

    def cancel(self, worker: WorkerFiles) -> None:
        """A trial of this process runs inside `poll`, so whoever calls this is between two trials."""
        self._workers = [own for own in self._workers if own.files != worker]
        identity = Identity.read(worker.identity)
        if identity is not None and identity.pid != os.getpid():
            identity.kill()
