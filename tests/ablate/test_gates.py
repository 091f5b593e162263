"""Where a phase leads."""

from __future__ import annotations

from typing import Any

import pytest

from ablate.conclusion import ArmVerdict, Conclusion, GuardState
from ablate.gates import pass_through
from ablate.study import Study


def study(*gates: dict[str, Any], direction: str = "maximize") -> Study:
    return Study.model_validate(
        {
            "study": "toy",
            "question": "Which?",
            "trainer": {"callable": "a:b"},
            "baseline": {"x": 0},
            "objective": {"metric": "score", "direction": direction, "smallest_effect": 0.02},
            "phases": [{"name": name, "design": "factorial", "gate": gate} for name, gate in zip("abcdef", gates, strict=False)],
        }
    )


def concluded(phase: str, *, adopted: bool, score: float | None = 0.3, healthy: bool = True) -> Conclusion:
    guards = [GuardState(guard="health >= 0.2", metric="health", value=0.5 if healthy else 0.1, holds=healthy)]
    common: dict[str, Any] = {"levels": {}, "carried": False, "replicates": 4, "effect": None, "total_effect": None, "p_adjusted": None}
    common |= {"metrics": {} if score is None else {"score": score}, "collapse": None, "guards": guards, "reason": "."}
    arms = [
        ArmVerdict(name="baseline", verdict="baseline", **common),
        ArmVerdict(name="cure", verdict="adopt" if adopted else "reject", **common),
    ]
    return Conclusion(phase=phase, winner="cure" if adopted else "baseline", winner_levels={}, arms=arms, reason="Decided.")


def after(found: Study, phase: str, **more: Any) -> tuple[bool, str | None]:
    passed = pass_through(found, found.phase(phase), concluded(phase, **more))
    assert passed.reason.startswith("Decided.")
    return passed.advance, passed.next


@pytest.mark.parametrize("adopted", [True, False])
def test_without_a_gate_the_study_goes_on(adopted: bool) -> None:
    assert after(study({}, {}), "a", adopted=adopted) == (True, "b")


def test_the_last_phase_ends_the_study() -> None:
    assert after(study({}, {}), "b", adopted=True) == (True, None)


@pytest.mark.parametrize(
    ("condition", "adopted", "goes_on"),
    [("any_adopted", True, True), ("any_adopted", False, False), ("none_adopted", True, False), ("none_adopted", False, True)],
)
def test_a_gate_on_adoption_ends_the_study_where_it_does_not_hold(condition: str, adopted: bool, goes_on: bool) -> None:
    assert after(study({"advance_if": condition}, {}), "a", adopted=adopted) == (goes_on, "b" if goes_on else None)


@pytest.mark.parametrize(
    ("score", "healthy", "solved"), [(0.35, True, True), (0.3, True, True), (0.29, True, False), (0.35, False, False), (None, True, False)]
)
def test_solved_asks_for_a_healthy_winner_past_the_value(score: float | None, healthy: bool, solved: bool) -> None:
    assert after(study({"advance_if": {"solved": 0.3}}, {}), "a", adopted=True, score=score, healthy=healthy)[0] is solved


def test_solved_looks_the_other_way_where_less_is_better() -> None:
    found = study({"advance_if": {"solved": 0.3}}, {}, direction="minimize")
    assert after(found, "a", adopted=True, score=0.2)[0]
    assert not after(found, "a", adopted=True, score=0.4)[0]


def test_a_fallback_is_entered_only_through_its_gate() -> None:
    found = study({"advance_if": "any_adopted", "otherwise": "c"}, {}, {}, {})
    assert after(found, "a", adopted=True) == (True, "b")
    assert after(found, "a", adopted=False) == (False, "c")
    assert after(found, "b", adopted=True) == (True, "d")
    assert after(found, "c", adopted=True) == (True, "d")


def test_a_fallback_that_does_not_come_later_is_refused() -> None:
    found = study({}, {"advance_if": "any_adopted", "otherwise": "a"})
    with pytest.raises(ValueError, match="expected a later phase"):
        pass_through(found, found.phases[1], concluded("b", adopted=False))


def test_the_reason_says_what_the_gate_asked() -> None:
    found = study({"advance_if": {"solved": 0.4}}, {})
    said = pass_through(found, found.phases[0], concluded("a", adopted=True)).reason
    assert "score >= 0.4" in said
    assert "it is 0.3" in said
