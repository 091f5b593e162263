"""What results lack for a decision: metrics missing, not finite, spelled otherwise or without spread, and trials that failed. Pure."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from ablate.conclusion import Evidence, Metrics, series
from ablate.stats.effects import LEAST_PAIRS
from ablate.study import REFERENCES, Study, nearest, plain_name
from ablate.words import counted, listed, number

MOST_NAMES = 8
"""Of reported metrics that a sentence lists."""


def problems(
    study: Study, place: str, evidence: Evidence, *, failed: Mapping[str, int], stopped: Collection[str] = (), concluded: bool = True
) -> list[dict[str, Any]]:
    """What these results lack for a decision: the objective or a guard's metric missing, not finite or without spread, or no result at all.

    Args:
        place: A phase, or `REFERENCES`.
        failed: Arm to its trials that failed for good.
        stopped: Arms that got few replicates on purpose.
        concluded: Whether no more results are to come.

    Returns:
        `place`, `arms` and a `sentence` for all arms that lack the same: what was expected, what came, what follows and what to do.
    """
    found: dict[str, list[str]] = {}
    names = list(dict.fromkeys([*evidence, *(arm for arm, count in failed.items() if count)]))
    for arm in names:
        results = evidence.get(arm, {})
        texts = [text for metric, role in _needed(study, place) for text in _gaps(study, place, metric, role, results)]
        if concluded:
            texts += _too_little(study, place, results, failed.get(arm, 0), arm in stopped)
        for text in texts:
            found.setdefault(text, []).append(arm)
    every = f"every arm of {place}"
    return [
        {
            "place": place,
            "arms": arms,
            "sentence": f"{every if 2 < len(arms) == len(names) else '; '.join(f'{place}/{a}' for a in arms)}: {text}",
        }
        for text, arms in found.items()
    ]


def _needed(study: Study, place: str) -> list[tuple[str, str]]:
    """The metrics that a decision rests on, and what each is. References have no guards to keep."""
    guards = [] if place == REFERENCES else [(guard.metric, "which a guard needs") for guard in study.guards]
    return list(dict([*guards, (study.objective.metric, "the objective")]).items())


def _gaps(study: Study, place: str, metric: str, role: str, found: Mapping[int, Metrics]) -> Iterator[str]:
    absent = [replicate for replicate, metrics in found.items() if metric not in metrics]
    broken = [replicate for replicate, metrics in found.items() if metric in metrics and not math.isfinite(metrics[metric])]
    if role == "the objective":
        nothing = "no arm can be shown to beat it" if place == REFERENCES else "nothing is known of its effect"
        follows = nothing if len(absent) + len(broken) == len(found) else "what rests on these replicates is left out"
    elif len(absent) + len(broken) == len(found):
        follows = "whether the guard holds is not known, and nothing is adopted without it"
    else:
        follows = "the guard is held against the mean of the others"
    if absent:
        reported = sorted({name for replicate in absent for name in found[replicate]})
        shown = f" It reports {listed(reported[:MOST_NAMES])}{' and more' if len(reported) > MOST_NAMES else ''}." if reported else ""
        yield (
            f"expected {metric}, {role}, in {_which(absent, found)} but it was not reported, so {follows}."
            f"{nearest(metric, reported) or shown} Let the trainer return it, or name in the study file what it returns."
        )
    if broken:
        yield (
            f"expected a finite {metric}, {role}, in {_which(broken, found)} but it is NaN or infinite, so {follows}. "
            "Let the trainer return a finite value also where training breaks down."
        )
    alike = sorted(
        {
            name
            for metrics in found.values()
            if metric in metrics
            for name in metrics
            if name != metric and plain_name(name) == plain_name(metric)
        }
    )
    if alike:
        yield f"{metric}, {role}, and {listed(alike)} are spelled alike and both reported; the study reads {metric} alone."


def _which(some: Sequence[int], found: Mapping[int, Metrics]) -> str:
    if len(some) == len(found):
        return f"each of {counted(len(found), 'replicate')}"
    return f"replicate{'s' if len(some) > 1 else ''} {listed([str(replicate) for replicate in some])}"


def _too_little(study: Study, place: str, found: Mapping[int, Metrics], failed: int, stopped: bool) -> Iterator[str]:
    """No result, fewer than an interval needs, or no spread."""
    metric = study.objective.metric
    again = f"Mend the cause, then: ablate retry --failed {study.study} --reopen, and the same run again."
    finite = [value for value in series(found, metric).values() if math.isfinite(value)]
    if not found:
        nothing = "no arm can be shown to beat it" if place == REFERENCES else "nothing is known of it"
        yield f"expected a result but {counted(failed, 'trial')} failed for good and none is left, so {nothing}. {again}"
    elif failed and 0 < len(finite) < LEAST_PAIRS and not stopped:
        yield f"expected at least {LEAST_PAIRS} replicates with {metric} but only {len(finite)} of {len(found) + failed} gave one. {again}"
    if len(finite) >= LEAST_PAIRS and len(set(finite)) == 1:
        yield (
            f"expected {metric} to vary over replicates but it is {number(finite[0])} in each of {len(finite)}. "
            "Does the trainer use its seed? Is the metric at the end of its range?"
        )
