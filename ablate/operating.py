"""Where thresholds may stand, from the points of a tuning phase: the range, the point in its middle, and the Pareto front. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ablate.conclusion import Point
from ablate.design import same
from ablate.proposals import Tuner
from ablate.stats.operating_range import Measured, OperatingRange, Threshold, operating_range
from ablate.study import Level, Levels, Phase, Range, Study, Tune
from ablate.verdict import best_point
from ablate.words import counted, listed, number


@dataclass(frozen=True)
class Refused:
    """A setting that the trainer's preflight refuses, so that it is never sampled."""

    levels: Levels
    why: str


def operating(study: Study, phase: Phase, tuner: Tuner, points: Sequence[Point], refused: Sequence[Refused] = ()) -> dict[str, Any]:
    """The operating range of a tuning phase, as plain values, with the sentences that tell it.

    Lists of levels are held at those of the best point, and only points that share them are looked at. Ranges that are not live are left
    out.

    Args:
        refused: Settings that were never sampled; they bound the range as points that break a guard do.

    Returns:
        The fields of `stats.operating_range.OperatingRange`, and `refused` (how many), `held`, `thresholds`, `front`,
        `recommended_levels` (of the ranges, as a person would write them; None: there is no range to recommend from).
    """
    best = best_point(study, points)
    live = tuner.live_factors()
    held: Levels = {path: best.levels[path] for path, factor in phase.factors.items() if isinstance(factor, list)} if best else {}
    thresholds = [Threshold(path, factor.low, factor.high, factor.log) for path, factor in live.items()]
    alike = [point for point in points if all(same(point.levels.get(path), level) for path, level in held.items())]
    replicates = sorted({replicate for point in points for replicate in point.values})
    measured = [_measured(point, list(live), replicates) for point in alike]
    for one in refused:
        if all(same(one.levels.get(path), level) for path, level in held.items()):
            measured.append(Measured(_numbers(one.levels, list(live)), {}, False, one.why, "a refused setting"))
    found = operating_range(thresholds, measured, study.objective.smallest_effect, study.objective.sign) if thresholds else _none()
    recommended = None if found.recommended is None else {path: tuner.written(path, value) for path, value in found.recommended.items()}
    said = [*found.sentences]
    if refused and not points:
        said = [f"No operating range: none of {counted(len(refused), 'setting')} that were proposed can be trained. {refused[0].why}"]
    said += _left_out(phase, list(live), points)
    if refused and points:
        said.append(f"{counted(len(refused), 'setting')} refused before training and never sampled, for example: {refused[0].why}")
    if held:
        shown = listed([f"{path}={level}" for path, level in held.items()])
        said.insert(0, f"With {shown}, as at the best point ({counted(len(alike), 'point')} of {len(points)}).")
    front = pareto_front(study, phase, points)
    if isinstance(phase.design, Tune) and phase.design.also:
        names = listed([study.objective.metric, *(goal.metric for goal in phase.design.also)])
        said.append(f"No point is better in one of {names} and as good in the others than: {listed(front) or 'none is feasible'}.")
        short = [point.name for point in points if point.feasible and any(value is None for value in point.others)]
        if short:
            said.append(f"Not compared there, for want of a finite value of one of them: {listed(short)}. Let the trainer return it.")
    return {
        **asdict(found),
        "sentences": said,
        "refused": len(refused),
        "held": held,
        "thresholds": [asdict(threshold) for threshold in thresholds],
        "front": front,
        "recommended_levels": recommended,
    }


def recommended(study: Study, found: Mapping[str, Any], points: Sequence[Point], ground: Levels) -> tuple[Levels | None, str]:
    """The levels that meet the winner, and how they were chosen: the middle of the operating range, else the best point."""
    best = best_point(study, points)
    if found["recommended_levels"] is not None:
        return {**ground, **found["held"], **found["recommended_levels"]}, "the middle of the operating range"
    if best is not None:
        return best.levels, f"{described(study, best, points)}; no operating range is known"
    return None, "no point is feasible"


def described(study: Study, best: Point, points: Sequence[Point]) -> str:
    """The best of these points with its objective, and from what that is guessed where the point was given up."""
    most = max(len(point.values) for point in points)
    guessed = ""
    if best.rung is not None:
        guessed = f", guessed from step {best.rung}"
    elif len(best.values) < most:
        guessed = f", guessed from {len(best.values)} of {counted(most, 'replicate')}"
    return f"the best point ({best.name}, {study.objective.metric} {number(best.objective)}{guessed})"


def pareto_front(study: Study, phase: Phase, points: Sequence[Point]) -> list[str]:
    """Names of the feasible points that no other feasible point beats: as good in every objective and better in one.

    Empty without further objectives.
    """
    if not isinstance(phase.design, Tune) or not phase.design.also:
        return []
    signs = [study.objective.sign, *(goal.sign for goal in phase.design.also)]
    rows = {}
    for point in points:
        values = [point.objective, *point.others]
        if point.feasible and all(value is not None for value in values):
            rows[point.name] = tuple(sign * value for sign, value in zip(signs, values, strict=True) if value is not None)

    def beaten(row: tuple[float, ...]) -> bool:
        return any(other != row and all(a >= b for a, b in zip(other, row, strict=True)) for other in rows.values())

    return [name for name, row in rows.items() if not beaten(row)]


def _left_out(phase: Phase, live: Sequence[str], points: Sequence[Point]) -> list[str]:
    """What was not tuned, and which points broke a guard or gave no result."""
    said = []
    for path, factor in phase.factors.items():
        if isinstance(factor, Range) and path not in live:
            asked = listed([f"{p} = {' or '.join(map(str, allowed))}" for p, allowed in factor.when.items()])
            said.append(f"{path} was not tuned: it matters only where {asked}.")
    broken = [
        point.name if point.rung is None else f"{point.name} (at step {point.rung})"
        for point in points
        if not point.feasible and point.objective is not None
    ]
    lost = [point.name for point in points if point.objective is None]
    if broken:
        said.append(f"{counted(len(broken), 'point')} of {len(points)} broke a guard: {listed(broken)}.")
    complete = max((len(point.values) for point in points), default=0)
    short = [point for point in points if point.objective is not None and len(point.values) < complete]
    if short:
        rungs = sorted({point.rung for point in short if point.rung is not None})
        how = f"up to step {listed([str(step) for step in rungs])} alone" if rungs else "once"
        said.append(
            f"{counted(len(short), 'point')} of {len(points)} were the worse half of their batch and measured {how}: they bound the range."
        )
    if lost:
        said.append(f"{counted(len(lost), 'point')} of {len(points)} lost a replicate or gave no objective: {listed(lost)}.")
    if isinstance(phase.design, Tune) and points and len(points) < phase.design.points:
        said.append(f"Only {len(points)} of {phase.design.points} points: the ranges hold no more that are new and feasible.")
    return said


def _measured(point: Point, paths: Sequence[str], replicates: Sequence[int]) -> Measured:
    """A point for the surrogate; one without any result bounds the range, since one cannot train there."""
    if not point.values:
        return Measured(_numbers(point.levels, paths), {}, False, "no replicate gave a result", point.name)
    # With an objective it has all that it was asked for, be it fewer than others were.
    values = {r: point.values.get(r, math.nan) for r in replicates if r in point.values or point.objective is None}
    kept = all(guard.holds for guard in point.guards)
    return Measured(_numbers(point.levels, paths), values, kept, _why_not(point), point.name, point.guessed)


def _numbers(levels: Levels, paths: Sequence[str]) -> dict[str, float]:
    return {path: float(value) for path in paths if _is_number(value := levels.get(path)) and isinstance(value, int | float)}


def _is_number(value: Level | None) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _why_not(point: Point) -> str:
    broken = [guard.guard for guard in point.guards if not guard.holds]
    return f"{listed(broken)} broken" if broken else "" if point.feasible else "a replicate gave no result"


def _none() -> OperatingRange:
    why = "No operating range: no range is live on top of what is carried."
    return OperatingRange(None, None, None, (), 0.0, None, 0, (), (why,))
