"""What controller, executors and workers share: events, orders, and the files of a worker's directory."""

from __future__ import annotations

import contextlib
import json
import os
import socket
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal, Protocol

import psutil

from ablate.errors import NotWritable
from ablate.trial import write_atomic

EventKind = Literal[
    "started", "adopted", "progress", "done", "reused", "retry", "stopped", "failed", "worker", "stopping", "request", "paused"
]


@dataclass(frozen=True)
class QueueEvent:
    """Something that happened to a trial or, without a signature, to a worker or the run."""

    kind: EventKind
    signature: str | None = None
    worker: str | None = None
    attempt: int | None = None
    text: str = ""
    step: int | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Timing:
    """The clocks of a queue; tests shorten them."""

    lease_s: float = 15.0
    """A worker that saw no sign of a controller for so long takes nothing new."""
    renew_s: float = 1.0
    """How often the controller gives a sign, and how often progress is read."""
    turn_s: float = 0.05
    """Longest pause between two turns of a controller of few workers; after one in which something happened it is a tenth, and grows."""
    idle_s: float = 0.01
    """Pause of a worker between two looks at its inbox."""
    stop_s: float = 20.0
    """How long a trial that was asked to stop may take to save its checkpoint."""
    birth_s: float = 60.0
    """How long a started worker may take to report."""


@dataclass(frozen=True)
class Order:
    """One attempt, as a worker is told to run it: a file that moves by rename, so exactly one process has it."""

    root: str
    signature: str
    attempt: int
    resume_from: int | None
    """The earlier attempt whose files the worker copies first."""
    timeout_s: float | None
    until: int | None = None
    """Step at which it saves a checkpoint and pauses: a rung; none: the trial's end."""

    @property
    def key(self) -> tuple[str, int]:
        """What identifies the attempt."""
        return self.signature, self.attempt

    @property
    def file_name(self) -> str:
        """Name of the order in an inbox."""
        return f"{self.signature}.{self.attempt}.json"

    def to_json(self) -> str:
        """The content of the order's file."""
        return json.dumps(asdict(self))

    @staticmethod
    def read(path: Path) -> Order | None:
        """The order in a file; None where it is gone or was torn by a power failure."""
        try:
            return Order(**json.loads(path.read_text()))
        except (FileNotFoundError, ValueError, TypeError):
            return None


@dataclass(frozen=True)
class WorkerFiles:
    """`runs/<study>/workers/<id>/`: how a controller and a worker talk, and what outlives both."""

    directory: Path

    @property
    def id(self) -> str:
        return self.directory.name

    @property
    def settings(self) -> Path:
        """What the worker must know before anything else; written by the controller before the start."""
        return self.directory / "settings.json"

    @property
    def identity(self) -> Path:
        """Who the worker is; the first thing that it writes."""
        return self.directory / "worker.json"

    @property
    def heartbeat(self) -> Path:
        """Touched by the worker while it lives: what another host can see of it."""
        return self.directory / "heartbeat"

    @property
    def inbox(self) -> Path:
        return self.directory / "inbox"

    @property
    def current(self) -> Path:
        """The order that the worker took; gone once its outcome is written."""
        return self.directory / "current.json"

    @property
    def leave(self) -> Path:
        """Present: the worker takes nothing new and exits."""
        return self.directory / "leave"

    @property
    def log(self) -> Path:
        return self.directory / "log.txt"

    def identities(self) -> list[Identity]:
        """The worker's process, and those of the tasks that train along with it."""
        found = [Identity.read(path) for path in (self.identity, *self.directory.glob("tasks/*.json"))]
        return [identity for identity in found if identity is not None]

    def orders(self) -> list[Path]:
        """The orders that wait in the inbox, oldest first."""
        try:
            found = [(entry.stat().st_mtime_ns, entry.name) for entry in os.scandir(self.inbox) if not entry.name.startswith(".")]
        except FileNotFoundError:
            return []
        return [self.inbox / name for _, name in sorted(found)]

    def create(self, settings: WorkerSettings) -> None:
        """Make the directory of a worker that is about to be started: closed to others, since what it runs is unpickled from there.

        Raises:
            NotWritable: The folder of all workers is another user's.
        """
        workers = self.directory.parent
        workers.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.directory.mkdir(mode=0o700)
        theirs, ours = workers.stat(), self.directory.stat()
        if theirs.st_uid != ours.st_uid:  # not the process's own number, which a file server may map to another one
            self.directory.rmdir()
            raise NotWritable(
                f"{workers}: expected a folder of user {ours.st_uid}, who starts workers from it, but it is of user {theirs.st_uid}, who "
                "could put anything there. Move it away, or choose another place with --runs."
            )
        if theirs.st_mode & 0o077:
            workers.chmod(0o700)
        self.inbox.mkdir()
        write_atomic(self.settings, json.dumps(asdict(settings)), durable=False)


@dataclass(frozen=True)
class WorkerSettings:
    """What a worker must know before anything else."""

    lease: str
    """The controller's sign of life."""
    lease_s: float
    idle_s: float
    path: Sequence[str]
    """The controller's import path, so that a worker finds the same trainer."""
    environment: Mapping[str, str | None]
    """Variables that the way of starting must not change; None: not set."""
    stay_s: float | None = None
    """After so long it leaves by itself, before its scheduler ends it: its trial saves a checkpoint and goes on elsewhere."""
    tasks: int = 1
    """Processes that train a trial together."""
    trainer: str | None = None
    """The module of a trainer's callable, imported before the first order comes."""

    @staticmethod
    def read(files: WorkerFiles) -> WorkerSettings:
        """Read `settings.json` back."""
        return WorkerSettings(**json.loads(files.settings.read_text()))


@dataclass(frozen=True)
class Identity:
    """A process that cannot be mistaken for a later one with its number."""

    pid: int
    started: float
    """Start of the process in seconds since the epoch, as the kernel tells it."""
    host: str

    @staticmethod
    def own() -> Identity:
        """This process."""
        return Identity.of(os.getpid())

    @staticmethod
    def of(pid: int) -> Identity:
        """A process of this host."""
        return Identity(pid, psutil.Process(pid).create_time(), socket.gethostname())

    @staticmethod
    def read(path: Path) -> Identity | None:
        """Who wrote the file; None before it is there."""
        try:
            values = json.loads(path.read_text())
            return Identity(int(values["pid"]), float(values["started"]), str(values["host"]))
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def write(self, path: Path) -> None:
        """Write it for `read`."""
        write_atomic(path, json.dumps(asdict(self)), durable=False)

    @property
    def here(self) -> bool:
        """Whether the process is on this host."""
        return self.host == socket.gethostname()

    def process(self) -> psutil.Process | None:
        """The process, where it still runs on this host."""
        try:
            process = psutil.Process(self.pid)
            # Boot time, and with it every start time, moves a little when the clock is set.
            same = abs(process.create_time() - self.started) < 2.0
            return process if same and process.status() != psutil.STATUS_ZOMBIE else None
        except psutil.Error:
            return None

    def kill(self) -> None:
        """End it and what it started, if it runs on this host."""
        process = self.process() if self.here else None
        if process is None:
            return
        with contextlib.suppress(psutil.Error):
            for child in process.children(recursive=True):
                with contextlib.suppress(psutil.Error):
                    child.kill()
            process.kill()


class Beside(Protocol):
    """The other tasks that train a trial together with this process."""

    def training(self, arguments: Sequence[str] | None) -> AbstractContextManager[None]:
        """While this process trains, the others do; `arguments`: the command that each runs, none: the trial's callable."""

    def stop(self) -> None:
        """Pass on that the trial is to stop."""


class Nobody:
    """No other task: this process trains alone."""

    def training(self, arguments: Sequence[str] | None) -> AbstractContextManager[None]:
        """Nothing is done beside."""
        return contextlib.nullcontext()

    def stop(self) -> None:
        """Nobody to tell."""


class Executor(Protocol):
    """Starts, watches and ends workers; all else goes through their directories."""

    def submit(self, workers: Sequence[WorkerFiles]) -> None:
        """Start a worker for each directory."""

    def poll(self) -> None:
        """Let an executor without processes of its own work; called every turn."""

    def close(self) -> None:
        """Let go of what starting workers took; the workers end by themselves."""

    def pending(self, worker: WorkerFiles) -> str | None:
        """Why a worker that did not report yet waits for its turn, through nobody's fault; None: it has had it, or is unknown."""

    def coming(self, worker: WorkerFiles) -> bool:
        """Whether a worker that an earlier controller started, and that did not report yet, is known to be on its way."""

    def failure(self, worker: WorkerFiles) -> str | None:
        """Why a worker that never reported will not; None while it may."""

    def alive(self, worker: WorkerFiles) -> bool:
        """Whether a worker that reported still runs."""

    def cancel(self, worker: WorkerFiles) -> None:
        """End a worker now, whatever it does."""


def thread_environment(threads: int) -> dict[str, str]:
    """Variables that hold numeric libraries to so many threads; they are read at import."""
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")
    return dict.fromkeys(names, str(threads))
