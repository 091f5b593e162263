"""The metrics of a program that knows nothing of us: read from a file that it appends to, or from lines that it prints."""

from __future__ import annotations

import json
import math
import os
import re
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol

LONGEST_LINE = 1 << 20
"""Longer lines are garbage."""

MATCHED_CHARACTERS = 10_000
"""A pattern sees so much of a line: matching must not hang on a line without end."""

TURN_BYTES = 1 << 16
"""Read at most so much in one turn (about a thousand rows, a tenth of a second), so that a flood of lines keeps no stop waiting."""


@dataclass(frozen=True)
class Row:
    """Metrics of one step."""

    step: int
    metrics: Mapping[str, float]


class Reader(Protocol):
    """Makes rows of lines."""

    garbage: int
    """Lines that should have been metrics and were not."""

    def row(self, line: bytes) -> Row | None:
        """The row that a line says; none where it says none."""


class Tail:
    """Whole lines that another process appends to a file; one that begins anew or is replaced is read from its start."""

    def __init__(self, path: Path, start: int = 0) -> None:
        self.path = path
        self.position = start
        self.too_long = 0
        self._file: int | None = None
        self._mark = b""
        self._part = b""
        self._skipping = False

    def lines(self, at_most: int = TURN_BYTES) -> Iterator[bytes]:
        """The lines that have come since; none where there is no file."""
        try:
            with self.path.open("rb") as file:
                if self._is_another(file):
                    self.position, self._mark, self._part, self._skipping = 0, b"", b"", False
                file.seek(self.position)
                new = file.read(at_most)
        except (FileNotFoundError, IsADirectoryError):
            return
        self.position += len(new)
        self._mark = (self._mark + new)[-64:]
        *whole, self._part = (self._part + new.replace(b"\r", b"\n")).split(b"\n")  # a progress bar ends its lines so
        for line in whole:
            if self._skipping or len(line) > LONGEST_LINE:
                self.too_long += not self._skipping
                self._skipping = False
            else:
                yield line
        if len(self._part) > LONGEST_LINE:
            self.too_long += not self._skipping
            self._part, self._skipping = b"", True

    def _is_another(self, file: IO[bytes]) -> bool:
        """Whether what was read is no longer what stands there; a file that was emptied may have grown past it since."""
        status = os.fstat(file.fileno())
        known, self._file = self._file, status.st_ino
        if known not in (None, status.st_ino) or status.st_size < self.position:
            return True
        file.seek(self.position - len(self._mark))
        return file.read(len(self._mark)) != self._mark

    def rest(self) -> bytes:
        """What stands behind the last end of a line; nothing more is coming."""
        part, self._part = self._part, b""
        return b"" if self._skipping else part


class JsonLines:
    """Rows of a JSON-lines file: `{"step": 3, "loss": 0.1}`, nested or flat.

    A nested name is `outer/inner`; a section `metrics` around all of them is left out of the names. What is no number is left out.
    """

    def __init__(self, step: str, rename: Mapping[str, str]) -> None:
        self.garbage = 0
        self._step, self._rename = step, rename

    def row(self, line: bytes) -> Row | None:
        """The row of a line; a line that is no JSON object with a step counts as garbage."""
        if not line.strip():
            return None
        try:
            named = numbers_of(json.loads(line))
            step = named.pop(self._step)
            return Row(int(step), {self._rename.get(name, name): value for name, value in named.items()})
        except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
            self.garbage += 1
            return None


class Printed:
    """Rows of lines of output. A pattern without a group `step` adds to the step that was printed last, 0 before any."""

    def __init__(self, patterns: Sequence[str], rename: Mapping[str, str]) -> None:
        self.garbage = 0
        self._patterns, self._rename = [re.compile(pattern) for pattern in patterns], rename
        self._step = 0

    def row(self, line: bytes) -> Row | None:
        """The row of a line; one that matches and is no number counts as garbage."""
        text = line[:MATCHED_CHARACTERS].decode(errors="replace")
        metrics: dict[str, float] = {}
        for pattern in self._patterns:
            found = pattern.search(text)
            if found is None:
                continue
            try:
                named = {name: float(value) for name, value in found.groupdict().items() if value is not None}
                self._step = int(named.pop("step", self._step))
            except (ValueError, OverflowError):
                self.garbage += 1
                continue
            metrics |= {self._rename.get(name, name): value for name, value in named.items()}
        return Row(self._step, metrics) if metrics else None


def numbers_of(document: object) -> dict[str, float]:
    """Names to numbers of a JSON document, nested or flat; what is no number is left out.

    Raises:
        TypeError: It is no mapping.
    """
    if not isinstance(document, dict):
        raise TypeError("no mapping")
    inner = document.get("metrics")
    if isinstance(inner, dict):
        document = {key: value for key, value in document.items() if key != "metrics"} | inner
    return {name: float(value) for name, value in _leaves(document, "") if isinstance(value, (int, float))}


def _leaves(values: Mapping[str, object], prefix: str) -> Iterator[tuple[str, object]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{key}/")
        else:
            yield f"{prefix}{key}", value


class Seen:
    """Rows that a stream already holds: what an earlier attempt reported is not reported twice."""

    def __init__(self, stream: Path) -> None:
        self._rows: set[tuple[int, int]] = set()
        for line in _lines(stream):
            try:
                record = json.loads(line)
                self._rows.add(self._key(int(record["step"]), record["metrics"]))
            except (ValueError, TypeError, KeyError, AttributeError):
                continue

    def __contains__(self, row: Row) -> bool:
        return self._key(row.step, {name: value if math.isfinite(value) else None for name, value in row.metrics.items()}) in self._rows

    @staticmethod
    def _key(step: int, metrics: Mapping[str, float | None]) -> tuple[int, int]:
        return step, hash(tuple(sorted((name, str(value)) for name, value in metrics.items())))


def final_metrics(stream: Path, last: int) -> dict[str, float]:
    """Of each metric the mean over its last steps; NaN where one of them is not finite.

    Args:
        stream: `metrics.jsonl` of an attempt. For a step that comes twice the later line counts.
        last: How many steps.
    """
    series: dict[str, dict[int, float]] = {}
    for line in _lines(stream):
        try:
            record = json.loads(line)
            step, values = int(record["step"]), dict(record["metrics"])
        except (ValueError, TypeError, KeyError):
            continue
        for name, value in values.items():
            steps = series.setdefault(name, {})
            steps[step] = math.nan if value is None else float(value)
            if len(steps) > 2 * last + 16:
                for old in sorted(steps)[:-last]:
                    del steps[old]
    return {
        name: math.fsum(chosen) / len(chosen) for name, steps in series.items() if (chosen := [steps[s] for s in sorted(steps)[-last:]])
    }


def _lines(path: Path) -> Iterator[str]:
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            yield from file
    except FileNotFoundError:
        return


def last_lines(path: Path, start: int, count: int) -> list[str]:
    """The last lines that are not empty, of what stands in a file from `start` on."""
    try:
        with path.open("rb") as file:
            file.seek(max(start, file.seek(0, os.SEEK_END) - 65536))
            lines = file.read().decode(errors="replace").splitlines()
    except FileNotFoundError:
        return []
    return list(deque((line.strip() for line in lines if line.strip()), maxlen=count))
