"""Metric streams as they grow: only what was appended is read again, and what is drawn is thinned to what a screen can show."""

from __future__ import annotations

import json
import math
import os
from array import array
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock

import numpy as np

MOST_POINTS = 4_000_000
"""Values that are kept of all streams together (16 bytes each); those looked at longest ago go first."""

DRAWN = 300
"""Points of a drawn curve."""

TURN_BYTES = 32 * 2**20
"""Read at most so much of one stream at a look; the rest at the next."""

Series = tuple[np.ndarray, np.ndarray]
"""Steps, rising, and values."""


@dataclass
class Stream:
    """What was read of one file so far."""

    node: int = -1
    position: int = 0
    values: dict[str, tuple[array[float], array[float]]] = field(default_factory=dict)
    """Metric to steps and values in the order in which they came."""
    step: int | None = None
    """Of the latest line."""

    @property
    def points(self) -> int:
        """Values that are kept."""
        return sum(len(steps) for steps, _ in self.values.values())

    def series(self, metric: str) -> Series | None:
        """One metric by rising step; of a step that came twice the later value."""
        found = self.values.get(metric)
        if not found or not found[0]:
            return None
        steps, values = np.frombuffer(found[0])[::-1].copy(), np.frombuffer(found[1])[::-1].copy()
        rising, first = np.unique(steps, return_index=True)
        return rising, values[first]


class Streams:
    """The streams that somebody looks at."""

    def __init__(self, most_points: int = MOST_POINTS) -> None:
        self.most_points = most_points
        self._streams: OrderedDict[Path, Stream] = OrderedDict()
        self._lock = Lock()

    def read(self, path: Path) -> Stream:
        """The stream as far as it can be read now; no file is an empty stream."""
        with self._lock:
            stream = self._streams.pop(path, None) or Stream()
            self._streams[path] = stream = _grown(stream, path)
            kept = sum(one.points for one in self._streams.values())
            while kept > self.most_points and len(self._streams) > 1:
                _, oldest = self._streams.popitem(last=False)
                kept -= oldest.points
            return stream


def _grown(stream: Stream, path: Path) -> Stream:
    try:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            if status.st_ino != stream.node or status.st_size < stream.position:
                stream = Stream(node=status.st_ino)
            file.seek(stream.position)
            new = file.read(TURN_BYTES)
    except OSError:
        return stream
    whole = new.rfind(b"\n") + 1
    if not whole and len(new) == TURN_BYTES:
        whole = len(new)  # a line without end is no metric
    stream.position += whole
    for line in new[:whole].split(b"\n"):
        if line.strip():
            _take(stream, line)
    return stream


def _take(stream: Stream, line: bytes) -> None:
    try:
        record = json.loads(line)
        step, values = int(record["step"]), dict(record["metrics"])
        numbers = {str(name): float(value) for name, value in values.items() if value is not None}
    except (ValueError, TypeError, KeyError, OverflowError):
        return
    stream.step = step
    for name, value in numbers.items():
        if math.isfinite(value):
            steps, held = stream.values.setdefault(name, (array("d"), array("d")))
            steps.append(step)
            held.append(value)


def thinned(series: Series, points: int = DRAWN) -> Series:
    """A curve in at most so many points: the mean of each stretch of steps, the last value as it is."""
    steps, values = series
    if len(steps) <= points:
        return series
    bins = np.minimum(((steps - steps[0]) / (steps[-1] - steps[0]) * (points - 1)).astype(int), points - 2)
    bins[-1] = points - 1
    _, which = np.unique(bins, return_inverse=True)
    count = np.bincount(which)
    return np.bincount(which, steps) / count, np.bincount(which, values) / count


@dataclass(frozen=True)
class Spread:
    """A metric of one arm over steps."""

    steps: Sequence[float]
    mean: Sequence[float]
    low: Sequence[float]
    """Least of the replicates."""
    high: Sequence[float]
    replicates: int


def spread(series: Sequence[Series], points: int = DRAWN) -> Spread | None:
    """Mean, least and greatest over replicates at each step; where one reports at other steps, between its neighbours.

    A replicate speaks only for the steps that it has reached.
    """
    kept = [one for one in series if len(one[0])]
    if not kept:
        return None
    steps = np.unique(np.concatenate([one[0] for one in kept]))
    if len(steps) > points:
        steps = np.unique(np.concatenate([np.linspace(steps[0], steps[-1], points), [one[0][-1] for one in kept]]))
        kept = [thinned(one, points) for one in kept]
    rows = np.full((len(kept), len(steps)), np.nan)
    for row, (at, values) in zip(rows, kept, strict=True):
        inside = (steps >= at[0]) & (steps <= at[-1])
        row[inside] = np.interp(steps[inside], at, values)
    known = ~np.isnan(rows).all(axis=0)
    steps, rows = steps[known], rows[:, known]
    mean, low, high = np.nanmean(rows, axis=0), np.nanmin(rows, axis=0), np.nanmax(rows, axis=0)
    return Spread(_short(steps), _short(mean), _short(low), _short(high), len(kept))


def _short(values: np.ndarray) -> list[float]:
    return [float(f"{value:.6g}") for value in values.tolist()]


def names(streams: Sequence[Stream]) -> list[str]:
    """All metrics that any of them has, by name."""
    return sorted({metric for stream in streams for metric in stream.values})
