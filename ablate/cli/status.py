"""`ablate status`: where a study stands. The names here are a promise to scripts; docs/STATUS.md explains each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from ablate.cli.finding import opened
from ablate.execution.detached import Detached
from ablate.execution.lock import holder
from ablate.execution.requests import waiting
from ablate.study import Budget
from ablate.trial import Cause, TrialState


class _Document(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Counts(_Document):
    """Trials by state, each once."""

    queued: int = 0
    running: int = 0
    done: int = 0
    failed: int = 0


class PhaseStatus(Counts):
    """A phase that has begun."""

    name: str
    arms: int
    concluded: bool
    winner: str | None


class Failure(_Document):
    """A trial that failed for good."""

    signature: str
    where: list[str]
    cause: Cause
    message: str


class Controller(_Document):
    """The process that runs the study."""

    pid: int
    host: str
    since: str


class Amounts(_Document):
    """What a budget counts."""

    trials: int | None
    hours: float | None
    gpu_hours: float | None


class Status(_Document):
    """Where a study stands."""

    version: Literal[1] = 1
    study: str
    state: Literal["starting", "running", "stopped", "done"]
    said: str
    controller: Controller | None
    trials: Counts
    phases: list[PhaseStatus]
    failures: list[Failure]
    requests: int
    used: Amounts
    budget: Amounts


def status_of(runs: Path, study: str) -> Status:
    """Where a study stands.

    Raises:
        StudyError: No such study has run here.
    """
    starting = Detached(runs / study).starting()
    nothing = Amounts(trials=0, hours=0.0, gpu_hours=0.0)
    if starting and not (runs / study / "ledger.db").exists():
        unbounded = Amounts(trials=None, hours=None, gpu_hours=None)
        return Status(
            study=study, state="starting", said=starting, controller=None, trials=Counts(), phases=[], failures=[], requests=0,
            used=nothing, budget=unbounded,
        )  # fmt: skip
    ledger = opened(runs, study)
    controller = holder(runs, study)
    records = {record.signature: record for record in ledger.trials()}
    uses, conclusions, used, frozen = ledger.uses(), ledger.conclusions(), ledger.used(), ledger.frozen()
    phases = []
    for phase in ledger.phases():
        states = _counts(records[s].state for s in {use.signature for use in uses if use.phase == phase})
        arms, winner = len(ledger.arms(phase)), conclusions.get(phase, {}).get("winner")
        phases.append(PhaseStatus(name=phase, arms=arms, concluded=phase in conclusions, winner=winner, **states))
    places: dict[str, list[str]] = {}
    for use in uses:
        if records[use.signature].state is TrialState.FAILED:
            places.setdefault(use.signature, []).append(f"{use.phase}/{use.arm} r{use.replicate}")
    failures = [
        Failure(signature=s, where=where, cause=records[s].cause or Cause.CRASH, message=records[s].message) for s, where in places.items()
    ]
    finished = any(event.kind == "done" for event in ledger.events()[-1:])
    state: Literal["starting", "running", "stopped", "done"] = "stopped"
    said = "stopped, resumable" if frozen is not None else "did not begin: it was refused, or ended before its first trial; run it again"
    if controller is not None:
        state, said = "running", f"running (process {controller['pid']} on {controller['host']})"
    elif starting:
        state, said = "starting", starting
    elif finished:
        state = said = "done"
    bounds = Budget.model_validate({} if frozen is None else frozen.document["study"].get("budget", {}))
    return Status(
        study=study,
        state=state,
        said=said,
        controller=None if controller is None else Controller(pid=controller["pid"], host=controller["host"], since=controller["since"]),
        trials=Counts(**_counts(record.state for record in records.values())),
        phases=phases,
        failures=failures,
        requests=len(waiting(runs, study)),
        used=Amounts(trials=used.trials, hours=used.seconds / 3600, gpu_hours=used.gpu_seconds / 3600),
        budget=Amounts(trials=bounds.trials, hours=bounds.hours, gpu_hours=bounds.gpu_hours),
    )


def _counts(states: Iterable[TrialState]) -> dict[str, int]:
    counted = Counter(states)
    return {state.value: counted[state] for state in TrialState}
