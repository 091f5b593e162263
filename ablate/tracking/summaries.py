"""What a summary run says of several trials: their mean curves, the data that they read."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence

from ablate.tracking.base import DataSet, Points
from ablate.trial import TrialResult

SPLITS = ("train", "select", "test")
"""In this order, any other split after them."""


def mean_curves(streams: Sequence[Points]) -> Points:
    """The mean over replicates at each step at which every replicate that has the metric reported it.

    So no curve bends because a replicate joined or left; one that was stopped early ends its arm's curve.
    """
    found: dict[tuple[int, str], list[float]] = defaultdict(list)
    having: dict[str, int] = defaultdict(int)
    for stream in streams:
        for step, metrics in stream:
            for name, value in metrics.items():
                found[step, name].append(value)
        for name in {name for _, metrics in stream for name in metrics}:
            having[name] += 1
    means: dict[int, dict[str, float]] = defaultdict(dict)
    for (step, name), values in found.items():
        if len(values) == having[name]:
            means[step][name] = sum(values) / len(values)
    return [(step, means[step]) for step in sorted(means)]


def curves_of(streams: Sequence[Points], final: Mapping[str, float], single: Mapping[str, float]) -> Points:
    """An arm's points: its mean curves, ended with the means of its final metrics, and what has no curve at step 0.

    MLflow's table reads a metric at its last step, and its charts draw as a bar what is known at step 0 alone.
    """
    points = dict(mean_curves(streams))
    end = max(points, default=0)
    points[end] = {**points.get(end, {}), **final}
    points[0] = {**points.get(0, {}), **single}
    return sorted(points.items())


def data_sets(data_hash: str, result: TrialResult | None) -> list[DataSet]:
    """What a trial read, a set for each split that its trainer lists (`data` and `scans` in `summary.json`), else one for all of it."""
    summary = {} if result is None else result.summary
    source = str(summary.get("data") or "")
    name = source.rstrip("/").rpartition("/")[2] or "data"
    scans = summary.get("scans")
    splits = {str(split): names for split, names in scans.items() if isinstance(names, list)} if isinstance(scans, Mapping) else {}
    if not splits:
        return [DataSet(name, data_hash[:36], source, "all")] if data_hash else []
    order = sorted(splits, key=lambda split: (SPLITS.index(split) if split in SPLITS else len(SPLITS), split))
    return [DataSet(name, _digest(data_hash, splits[split]), source, split, len(splits[split])) for split in order if splits[split]]


def whole_data_set(found: Sequence[DataSet], data_hash: str) -> list[DataSet]:
    """The set that the splits of a trial are of."""
    if not data_hash or not found:
        return []
    items = None if any(one.items is None for one in found) else sum(one.items or 0 for one in found)
    return [DataSet(found[0].name, data_hash[:36], found[0].source, "all", items)]


def _digest(data_hash: str, names: Sequence[object]) -> str:
    return hashlib.sha256("\0".join([data_hash, *map(str, names)]).encode()).hexdigest()[:20]
