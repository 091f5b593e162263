"""Adopt, reject, futile or go on, after every replicate, for all arms of a phase at once."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float

from ablate.stats.effects import Paired
from ablate.stats.intervals import ABOVE_ZERO, INFORMATIVE_SHARE, holm
from ablate.stats.looks import Looks
from ablate.stats.power import replicates_needed

FUTILE = 0.1
"""An arm whose predicted chance of adoption by the last look is below this gets no more replicates."""

_FUTURES = 2_000

Decision = Literal["adopt", "reject", "futile", "go on", "open"]
"""`go on`: more replicates may decide. `open`: the last look has passed, nothing is shown, and nothing more is run."""


@dataclass(frozen=True)
class Repeated:
    """What is known of several benefits at once at the last of several looks, valid at every look."""

    p_adjusted: Float[np.ndarray, "*studies arms"]
    """Twice the Holm-adjusted sequential p, at most 1; below alpha exactly where `low` is above 0."""
    low: Float[np.ndarray, "*studies arms"]
    high: Float[np.ndarray, "*studies arms"]


@dataclass(frozen=True)
class Cost:
    """What it would cost to decide about an arm: pairs in all, from a fresh fixed design with 80 % power at the present estimate."""

    claim: Literal["better", "below the smallest effect"]
    """Which of the two the present mean points to."""
    pairs: int | None
    """None: more than 10,000, because the mean lies on the border."""
    least: int | None
    most: int | None
    """The same at the ends of the 80 % interval of the noise; the mean is taken as it stands."""


@dataclass(frozen=True)
class Judged:
    """One arm after its latest look. All in units of benefit (above 0: better)."""

    decision: Decision
    pairs: int
    """Pairs that were looked at."""
    unused: int
    """Pairs beyond the last look: not looked at, since the error rate was stated for fewer."""
    mean: float | None
    low: float | None
    high: float | None
    p_adjusted: float | None
    chance: float | None
    """Predicted chance of adoption by the last look; none where no more looks are to come."""
    cost: Cost | None
    """For arms that are not decided."""
    contradictory: bool
    """Whether bounds of different looks exclude each other, which happens only where one of them is wrong; `high` is then put at `low`."""


def repeated(
    mean: Float[np.ndarray, "*studies arms looks"], standard_error: Float[np.ndarray, "*studies arms looks"], looks: Looks, alpha: float
) -> Repeated:
    """Group-sequential Holm, and intervals that contain all true benefits at all looks with probability 1 - alpha or more.

    The sequential p of an arm (`Looks`) is a valid p whatever the time of stopping, so Holm over the arms bounds the chance of ever
    adopting an arm without benefit by alpha / 2, under any dependence between arms. Bounds are those of `intervals.simultaneous` with t
    bounds replaced by repeated ones (the best over the looks so far).

    Args:
        mean: Mean benefit after each look's pairs; NaN where the look did not take place.
        standard_error: Of that mean; NaN or 0 where no test is defined.

    Source: Maurer & Bretz 2013, Stat. Biopharm. Res. 5, 311-320, and Ye et al. 2013, Statist. Med. 32, 1112-1124 (group-sequential Holm);
    Jennison & Turnbull 1989, JRSS B 51, 305-361 (repeated confidence intervals).
    """
    from scipy.special import stdtr

    arms = mean.shape[-2]
    held = np.isfinite(mean) & np.isfinite(standard_error) & (standard_error > 0)
    error = np.where(held, standard_error, 1.0)
    average = np.where(held, mean, 0.0)
    p = np.where(held, stdtr(looks.pairs - 1, -average / error), 1.0)
    p_adjusted = np.minimum(1.0, 2 * holm(looks.level(np.min(p / looks.weights, axis=-1))))
    rejected = p_adjusted < alpha
    retained = np.sum(~rejected, axis=-1, keepdims=True)
    informative = INFORMATIVE_SHARE * alpha / arms
    upper = (alpha / 2 - (arms - 1) * informative) / arms

    def best(level: Float[np.ndarray, "..."] | float) -> Float[np.ndarray, "*studies arms"]:
        reach = looks.critical(np.broadcast_to(np.asarray(level, dtype=float), mean.shape[:-1])) * error
        return np.asarray(np.max(np.where(held, average - reach, -np.inf), axis=-1))

    above = np.maximum(ABOVE_ZERO, best(np.where(retained == 0, alpha / (2 * arms), informative)))
    below = np.minimum(0.0, best(alpha / (2 * np.maximum(retained, 1))))
    reach = looks.critical(np.full(mean.shape[:-1], upper)) * error
    high = np.min(np.where(held, average + reach, np.inf), axis=-1)
    return Repeated(p_adjusted, np.where(rejected, above, below), high)


def judge(benefits: Mapping[str, Paired], looks: Looks, alpha: float, smallest_effect: float) -> dict[str, Judged]:
    """Decide about each arm from all its replicates so far, in the order of their numbers.

    adopt: adjusted p < alpha and mean benefit >= `smallest_effect`. reject: the interval lies below `smallest_effect`. futile: the
    predicted chance of adoption is below `FUTILE`; it binds nobody, so the error rate does not rest on it. Arms without a test at any look
    (too few pairs, no spread) go on until the last look and are not of the family.

    Assumption: as `Looks`; a missing replicate is missing whatever its value would have been.
    """
    used = {name: _values(pairs, looks) for name, pairs in benefits.items()}
    found = {name: _at_looks(values, benefits[name].scale, looks) for name, values in used.items()}
    family = [name for name, (_, error) in found.items() if np.isfinite(error).any()]
    if not family:
        return {name: _untested(name, used, benefits, looks) for name in benefits}
    result = repeated(np.array([found[n][0] for n in family]), np.array([found[n][1] for n in family]), looks, alpha)
    retained = max(1, int(np.sum(result.p_adjusted >= alpha)))
    judged = {}
    for name in benefits:
        if name not in family:
            judged[name] = _untested(name, used, benefits, looks)
            continue
        i = family.index(name)
        low, high, p = float(result.low[i]), float(result.high[i]), float(result.p_adjusted[i])
        judged[name] = _judged(
            used[name],
            (low, high, p),
            benefits[name].pairs,
            looks,
            looks.critical(alpha / (2 * retained)),
            smallest_effect,
            alpha,
            len(family),
        )
    return judged


def _judged(
    values: Float[np.ndarray, " pairs"],
    found: tuple[float, float, float],
    pairs: int,
    looks: Looks,
    critical: Float[np.ndarray, " looks"],
    smallest_effect: float,
    alpha: float,
    arms: int,
) -> Judged:
    low, high, p = found
    mean = float(values.mean())
    contradictory = high < low
    chance: float | None = None
    decision: Decision
    if p < alpha and mean >= smallest_effect and not high < smallest_effect:
        decision = "adopt"
    elif high < smallest_effect and not contradictory:
        decision = "reject"
    elif len(values) >= looks.at_most:
        decision = "open"
    else:
        chance = chance_of_adoption(values, looks, critical, smallest_effect, already=p < alpha)
        decision = "futile" if chance < FUTILE else "go on"
    open_ = decision in ("futile", "go on", "open")
    cost = cost_to_decide(values, smallest_effect, alpha, arms) if open_ else None
    return Judged(decision, len(values), pairs - len(values), mean, low, max(low, high), p, chance, cost, contradictory)


def chance_of_adoption(
    values: Float[np.ndarray, " pairs"], looks: Looks, critical: Float[np.ndarray, " looks"], smallest_effect: float, already: bool = False
) -> float:
    """Predicted chance that a later look adopts, from 2,000 futures with a fixed seed: what is to come is drawn given what was seen.

    Args:
        values: Benefits so far, at least two that differ.
        critical: t at or above which each look rejects.
        already: Whether the benefit is shown and only its size is open.

    Source: Spiegelhalter, Freedman & Blackburn 1986, Controlled Clinical Trials 7, 8-17 (predictive power), with the flat prior on mean and
    log spread.
    """
    noise = np.random.default_rng(20_230_402)
    n, freedom = len(values), len(values) - 1
    spread = values.std(ddof=1) * np.sqrt(freedom / noise.chisquare(freedom, (_FUTURES, 1)))
    centre = values.mean() + spread / math.sqrt(n) * noise.standard_normal((_FUTURES, 1))
    future = centre + spread * noise.standard_normal((_FUTURES, looks.at_most - n))
    all_ = np.concatenate([np.broadcast_to(values, (_FUTURES, n)), future], axis=1)
    shown, adopted = np.full(_FUTURES, already), np.zeros(_FUTURES, dtype=bool)
    for pairs, needed in zip(range(looks.start, looks.at_most + 1), critical, strict=True):
        if pairs > n:
            seen = all_[:, :pairs]
            mean = seen.mean(axis=1)
            shown |= mean >= needed * seen.std(axis=1, ddof=1) / math.sqrt(pairs)
            adopted |= shown & (mean >= smallest_effect)
    return float(adopted.mean())


def cost_to_decide(values: Float[np.ndarray, " pairs"], smallest_effect: float, alpha: float, arms: int) -> Cost | None:
    """Pairs that would decide if the present mean were the truth; none where the spread is 0 or not known."""
    from scipy.special import chdtri

    if len(values) < 2 or not values.std(ddof=1) > 0:
        return None
    mean, deviation, freedom = float(values.mean()), float(values.std(ddof=1)), len(values) - 1
    better = mean >= smallest_effect and mean > 0
    distance = mean if better else smallest_effect - mean
    if distance <= 0:
        return None
    ends = [deviation * math.sqrt(freedom / chdtri(freedom, q)) for q in (0.1, 0.9)]
    least, pairs, most = (replicates_needed(distance, spread, alpha, arms) for spread in (ends[0], deviation, ends[1]))
    return Cost("better" if better else "below the smallest effect", pairs, least, most)


def _values(pairs: Paired, looks: Looks) -> Float[np.ndarray, " pairs"]:
    return np.array([pairs.differences[r] for r in sorted(pairs.differences)][: looks.at_most], dtype=float)


def _at_looks(
    values: Float[np.ndarray, " pairs"], scale: float, looks: Looks
) -> tuple[Float[np.ndarray, " looks"], Float[np.ndarray, " looks"]]:
    mean, error = np.full(len(looks.pairs), math.nan), np.full(len(looks.pairs), math.nan)
    for k, pairs in enumerate(range(looks.start, min(looks.at_most, len(values)) + 1)):
        seen = Paired(dict(enumerate(values[:pairs].tolist())), (), scale)
        if seen.testable and seen.mean is not None:
            mean[k], error[k] = seen.mean, seen.standard_error
    return mean, error


def _untested(name: str, used: Mapping[str, Float[np.ndarray, " pairs"]], benefits: Mapping[str, Paired], looks: Looks) -> Judged:
    values = used[name]
    decision: Decision = "open" if len(values) >= looks.at_most else "go on"
    mean = float(values.mean()) if len(values) else None
    return Judged(decision, len(values), benefits[name].pairs - len(values), mean, None, None, None, None, None, False)
