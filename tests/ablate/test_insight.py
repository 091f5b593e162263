"""What mattered: planted interactions, useless components, noise and gaps, from a phase's evidence to words."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest

from ablate import design, insight
from ablate.conclusion import Conclusion, Evidence, Point
from ablate.study import BASELINE, Study
from ablate.verdict import conclude

Truth = Callable[[Mapping[str, Any]], float]


def study(phases: list[dict[str, Any]], **changes: Any) -> Study:
    document: dict[str, Any] = {
        "study": "toy",
        "question": "Which?",
        "trainer": {"callable": "a:b"},
        "baseline": {"a": False, "b": False, "c": False, "w": "none"},
        "objective": {"metric": "score", "smallest_effect": 0.05},
        "replicates": {"start": 6, "at_most": 6},
        "phases": phases,
    }
    return Study.model_validate(document | changes)


FLAGS = {"name": "flags", "design": "factorial", "factors": {"a": [False, True], "b": [False, True], "c": [False, True]}}
WEIGHTS = {"name": "weights", "design": "one_at_a_time", "factors": {"w": ["none", "sqrt"]}}


def only_together(levels: Mapping[str, Any]) -> float:
    """a and b help together, c never; a weight adds a little."""
    return 0.3 + 0.2 * (levels["a"] and levels["b"]) + 0.1 * (levels["w"] == "sqrt")


def run(found: Study, truth: Truth, noise: float = 0.01) -> tuple[list[Conclusion], dict[str, Evidence]]:
    """Every phase on top of the winner before it."""
    random = np.random.default_rng(3)
    shared = random.normal(0, 0.05, 6)
    conclusions, evidence, carried = [], {}, dict(found.baseline)
    measured: dict[str, dict[int, dict[str, float]]] = {}
    for phase in found.phases:
        arms = design.expand(phase, carried)
        for arm in arms:
            key = json.dumps(arm.levels, sort_keys=True)
            measured.setdefault(key, {r: {"score": truth(arm.levels) + shared[r] + random.normal(0, noise)} for r in range(6)})
        evidence[phase.name] = {arm.name: measured[json.dumps(arm.levels, sort_keys=True)] for arm in arms}
        origin = measured[json.dumps(found.baseline, sort_keys=True)]
        one = conclude(found, phase, arms, evidence[phase.name], origin=origin, references={}, collapse={})
        conclusions.append(one)
        carried = dict(one.winner_levels)
    return conclusions, evidence


def test_an_interaction_is_found_and_put_into_words() -> None:
    found = study([FLAGS])
    conclusions, evidence = run(found, only_together)
    told = insight.of_phase(found, conclusions[0], evidence["flags"])
    json.dumps(told, allow_nan=False)
    interaction = next(one for one in told["factorial"]["interactions"] if one["name"] == "a=true x b=true")
    assert interaction["low"] > 0.1
    assert any("a=true is shown to help only where b=true" in sentence for sentence in told["factorial"]["sentences"])
    assert any(sentence.startswith("c=true is not shown to matter") for sentence in told["factorial"]["sentences"])
    assert {tuple(cell["cell"]): cell["arm"] for cell in told["factorial"]["cells"]}[0, 0, 0] == BASELINE


def test_what_needs_arms_that_a_rung_gave_up_is_told_of_the_training_that_all_of_them_have() -> None:
    found = study([FLAGS])
    conclusions, evidence = run(found, only_together)
    stopped = conclusions[0].model_copy(update={"short": {"a=true": 30, "b=true": 30}})
    ended = {arm: {} if arm in stopped.short else results for arm, results in evidence["flags"].items()}
    at_rung = {arm: {r: {"score": 0.9 * one["score"]} for r, one in results.items()} for arm, results in evidence["flags"].items()}
    told = insight.of_phase(found, stopped, ended, at_rung)["factorial"]
    assert told["dropped"] == []
    interaction = next(one for one in told["interactions"] if one["name"] == "a=true x b=true")
    assert interaction["mean"] == pytest.approx(0.9 * 0.2, abs=0.03)
    assert told["sentences"][0].startswith("What follows is as it stood at step 30, where arms were given up")
    attribution = insight.attribution(found, [stopped], {"flags": at_rung}, 30)
    assert attribution is not None
    assert attribution["missing"] == []
    assert attribution["sentences"][0].startswith("What follows is as it stood at step 30")
    whole = insight.of_phase(found, conclusions[0], evidence["flags"])["factorial"]
    assert not any("What follows" in sentence for sentence in whole["sentences"])


def test_a_factorial_tells_what_its_winner_needs_also_where_the_baseline_says_nothing_of_its_settings() -> None:
    found = study([FLAGS], baseline={})
    conclusions, evidence = run(found, lambda levels: 0.3 + 0.2 * (levels.get("a", False) and levels.get("b", False)))
    told = insight.attribution(found, conclusions, evidence)
    assert told is not None
    assert told["needs"] == {"a": "needed", "b": "needed"}
    assert told["missing"] == []
    assert sum(share["mean"] for share in told["shapley"]) == pytest.approx(0.2, abs=0.02)


@pytest.mark.parametrize("default", [5, 4], ids=["the first levels are the trainer's defaults", "they are not"])
def test_a_later_factorial_over_settings_that_the_baseline_leaves_out_keeps_the_arms_before_it(default: int) -> None:
    """Arms of the first phase say nothing of u and v; the trainer takes the second factorial's first level for u, or another value."""
    first = {"name": "first", "design": "one_at_a_time", "factors": {"x": [0, 1]}}
    later = {"name": "later", "design": "factorial", "factors": {"u": [5, 6], "v": [0, 1]}}
    found = study([first, later], baseline={"x": 0})

    def truth(levels: Mapping[str, Any]) -> float:
        return 0.3 + 0.2 * levels["x"] + 0.1 * (levels.get("u", default) - 4) + 0.1 * levels.get("v", 0)

    conclusions, evidence = run(found, truth)
    assert [one.winner for one in conclusions] == ["x=1", "u=6, v=1"]
    if default == 5:  # the trainer's offers tell that these are the same trials
        same = [arm.model_copy(update={"same_trials_as_baseline": arm.name == design.ALL_OFF}) for arm in conclusions[1].arms]
        conclusions[1] = conclusions[1].model_copy(update={"arms": same})
    told = insight.attribution(found, conclusions, evidence)
    assert told is not None
    assert set(told["components"]) == {"x", "u", "v"}
    assert told["needs"]["u"] == told["needs"]["v"] == "needed"
    said = " ".join(told["sentences"])
    if default == 5:
        assert [step["name"] for step in told["path"]] == ["x", "v", "u"] or [step["name"] for step in told["path"]] == ["x", "u", "v"]
        assert told["ends"]
        assert told["start"]["name"] == "baseline"
        assert told["start"]["mean"] == pytest.approx(np.mean([one["score"] for one in evidence["first"][BASELINE].values()]))
        assert "From the baseline towards the winner: x +0." in said
        assert [] not in told["missing"]
    else:
        assert told["path"] == ()
        assert told["start"] == {"name": "all first levels", "mean": None}
        assert "no cell with one more component than all first levels shares a replicate with it" in said
        assert "first all first levels." in said
        assert "the baseline" not in said


def test_leaving_one_out_tells_what_each_component_carries_also_where_the_winner_lacks_one() -> None:
    components = {name: {name: True} for name in "abc"}
    found = study([{"name": "parts", "design": "leave_one_out", "components": components}])
    conclusions, evidence = run(found, lambda levels: 0.3 + 0.2 * levels["a"] + 0.1 * levels["b"])
    assert conclusions[0].winner == "without c"
    told = insight.of_phase(found, conclusions[0], evidence["parts"])["left_out"]
    json.dumps(told, allow_nan=False)
    assert told["needs"] == {"a": "needed", "b": "needed", "c": "can go"}
    assert [share["mean"] for share in told["without"]] == pytest.approx([0.2, 0.1, 0.0], abs=0.02)
    assert told["sentences"][0].startswith("a is needed: without it the arm all on loses (+0.19")
    assert told["sentences"][2].startswith("c can go: what the arm all on loses without it is below the smallest effect")


HEALTH = [{"metric": "health", "at_least": 1.0}]


def with_health(evidence: Evidence, health: Mapping[str, float]) -> Evidence:
    """The same trials, which report their health too: 1 where it is not named."""
    return {arm: {r: {**one, "health": health.get(arm, 1.0)} for r, one in results.items()} for arm, results in evidence.items()}


def test_a_component_without_which_a_guard_is_broken_is_needed_whatever_the_objective_says() -> None:
    parts = study([{"name": "parts", "design": "leave_one_out", "components": {name: {name: True} for name in "abc"}}], guards=HEALTH)
    (left,), evidence = run(parts, lambda levels: 0.3 + 0.2 * levels["a"])
    told = insight.of_phase(parts, left, with_health(evidence["parts"], {"without b": 0.5}))["left_out"]
    assert told["needs"]["b"] == "needed for a guard"
    assert "b is needed: without it the arm all on breaks a guard, health >= 1." in told["sentences"]
    flags = study([FLAGS], guards=HEALTH)
    (adopted,), evidence = run(study([FLAGS]), only_together)
    traced = insight.attribution(flags, [adopted], {"flags": with_health(evidence["flags"], {"b=true": 0.5})})
    assert traced is not None
    assert traced["needs"] == {"a": "needed for a guard", "b": "needed"}


def test_a_component_that_breaks_a_guard_is_told_so_and_the_others_are_not_needed_for_it() -> None:
    """All on, and all that keep c, break the guard: nobody is needed for what the whole does not keep."""
    parts = study([{"name": "parts", "design": "leave_one_out", "components": {name: {name: True} for name in "abc"}}], guards=HEALTH)
    (left,), evidence = run(parts, lambda levels: 0.3 + 0.2 * levels["a"] + 0.2 * levels["c"])
    ill = {"all on": 0.5, "without a": 0.5, "without b": 0.5}
    told = insight.of_phase(parts, left, with_health(evidence["parts"], ill))["left_out"]
    assert told["needs"] == {"a": "needed", "b": "can go", "c": "breaks a guard"}
    assert "c breaks a guard, health >= 1: the arm all on keeps it only without it." in told["sentences"]
    assert not any("needed for" in sentence or "c is needed" in sentence for sentence in told["sentences"])
    nobody = insight.of_phase(parts, left, with_health(evidence["parts"], ill | {"without c": 0.5}))["left_out"]
    assert nobody["needs"] == {"a": "needed", "b": "can go", "c": "needed"}
    assert nobody["sentences"][0] == "The arm all on breaks a guard itself, health >= 1; no measured removal of one component mends it."
    unreported = insight.of_phase(parts, left, evidence["parts"])["left_out"]
    assert unreported["needs"] == {"a": "needed", "b": "can go", "c": "needed"}


def test_the_winner_over_two_phases_is_traced_to_what_it_needs() -> None:
    found = study([FLAGS, WEIGHTS])
    conclusions, evidence = run(found, only_together)
    told = insight.attribution(found, conclusions, evidence)
    assert told is not None
    json.dumps(told, allow_nan=False)
    assert set(told["components"]) == {"a", "b", "w"}
    assert told["needs"] == {"a": "not measured", "b": "not measured", "w": "needed"}
    assert [step["name"] for step in told["path"]][-1] == "w"
    assert told["ends"]
    assert told["shapley"] == ()
    assert any("No Shapley values" in sentence for sentence in told["sentences"])


def test_a_useless_component_of_the_winner_can_go() -> None:
    components = {"name": "parts", "design": "factorial", "components": {"useful": {"a": True}, "useless": {"b": True}}}
    found = study([components])
    conclusions, evidence = run(found, lambda levels: 0.3 + 0.2 * levels["a"], noise=0.005)
    both = next(arm for arm in conclusions[0].arms if arm.name == "useful, useless")
    assert conclusions[0].winner == "useful", "the simpler one of two that differ by less than matters"
    forced = conclusions[0].model_copy(update={"winner": both.name, "winner_levels": both.levels})
    told = insight.attribution(found, [forced], evidence)
    assert told is not None
    assert told["needs"] == {"useful": "needed", "useless": "can go"}
    assert [share["name"] for share in told["shapley"]] == ["useful", "useless"]
    assert told["shapley"][0]["mean"] + told["shapley"][1]["mean"] == pytest.approx(both.effect.mean if both.effect else math.nan)


def test_nothing_adopted_or_one_component_needs_no_attribution() -> None:
    found = study([WEIGHTS])
    assert insight.attribution(found, *run(found, lambda levels: 0.3)) is None
    assert insight.attribution(found, *run(found, only_together)) is None


def test_pairing_and_the_noise_floor_are_told() -> None:
    found = study([FLAGS])
    conclusions, evidence = run(found, only_together)
    told = insight.of_phase(found, conclusions[0], evidence["flags"])
    assert "Pairing by replicate took away 9" in told["pairing"]["sentence"]
    assert 0.005 < told["noise"]["deviation"] < 0.03
    assert told["noise"]["detectable"] < 0.1
    assert "is shown in 80 % of studies" in told["noise"]["sentence"]


def test_what_was_equal_and_what_was_tuned_is_one_line() -> None:
    tuned = {"name": "tune", "design": {"tune": 4}, "factors": {"t": {"low": 0.0, "high": 1.0}}}
    found = study([FLAGS, tuned], baseline={"a": False, "b": False, "c": False, "w": "none", "t": 0.5})
    conclusions, _ = run(study([FLAGS], baseline=found.baseline), only_together)
    placed = {"flags": {arm.name: arm.levels for arm in conclusions[0].arms}}
    told = insight.fairness(
        found, conclusions, placed, {"a": False, "b": False, "c": False, "lr": 0.1, "steps": 100}, {"flags/a=true": 2}, {}
    )
    assert told["varied"] == ["a", "b", "c"]
    assert told["sentence"].startswith("Equal in all arms: 2 settings, all but a, b and c; and, replicate by replicate, the seed")
    assert "Nothing was tuned for any arm." in told["sentence"]
    switches = insight.fairness(found, conclusions, placed, {"a": False, "b": False, "c": False}, {}, {})
    assert switches["sentence"].startswith("Equal in all arms: everything but a, b and c; and,")
    assert "2 trials of flags/a=true" in told["sentence"]
    points = [Point(name=name, levels={"t": 0.5}, objective=0.3, guards=[], feasible=True) for name in ("point 00", "point 01")]
    tuning = conclusions[0].model_copy(update={"phase": "tune", "points": points})
    used = {"tune/point 00": 6, "tune/point 01": 1, "tune/tuned": 6}
    told = insight.fairness(found, [tuning], placed, {}, {}, used)
    assert "Tuned: t, for the arm `tuned` of tune alone, over 2 points and 7 trials" in told["sentence"]
