"""What the ledger tells, as values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ablate.study import Budget
from ablate.trial import Cause, TrialState


@dataclass(frozen=True)
class Frozen:
    """What the study's first run fixed."""

    document: dict[str, Any]
    code_version: str
    data_hash: str
    created: float
    """Seconds since the epoch."""


@dataclass(frozen=True)
class Use:
    """A place in the study that a trial serves; one trial may serve several."""

    phase: str
    arm: str
    replicate: int
    signature: str


@dataclass(frozen=True)
class TrialRecord:
    """A trial as the ledger has it."""

    signature: str
    replicate: int
    state: TrialState
    attempt: int | None
    """The accepted attempt of a trial that is done, else the latest."""
    cause: Cause | None
    """Why the latest attempt gave no result."""
    message: str
    seconds: float | None
    attempts: int
    """Attempts started in this study; 0 for a result found under `runs/`."""


@dataclass(frozen=True)
class AttemptRecord:
    """One try at a trial as the ledger has it."""

    signature: str
    number: int
    worker: str
    started: float
    ended: float | None
    cause: Cause | None
    message: str
    seconds: float | None


@dataclass(frozen=True)
class Event:
    """Something that happened, for people."""

    at: float
    kind: str
    text: str


@dataclass(frozen=True)
class Used:
    """What the study used of its budget, over restarts."""

    trials: int
    """Trials of which at least one attempt was started."""
    seconds: float
    """Controller time."""
    started: frozenset[str]
    """Signatures behind `trials`."""
    gpu_seconds: float = 0.0
    """Time of all attempts that ended, whatever their end, times the GPUs of their worker."""

    def spent(self, budget: Budget) -> str:
        """Which time of a budget is used up, with what to do; nothing where none is. Trials are another matter: they fit or they do not."""
        for key, unit, seconds, hours in (
            ("hours", "hours", self.seconds, budget.hours),
            ("gpu_hours", "GPU-hours", self.gpu_seconds, budget.gpu_hours),
        ):
            if hours is not None and seconds > hours * 3600:
                return (
                    f"budget.{key}: {seconds / 3600:.3g} of {hours:g} {unit} are used. "
                    f"Nothing is lost: raise budget.{key} in the study file and run the same command again."
                )
        return ""
