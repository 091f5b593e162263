"""The arms of a phase as one family of tests, in the direction of benefit, looked at after every replicate."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from ablate.stats.effects import Paired
from ablate.stats.intervals import Level, consistent, holm
from ablate.stats.looks import Looks
from ablate.stats.sequential import Course, course


@dataclass(frozen=True)
class Estimate:
    """The mean benefit of an arm (above 0: better) and what is known of it, together with all other arms of its family."""

    mean: float
    low: float
    high: float
    individual: tuple[float, float]
    """The t interval of this arm alone, without correction for arms or looks: for looking, never for deciding."""
    p_adjusted: float
    contradictory: bool
    """Whether bounds of different looks exclude each other, which happens only where one of them is wrong; `high` is then put at `low`."""


def estimates(benefits: Mapping[str, Paired], alpha: float, looks: Looks, untested: int = 0) -> dict[str, Estimate]:
    """Simultaneous intervals and adjusted p of the arms for which a test is defined; the others are no members of the family.

    They hold at every look (`sequential.repeated` says why); with a single look they are the plain ones (`intervals.simultaneous`).

    Args:
        benefits: Arm to its paired benefits over the baseline.
        looks: As stated before the first one. Pairs beyond the last look are not used.
        untested: Further members of the family, stopped before any test. They must count: what stopped them may go with their objective,
            so that those who are left are a choice.
    """
    courses = {name: found for name, pairs in benefits.items() if (found := course(pairs, looks)).tested}
    if not courses:
        return {}
    each = list(courses.values())
    p = np.array([one.p for one in each] + [1.0] * untested)
    bounds = consistent(p, _bound(each, Course.low, -math.inf, untested), _bound(each, Course.high, math.inf, untested), alpha)
    known = {}
    for i, (name, one) in enumerate(courses.items()):
        low, high = float(bounds.low[i]), float(bounds.high[i])
        seen = Paired(dict(enumerate(one.values.tolist())), (), benefits[name].scale)
        individual = seen.interval(1 - alpha) or (low, high)
        known[name] = Estimate(float(one.values.mean()), low, max(low, high), individual, float(bounds.p_adjusted[i]), high < low)
    return known


def _bound(
    courses: list[Course], bound: Callable[[Course, float], float], unknown: float, untested: int
) -> Callable[[Level], Float[np.ndarray, " arms"]]:
    def at(level: Level) -> Float[np.ndarray, " arms"]:
        levels = np.broadcast_to(np.asarray(level, dtype=float), (len(courses) + untested,))
        return np.array([bound(one, float(own)) for one, own in zip(courses, levels, strict=False)] + [unknown] * untested)

    return at


def better_than_all(
    benefits: Mapping[str, Paired], over_references: Mapping[str, Mapping[str, Paired]], looks: Looks, untested: int = 0
) -> dict[str, float]:
    """Adjusted p that an arm is better than the baseline **and** than every reference, for each arm.

    An arm's p is the largest of its one-sided sequential p (an intersection-union test: to show all of several claims, each must be shown
    at the full level; each of these p is valid whenever one stops, so the largest is). Holm over the arms then bounds the chance of
    adopting any arm that is not better than all of them. Correcting only the test against the baseline would not: where every arm beats a
    collapsed baseline and none has learned more than an untrained network, 8 arms would be adopted wrongly in about one study of seven
    (tests/ablate/stats/test_simulation.py).

    Args:
        benefits: Arm to its paired benefits over the baseline.
        over_references: Reference to arm to its paired benefits over that reference.
        untested: As in `estimates`.

    Returns:
        Twice the Holm-adjusted p, at most 1; an arm without a defined test against a reference has 1.

    Source: Berger 1982, Technometrics 24, 295-300 (intersection-union); Holm 1979; Liu & Anderson 2008, JASA 103 (sequential p).
    """
    courses = {name: found for name, pairs in benefits.items() if (found := course(pairs, looks)).tested}
    if not courses:
        return {}

    def worst(name: str) -> float:
        return max([courses[name].p, *(course(arms[name], looks).p for arms in over_references.values())])

    adjusted = np.minimum(1.0, 2 * holm(np.array([worst(name) for name in courses] + [1.0] * untested)))
    return dict(zip(courses, adjusted.tolist(), strict=False))
