"""Where thresholds may stand: a region and a point in its middle, instead of one best point."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from ablate.stats.surrogate import Surrogate, fit

SURE = 0.9
"""How probable it must be, by the surrogate, that a setting is within the smallest effect of the best."""

STEEP = 2.0
"""A fall of so many smallest effects within a tenth of the range beyond the region's edge is called a cliff."""

_SAMPLES, _SLICE, _MAP = 1024, 101, 41

UNSURE = (
    f"Nowhere is the objective within the smallest effect of the best with probability {SURE:g}: the range rests on predicted means alone. "
    "More points or replicates would tell: ablate tune STUDY --points N."
)


@dataclass(frozen=True)
class Threshold:
    """A tuned factor and its range."""

    name: str
    low: float
    high: float
    log: bool = False


@dataclass(frozen=True)
class Measured:
    """A point of the tuning."""

    levels: Mapping[str, float]
    objective: Mapping[int, float]
    """Replicate to objective."""
    feasible: bool
    why_not: str = ""
    """For one that is not: the guard or the finding."""
    name: str = ""
    """None: it is called by its number, from 1 on."""
    guessed: float = 0.0
    """Standard deviation of what is guessed in its objective, beside the noise of a replicate."""


@dataclass(frozen=True)
class Span:
    """What is known of one threshold, with all others at the recommended point."""

    name: str
    low: float
    high: float
    """The stretch around the recommended point that is probably (`SURE`) within the smallest effect of the best."""
    low_open: bool
    high_open: bool
    """Whether the stretch reaches the outermost measured point: where it ends is then not known."""
    sensitivity: float
    """Best minus worst predicted objective between the outermost measured points."""
    cliffs: tuple[float, ...]
    """Edges beyond which the objective falls, as surely as the stretch is good, by `STEEP` smallest effects within a tenth of the range."""
    measured: tuple[float, float]
    """The outermost measured points: beyond them nothing is known."""


@dataclass(frozen=True)
class Regions:
    """What is predicted over the two thresholds that matter most, all others at the recommended point."""

    x: str
    y: str
    xs: tuple[float, ...]
    ys: tuple[float, ...]
    """Settings, evenly over what was searched (by their logarithms where those were searched)."""
    rows: tuple[str, ...]
    """A letter a setting, a row for each of `ys`: `g` as good as the best, `f` feasible, `x` not feasible, `u` not known, beyond the
    outermost measured point of a threshold."""


@dataclass(frozen=True)
class OperatingRange:
    """A region that is as good as the best, or why there is none."""

    recommended: Mapping[str, float] | None
    predicted: float | None
    """Mean objective at the recommended point, and its standard deviation."""
    deviation: float | None
    spans: tuple[Span, ...]
    share: float
    """Of the searched volume that is in the region."""
    worst_replicate: float | None
    """Of the measured points in the region; none where no measured point is in it."""
    inside: int
    """Measured points in the region."""
    dropped: tuple[str, ...]
    """What was left out, each in words."""
    sentences: tuple[str, ...]
    regions: Regions | None = None
    """Of two thresholds or more."""


def operating_range(thresholds: Sequence[Threshold], points: Sequence[Measured], smallest_effect: float, sign: int = 1) -> OperatingRange:
    """Region within the smallest effect of the best feasible point, by a surrogate with uncertainty.

    Estimand: the mean objective as a function of the thresholds, over replicates like the measured ones. Assumption: it is smooth at the
    scale of the points (a cliff between two points is placed somewhere between them), noise is alike at all points, and a setting is
    feasible where the nearest measured one is. Predictions, not verdicts: the recommended point meets the winner on fresh replicates.

    Args:
        sign: -1 where less is better.
    """
    usable, dropped = _usable(thresholds, points)
    feasible = [point for point in usable if point.feasible]
    if len(feasible) < len(thresholds) + 2:
        return _nothing(thresholds, points, usable, feasible, dropped)
    at, good = _unit(thresholds, usable), np.array([point.feasible for point in usable])
    means = np.zeros(len(usable))
    means[good] = sign * _means(feasible)
    surrogate = fit(at[good], means[good], _noise(feasible))
    space = _space(len(thresholds), at)
    allowed = _nearest(space, at, good) & _within(space, at)
    # The best is sought at measured points only: beside a cliff a smooth surrogate overshoots where nothing was measured.
    best, inside = _sure(surrogate, at, good, smallest_effect)
    _, sure = _sure(surrogate, space, allowed, smallest_effect, best)
    certain = bool(sure.any())
    if not certain:
        sure = np.concatenate([np.zeros(_SAMPLES, dtype=bool), inside])
    if not sure.any():
        return _nothing(thresholds, points, usable, feasible, dropped)
    middle = _middle(space, sure)
    mean, deviation = surrogate.predict(middle[None, :])
    spans = tuple(_span(i, thresholds, surrogate, middle, best, smallest_effect, at, good) for i in range(len(thresholds)))
    values = [sign * v for k, point in enumerate(usable) if inside[k] for v in point.objective.values()]
    recommended = {t.name: _scaled(t, float(u)) for t, u in zip(thresholds, middle, strict=True)}
    worst = float(sign * min(values)) if values else None
    share = float(sure[:_SAMPLES].mean())
    predicted = sign * float(mean[0])
    told = _sentences(recommended, predicted, float(deviation[0]), spans, share, worst, int(inside.sum()), dropped, smallest_effect)
    said = told if certain else (UNSURE, *told)
    regions = _regions(thresholds, surrogate, middle, spans, best, smallest_effect if certain else None, at, good)
    return OperatingRange(recommended, predicted, float(deviation[0]), spans, share, worst, int(inside.sum()), dropped, said, regions)


def _usable(thresholds: Sequence[Threshold], points: Sequence[Measured]) -> tuple[list[Measured], tuple[str, ...]]:
    """Points with all thresholds and a finite objective; an infeasible one needs no objective."""
    usable, dropped = [], []
    for number, point in enumerate(points, start=1):
        name = point.name or f"point {number}"
        lacking = [t.name for t in thresholds if not math.isfinite(point.levels.get(t.name, math.nan))]
        finite = {r: v for r, v in point.objective.items() if math.isfinite(v)}
        if lacking:
            dropped.append(f"{name}: no value of {', '.join(lacking)}")
        elif point.feasible and not finite:
            dropped.append(f"{name}: no finite objective")
        else:
            if len(finite) < len(point.objective):
                dropped.append(f"{name}: {len(point.objective) - len(finite)} of its replicates, NaN or infinite")
            usable.append(Measured(point.levels, finite or {0: 0.0}, point.feasible, point.why_not, name, point.guessed))
    return usable, tuple(dropped)


def _table(points: Sequence[Measured]) -> Float[np.ndarray, "points replicates"]:
    replicates = sorted({r for point in points for r in point.objective})
    return np.array([[point.objective.get(r, math.nan) for r in replicates] for point in points])


def _means(points: Sequence[Measured]) -> Float[np.ndarray, " points"]:
    """Mean of each point over its replicates; one that lacks some is corrected for how those differ from the others at all points."""
    table = _table(points)
    complete = np.isfinite(table).all(axis=1)
    if complete.all() or not complete.any():
        return np.asarray(np.nanmean(table, axis=1))
    level = table[complete].mean(axis=0)
    return np.asarray(np.nanmean(table - (level - level.mean()), axis=1))


def _noise(points: Sequence[Measured]) -> Float[np.ndarray, " points"]:
    """Variance of each point's mean: pooled over the points that were measured more than once; a replicate's own level drops out."""
    table = _table(points)
    counts = np.sum(np.isfinite(table), axis=1)
    guessed = np.array([point.guessed**2 for point in points])
    table = table[counts > 1]
    if not len(table):
        return guessed
    residual = table - np.nanmean(table, axis=1, keepdims=True)
    seen = np.isfinite(residual).any(axis=0)
    residual = residual[:, seen] - np.nanmean(residual[:, seen], axis=0, keepdims=True)
    freedom = max(1, int(counts[counts > 1].sum()) - len(table) - residual.shape[1] + 1)
    return np.asarray(float(np.nansum(residual**2)) / freedom / counts + guessed)


def _unit(thresholds: Sequence[Threshold], points: Sequence[Measured]) -> Float[np.ndarray, "points factors"]:
    def one(t: Threshold, value: float) -> float:
        low, high, x = (math.log(v) if t.log else v for v in (t.low, t.high, value))
        return (x - low) / (high - low)

    return np.array([[one(t, point.levels[t.name]) for t in thresholds] for point in points])


def _scaled(t: Threshold, unit: float) -> float:
    if t.log:
        return math.exp(math.log(t.low) + unit * math.log(t.high / t.low))
    return round(t.low + unit * (t.high - t.low), 5 - math.floor(math.log10(t.high - t.low)))


def _space(factors: int, measured: Float[np.ndarray, "points factors"]) -> Float[np.ndarray, "settings factors"]:
    """Settings that fill the ranges evenly, always the same, and the measured ones."""
    from scipy.stats import qmc

    return np.concatenate([qmc.Sobol(factors, rng=0).random(_SAMPLES), measured])


def _nearest(
    where: Float[np.ndarray, "n factors"], at: Float[np.ndarray, "points factors"], good: Float[np.ndarray, " points"]
) -> np.ndarray:
    from scipy.spatial import KDTree

    found: np.ndarray = np.asarray(good)[KDTree(at).query(where)[1]]
    return found


def _within(where: Float[np.ndarray, "n factors"], at: Float[np.ndarray, "points factors"]) -> np.ndarray:
    """Which settings lie between measured points in every threshold: beyond the outermost one the surrogate only goes on as it was."""
    found: np.ndarray = np.all((where >= at.min(axis=0)) & (where <= at.max(axis=0)), axis=1)
    return found


def _sure(
    surrogate: Surrogate, where: Float[np.ndarray, "n factors"], allowed: np.ndarray, smallest_effect: float, best: float | None = None
) -> tuple[float, np.ndarray]:
    """The best predicted mean, and where a setting is within the smallest effect of it with probability `SURE` (if nowhere: .5).

    What is predicted above the best measured point makes no setting surer: beside a cliff the surrogate overshoots, and does not know it.
    """
    from scipy.special import ndtri

    mean, deviation = surrogate.predict(where)
    top = float(np.max(mean[allowed])) if best is None else best
    sure = allowed & (np.minimum(mean, top) - ndtri(SURE) * deviation >= top - smallest_effect)
    return top, sure if sure.any() or best is not None else allowed & (mean >= top - smallest_effect)


def _middle(space: Float[np.ndarray, "n factors"], sure: np.ndarray) -> Float[np.ndarray, " factors"]:
    """The setting of the region that is farthest from anything outside it and from the ends of the ranges."""
    from scipy.spatial import KDTree

    inside, outside = space[sure], space[~sure]
    walls = np.min(np.minimum(inside, 1 - inside), axis=1)
    away = KDTree(outside).query(inside)[0] if len(outside) else np.full(len(inside), np.inf)
    return np.asarray(inside[int(np.argmax(np.minimum(walls, away)))])


def _span(
    i: int,
    thresholds: Sequence[Threshold],
    surrogate: Surrogate,
    middle: Float[np.ndarray, " factors"],
    best: float,
    smallest_effect: float,
    at: Float[np.ndarray, "points factors"],
    good: np.ndarray,
) -> Span:
    from scipy.special import ndtri

    least, most = at[:, i].min(), at[:, i].max()
    steps = np.unique(np.append(np.linspace(least, most, _SLICE), middle[i]))
    line = np.repeat(middle[None, :], len(steps), axis=0)
    line[:, i] = steps
    mean, deviation = surrogate.predict(line)
    highest = mean + ndtri(SURE) * deviation  # a fall where nothing was measured near is the surrogate's, not the trainer's
    _, sure = _sure(surrogate, line, _nearest(line, at, good), smallest_effect, best)
    here = int(np.searchsorted(steps, middle[i]))
    first = last = here
    while first > 0 and sure[first - 1]:
        first -= 1
    while last < len(steps) - 1 and sure[last + 1]:
        last += 1
    cliffs = []
    for edge, beyond in (
        (first, (steps < steps[first]) & (steps >= steps[first] - 0.1)),
        (last, (steps > steps[last]) & (steps <= steps[last] + 0.1)),
    ):
        if beyond.any() and mean[edge] - highest[beyond].min() >= STEEP * smallest_effect:
            cliffs.append(_scaled(thresholds[i], float(steps[edge])))
    t = thresholds[i]
    low, high = _scaled(t, float(steps[first])), _scaled(t, float(steps[last]))
    ends = _scaled(t, float(least)), _scaled(t, float(most))
    return Span(t.name, low, high, first == 0, last == len(steps) - 1, float(np.ptp(mean)), tuple(cliffs), ends)


def _regions(
    thresholds: Sequence[Threshold],
    surrogate: Surrogate,
    middle: Float[np.ndarray, " factors"],
    spans: Sequence[Span],
    best: float,
    smallest_effect: float | None,
    at: Float[np.ndarray, "points factors"],
    good: np.ndarray,
) -> Regions | None:
    """The two thresholds over whose ranges the objective changes most, in the order of the study.

    Args:
        smallest_effect: None: nowhere is it known well enough what is as good as the best, so that no setting is called so.
    """
    if len(thresholds) < 2:
        return None
    i, j = sorted(sorted(range(len(thresholds)), key=lambda k: -spans[k].sensitivity)[:2])
    steps = np.linspace(0, 1, _MAP)
    where = np.repeat(middle[None, :], _MAP * _MAP, axis=0)
    where[:, i], where[:, j] = np.tile(steps, _MAP), np.repeat(steps, _MAP)
    known, feasible = _within(where, at), _nearest(where, at, good)
    as_good = np.zeros(len(where), dtype=bool)
    if smallest_effect is not None:
        _, as_good = _sure(surrogate, where, feasible & known, smallest_effect, best)
    letters = np.where(as_good, "g", np.where(~known, "u", np.where(feasible, "f", "x"))).reshape(_MAP, _MAP)
    x, y = thresholds[i], thresholds[j]
    xs, ys = (tuple(_scaled(t, float(step)) for step in steps) for t in (x, y))
    return Regions(x.name, y.name, xs, ys, tuple("".join(row) for row in letters))


def _nothing(
    thresholds: Sequence[Threshold],
    points: Sequence[Measured],
    usable: Sequence[Measured],
    feasible: Sequence[Measured],
    dropped: tuple[str, ...],
) -> OperatingRange:
    if not points:
        why = "No operating range: no point was measured."
    elif not feasible:
        reasons = sorted({point.why_not for point in usable if point.why_not})
        why = f"No operating range: none of {len(points)} points is feasible{': ' + '; '.join(reasons) if reasons else ''}."
    else:
        why = (
            f"No operating range: {len(feasible)} feasible points of {len(points)} are too few for {len(thresholds)} thresholds; "
            f"at least {len(thresholds) + 2} are needed."
        )
    return OperatingRange(None, None, None, (), 0.0, None, 0, dropped, (why, *(f"Left out: {one}." for one in dropped)))


def _sentences(
    recommended: Mapping[str, float],
    predicted: float,
    deviation: float,
    spans: Sequence[Span],
    share: float,
    worst: float | None,
    inside: int,
    dropped: Sequence[str],
    smallest_effect: float,
) -> tuple[str, ...]:
    place = ", ".join(f"{name} = {value:.3g}" for name, value in recommended.items())
    figures = f"{share:.0%} of what was searched is about as good (predicted {predicted:.3g}, +- {deviation:.2g})"
    said = [f"The middle of the operating range is {place}; {figures}."]
    for span in spans:
        ends = f"{'at or below ' if span.low_open else ''}{span.low:.3g} to {span.high:.3g}{' or more' if span.high_open else ''}"
        over = f"from {span.measured[0]:.3g} to {span.measured[1]:.3g}, as far as points were measured, the predicted objective changes by"
        if span.sensitivity < smallest_effect:
            bounded = "" if span.low_open and span.high_open else f" Only {ends} is predicted to be as good as the best, and feasible."
            said.append(f"{span.name} hardly matters: {over} {span.sensitivity:.2g}.{bounded}")
        else:
            said.append(f"{span.name}: {ends} is predicted to be as good as the best; {over} {span.sensitivity:.2g}.")
        said += [f"{span.name} has a cliff just {'below' if c == span.low else 'above'} {c:.3g}." for c in span.cliffs]
    if worst is None:
        said.append("No measured point lies in that region: it is predicted only.")
    else:
        said.append(f"The worst replicate of the {inside} measured {'point' if inside == 1 else 'points'} in it: {worst:.3g}.")
    return (*said, *(f"Left out: {one}." for one in dropped))
