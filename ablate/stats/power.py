"""What a study can show: the noise of a difference, the replicates an effect needs, the effect a budget can show."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from ablate.stats.looks import Looks

POWER = 0.8
"""Chance of adoption that "can be detected" stands for."""

MOST_REPLICATES = 10_000
"""More is answered as "none": no such study is run."""

_PATHS = 4_000


@dataclass(frozen=True)
class NoiseFloor:
    """Spread of (arm - baseline) where the arm is no different from the baseline (A/A)."""

    deviation: float
    """Standard deviation of one paired difference, in the metric's unit."""
    low: float
    high: float
    """Bounds at the level asked for, from the chi-squared distribution (normal values)."""
    replicates: int
    correlation: float
    """Of the two sides of a pair, as assumed; 0: pairing removes nothing, the cautious guess."""
    dropped: int
    """Values that were NaN or infinite."""


def noise_floor(baseline: Iterable[float], correlation: float = 0.0, level: float = 0.8) -> NoiseFloor | None:
    """From the baseline's replicates alone: sqrt(2 (1 - correlation)) times their standard deviation.

    Two runs of the baseline at the same seed are equal, so A/A differences are those between seeds; what pairing will remove of them is not
    known before an arm has run. `pairing.removed` gives the correlation once one has.

    Returns:
        None with fewer than two finite values, or where all are equal: no spread is known then, and 0 would be a lie.

    Raises:
        ValueError: A correlation outside (-1, 1).
    """
    from scipy.special import chdtri

    if not -1 < correlation < 1:
        raise ValueError(f"correlation: expected a number between -1 and 1 but got {correlation}.")
    values = list(baseline)
    finite = np.array([v for v in values if math.isfinite(v)])
    if len(finite) < 2 or np.ptp(finite) <= 1e-12 * np.max(np.abs(finite)):
        return None
    freedom = len(finite) - 1
    deviation = math.sqrt(2 * (1 - correlation)) * float(finite.std(ddof=1))
    low, high = (deviation * math.sqrt(freedom / chdtri(freedom, q)) for q in ((1 - level) / 2, (1 + level) / 2))
    return NoiseFloor(deviation, low, high, len(finite), correlation, len(values) - len(finite))


def power_at(pairs: int, effect: float, level: float) -> float:
    """Chance that a one-sided paired t-test with this many pairs shows an effect.

    Args:
        effect: In standard deviations of one difference.
        level: One-sided, after correction (alpha / (2 arms) for the first arm of Holm).

    Source: the noncentral t distribution; where scipy's has no value (NaN at some large effects) the normal approximation of Abramowitz
    and Stegun 1964, 26.7.10.
    """
    from scipy.special import nctdtr, ndtr, stdtrit

    freedom, centre, critical = pairs - 1, effect * math.sqrt(pairs), float(-stdtrit(pairs - 1, level))
    missed = float(nctdtr(freedom, centre, critical))
    if math.isnan(missed):
        missed = float(ndtr((critical * (1 - 1 / (4 * freedom)) - centre) / math.sqrt(1 + critical**2 / (2 * freedom))))
    return 1.0 - missed


def replicates_needed(effect: float, deviation: float, alpha: float, arms: int = 1, power: float = POWER) -> int | None:
    """Fewest pairs at which a fixed design shows this effect with this power; none where more than `MOST_REPLICATES` are.

    Args:
        effect: Above 0, in the metric's unit.
        deviation: Of one paired difference, the same unit.
        arms: Arms that share alpha (Holm's first step: the cautious count).
    """
    if not effect > 0 or not deviation >= 0 or not math.isfinite(effect) or not math.isfinite(deviation):
        raise ValueError(f"replicates_needed: expected an effect above 0 and a deviation of 0 or more but got {effect} and {deviation}.")
    if deviation == 0:
        return 3
    level, ratio = alpha / (2 * arms), effect / deviation
    low, high = 2, MOST_REPLICATES
    if power_at(high, ratio, level) < power:
        return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if power_at(middle, ratio, level) >= power else (middle, high)
    return max(3, high)


def detectable(looks: Looks, deviation: float, alpha: float, arms: int = 1, power: float = POWER) -> float:
    """Smallest effect, in the metric's unit, that the sequential rule shows by its last look with this power.

    4,000 stored normal paths with a fixed seed: the same at every call, and right to about 2 %. No early futility.
    """
    nominal = tuple(float(p) for p in looks.nominal(alpha / (2 * arms)))
    needed = _needed_effects(looks.start, looks.at_most, nominal)
    return deviation * float(np.quantile(needed, power))


@functools.lru_cache(maxsize=64)
def _needed_effects(start: int, at_most: int, nominal: tuple[float, ...]) -> Float[np.ndarray, " paths"]:
    """For each path of unit noise the smallest effect at which some look rejects: t rises with the effect, so it is c * se - mean."""
    from scipy.special import stdtrit

    noise = np.random.default_rng(20_230_401).standard_normal((_PATHS, at_most))
    needed = np.full(_PATHS, np.inf)
    for pairs, p in zip(range(start, at_most + 1), nominal, strict=True):
        seen = noise[:, :pairs]
        needed = np.minimum(needed, -stdtrit(pairs - 1, p) * seen.std(axis=1, ddof=1) / math.sqrt(pairs) - seen.mean(axis=1))
    return needed
