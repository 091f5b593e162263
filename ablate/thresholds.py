"""Tuned thresholds: the recommended value of each, and the range in which it matters little."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from ablate.conclusion import Conclusion, Point
from ablate.study import BASELINE, Level, Levels, Phase, Range, Study, Tune
from ablate.trial import flatten


class Threshold(BaseModel):
    """What tuning found for one setting."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    recommended: Level
    low: float | None
    """Lower end of the operating range with the other thresholds at the recommended point; where there is no such range, the smallest
    measured value whose point is within the smallest effect of the best point; none where nothing was measured."""
    high: float | None
    """Upper end."""
    status: Literal["tuned", "kept", "inert"]
    """tuned: adopted against the carried winner. kept: the carried value stays. inert: it has no effect on top of the carried winner."""
    low_open: bool = False
    """Whether the operating range may go on below `low`, where the search ended."""
    high_open: bool = False
    sensitivity: float | None = None
    """Best minus worst predicted objective over the whole searched range, the others at the recommended point; none: no operating range."""
    cliffs: list[float] = []
    """Ends of the operating range beyond which the objective falls steeply."""


def thresholds(study: Study, conclusions: Sequence[Conclusion], base: Mapping[str, object]) -> dict[str, Threshold]:
    """Every tuned setting of the study, by path; also of phases that a gate has not let run.

    Args:
        base: The trainer's settings before any levels, nested.
    """
    settings = dict(flatten(base)) | study.baseline
    final = conclusions[-1].winner_levels if conclusions else study.baseline
    concluded = {conclusion.phase: conclusion for conclusion in conclusions}
    found: dict[str, Threshold] = {}
    for phase in study.phases:
        if not isinstance(phase.design, Tune):
            continue
        conclusion = concluded.get(phase.name)
        if conclusion is None and phase.factors.keys() <= found.keys():
            continue
        for path, factor in phase.factors.items():
            found[path] = _threshold(study, phase, path, factor, conclusion, settings, final)
    return dict(sorted(found.items()))


def near_best(study: Study, points: Sequence[Point]) -> list[Point]:
    """The feasible points whose mean objective is within the smallest effect of the best one's."""
    sign = study.objective.sign
    values = [sign * point.objective for point in points if point.feasible and point.objective is not None]
    if not values:
        return []
    least = max(values) - study.objective.smallest_effect
    return [point for point in points if point.feasible and point.objective is not None and sign * point.objective >= least]


def _threshold(
    study: Study,
    phase: Phase,
    path: str,
    factor: Range | list[Level],
    conclusion: Conclusion | None,
    settings: Levels,
    final: Levels,
) -> Threshold:
    recommended = (settings | final).get(path)
    carried = final if conclusion is None else conclusion.arm(BASELINE).levels
    if isinstance(factor, Range) and not factor.live(settings | carried | phase.set):
        return Threshold(recommended=recommended, low=None, high=None, status="inert")
    span = _span(path, conclusion)
    near = [] if conclusion is None else near_best(study, conclusion.points)
    values = [value for point in near if isinstance(value := point.levels.get(path), int | float) and not isinstance(value, bool)]
    tuned = conclusion is not None and conclusion.winner != BASELINE
    return Threshold(
        recommended=recommended,
        low=min(values, default=None) if span is None else span["low"],
        high=max(values, default=None) if span is None else span["high"],
        status="tuned" if tuned else "kept",
        **({} if span is None else {key: span[key] for key in ("low_open", "high_open", "sensitivity", "cliffs")}),
    )


def _span(path: str, conclusion: Conclusion | None) -> dict[str, Any] | None:
    """The operating range of a threshold; none where there is none."""
    spans = conclusion.operating.get("spans", ()) if conclusion is not None and conclusion.operating else ()
    assert isinstance(spans, (list, tuple))
    return next(({**span, "cliffs": list(span["cliffs"])} for span in spans if span["name"] == path), None)
