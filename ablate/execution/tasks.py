"""A trial that several processes train together: one of the worker's tasks, the first, is the worker; the others follow it.

All are started by submitit and stay as long as the worker. In the worker's folder `tasks/` (a shared file system, so nothing listens for
this) stand: `N.json`, who follower N is; `now.json`, what all train now and where they meet; `stop.json`, what is to be stopped;
`N.ended.json`, how follower N came out of it; `over`, the worker is done. The trainer finds torch's variables (`RANK`, `WORLD_SIZE`,
`LOCAL_RANK`, `LOCAL_WORLD_SIZE`, `MASTER_ADDR`, `MASTER_PORT`), as torchrun and submitit's torch environment set them.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ablate.execution.attempt import classify, run_along
from ablate.execution.base import Identity, Order, WorkerFiles, WorkerSettings
from ablate.execution.command import Ended, OthersFailed
from ablate.execution.lease import Liveness
from ablate.execution.output import output_to
from ablate.trial import Cause, TrialFiles, write_atomic

GATHER_S = 60.0
"""How long the tasks of a job may take to be all there; Slurm starts them at the same time."""

SETTLE_S = 15.0
"""How long a follower may take to come out of a trial after the first task did."""

LOOK_S = 0.5
"""How often a follower sees whether its worker lives."""

GONE_S = 5.0
"""How long a follower that is in the middle of a trial outlives its worker: it may hang in a call to it."""


@dataclass(frozen=True)
class Place:
    """This process among the tasks of its job."""

    rank: int
    count: int


def place() -> Place:
    """Where this process stands; from now on its environment tells torch too. Every task sees all GPUs of its node, as with torchrun."""
    from submitit.helpers import TorchDistributedEnvironment  # with submitit only, which started this process

    found = TorchDistributedEnvironment().export(set_cuda_visible_devices=False, overwrite=True)
    return Place(found.rank, found.world_size)


@dataclass(frozen=True)
class TaskFiles:
    """`tasks/` of a worker."""

    directory: Path

    @staticmethod
    def of(worker: WorkerFiles) -> TaskFiles:
        return TaskFiles(worker.directory / "tasks")

    def identity(self, rank: int) -> Path:
        return self.directory / f"{rank}.json"

    def ended(self, rank: int) -> Path:
        return self.directory / f"{rank}.ended.json"

    @property
    def now(self) -> Path:
        return self.directory / "now.json"

    @property
    def stop(self) -> Path:
        return self.directory / "stop.json"

    @property
    def over(self) -> Path:
        return self.directory / "over"


class Leader:
    """The first task, which has the worker's inbox: it tells the others what to train, and hears how they came out of it."""

    def __init__(self, worker: WorkerFiles, count: int) -> None:
        self.files, self.count = TaskFiles.of(worker), count
        self.files.directory.mkdir(exist_ok=True)
        self._address = "127.0.0.1"
        self.broken = False
        """One of the others is gone or hangs: there is nothing more to be trained here."""

    def gather(self, patience_s: float = GATHER_S) -> None:
        """Wait for the others.

        Raises:
            TimeoutError: Some did not come.
        """
        until = time.monotonic() + patience_s
        found: dict[int, Identity] = {}
        while len(found) < self.count - 1:
            if time.monotonic() > until:
                raise TimeoutError(f"expected {self.count} tasks within {patience_s:g} s but got {len(found) + 1}.")
            time.sleep(0.02)
            told = {rank: Identity.read(self.files.identity(rank)) for rank in range(1, self.count)}
            found = {rank: identity for rank, identity in told.items() if identity is not None}
        if any(not identity.here for identity in found.values()):
            self._address = reachable(os.environ.get("MASTER_ADDR", ""))

    def beside(self, order: Order) -> Group:
        """The others, for one attempt."""
        return Group(self, order)

    @property
    def address(self) -> str:
        """Where all meet: this machine alone, unless some are on others."""
        return self._address

    def gone(self, rank: int) -> bool:
        """Whether one of the others is known to be dead; on another machine nobody can tell, but Slurm ends all with it."""
        identity = Identity.read(self.files.identity(rank))
        return identity is not None and identity.here and identity.process() is None

    def lives(self, rank: int) -> bool:
        """Whether one of the others is known to live."""
        identity = Identity.read(self.files.identity(rank))
        return identity is not None and identity.here and identity.process() is not None

    def dismiss(self) -> None:
        """Let the others go."""
        self.files.over.touch()


class Group:
    """The other tasks in one attempt, as the first one has to do with them."""

    def __init__(self, leader: Leader, order: Order) -> None:
        self._leader, self._files, self._order = leader, leader.files, order
        self._others = range(1, leader.count)
        self._stopped = False

    @contextlib.contextmanager
    def training(self, arguments: Sequence[str] | None) -> Iterator[None]:
        """While the first task trains, the others do.

        Args:
            arguments: The command that each runs; none: the trial's callable.

        Raises:
            OthersFailed: One of them came to grief or to no end; also in place of what the first task raised because of it.
        """
        address = self._leader.address
        port = free_port(address)
        os.environ |= {"MASTER_ADDR": address, "MASTER_PORT": str(port)}
        said = {"order": asdict(self._order), "arguments": arguments, "address": address, "port": port}
        write_atomic(self._files.now, json.dumps(said), durable=False)
        try:
            yield
        except Exception as error:
            failed = self._failed()
            cause = error.cause if isinstance(error, Ended) else classify(error)
            if failed is None or cause is not Cause.CRASH:  # what a broken connection to another task looks like
                raise
            text = f"{failed} The first task: {type(error).__name__}: {error}"
            raise OthersFailed(failed.cause, text, gone=failed.gone) from error
        if (failed := self._failed()) is not None:
            raise failed

    def stop(self) -> None:
        """Pass a stop on: to commands of the others; callables hear of it from their first rank."""
        if not self._stopped:
            self._stopped = True
            write_atomic(self._files.stop, json.dumps(asdict(self._order)), durable=False)

    def _ends(self) -> dict[int, dict[str, Any]]:
        """How the others came out of it, as far as they did in time."""
        until, found = time.monotonic() + SETTLE_S, dict[int, dict[str, Any]]()
        while time.monotonic() < until:
            for rank in self._others:
                told = _read(self._files.ended(rank))
                if (told.get("signature"), told.get("attempt")) == self._order.key:
                    found[rank] = told
            if all(rank in found or self._leader.gone(rank) for rank in self._others):
                break
            if until - time.monotonic() < SETTLE_S / 2:
                self.stop()  # the first one is over, so there is nothing left to do for them
            time.sleep(0.02)
        return found

    def _failed(self) -> OthersFailed | None:
        """What one of the others came to grief of: its own cause rather than the crash that another's brought about."""
        ends = self._ends()
        missing = next((rank for rank in self._others if rank not in ends), None)
        if missing is not None:
            self._leader.broken = True
            if self._leader.lives(missing):
                return OthersFailed(Cause.CRASH, f"Task {missing} did not come to its end within {SETTLE_S:g} s of the first.", gone=True)
            return OthersFailed(Cause.LOST, f"The process of task {missing} was killed.", gone=True)
        failed = [(Cause(told["cause"]), f"Task {rank}: {told['message']}") for rank, told in ends.items() if told["cause"] is not None]
        chosen = next((one for one in failed if one[0] is not Cause.CRASH), failed[0] if failed else None)
        return None if chosen is None else OthersFailed(*chosen)


def follow(worker: WorkerFiles, settings: WorkerSettings, rank: int) -> None:
    """A task beside the first: train along, order by order, until the worker is done or gone."""
    files = TaskFiles.of(worker)
    files.directory.mkdir(exist_ok=True)
    for number in (signal.SIGTERM, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)  # Slurm tells every task; the first one answers, and needs the others for its checkpoint
    Identity.own().write(files.identity(rank))
    stop = threading.Event()
    thread = threading.Thread(target=_outlive, args=(_Lives(worker, settings), stop), daemon=True)
    thread.start()
    done: tuple[str, int] | None = None
    try:
        while not (files.over.exists() or stop.is_set()):
            said = _read(files.now)
            order = Order(**said["order"]) if said else None
            if order is None or order.key == done:
                time.sleep(settings.idle_s)
                continue
            os.environ |= {"MASTER_ADDR": said["address"], "MASTER_PORT": str(said["port"])}
            attempt = TrialFiles(Path(order.root), order.signature).attempt(order.attempt)
            log = attempt.log_of(rank)
            with output_to(log):
                cause, message = run_along(order, said["arguments"], log, _told_to_stop(files, order))
            told = {"signature": order.signature, "attempt": order.attempt, "cause": cause, "message": message}
            write_atomic(files.ended(rank), json.dumps(told), durable=False)
            done = order.key
    finally:
        stop.set()
        thread.join()


def _told_to_stop(files: TaskFiles, order: Order) -> Callable[[], bool]:
    return lambda: _read(files.stop) == asdict(order)


class _Lives:
    """Whether the first task is there: it may still be on its way, for a while."""

    def __init__(self, worker: WorkerFiles, settings: WorkerSettings) -> None:
        self._worker = worker
        self._liveness = Liveness(4 * settings.lease_s)
        self._until = time.monotonic() + 2 * GATHER_S
        self._seen = False

    def __call__(self) -> bool:
        if not self._worker.identity.exists():
            return not self._seen and self._worker.directory.exists() and time.monotonic() < self._until
        self._seen = True
        return self._liveness.alive(self._worker)


def _outlive(lives: Callable[[], bool], stop: threading.Event) -> None:
    """Ends this process where its worker is gone, whatever it does."""
    while not stop.wait(LOOK_S):
        if not lives():
            stop.set()
            time.sleep(GONE_S)
            os._exit(1)


def reachable(name: str) -> str:
    """Where the others find this machine: the name that submitit gives, where it means an address here, else the machine's own."""
    try:
        socket.getaddrinfo(name or None, 0)
    except OSError:
        return socket.gethostname()
    return name or socket.gethostname()


def free_port(address: str) -> int:
    """A port of this machine's address on which nobody listens."""
    with socket.socket() as one:
        one.bind((address, 0))
        return int(one.getsockname()[1])


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
