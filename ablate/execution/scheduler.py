"""What Slurm knows: its commands, each with a time limit, and off the controller's own time where it matters."""

from __future__ import annotations

import getpass
import subprocess
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

PATIENCE_S = 20.0
"""Longest wait for an answer."""

WAITING = ("PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "SUSPENDED", "RESV_DEL_HOLD", "SPECIAL_EXIT")

ENDING = "COMPLETING"
"""Told to end; its processes may have until KillWait for it, or be there no more while Slurm waits for a node that is down."""

T = TypeVar("T")


@dataclass(frozen=True)
class Job:
    """A job, or one element of an array, as Slurm has it."""

    number: str
    """As scancel takes it: `12`, or `12_3`."""
    state: str
    reason: str


class Aside(Generic[T]):
    """A call that may hang, on a thread of its own."""

    def __init__(self, call: Callable[[], T]) -> None:
        self._call, self._answers = call, list[T]()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        self._answers.append(self._call())

    def wait(self, seconds: float = 0.0) -> bool:
        """Whether it has ended, after so long at most."""
        self._thread.join(seconds)
        return not self._thread.is_alive()

    @property
    def answer(self) -> T | None:
        """What it returned; none before, or where it raised."""
        return self._answers[0] if self._answers else None


def answered(command: Sequence[str], patience_s: float | None = None) -> str | None:
    """What one of Slurm's commands prints; None where it fails or does not answer in time (by default `PATIENCE_S`)."""
    limit = PATIENCE_S if patience_s is None else patience_s
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, encoding="utf-8", timeout=limit, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


def jobs_of() -> dict[str, Job] | None:
    """This user's jobs of any study that wait, run or come to their end, by `key_of`; None where Slurm does not answer."""
    told = answered(["squeue", "-h", "-r", "-u", getpass.getuser(), "-o", "%i|%T|%r|%K|%j"])
    if told is None:
        return None
    found = {}
    for line in told.splitlines():
        number, state, reason, index, name = line.split("|", 4)
        if name.startswith("ablate-"):
            found[key_of(name, None if index == "N/A" else int(index))] = Job(number, state, "" if reason == "None" else reason)
    return found


def key_of(name: str, index: int | None) -> str:
    """What a job is known by before it has a number: its name, and its place in the array where it is of one."""
    return name if index is None else f"{name}[{index}]"


def cancel(keys: set[str]) -> None:
    """End these jobs, all in one call."""
    numbers = [job.number for key, job in (jobs_of() or {}).items() if key in keys]
    if numbers:
        answered(["scancel", *numbers])


def partition_limits() -> dict[str, tuple[float | None, bool]]:
    """Longest time of a job in minutes (none: no limit) and whether it is the default, by partition; empty where Slurm does not answer."""
    found = {}
    for line in (answered(["sinfo", "-h", "-o", "%P|%l"]) or "").splitlines():
        name, limit = line.split("|")
        found[name.rstrip("*")] = (minutes_of(limit), name.endswith("*"))
    return found


def minutes_of(limit: str) -> float | None:
    """Slurm's `[days-]hours:minutes:seconds` or `minutes:seconds`; none for `infinite`."""
    days, _, rest = limit.rpartition("-")
    parts = rest.split(":")
    if not all(part.isdigit() for part in [*parts, days or "0"]):
        return None
    seconds = sum(int(part) * (1, 60, 3600)[power] for power, part in enumerate(reversed(parts)))
    return int(days or 0) * 1440 + seconds / 60
