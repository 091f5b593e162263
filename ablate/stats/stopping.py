"""Who gets another replicate: adopt, reject, futile or go on, after every replicate, for all arms of a phase at once."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float

from ablate.stats.effects import Paired
from ablate.stats.family import Estimate, better_than_all, estimates
from ablate.stats.looks import Looks
from ablate.stats.power import replicates_needed
from ablate.stats.sequential import Course, course

FUTILE = 0.1
"""An arm whose predicted chance of adoption by the last look is below this gets no more replicates."""

_FUTURES = 2_000

Decision = Literal["adopt", "reject", "futile", "go on", "open"]
"""`go on`: more replicates may decide. `open`: the last look has passed, nothing is shown, and nothing more is run."""


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


def judge(
    benefits: Mapping[str, Paired],
    looks: Looks,
    alpha: float,
    smallest_effect: float,
    over: Mapping[str, Mapping[str, Paired]] | None = None,
    untested: int = 0,
) -> dict[str, Judged]:
    """Decide about each arm from all its replicates so far, in the order of their numbers.

    adopt: shown better than the baseline and than every reference (`family.better_than_all`), with a mean benefit >= `smallest_effect`.
    reject: the interval lies below `smallest_effect`. futile: the predicted chance of adoption is below `FUTILE`; it binds nobody, so the
    error rate does not rest on it. Arms without a test at any look (too few pairs, no spread) go on until the last look and are not of the
    family; but one whose differences are all 0 is futile from the first look on: it does nothing.

    Args:
        over: Reference to arm to its paired benefits over that reference.
        untested: Further arms of the family that were stopped before any test.

    Assumption: as `Looks`; a missing replicate is missing whatever its value would have been.
    """
    over = over or {}
    found = estimates(benefits, alpha, looks, untested)
    shown = better_than_all(benefits, over, looks, untested)
    level = alpha / (2 * max(1, untested + sum(p >= alpha for p in shown.values())))
    judged = {}
    for name, pairs in benefits.items():
        claims = [course(pairs, looks), *(course(arms[name], looks) for arms in over.values() if name in arms)]
        judged[name] = _judged(claims, pairs, found.get(name), shown.get(name), looks, alpha, level, smallest_effect, len(found) + untested)
    return judged


def _judged(
    claims: list[Course],
    pairs: Paired,
    estimate: Estimate | None,
    shown: float | None,
    looks: Looks,
    alpha: float,
    level: float,
    smallest_effect: float,
    arms: int,
) -> Judged:
    values = claims[0].values
    mean = float(values.mean()) if len(values) else None
    last = len(values) >= looks.at_most
    unused = pairs.pairs - len(values)
    decision: Decision
    if estimate is None or mean is None or shown is None:
        idle = len(values) >= looks.start and not values.any()
        decision = "open" if last else "futile" if idle else "go on"
        return Judged(decision, len(values), unused, mean, None, None, None, None, None, False)
    chance: float | None = None
    if shown < alpha and mean >= smallest_effect and not estimate.high < smallest_effect:
        decision = "adopt"
    elif estimate.high < smallest_effect and not estimate.contradictory:
        decision = "reject"
    elif last:
        decision = "open"
    elif len(values) < looks.start:
        decision = "go on"
    else:
        critical = looks.critical(level)
        own = chance_of_adoption(values, looks, critical, smallest_effect, already=estimate.p_adjusted < alpha)
        others = (chance_of_adoption(one.values, looks, critical, -math.inf, already=one.p < level) for one in claims[1:] if _varies(one))
        chance = min([own, *others])
        decision = "futile" if chance < FUTILE else "go on"
    cost = cost_to_decide(values, smallest_effect, alpha, arms) if decision in ("futile", "go on", "open") else None
    return Judged(
        decision, len(values), unused, mean, estimate.low, estimate.high, estimate.p_adjusted, chance, cost, estimate.contradictory
    )


def _varies(one: Course) -> bool:
    return one.tested and len(one.values) >= one.looks.start


def early_chance(benefits: Mapping[str, Paired], arm: str, looks: Looks, level: float, smallest_effect: float) -> float | None:
    """Predicted chance that an arm is adopted by the last look, asked before the first one; none from fewer than two pairs, or no spread.

    Few pairs tell little of their own spread, so that of all arms together is taken, unless the arm's own is larger. It binds nobody and
    adopts nobody: the error rate does not rest on it.

    Args:
        benefits: Every arm's paired benefits over the baseline, of the same replicates.
        level: One-sided level at which the arm would have to be shown.
    """
    own = benefits[arm]
    if own.pairs < 2:
        return None
    varied = [pairs for pairs in benefits.values() if pairs.pairs >= 2]
    freedom = sum(pairs.pairs - 1 for pairs in varied)
    pooled = math.sqrt(math.fsum(pairs.deviation**2 * (pairs.pairs - 1) for pairs in varied) / freedom)
    spread = max((pooled, freedom), (own.deviation, own.pairs - 1))
    values = np.array(list(own.differences.values()), dtype=float)
    if not spread[0] > 0:
        return None
    return chance_of_adoption(values, looks, looks.critical(level), smallest_effect, spread=spread, looked=0)


def chance_of_adoption(
    values: Float[np.ndarray, " pairs"],
    looks: Looks,
    critical: Float[np.ndarray, " looks"],
    smallest_effect: float,
    already: bool = False,
    spread: tuple[float, int] | None = None,
    looked: int | None = None,
) -> float:
    """Predicted chance that a look to come adopts, from 2,000 futures with a fixed seed: what is to come is drawn given what was seen.

    Args:
        values: Benefits so far, at least two that differ.
        critical: t at or above which each look rejects.
        already: Whether the benefit is shown and only its size is open.
        spread: Standard deviation of a benefit and its degrees of freedom; none: of these values alone.
        looked: Pairs at the latest look; none: all of these values. A look at more pairs than that is to come, at all of these values too.

    Source: Spiegelhalter, Freedman & Blackburn 1986, Controlled Clinical Trials 7, 8-17 (predictive power), with the flat prior on mean and
    log spread.
    """
    noise = np.random.default_rng(20_230_402)
    n = len(values)
    latest = n if looked is None else looked
    deviation, freedom = spread or (float(values.std(ddof=1)), n - 1)
    drawn = deviation * np.sqrt(freedom / noise.chisquare(freedom, (_FUTURES, 1)))
    centre = values.mean() + drawn / math.sqrt(n) * noise.standard_normal((_FUTURES, 1))
    future = centre + drawn * noise.standard_normal((_FUTURES, looks.at_most - n))
    all_ = np.concatenate([np.broadcast_to(values, (_FUTURES, n)), future], axis=1)
    shown, adopted = np.full(_FUTURES, already), np.zeros(_FUTURES, dtype=bool)
    for pairs, needed in zip(range(looks.start, looks.at_most + 1), critical, strict=True):
        if pairs > latest:
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
