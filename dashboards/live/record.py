"""What a study's record says now, read again only when it has changed. Nothing here writes."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from statistics import median
from threading import Lock
from typing import Any

from ablate.conclusion import ArmVerdict, Conclusion
from ablate.execution.base import WorkerFiles
from ablate.execution.lock import holder
from ablate.ledger import AttemptRecord, Event, Ledger, TrialRecord, Use
from ablate.study import BASELINE, REFERENCES, Arm, Study
from ablate.trial import AttemptFiles, TrialFiles, TrialResult, TrialSpec, TrialState, flatten, result_of
from dashboards.live.streams import Stream, Streams

Status = Mapping[str, Any]
"""The document of `ablate status --json`; docs/STATUS.md explains it."""

LATEST_EVENTS = 30
LOG_BYTES = 32 * 2**10
LOG_LINES = 200


@dataclass(frozen=True)
class ArmKey:
    """An arm of a phase."""

    phase: str
    name: str

    def __str__(self) -> str:
        return f"{self.phase}/{self.name}"


@dataclass(frozen=True)
class Snapshot:
    """A study as its ledger had it at one moment."""

    root: Path
    study: Study
    status: Status
    uses: Sequence[Use]
    records: Mapping[str, TrialRecord]
    arms: Mapping[ArmKey, Arm]
    """Every arm that has begun, in the order of the plan."""
    conclusions: Mapping[str, Conclusion]
    events: Sequence[Event]
    """The latest, the newest first."""
    held: Mapping[str, AttemptRecord]
    """Signature to the attempt that runs."""
    trials_at_most: int | None
    """That the plan may still ask for, those that ran included."""
    at: float = field(default_factory=time.time)

    @cached_property
    def of_arm(self) -> Mapping[ArmKey, Mapping[int, str]]:
        """Arm to replicate to signature."""
        found: dict[ArmKey, dict[int, str]] = {key: {} for key in self.arms}
        for use in self.uses:
            found.setdefault(ArmKey(use.phase, use.arm), {})[use.replicate] = use.signature
        return found

    @cached_property
    def places(self) -> Mapping[str, Sequence[Use]]:
        """Signature to the places that it serves."""
        found: dict[str, list[Use]] = {}
        for use in self.uses:
            found.setdefault(use.signature, []).append(use)
        return found

    @cached_property
    def phases(self) -> list[str]:
        """Phases of the study in its order, then others that have begun, without the references."""
        begun = [key.phase for key in self.of_arm if key.phase != REFERENCES]
        return list(dict.fromkeys([*(phase.name for phase in self.study.phases), *begun]))

    @cached_property
    def latest_phase(self) -> str:
        """The last one that has begun; the first where none has."""
        begun = {key.phase for key in self.of_arm}
        return next((name for name in reversed(self.phases) if name in begun), self.phases[0])

    def verdict(self, key: ArmKey) -> ArmVerdict | None:
        """What its phase said of an arm; none: it is not decided."""
        conclusion = self.conclusions.get(key.phase)
        return None if conclusion is None else next((arm for arm in conclusion.arms if arm.name == key.name), None)

    def result(self, signature: str) -> TrialResult | None:
        """What came of a trial; none: nothing yet."""
        record = self.records.get(signature)
        return result_of(self.root, signature) if record is not None and record.state is TrialState.DONE else None

    def finals(self, key: ArmKey, metric: str) -> list[float]:
        """Final values of an arm's replicates that are done."""
        results = (self.result(signature) for signature in self.of_arm.get(key, {}).values())
        return [result.metrics[metric] for result in results if result is not None and metric in result.metrics]

    def counted(self, signatures: Sequence[str] | set[str]) -> dict[str, int]:
        """How many of these trials are in each state."""
        counts = {state.value: 0 for state in TrialState}
        for signature in signatures:
            if signature in self.records:
                counts[self.records[signature].state.value] += 1
        return counts

    def files(self, signature: str, number: int | None = None) -> AttemptFiles | None:
        """The files of an attempt; without a number of the one that stands for the trial, or the latest. None: it has none."""
        record = self.records.get(signature)
        if record is None:
            return None
        result = self.result(signature) if number is None else None
        number = number if number is not None else result.attempt if result is not None else record.attempt
        return None if number is None else TrialFiles(self.root, signature).attempt(number)

    def remaining(self) -> tuple[float, str] | None:
        """Seconds that are left at most, and in words where they come from; none: nothing runs or no trial has ended yet."""
        took = [record.seconds for record in self.records.values() if record.seconds is not None and record.attempts > 0]
        counts = self.status["trials"]
        if self.status["state"] != "running" or not took:
            return None
        known = len(self.records)
        open_ = max(self.trials_at_most or 0, known) - counts["done"] - counts["failed"]
        budget, used = self.status["budget"], self.status["used"]
        if budget["trials"] is not None:
            open_ = min(open_, max(budget["trials"] - used["trials"], 0) + counts["running"])
        # A worker holds the next trial already, so those that run are not the measure.
        workers = len({attempt.worker for attempt in self.held.values()}) or self.study.workers
        seconds = max(open_, 0) * median(took) / workers
        words = f"{open_} trials at {median(took):.1f} s (median of {len(took)}) on {workers} worker{'s' if workers > 1 else ''}"
        if budget["hours"] is not None:
            left = max(0.0, 3600 * (budget["hours"] - used["hours"]))
            if left < seconds:
                return left, "then the hours of its budget are used up"
        return seconds, words

    def beats(self, worker: str) -> float | None:
        """Seconds since a worker was last heard of; none: it has no heartbeat."""
        try:
            return max(0.0, time.time() - WorkerFiles(self.root / self.study.study / "workers" / worker).heartbeat.stat().st_mtime)
        except OSError:
            return None

    def config(self, signature: str) -> dict[str, Any]:
        """A trial's whole configuration as dotted paths; empty where it never began."""
        try:
            spec = TrialSpec.from_json(TrialFiles(self.root, signature).spec.read_text(encoding="utf-8"))
        except (OSError, ValueError, TypeError):
            return {}
        return dict(flatten(spec.config))

    def baseline_of(self, use: Use) -> str | None:
        """The trial of the phase's baseline in the same replicate; of the study's own for a reference."""
        same = self.of_arm.get(ArmKey(use.phase, BASELINE), {})
        return same.get(use.replicate) or next(iter(same.values()), None)


class Record:
    """A study's record under a `runs` folder.

    Args:
        status: `ablate status` of it.
    """

    def __init__(self, root: Path, study: str, status: Callable[[], Status]) -> None:
        self.root, self.name, self.directory = root, study, root / study
        self.streams = Streams()
        self._status = status
        self._kept: tuple[str, Snapshot | None] | None = None
        self._lock = Lock()

    @property
    def stamp(self) -> str:
        """Another one when ledger, requests or controller have changed."""
        running = holder(self.root, self.name)
        marks = [_mark(self.directory / name) for name in ("ledger.db", "requests", "controller.json", "plan.json")]
        return "|".join([*marks, str(running["pid"]) if running else ""])

    def snapshot(self) -> Snapshot | None:
        """The study now; none: it begins, and has nothing on record yet.

        Raises:
            AblateError: The record cannot be read.
        """
        with self._lock:
            stamp = self.stamp
            if self._kept is None or self._kept[0] != stamp:
                self._kept = (stamp, self._read())
            return self._kept[1]

    def stream(self, files: AttemptFiles | None) -> Stream:
        """What an attempt has reported so far."""
        return Stream() if files is None else self.streams.read(files.metrics)

    def status(self) -> Status:
        """Where the study stands."""
        return self._status()

    def _read(self) -> Snapshot | None:
        if not (self.directory / "ledger.db").exists():
            return None
        status = self._status()
        ledger = Ledger(self.directory / "ledger.db", read_only=True)
        try:
            with ledger.transaction():
                frozen = ledger.frozen()
                if frozen is None:
                    return None
                records = {record.signature: record for record in ledger.trials()}
                running = [signature for signature, record in records.items() if record.state is TrialState.RUNNING]
                return Snapshot(
                    root=self.root,
                    study=Study.model_validate(frozen.document["study"]),
                    status=status,
                    uses=ledger.uses(),
                    records=records,
                    arms={ArmKey(phase, arm.name): arm for phase in ledger.phases() for arm in ledger.arms(phase)},
                    conclusions={name: Conclusion.model_validate(found) for name, found in ledger.conclusions().items()},
                    events=ledger.events()[: -LATEST_EVENTS - 1 : -1],
                    held={signature: tried[-1] for signature in running if (tried := ledger.attempts(signature))},
                    trials_at_most=_planned(self.directory),
                )
        finally:
            ledger.close()

    def attempts(self, signature: str) -> list[AttemptRecord]:
        """All attempts at a trial, by number."""
        ledger = Ledger(self.directory / "ledger.db", read_only=True)
        try:
            return ledger.attempts(signature)
        finally:
            ledger.close()


def log_tail(files: AttemptFiles) -> str | None:
    """The last lines that an attempt printed; none: it has no log."""
    return tail_of(files.log)


def tail_of(path: Path) -> str | None:
    """The last lines of a text; none: it is not there."""
    try:
        with path.open("rb") as log:
            size = log.seek(0, 2)
            log.seek(max(0, size - LOG_BYTES))
            lines = log.read(LOG_BYTES).decode("utf-8", errors="replace").replace("\r\n", "\n").replace("\r", "\n").split("\n")
    except OSError:
        return None
    whole = lines[1:] if size > LOG_BYTES and len(lines) > 1 else lines
    return "\n".join(whole[-LOG_LINES:])


def mark_of(files: AttemptFiles | None) -> str:
    """Another one when an attempt reported or printed something."""
    return "" if files is None else f"{_mark(files.metrics)},{_mark(files.log)}"


def _planned(directory: Path) -> int | None:
    try:
        return int(json.loads((directory / "plan.json").read_text(encoding="utf-8"))["trials_at_most"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _mark(path: Path) -> str:
    try:
        status = path.stat()
    except OSError:
        return ""
    return f"{status.st_mtime_ns}.{status.st_size}.{status.st_ino}"
