"""Adopt, reject, undecided: each rule of the decision, and its sentence."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from ablate.conclusion import Conclusion
from ablate.study import Arm, Study
from ablate.verdict import best_point, conclude, point

NOISE = [0.004, -0.006, 0.001, 0.003, -0.002, 0.005, -0.004, 0.002]
"""Fixed differences between replicates."""

Series = Mapping[int, Mapping[str, float]]


def study(**changes: Any) -> Study:
    document: dict[str, Any] = {
        "study": "toy",
        "question": "Which?",
        "trainer": {"callable": "a:b"},
        "baseline": {"x": 0},
        "objective": {"metric": "score", "smallest_effect": 0.02},
        "guards": [{"metric": "health", "at_least": 0.2}],
        "replicates": {"start": 4, "at_most": 4},
        "phases": [
            {"name": "first", "design": "factorial", "factors": {"x": [0, 1]}},
            {"name": "second", "design": "factorial", "factors": {"y": [0, 1]}},
        ],
    }
    return Study.model_validate(document | changes)


def runs(mean: float, *, spread: float = 1.0, shift: int = 0, health: float = 0.5, replicates: int = 4) -> dict[int, dict[str, float]]:
    """Replicates of an arm: its mean, own noise (rotated by `shift`), and the noise that replicates share."""
    return {r: {"score": mean + 0.01 * r + spread * NOISE[(r * 3 + shift) % 8], "health": health} for r in range(replicates)}


def decide(arms: Mapping[str, Series], *, levels: Mapping[str, dict[str, Any]] | None = None, **more: Any) -> Conclusion:
    found = more.pop("study", study())
    named = [Arm(name=name, levels=(levels or {}).get(name, {"x": 0 if name == "baseline" else index})) for index, name in enumerate(arms)]
    arguments: dict[str, Any] = {"origin": arms["baseline"], "references": {}, "collapse": {}} | more
    return conclude(found, found.phases[0], named, arms, **arguments)


def test_a_clear_gain_is_adopted_with_its_figures() -> None:
    found = decide({"baseline": runs(0.25), "cure": runs(0.33, shift=1)}).arm("cure")
    assert found.verdict == "adopt"
    assert found.effect is not None
    assert found.effect.low is not None
    assert 0 < found.effect.low < found.effect.mean < (found.effect.high or 0)
    assert found.p_adjusted is not None
    assert found.p_adjusted < 0.05
    assert "adjusted p" in found.reason
    assert "the guard holds" in found.reason


def test_one_arm_has_the_figures_of_scipys_paired_test() -> None:
    baseline, cure = runs(0.25), runs(0.28, shift=1, spread=2)
    found = decide({"baseline": baseline, "cure": cure}).arm("cure")
    test = stats.ttest_rel([cure[r]["score"] for r in range(4)], [baseline[r]["score"] for r in range(4)])
    assert found.effect is not None
    assert found.p_adjusted == pytest.approx(test.pvalue)
    assert (found.effect.low, found.effect.high) == pytest.approx(tuple(test.confidence_interval(0.95)))


def test_the_baseline_has_effect_zero_and_no_p() -> None:
    found = decide({"baseline": runs(0.25), "cure": runs(0.33, shift=1)}).arms[0]
    assert found.name == "baseline"
    assert found.verdict == "baseline"
    assert found.effect is not None
    assert (found.effect.mean, found.effect.low, found.effect.high) == (0, 0, 0)
    assert found.p_adjusted is None


def test_a_broken_guard_rejects_however_large_the_effect() -> None:
    found = decide({"baseline": runs(0.25), "cure": runs(0.9, shift=1, health=0.1)})
    assert found.arm("cure").verdict == "reject"
    assert "health >= 0.2 but is 0.1" in found.arm("cure").reason
    assert found.winner == "baseline"


def test_an_interval_below_the_smallest_effect_rejects() -> None:
    found = decide({"baseline": runs(0.25), "cure": runs(0.25, shift=1, spread=0.5)}).arm("cure")
    assert found.verdict == "reject"
    assert "below the smallest effect 0.02" in found.reason


def test_an_interval_that_includes_zero_and_the_smallest_effect_is_undecided() -> None:
    found = decide({"baseline": runs(0.25), "cure": runs(0.26, shift=1, spread=5)}).arm("cure")
    assert found.verdict == "undecided"
    assert "includes 0" in found.reason


def test_a_gain_that_is_sure_but_too_small_is_never_adopted() -> None:
    found = decide({"baseline": runs(0.25, spread=0.5), "cure": runs(0.269, shift=1, spread=0.5)}).arm("cure")
    assert found.p_adjusted is not None
    assert found.p_adjusted < 0.05
    assert found.verdict == "undecided"
    assert "mean gain is below the smallest effect" in found.reason


def test_zero_variance_is_said_and_never_a_p_of_zero() -> None:
    baseline = runs(0.25)
    found = decide({"baseline": baseline, "cure": {r: {**m, "score": m["score"] + 0.5} for r, m in baseline.items()}}).arm("cure")
    assert found.p_adjusted is None
    assert found.verdict == "undecided"
    assert "Zero variance: all 4 paired differences are 0.5" in found.reason
    assert found.effect is not None
    assert (found.effect.low, found.effect.high) == (None, None)


def test_zero_variance_with_a_broken_guard_is_rejected() -> None:
    baseline = runs(0.25)
    constant = {r: {"score": m["score"] + 0.5, "health": 0.0} for r, m in baseline.items()}
    assert decide({"baseline": baseline, "cure": constant}).arm("cure").verdict == "reject"


def test_two_pairs_are_too_few_and_said() -> None:
    found = decide({"baseline": runs(0.25), "cure": runs(0.4, shift=1, replicates=2)}).arm("cure")
    assert found.verdict == "undecided"
    assert "Only 2" in found.reason
    assert "replicates 2, 3" in found.reason


def test_an_arm_without_any_result_is_undecided() -> None:
    found = decide({"baseline": runs(0.25), "cure": {}}).arm("cure")
    assert found.verdict == "undecided"
    assert found.effect is None
    assert found.replicates == 0
    assert "No replicate has a result" in found.reason


@pytest.mark.parametrize("value", [math.nan, math.inf, None])
@pytest.mark.parametrize("who", ["cure", "baseline"])
def test_a_missing_value_drops_its_pair_and_is_said(who: str, value: float | None) -> None:
    arms = {"baseline": runs(0.25, replicates=5), "cure": runs(0.4, shift=1, replicates=5)}
    arms[who][1] = {"health": 0.5} | ({} if value is None else {"score": value})
    found = decide(arms).arm("cure")
    assert found.verdict == ("adopt" if value is None or who == "baseline" else "undecided")
    assert "4 pairs" in found.reason
    assert "missing or not finite value: replicate 1." in found.reason
    json.dumps(found.model_dump(mode="json"), allow_nan=False)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_an_arm_that_breaks_down_where_the_baseline_does_not_is_never_adopted_for_its_better_part(value: float) -> None:
    cure = runs(0.4, shift=1, replicates=6)
    cure[1]["score"] = value
    found = decide({"baseline": runs(0.25, replicates=6), "cure": cure})
    arm = found.arm("cure")
    assert (arm.verdict, arm.broken_down, found.winner) == ("undecided", [1], "baseline")
    assert "Better in the replicates that it came through: score +0.15" in arm.reason
    assert "But it broke down in replicate 1 and the baseline did not" in arm.reason
    assert arm.p_adjusted is not None
    assert arm.p_adjusted < 0.05


def test_training_that_ended_by_its_numbers_counts_as_broken_down_and_a_crash_does_not() -> None:
    whole = runs(0.4, shift=1, replicates=6)
    cure = {replicate: metrics for replicate, metrics in whole.items() if replicate != 4}
    arms = {"baseline": runs(0.25, replicates=6), "cure": cure}
    assert decide(arms).arm("cure").verdict == "adopt"
    arm = decide(arms, diverged={"cure": [4]}).arm("cure")
    assert (arm.verdict, arm.broken_down) == ("undecided", [4])
    assert "But it broke down in replicate 4 and the baseline did not" in arm.reason
    assert "NaN or infinite" not in arm.reason, "it never reported one"


def test_where_the_baseline_breaks_down_too_an_arm_may_be_adopted() -> None:
    arms = {"baseline": runs(0.25, replicates=6), "cure": runs(0.4, shift=1, replicates=6)}
    for found in arms.values():
        found[1]["score"] = math.nan
    arm = decide(arms).arm("cure")
    assert (arm.verdict, arm.broken_down) == ("adopt", [])


def test_a_tie_keeps_the_simpler_cell_of_a_factorial_also_where_the_baseline_says_nothing_of_a_setting() -> None:
    crossed = study(baseline={}, phases=[{"name": "first", "design": "factorial", "factors": {"a": [False, True], "b": [False, True]}}])
    arms = {"baseline": runs(0.25), "a": runs(0.4, shift=1), "a, b": runs(0.401, shift=2)}
    levels: dict[str, dict[str, Any]] = {"baseline": {}, "a": {"a": True, "b": False}, "a, b": {"a": True, "b": True}}
    found = decide(arms, levels=levels, study=crossed)
    assert [arm.verdict for arm in found.arms] == ["baseline", "adopt", "adopt"]
    assert found.winner == "a"


def test_a_guard_whose_metric_nobody_reported_is_undecided() -> None:
    cure = {r: {"score": m["score"]} for r, m in runs(0.4, shift=1).items()}
    found = decide({"baseline": runs(0.25), "cure": cure}).arm("cure")
    assert found.verdict == "undecided"
    assert "no replicate has a finite health" in found.reason


def test_an_arm_with_the_baselines_trials_is_rejected_as_such_and_leaves_the_family() -> None:
    arms = {"baseline": runs(0.25), "cure": runs(0.33, shift=1)}
    alone = decide(arms).arm("cure")
    found = decide({**arms, "twin": arms["baseline"]}, same=["twin"])
    assert found.arm("twin").verdict == "reject"
    assert found.arm("twin").same_trials_as_baseline
    assert "same trials as the baseline" in found.arm("twin").reason
    assert found.arm("cure").p_adjusted == alone.p_adjusted


def test_not_beating_a_reference_is_undecided_and_says_that_learning_is_not_shown() -> None:
    found = decide({"baseline": runs(0.25), "cure": runs(0.33, shift=1)}, references={"untrained": runs(0.33, shift=5)})
    assert found.arm("cure").verdict == "undecided"
    assert "not shown to beat the reference untrained" in found.arm("cure").reason
    assert "learning not shown" in found.arm("cure").reason
    assert found.winner == "baseline"


def test_beating_every_reference_is_needed() -> None:
    arms = {"baseline": runs(0.25), "cure": runs(0.33, shift=1)}
    assert decide(arms, references={"untrained": runs(0.28, shift=5)}).arm("cure").verdict == "adopt"
    both = decide(arms, references={"untrained": runs(0.28, shift=5), "old": runs(0.4, shift=2)}).arm("cure")
    assert both.verdict == "undecided"
    assert "reference old" in both.reason
    assert "reference untrained" not in both.reason


def test_an_arm_may_beat_a_reference_and_still_be_no_better_than_a_healthy_baseline() -> None:
    arms = {"baseline": runs(0.33), "idle": runs(0.33, shift=1), "other": runs(0.335, shift=2)}
    found = decide(arms, references={"untrained": runs(0.2, shift=5), "old": runs(0.33, shift=3)})
    assert found.winner == "baseline"
    for name in ("idle", "other"):
        beaten = {reference.name: reference.beaten for reference in found.arm(name).references}
        assert beaten == {"untrained": True, "old": False}


def test_a_reference_without_enough_results_is_not_known_to_be_beaten() -> None:
    arms = {"baseline": runs(0.25), "cure": runs(0.33, shift=1)}
    found = decide(arms, study=study(references={"untrained": {"x": -1}}), references={"untrained": runs(0.2, replicates=2)}).arm("cure")
    assert found.verdict == "undecided"
    assert "but whether it beats untrained is not known: fewer than 3 replicates pair with it" in found.reason
    assert "learning not shown" not in found.reason
    assert found.cost_to_decide is None, "pairs with the baseline are not what is missing"


def test_a_guard_that_rests_on_few_replicates_says_so() -> None:
    cure = runs(0.33, shift=1)
    cure[0]["health"] = math.nan
    del cure[1]["health"]
    found = decide({"baseline": runs(0.25), "cure": cure}).arm("cure")
    assert found.verdict == "adopt"
    assert found.guards[0].replicates == 2
    assert "A guard's metric is missing or not finite: health in 2 of 4; the mean of the others is held against it." in found.reason


def test_an_arm_that_measured_the_same_as_the_studys_baseline_is_not_known_to_be_it() -> None:
    arms = {"baseline": runs(0.25), "cure": runs(0.33, shift=1)}
    found = decide(arms, origin=arms["cure"])
    total = found.arm("cure").total_effect
    assert total is not None
    assert (total.mean, total.low, total.high, total.pairs) == (0, None, None, 4)
    itself = decide(arms).arm("baseline").total_effect
    assert itself is not None
    assert (itself.low, itself.high) == (0, 0)


def test_the_largest_effect_wins_where_arms_are_told_apart() -> None:
    found = decide({"baseline": runs(0.25), "good": runs(0.33, shift=1), "better": runs(0.45, shift=2)})
    assert found.winner == "better"
    assert found.winner_levels == {"x": 2}


def test_unresolved_ties_take_the_fewest_changes() -> None:
    arms = {"baseline": runs(0.25), "plain": runs(0.33, shift=1), "rich": runs(0.331, shift=4)}
    levels = {"baseline": {"x": 0}, "plain": {"x": 1}, "rich": {"x": 1, "y": 1}}
    found = decide(arms, levels=levels)
    assert {arm.verdict for arm in found.arms[1:]} == {"adopt"}
    assert found.winner == "plain"
    assert "not told apart" in found.reason


def test_equal_arms_with_equally_many_changes_take_the_larger_effect() -> None:
    arms = {"baseline": runs(0.25), "one": runs(0.33, shift=1), "two": runs(0.331, shift=4)}
    assert decide(arms, levels={"baseline": {"x": 0}, "one": {"x": 1}, "two": {"x": 2}}).winner == "two"


def test_no_adopted_arm_carries_the_baseline() -> None:
    found = decide({"baseline": runs(0.25), "cure": runs(0.25, shift=1)})
    assert found.winner == "baseline"
    assert found.winner_levels == {"x": 0}
    assert "the baseline is carried on" in found.reason


def test_the_total_effect_is_against_the_studys_own_baseline() -> None:
    origin, baseline, cure = runs(0.1, shift=7), runs(0.25), runs(0.33, shift=1)
    found = decide({"baseline": baseline, "cure": cure}, origin=origin)
    total = found.arm("cure").total_effect
    assert total is not None
    assert total.mean == pytest.approx(np.mean([cure[r]["score"] - origin[r]["score"] for r in range(4)]))
    carried = found.arm("baseline").total_effect
    assert carried is not None
    assert carried.mean == pytest.approx(np.mean([baseline[r]["score"] - origin[r]["score"] for r in range(4)]))


def test_only_the_baseline_of_a_later_phase_is_carried() -> None:
    arms = [Arm(name="baseline", levels={"x": 0}), Arm(name="cure", levels={"x": 1})]
    evidence = {"baseline": runs(0.25), "cure": runs(0.33, shift=1)}
    for phase, expected in zip(study().phases, [False, True], strict=True):
        found = conclude(study(), phase, arms, evidence, origin=evidence["baseline"], references={}, collapse={})
        assert [arm.carried for arm in found.arms] == [expected, False]


def test_kinds_of_collapse_that_differ_are_all_said() -> None:
    arms = {"baseline": runs(0.25), "cure": runs(0.33, shift=1)}
    found = decide(arms, collapse={"baseline": dict.fromkeys(range(4), "uniform"), "cure": {0: "none", 1: "none", 2: "uniform"}})
    assert found.arm("baseline").collapse == "uniform"
    assert found.arm("cure").collapse == "none (2 of 3), uniform (1 of 3)"


def test_a_phase_without_its_baseline_is_refused() -> None:
    with pytest.raises(ValueError, match="named 'baseline'"):
        conclude(study(), study().phases[0], [Arm(name="cure", levels={})], {}, origin={}, references={}, collapse={})


scores = st.lists(st.lists(st.floats(-1, 1).map(lambda v: round(v, 3)), min_size=3, max_size=6), min_size=2, max_size=5)


def as_arms(columns: list[list[float]], sign: int = 1) -> dict[str, Series]:
    names = ["baseline", *(f"arm {i}" for i in range(1, len(columns)))]
    return {n: {r: {"score": sign * v, "health": 0.5} for r, v in enumerate(c)} for n, c in zip(names, columns, strict=True)}


@settings(max_examples=60)
@given(scores)
def test_minimizing_the_negative_is_maximizing(columns: list[list[float]]) -> None:
    up = decide(as_arms(columns))
    down = decide(as_arms(columns, -1), study=study(objective={"metric": "score", "direction": "minimize", "smallest_effect": 0.02}))
    assert up.winner == down.winner
    for one, two in zip(up.arms, down.arms, strict=True):
        assert (one.verdict, one.p_adjusted) == (two.verdict, two.p_adjusted)
        if one.effect is not None and two.effect is not None:
            assert one.effect.mean == -two.effect.mean
            if one.effect.low is not None:
                assert (one.effect.low, one.effect.high) == (-two.effect.high, -two.effect.low)  # type: ignore[operator]


@settings(max_examples=60)
@given(scores)
def test_verdict_interval_and_p_always_agree(columns: list[list[float]]) -> None:
    found = decide(as_arms(columns))
    for arm in found.arms[1:]:
        if arm.p_adjusted is None:
            assert arm.verdict == "undecided"
            continue
        assert arm.effect is not None
        assert arm.effect.low is not None
        assert arm.effect.high is not None
        assert (arm.p_adjusted < 0.05) == (arm.effect.low > 0)
        assert arm.verdict != "adopt" or (arm.effect.low > 0 and arm.effect.mean >= 0.02)
        assert (arm.verdict == "reject") == (arm.effect.high < 0.02)
    assert found.winner == "baseline" or found.arm(found.winner).verdict == "adopt"


@settings(max_examples=40)
@given(scores)
def test_the_order_of_arms_changes_no_verdict_and_json_keeps_everything(columns: list[list[float]]) -> None:
    arms = as_arms(columns)
    levels: dict[str, dict[str, Any]] = {name: {"x": name} for name in arms}
    forward, backward = decide(arms, levels=levels), decide(dict(reversed(arms.items())), levels=levels)
    assert {a.name: (a.verdict, a.p_adjusted) for a in forward.arms} == {a.name: (a.verdict, a.p_adjusted) for a in backward.arms}
    assert forward.winner == backward.winner or forward.arm(forward.winner).effect == forward.arm(backward.winner).effect
    assert Conclusion.model_validate(json.loads(json.dumps(forward.model_dump(mode="json"), allow_nan=False))) == forward


def test_a_point_that_lost_a_replicate_has_no_objective() -> None:
    arm, series = Arm(name="point 00", levels={"x": 1}), runs(0.3)
    whole = point(study(), arm, series, replicates=4)
    assert whole.objective == pytest.approx(np.mean([m["score"] for m in series.values()]))
    assert whole.feasible
    unreported = point(study(), arm, {**series, 2: {"health": 0.5}}, replicates=4)
    failed = point(study(), arm, {r: series[r] for r in (0, 1, 3)}, replicates=4)
    for found in (unreported, failed, point(study(), arm, {}, replicates=4)):
        assert found.objective is None
        assert not found.feasible


def test_the_best_point_keeps_its_guards_and_the_earlier_of_equals_stands() -> None:
    points = [
        point(study(), Arm(name=name, levels={"x": i}), series, replicates=4)
        for i, (name, series) in enumerate({"a": runs(0.3), "b": runs(0.4), "c": runs(0.4), "sick": runs(0.9, health=0.0)}.items())
    ]
    best = best_point(study(), points)
    assert best is not None
    assert best.name == "b"
    down = best_point(study(objective={"metric": "score", "direction": "minimize", "smallest_effect": 0.02}), points)
    assert down is not None
    assert down.name == "a"
    assert best_point(study(), points[3:]) is None
