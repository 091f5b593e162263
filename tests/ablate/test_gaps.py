"""What results lack for a decision is said with what was expected, what came and what to do, once for all arms that lack the same."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ablate import gaps
from ablate.conclusion import Evidence
from ablate.study import REFERENCES, Study

STUDY = Study.model_validate(
    {
        "study": "toy",
        "question": "Which?",
        "trainer": {"callable": "a:b"},
        "baseline": {"a": False},
        "objective": {"metric": "probe/score", "smallest_effect": 0.05},
        "guards": [{"metric": "health", "at_least": 0.5}],
        "phases": [{"name": "flags", "design": "one_at_a_time", "factors": {"a": [False, True]}}],
    }
)


def whole(**changes: Mapping[int, Mapping[str, float]]) -> dict[str, Mapping[int, Mapping[str, float]]]:
    """Three replicates of each arm, whole but for the changes."""
    arms = {arm: {r: {"probe/score": 0.3 + 0.01 * r, "health": 0.9} for r in range(3)} for arm in ("baseline", "b", "c")}
    return {arm: {r: {**metrics, **changes.get(arm, {}).get(r, {})} for r, metrics in found.items()} for arm, found in arms.items()}


def said(evidence: Evidence, place: str = "flags", failed: Mapping[str, int] | None = None, **more: Any) -> list[str]:
    return [one["sentence"] for one in gaps.problems(STUDY, place, evidence, failed=failed or {}, **more)]


def test_nothing_is_said_of_whole_results() -> None:
    assert said(whole()) == []


def test_never_reported_and_not_finite_are_told_apart() -> None:
    evidence = whole(b={2: {"probe/score": math.nan}, 0: {"probe/score": math.inf}})
    del evidence["c"][1]["probe/score"]  # type: ignore[attr-defined]
    follows = "so what rests on these replicates is left out."
    assert said(evidence) == [
        f"flags/b: expected a finite probe/score, the objective, in replicates 0 and 2 but it is NaN or infinite, {follows} "
        "Let the trainer return a finite value also where training breaks down.",
        f"flags/c: expected probe/score, the objective, in replicate 1 but it was not reported, {follows} It reports health. "
        "Let the trainer return it, or name in the study file what it returns.",
    ]


def test_what_all_arms_lack_is_said_once_and_a_near_name_is_named() -> None:
    evidence = {arm: {r: {"probe_Score": 0.3, "health": 0.9} for r in range(3)} for arm in ("baseline", "b", "c")}
    (sentence,) = said(evidence)
    assert sentence.startswith("every arm of flags: expected probe/score, the objective, in each of 3 replicates")
    assert "so nothing is known of its effect. Did you mean probe_Score?" in sentence


def test_names_that_are_spelled_alike_are_named() -> None:
    assert said(whole(b={0: {"Probe/Score": 0.1}})) == [
        "flags/b: probe/score, the objective, and Probe/Score are spelled alike and both reported; the study reads probe/score alone."
    ]


def test_a_guard_rests_on_the_others_or_on_nothing() -> None:
    some = said(whole(b={0: {"health": math.nan}}))
    assert "in replicate 0 but it is NaN or infinite, so the guard is held against the mean of the others." in some[0]
    none = said(whole(b={r: {"health": math.nan} for r in range(3)}))
    assert "in each of 3 replicates but it is NaN or infinite, so whether the guard holds is not known" in none[0]
    assert said(whole(b={0: {"health": math.nan}}), place=REFERENCES) == [], "references have no guards to keep"


def test_failures_and_constant_values_come_with_the_command_that_mends() -> None:
    evidence = {arm: found for arm, found in whole(c={r: {"probe/score": 0.5} for r in range(3)}).items() if arm != "b"}
    lost, constant = sorted(said(evidence, failed={"b": 3}))
    assert lost == (
        "flags/b: expected a result but 3 trials failed for good and none is left, so nothing is known of it. "
        "Mend the cause, then: ablate retry --failed toy --reopen, and the same run again."
    )
    assert constant.startswith("flags/c: expected probe/score to vary over replicates but it is 0.5 in each of 3.")
    assert said(evidence, failed={"b": 1}, concluded=False) == [], "more results may come"
    evidence["c"] = {0: {"probe/score": 0.5, "health": 0.9}}
    assert "only 1 of 3 gave one." in said(evidence, failed={"c": 2})[0]
    assert said(evidence, failed={"c": 2}, stopped=["c"]) == [], "it got few on purpose"
