"""Entries in the names and portions that MLflow takes. Imports no mlflow."""

from __future__ import annotations

import hashlib
import posixpath
import re
from collections.abc import Iterator
from functools import lru_cache

from ablate.tracking.base import Points

METRICS_A_BATCH = 999
"""MLflow takes 1000 items a batch, the tag with it included."""

POINTS_A_PORTION = 10 * METRICS_A_BATCH
"""After each is noted how far it came: what a killed telling tells again."""

ITEMS_A_BATCH = 90
"""MLflow takes 100 params and 100 tags a batch."""

LONGEST_NAME, LONGEST_PARAM, LONGEST_TAG = 250, 6000, 8000
"""MLflow's bounds, in characters."""

LONGEST_EXPERIMENT_TAG = 5000


def unsaid(points: Points, logged: str | None, *, whole: bool) -> Points:
    """The steps that MLflow does not have.

    A growing stream's last step may still gain metrics, so it waits; that of a whole one is told even if it was before.
    """
    after = int(logged) if logged is not None else -1
    if not whole:
        points = points[:-1]
    new = [(step, metrics) for step, metrics in points if step > after]
    return new or (points[-1:] if whole else [])


def portions(points: Points) -> Iterator[tuple[list[tuple[int, str, float]], int | None]]:
    """Values in portions, each with the last step that it completes, if any."""
    values = [(step, name, value) for step, metrics in points for name, value in sorted(metrics.items())]
    for start in range(0, len(values), POINTS_A_PORTION):
        portion = values[start : start + POINTS_A_PORTION]
        rest = values[start + POINTS_A_PORTION : start + POINTS_A_PORTION + 1]
        steps = [step for step, _, _ in portion if not rest or step < rest[0][0]]
        yield portion, max(steps, default=None)


@lru_cache(maxsize=4096)
def key_of(name: str) -> str:
    """The name as MLflow takes it; one that had to be changed carries a hash, so that two never meet."""
    clean = re.sub(r"[^\w.\-/: ]", "_", name, flags=re.ASCII)
    if posixpath.normpath(clean) != clean or clean.startswith((".", "/")):
        clean = re.sub(r"[./]+", "_", clean)
    if clean == name and 0 < len(name) <= LONGEST_NAME:
        return name
    return f"{clean[: LONGEST_NAME - 9]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
