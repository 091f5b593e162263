"""Simultaneous intervals and Holm-adjusted p that can never contradict each other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

INFORMATIVE_SHARE = 0.2
"""Share of alpha from which lower bounds above 0 are paid. .2 makes the two halves of the interval about equally long at 4 replicates
(7 arms: 8.9 and 7.5 standard errors); 0 would let every adopted arm's interval start at exactly 0 (docs/STATISTICS.md)."""

ABOVE_ZERO = float(np.nextafter(0.0, 1.0))
"""A lower bound "above 0, by how much is open": the smallest number that is not 0."""


Level = Float[np.ndarray, "..."] | float
"""One-sided chance of a bound to fail."""


@dataclass(frozen=True)
class Simultaneous:
    """What is known of several benefits at once."""

    p_adjusted: Float[np.ndarray, "*studies arms"]
    """Twice the Holm-adjusted one-sided p, at most 1."""
    low: Float[np.ndarray, "*studies arms"]
    high: Float[np.ndarray, "*studies arms"]


def holm(p: Float[np.ndarray, "*studies arms"]) -> Float[np.ndarray, "*studies arms"]:
    """Holm-adjusted p over the last axis.

    Own lines, because statsmodels' `multipletests` takes one study at a time (the simulations need 10,000) and takes a second to import;
    the tests hold it equal to statsmodels.

    Source: Holm 1979, Scandinavian Journal of Statistics 6, 65-70. Valid under any dependence.
    """
    order = np.argsort(p, axis=-1, kind="stable")
    weights = np.arange(p.shape[-1], 0, -1)
    stepped = np.maximum.accumulate(np.take_along_axis(p, order, axis=-1) * weights, axis=-1)
    adjusted = np.empty_like(stepped)
    np.put_along_axis(adjusted, order, np.minimum(stepped, 1.0), axis=-1)
    return adjusted


def simultaneous(
    mean: Float[np.ndarray, "*studies arms"],
    standard_error: Float[np.ndarray, "*studies arms"],
    freedom: Float[np.ndarray, "*studies arms"],
    alpha: float,
) -> Simultaneous:
    """Holm's one-sided tests of "no benefit" and intervals that contain all true benefits at once with probability 1 - alpha or more.

    Lower bounds, with m arms of which r are not rejected:
        not rejected          the t bound at alpha / (2 r), which is never above 0;
        rejected, r = 0       the t bound at alpha / (2 m), at least `ABOVE_ZERO`;
        rejected, r > 0       the t bound at l = alpha / (5 m), at least `ABOVE_ZERO`.
    Upper bounds: the t bound at (alpha / 2 - (m - 1) l) / m. With one arm this is the plain two-sided t interval.

    So `p_adjusted < alpha` exactly where `low > 0`. A low of `ABOVE_ZERO` says that the benefit is above 0 and that this many pairs cannot
    say by how much. Why all bounds hold at once: docs/STATISTICS.md.

    Args:
        mean: Mean benefit of each arm (above 0: better).
        standard_error: Of that mean; above 0.
        freedom: Pairs - 1.

    Source: Strassburger & Bretz 2008, Statistics in Medicine 27, 4914-4927; Guilbaud 2008, Biometrical Journal 50, 678-692 (the bounds that
    belong to Holm). Departs: rejected arms get a bound above 0, paid from the upper side.
    """
    from scipy.special import stdtr, stdtrit

    def low_at(level: Level) -> Float[np.ndarray, "*studies arms"]:
        found: Float[np.ndarray, "*studies arms"] = mean + stdtrit(freedom, level) * standard_error
        return found

    def high_at(level: Level) -> Float[np.ndarray, "*studies arms"]:
        found: Float[np.ndarray, "*studies arms"] = mean - stdtrit(freedom, level) * standard_error
        return found

    return consistent(stdtr(freedom, -mean / standard_error), low_at, high_at, alpha)


def consistent(
    p: Float[np.ndarray, "*studies arms"],
    low_at: Callable[[Level], Float[np.ndarray, "*studies arms"]],
    high_at: Callable[[Level], Float[np.ndarray, "*studies arms"]],
    alpha: float,
) -> Simultaneous:
    """The bounds of `simultaneous` from any one-sided p and the bounds that belong to them.

    Args:
        p: One-sided p of "no benefit" of each arm; valid where at most u with chance u at most.
        low_at: Lower bounds that fail with the chance given, above 0 exactly where p is below it.
        high_at: Upper bounds that fail with the chance given.
    """
    arms = p.shape[-1]
    informative = INFORMATIVE_SHARE * alpha / arms
    upper = (alpha / 2 - (arms - 1) * informative) / arms
    p_adjusted = np.minimum(1.0, 2 * holm(p))
    rejected = p_adjusted < alpha
    retained = np.sum(~rejected, axis=-1, keepdims=True)
    above = np.maximum(ABOVE_ZERO, low_at(np.where(retained == 0, alpha / (2 * arms), informative)))
    below = np.minimum(0.0, low_at(alpha / (2 * np.maximum(retained, 1))))
    return Simultaneous(p_adjusted, np.where(rejected, above, below), high_at(upper))
