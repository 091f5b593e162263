"""How a phase ends: whether the study goes on, and where."""

from __future__ import annotations

from ablate.conclusion import Conclusion
from ablate.study import Phase, Solved, Study


def pass_through(study: Study, phase: Phase, conclusion: Conclusion) -> Conclusion:
    """The conclusion with its gate applied: `advance`, the `next` phase, and a reason that says so.

    Where the gate holds, the next phase in the order of the file comes next. A fallback phase (one that a gate names as
    `otherwise`) is entered only through that gate; after it the study goes on in the order of the file.

    Raises:
        ValueError: `otherwise` names no later phase.
    """
    holds, why = _holds(study, phase, conclusion)
    names = [one.name for one in study.phases]
    later = names[names.index(phase.name) + 1 :]
    fallbacks = {one.gate.otherwise for one in study.phases}
    if holds:
        following = next((name for name in later if name not in fallbacks), None)
        said = "" if following is None and not later else f" {why}: on to {following}." if following else f" {why}: the study ends."
    elif phase.gate.otherwise is None:
        following, said = None, f" {why}: the study ends here."
    elif phase.gate.otherwise not in later:
        raise ValueError(
            f"phases.{phase.name}.gate.otherwise: expected a later phase ({', '.join(later) or 'there is none'}) "
            f"but got {phase.gate.otherwise!r}. Name a phase that comes after {phase.name}."
        )
    else:
        following, said = phase.gate.otherwise, f" {why}: on to the fallback {phase.gate.otherwise}."
    return conclusion.model_copy(update={"advance": holds, "next": following, "reason": conclusion.reason + said})


def _holds(study: Study, phase: Phase, conclusion: Conclusion) -> tuple[bool, str]:
    """Whether the gate's condition holds, in words."""
    condition = phase.gate.advance_if
    if isinstance(condition, Solved):
        return _solved(study, condition.solved, conclusion)
    adopted = any(arm.verdict == "adopt" for arm in conclusion.arms)
    if condition == "any_adopted":
        return adopted, "The gate asks for an adopted arm" + ("" if adopted else " and there is none")
    if condition == "none_adopted":
        return not adopted, "The gate asks that no arm be adopted" + ("" if not adopted else " but one is")
    return True, "The gate is open"


def _solved(study: Study, value: float, conclusion: Conclusion) -> tuple[bool, str]:
    winner = conclusion.arm(conclusion.winner)
    reached = winner.metrics.get(study.objective.metric)
    passed = reached is not None and study.objective.sign * (reached - value) >= 0
    broken = [guard for guard in winner.guards if not guard.holds]
    aim = f"The gate asks for {study.objective.metric} {'>=' if study.objective.sign > 0 else '<='} {value:g} with all guards kept"
    shown = "it was not measured" if reached is None else f"it is {reached:.3g}"
    why = (
        " and a guard is broken" if any(guard.value is not None for guard in broken) else " and no replicate reports the metric of a guard"
    )
    return passed and not broken, f"{aim}; {shown}{why if broken else ''}"
