"""Trials: what is run, what came of it, and the files of a trial's directory."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from enum import StrEnum
from functools import lru_cache
from pathlib import Path
from typing import Any

from ablate.command import DIRECTORY

PICTURES = (".png", ".jpg", ".jpeg", ".webp")
"""How the files of pictures end."""


class TrialState(StrEnum):
    """Where a trial stands in the ledger."""

    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"


PAUSED = "Paused at step"
"""How the message of a stopped attempt begins that a rung ended; the trial goes on only where its arm does."""


class Cause(StrEnum):
    """Why an attempt ended without a result; the retry rule reads it."""

    CRASH = "crash"
    OUT_OF_MEMORY = "out_of_memory"
    NAN = "nan"
    TIMEOUT = "timeout"
    LOST = "lost"
    INVALID = "invalid"
    STOPPED = "stopped"
    STALLED = "stalled"
    FLOOD = "flood"

    @property
    def retryable(self) -> bool:
        """A deterministic failure fails again: NaN, invalid configurations and floods of output get no second try."""
        return self not in (Cause.NAN, Cause.INVALID, Cause.FLOOD)


@dataclass(frozen=True)
class TrialSpec:
    """Arm x replicate: the unit of scheduling. Equal signatures are the same trial, in every phase and study."""

    signature: str
    replicate: int
    config: Mapping[str, object]
    """The whole configuration as nested plain values, the replicate's seed included."""
    trainer: str
    """`package.module:callable`, or a command as one would type it."""
    code_version: str
    data_hash: str
    command: Mapping[str, object] | None = None
    """Of a trainer that is a command: all of `ablate.command.Command`."""

    def to_json(self) -> str:
        """The content of `trial.json`."""
        return json.dumps(asdict(self), sort_keys=True, indent=1)

    @staticmethod
    def from_json(text: str) -> TrialSpec:
        """Read `trial.json` back."""
        return TrialSpec(**json.loads(text))


@dataclass(frozen=True)
class Outcome:
    """How an attempt ended: the content of `outcome.json`."""

    signature: str
    attempt: int
    cause: Cause | None
    """None: the trainer returned its final metrics."""
    message: str
    seconds: float
    metrics: Mapping[str, float]
    """What the trainer returned, `measurable` values only."""
    dropped: tuple[str, ...]
    """Names of final metrics that were NaN or infinite (or beyond `LARGEST`)."""
    environment: Mapping[str, str]
    resumed_from: int | None
    """The earlier attempt whose checkpoint this one went on from."""

    def to_json(self) -> str:
        """The content of `outcome.json`."""
        return json.dumps(asdict(self), sort_keys=True, indent=1, allow_nan=False)

    @staticmethod
    def from_json(text: str) -> Outcome:
        """Read `outcome.json` back."""
        values = json.loads(text)
        cause = values["cause"]
        return Outcome(**values | {"cause": None if cause is None else Cause(cause), "dropped": tuple(values["dropped"])})


@dataclass(frozen=True)
class TrialResult:
    """What came of a trial: its accepted attempt's final word."""

    signature: str
    attempt: int
    metrics: Mapping[str, float]
    dropped: tuple[str, ...]
    summary: Mapping[str, object]
    """The trainer's `summary.json`; empty where it wrote none."""
    seconds: float
    """Training time of the accepted attempt; an attempt that went on from a checkpoint counts its own time only."""
    environment: Mapping[str, str]

    @property
    def final(self) -> Mapping[str, float]:
        """The final metrics as evidence: one that was NaN or infinite is NaN, so that nobody takes it for never reported."""
        kept = {name: value if measurable(value) else math.nan for name, value in self.metrics.items()}  # older records hold any float
        return {**kept, **dict.fromkeys(self.dropped, math.nan)}


@dataclass(frozen=True)
class MetricStream:
    """A metric stream as far as it can be read."""

    rows: list[tuple[int, dict[str, float]]]
    """Step and finite metrics, by rising step; where a step's metric comes twice the later value stands."""
    nonfinite: int
    """NaN or infinite values left out."""
    unreadable: int
    """Lines that are not whole; the last line of a killed writer is one."""


LARGEST = 1e100
"""A metric beyond it counts as infinite: training has broken down, and squares of such numbers are no numbers."""


def measurable(value: float) -> bool:
    """Whether a metric's value can be reckoned with: not NaN, not infinite, not beyond `LARGEST`."""
    return abs(value) <= LARGEST


def signature_of(config: Mapping[str, object], inert: Mapping[str, object], code_version: str, data_hash: str) -> str:
    """Hash of what a trial depends on.

    Args:
        config: Nested plain values, the replicate's seed included.
        inert: Dotted path to the neutral value put in place of a setting that has no effect.
    """
    flat = dict(flatten(config)) | dict(inert)
    text = json.dumps([sorted(flat.items()), code_version, data_hash], sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:20]


def flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted path and value of every leaf."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def merge(config: Mapping[str, Any], levels: Mapping[str, Any]) -> dict[str, Any]:
    """The config with dotted levels put at their paths, where a plain value on the way gives way; the input stays as it was."""
    merged: dict[str, Any] = {k: merge(v, {}) if isinstance(v, Mapping) else v for k, v in config.items()}
    for path, value in levels.items():
        *parents, name = path.split(".")
        node = merged
        for parent in parents:
            if not isinstance(node.get(parent), dict):
                node[parent] = {}
            node = node[parent]
        node[name] = value
    return merged


@dataclass(frozen=True)
class AttemptFiles:
    """The files of one try at a trial; exactly one process writes them."""

    directory: Path

    @property
    def metrics(self) -> Path:
        """JSON lines `{"step": int, "metrics": {name: value}}`; for a step that comes twice the later line counts."""
        return self.directory / "metrics.jsonl"

    @property
    def outcome(self) -> Path:
        """How the attempt ended; written once, last, by rename."""
        return self.directory / "outcome.json"

    @property
    def summary(self) -> Path:
        """What the trainer says of the trial beside its metrics; `collapse` is its kind of collapse."""
        return self.directory / "summary.json"

    @property
    def pictures(self) -> list[Path]:
        """Pictures that the trainer left here, or a command in its own folder: `gallery.*` first, then by name; a name stands once."""
        found: dict[str, Path] = {}
        for folder in (self.directory, self.directory / DIRECTORY):
            with suppress(OSError):
                found |= {path.name: path for path in folder.iterdir() if path.suffix.lower() in PICTURES and path.is_file()}
        return [found[name] for name in sorted(found, key=lambda name: (not name.startswith("gallery"), name)) if not name.startswith(".")]

    @property
    def began(self) -> Path:
        """Who runs the attempt, since when, from which checkpoint; written once the earlier attempt's files are all copied."""
        return self.directory / "began.json"

    @property
    def log(self) -> Path:
        """What the trial printed, and the traceback of its end."""
        return self.directory / "log.txt"

    def log_of(self, task: int) -> Path:
        """The same of a task beside the first, from 1."""
        return self.directory / f"log.{task}.txt"

    @property
    def claimed(self) -> Path:
        """The study whose attempt it is; hidden, so that no later attempt takes it over."""
        return self.directory / ".study"

    @property
    def stop(self) -> Path:
        """Present: the trainer is asked to save a checkpoint and return; the content says why."""
        return self.directory / "stop"


@dataclass(frozen=True)
class TrialFiles:
    """`runs/trials/<signature>/`: found by content, so any study under the same `runs/` may use it as evidence."""

    root: Path
    signature: str

    @property
    def directory(self) -> Path:
        return self.root / "trials" / self.signature

    @property
    def spec(self) -> Path:
        return self.directory / "trial.json"

    @property
    def accepted(self) -> Path:
        """`{"attempt": n}` once a ledger accepted that attempt's result; written by rename."""
        return self.directory / "accepted.json"

    def attempt(self, number: int) -> AttemptFiles:
        return AttemptFiles(self.directory / "attempts" / f"{number:04d}")


def read_stream(files: AttemptFiles) -> MetricStream:
    """Everything of a metric stream that can be read, whatever its writer's end; no file is an empty stream."""
    steps: dict[int, dict[str, float]] = {}
    nonfinite = unreadable = 0
    try:
        text = files.metrics.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        text = ""
    for line in text.split("\n"):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
            step, values = int(record["step"]), dict(record["metrics"])
            numbers = {str(name): math.nan if value is None else float(value) for name, value in values.items()}
        except (ValueError, TypeError, KeyError, OverflowError):
            unreadable += 1
            continue
        finite = {name: value for name, value in numbers.items() if measurable(value)}
        nonfinite += len(numbers) - len(finite)
        steps.setdefault(step, {}).update(finite)
    return MetricStream([(step, steps[step]) for step in sorted(steps)], nonfinite, unreadable)


def read_metrics(files: AttemptFiles) -> list[tuple[int, dict[str, float]]]:
    """Step and finite metrics of an attempt, by rising step; the later value of a step's metric stands."""
    return read_stream(files).rows


def at_rung(files: AttemptFiles, metrics: Collection[str], step: int) -> dict[str, float]:
    """These metrics at a rung: the last value of each up to that step; none of them where the stream has not come so far."""
    rows = read_metrics(files)
    found: dict[str, float] = {}
    if rows and rows[-1][0] >= step:
        for at, row in rows:
            if at <= step:
                found |= {metric: row[metric] for metric in metrics if metric in row}
    return found


def metric_line(step: int, metrics: Mapping[str, float]) -> str:
    """One line of a metric stream; NaN and infinities become null, which readers count and leave out."""
    values = {name: value if math.isfinite(value) else None for name, value in metrics.items()}
    return json.dumps({"step": step, "metrics": values}, separators=(",", ":")) + "\n"


def result_of(root: Path, signature: str) -> TrialResult | None:
    """The accepted result of a trial under this `runs` folder, whichever study ran it; None where there is none yet."""
    try:
        changed_ns = TrialFiles(root, signature).accepted.stat().st_mtime_ns
    except OSError:
        return None
    return _accepted_result(root, signature, changed_ns)


@lru_cache(maxsize=4096)
def _accepted_result(root: Path, signature: str, changed_ns: int) -> TrialResult | None:
    trial = TrialFiles(root, signature)
    try:
        files = trial.attempt(int(json.loads(trial.accepted.read_text())["attempt"]))
        outcome = Outcome.from_json(files.outcome.read_text())
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if outcome.cause is not None:
        return None
    return TrialResult(signature, outcome.attempt, outcome.metrics, outcome.dropped, _summary(files), outcome.seconds, outcome.environment)


def _summary(files: AttemptFiles) -> Mapping[str, object]:
    try:
        summary = json.loads(files.summary.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return summary if isinstance(summary, dict) else {}


def read_outcome(files: AttemptFiles) -> Outcome | None:
    """How an attempt ended; None while it has not."""
    try:
        return Outcome.from_json(files.outcome.read_text())
    except FileNotFoundError:
        return None


def accept(root: Path, attempts: Mapping[str, int]) -> None:
    """Make attempts the results of their trials, for good: where another study accepted one before, that one stays.

    From then on they outlive a power failure, with the names of all folders above them; those above all trials are synced once.

    Args:
        attempts: Signature to number.
    """
    for signature, attempt in attempts.items():
        _accept(root, signature, attempt)
    for directory in (root / "trials", root) if attempts else ():
        sync(directory)


def _accept(root: Path, signature: str, attempt: int) -> None:
    accepted = TrialFiles(root, signature).accepted
    beside = accepted.with_name(f".accepted.{os.getpid()}")
    _write_synced(beside, json.dumps({"attempt": attempt}))
    try:
        os.link(beside, accepted)
        beside.unlink()
    except FileExistsError:
        if result_of(root, signature) is not None:
            beside.unlink()
        else:
            os.replace(beside, accepted)
    for directory in (accepted.parent / "attempts", accepted.parent):
        sync(directory)


def write_atomic(path: Path, text: str, *, durable: bool = True) -> None:
    """Write beside, rename: a reader sees the old file or the new one, whole.

    Args:
        durable: Sync the file and its folder, so that it outlives a power failure; without, it outlives a kill.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        if durable:
            _write_synced(beside, text)
        else:
            beside.write_text(text, encoding="utf-8")
        os.replace(beside, path)
    except OSError:
        with suppress(OSError):
            beside.unlink()  # on a full disk its half is space that others need
        raise
    if durable:
        sync(path.parent)


def sync_files(directory: Path, but: Collection[str] = ()) -> None:
    """Let every file right in a folder, but for those of these names, outlive a power failure, with its name."""
    for path in [path for path in directory.iterdir() if path.is_file() and path.name not in but]:
        sync(path)
    sync(directory)


def _write_synced(path: Path, text: str) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def sync(path: Path) -> None:
    """Let a file or the names in a folder outlive a power failure."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
