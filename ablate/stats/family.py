"""The arms of a phase as one family of tests, in the direction of benefit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ablate.stats.effects import Paired
from ablate.stats.intervals import holm, simultaneous


@dataclass(frozen=True)
class Estimate:
    """The mean benefit of an arm (above 0: better) and what is known of it, together with all other arms of its family."""

    mean: float
    low: float
    high: float
    individual: tuple[float, float]
    """The t interval of this arm alone, without correction: for looking, never for deciding."""
    p_adjusted: float


def estimates(benefits: Mapping[str, Paired], alpha: float) -> dict[str, Estimate]:
    """Simultaneous intervals and adjusted p of the arms for which a test is defined; the others are no members of the family.

    Args:
        benefits: Arm to its paired benefits over the baseline.
    """
    tested = {name: pairs for name, pairs in benefits.items() if pairs.testable}
    if not tested:
        return {}
    means = np.array([pairs.mean for pairs in tested.values()], dtype=float)
    errors = np.array([pairs.standard_error for pairs in tested.values()])
    freedom = np.array([pairs.pairs - 1.0 for pairs in tested.values()])
    found = simultaneous(means, errors, freedom, alpha)
    return {
        name: Estimate(
            float(means[i]), float(found.low[i]), float(found.high[i]), pairs.interval(1 - alpha) or (0.0, 0.0), float(found.p_adjusted[i])
        )
        for i, (name, pairs) in enumerate(tested.items())
    }


def better_than_all(benefits: Mapping[str, Paired], over_references: Mapping[str, Mapping[str, Paired]]) -> dict[str, float]:
    """Adjusted p that an arm is better than the baseline **and** than every reference, for each arm.

    An arm's p is the largest of its one-sided p (an intersection-union test: to show all of several claims, each must be shown at the full
    level). Holm over the arms then bounds the chance of adopting any arm that is not better than all of them. Correcting only the test
    against the baseline would not: where every arm beats a collapsed baseline and none has learned more than an untrained network, 8 arms
    would be adopted wrongly in about one study of seven (tests/ablate/stats/test_simulation.py).

    Args:
        benefits: Arm to its paired benefits over the baseline.
        over_references: Reference to arm to its paired benefits over that reference.

    Returns:
        Twice the Holm-adjusted p, at most 1; an arm without a defined test against a reference has 1.

    Source: Berger 1982, Technometrics 24, 295-300 (intersection-union); Holm 1979.
    """
    tested = [name for name, pairs in benefits.items() if pairs.testable]
    if not tested:
        return {}

    def worst(name: str) -> float:
        found = [benefits[name].p_greater(), *(arms[name].p_greater() for arms in over_references.values())]
        return max(1.0 if p is None else p for p in found)

    adjusted = np.minimum(1.0, 2 * holm(np.array([worst(name) for name in tested])))
    return dict(zip(tested, adjusted.tolist(), strict=True))
