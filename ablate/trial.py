"""Trials: what is run, what came of it, and the files of a trial's directory."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any


class TrialState(StrEnum):
    """Where a trial stands in the ledger."""

    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"


class Cause(StrEnum):
    """Why an attempt ended without a result; the retry rule reads it."""

    CRASH = "crash"
    OUT_OF_MEMORY = "out_of_memory"
    NAN = "nan"
    TIMEOUT = "timeout"
    LOST = "lost"
    INVALID = "invalid"
    STOPPED = "stopped"

    @property
    def retryable(self) -> bool:
        """A deterministic failure fails again: NaN and invalid configurations get no second try."""
        return self not in (Cause.NAN, Cause.INVALID)


@dataclass(frozen=True)
class TrialSpec:
    """Arm x replicate: the unit of scheduling. Equal signatures are the same trial, in every phase and study."""

    signature: str
    replicate: int
    config: Mapping[str, object]
    """The whole configuration as nested plain values, the replicate's seed included."""
    trainer: str
    """`package.module:callable`."""
    code_version: str
    data_hash: str


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
    """The config with dotted levels put at their paths; the input stays as it was."""
    merged: dict[str, Any] = {k: merge(v, {}) if isinstance(v, Mapping) else v for k, v in config.items()}
    for path, value in levels.items():
        *parents, name = path.split(".")
        node = merged
        for parent in parents:
            node = node.setdefault(parent, {})
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
    def log(self) -> Path:
        return self.directory / "log.txt"

    @property
    def stop(self) -> Path:
        """Present: the trainer is asked to save a checkpoint and return."""
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


def write_atomic(path: Path, text: str) -> None:
    """Write beside, fsync, rename: a reader sees the old file or the new one, whole."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    with beside.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(beside, path)
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
