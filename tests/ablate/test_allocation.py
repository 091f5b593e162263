"""Who gets another replicate: the rules, and whole simulated phases under them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest

from ablate.allocation import Allocation, allocate
from ablate.conclusion import Conclusion
from ablate.study import BASELINE, Arm, Study
from ablate.verdict import conclude

Results = dict[str, dict[int, dict[str, float]]]
Draw = Callable[[str, int], dict[str, float] | None]
"""Arm and replicate to final metrics; none: it failed."""

NOISE = [0.004, -0.006, 0.001, 0.003, -0.002, 0.005, -0.004, 0.002]


def study(*, rungs: list[int] | None = None, **replicates: Any) -> Study:
    return Study.model_validate(
        {
            "rungs": rungs or [],
            "study": "toy",
            "question": "Which?",
            "trainer": {"callable": "a:b"},
            "baseline": {"x": 0},
            "references": {"untrained": {"steps": 0}},
            "objective": {"metric": "score", "smallest_effect": 0.02},
            "guards": [{"metric": "health", "at_least": 0.2}],
            "replicates": {"start": 4, "at_most": 6, "condemn": 2, **replicates},
            "phases": [{"name": "first", "design": "factorial", "factors": {"x": [0, 1]}}],
        }
    )


def played(
    found: Study, names: list[str], draw: Draw, early: Callable[[str, int, int], float] | None = None
) -> tuple[Conclusion, dict[str, int], list[Allocation]]:
    """A phase as the runner plays it."""
    phase, given, results, taken = found.phases[0], dict[str, int](), Results(), []
    at_rungs: dict[int, dict[str, dict[int, float]]] = {}
    arms = [Arm(name=name, levels={"x": index}) for index, name in enumerate(names)]
    while True:
        evidence = {name: results.get(name, {}) for name in names}
        references = {"untrained": results.get("untrained", {})}
        decided = allocate(found, phase, names, given, evidence, references, (), at_rungs)
        if not decided.more(given):
            break
        taken.append(decided)
        if decided.until is not None:
            assert early is not None
            rows = decided.replicates.items()
            at_rungs[decided.until] = {name: {r: early(name, r, decided.until) for r in range(count)} for name, count in rows}
            continue
        given = {name: max(count, given.get(name, 0)) for name, count in decided.replicates.items()}
        for name, count in [*given.items(), ("untrained", given[BASELINE])]:
            known = results.setdefault(name, {})
            known |= {r: made for r in range(count) if r not in known and (made := draw(name, r)) is not None}
    concluded = conclude(
        found,
        phase,
        arms,
        evidence,
        origin=results[BASELINE],
        references=references,
        collapse={},
        stops=decided.stops,
        asked={name: range(count) for name, count in given.items()},
    )
    return concluded, given, taken


def fixed(means: Mapping[str, float], *, spread: Mapping[str, float] | None = None, ill: tuple[str, ...] = ()) -> Draw:
    order = list(means)

    def draw(name: str, replicate: int) -> dict[str, float] | None:
        noise = NOISE[(replicate * 3 + order.index(name)) % 8] * (spread or {}).get(name, 1.0)
        return {"score": means[name] + 0.01 * replicate + noise, "health": 0.1 if name in ill else 0.5}

    return draw


def test_decided_arms_stop_open_ones_go_on_and_condemned_ones_stop_at_once() -> None:
    means = {BASELINE: 0.3, "great": 0.6, "open": 0.32, "ill": 0.7, "ill too": 0.7, "untrained": 0.2}
    draw = fixed(means, spread={"open": 7.0}, ill=("ill", "ill too"))
    concluded, given, _ = played(study(), [BASELINE, "great", "open", "ill", "ill too"], draw)
    assert given["great"] == 4
    assert given["open"] == given[BASELINE] == 6
    assert sorted([given["ill"], given["ill too"]]) == [2, 4], "one of the two ran on to check the rule"
    assert [concluded.arm(name).verdict for name in ("great", "ill", "ill too")] == ["adopt", "reject", "reject"]
    stopped = next(name for name in ("ill", "ill too") if given[name] == 2)
    assert "Stopped after 2 replicates: health >= 0.2 is broken (0.1, 0.1) in each of them." in concluded.arm(stopped).reason
    assert [(check.confirmed, check.replicates) for check in concluded.checks] == [(True, 4)]
    assert concluded.looks == (4, 6)
    assert not any("Left out" in arm.reason for arm in concluded.arms)


def test_a_condemned_arm_that_recovers_frees_all_others() -> None:
    def draw(name: str, replicate: int) -> dict[str, float]:
        healthy = name in (BASELINE, "untrained") or replicate >= 2
        return {"score": 0.3 + 0.01 * replicate + NOISE[(replicate + len(name)) % 8], "health": 1.5 if healthy else 0.1}

    concluded, given, _ = played(study(), [BASELINE, "a", "bb", "ccc"], draw)
    assert min(given.values()) >= 4
    assert len(concluded.checks) == 1
    assert not concluded.checks[0].confirmed


def test_an_arm_is_not_condemned_by_a_replicate_that_failed() -> None:
    base = fixed({BASELINE: 0.3, "ill": 0.7, "untrained": 0.2}, ill=("ill",))
    _, given, _ = played(study(check=0), [BASELINE, "ill"], lambda name, r: None if (name, r) == ("ill", 0) else base(name, r))
    assert given["ill"] >= 4


def slow_start(name: str, replicate: int, step: int) -> float:
    """At a rung arm "late" and arm "worse" lie below the baseline."""
    base = {"late": 0.2, "worse": 0.1}.get(name, 0.3 + 0.001 * step * (name == "good"))
    return base + 0.01 * replicate + NOISE[(replicate * 3 + len(name)) % 8]


def test_an_arm_that_a_rung_shows_to_be_worse_stops_there_and_the_others_go_on() -> None:
    draw = fixed({BASELINE: 0.3, "good": 0.5, "worse": 0.1, "untrained": 0.2})
    concluded, given, taken = played(study(rungs=[20, 50], check=0), [BASELINE, "good", "worse"], draw, slow_start)
    assert [step.until for step in taken[:3]] == [20, 50, None]
    assert "worse" not in taken[1].replicates
    assert given == {BASELINE: 4, "good": 4, "worse": 0}
    worse = concluded.arm("worse")
    assert (worse.verdict, worse.effect) == ("reject", None)
    assert worse.reason == "Given up at a rung. Stopped at step 20: score -0.197 there, worse than the baseline (4 pairs)."
    assert concluded.winner == "good"


def test_a_rung_that_was_wrong_about_a_checked_arm_stops_nobody() -> None:
    draw = fixed({BASELINE: 0.3, "late": 0.5, "worse": 0.1, "untrained": 0.2})
    found = study(rungs=[20], check=1.0)
    concluded, given, _ = played(found, [BASELINE, "late", "worse"], draw, slow_start)
    assert min(given.values()) >= 4
    assert {check.arm: check.confirmed for check in concluded.checks} == {"late": False, "worse": True}
    assert [concluded.arm(name).verdict for name in ("late", "worse")] == ["adopt", "reject"]


def test_without_condemnation_or_checks_every_arm_gets_its_start() -> None:
    draw = fixed({BASELINE: 0.3, "ill": 0.7, "untrained": 0.2}, ill=("ill",))
    assert played(study(condemn=None), [BASELINE, "ill"], draw)[1] == {BASELINE: 4, "ill": 4}
    assert played(study(check=0), [BASELINE, "ill"], draw)[1] == {BASELINE: 2, "ill": 2}


def test_an_arm_without_effect_and_one_without_a_guards_metric_get_no_more() -> None:
    def draw(name: str, replicate: int) -> dict[str, float]:
        score = {"score": 0.3 + 0.01 * replicate + (0.05 * NOISE[replicate] if name == "mute" else 0.0)}
        return score if name == "mute" else {**score, "health": 0.5}

    concluded, given, _ = played(study(), [BASELINE, "idle", "mute"], draw)
    assert given == {BASELINE: 4, "idle": 4, "mute": 4}
    assert "it changes nothing" in concluded.arm("idle").reason
    assert "no replicate has a finite health" in concluded.arm("mute").reason


def test_the_same_results_give_the_same_allocation_whatever_the_order() -> None:
    means = {BASELINE: 0.3, "a": 0.31, "b": 0.35, "ill": 0.7, "untrained": 0.2}
    draw = fixed(means, spread={"a": 3.0}, ill=("ill",))
    one = played(study(), [BASELINE, "a", "b", "ill"], draw)
    other = played(study(), [BASELINE, "ill", "b", "a"], draw)
    assert one[1] == other[1]
    assert {arm.name: arm.verdict for arm in one[0].arms} == {arm.name: arm.verdict for arm in other[0].arms}


def test_an_undecided_arm_says_what_deciding_would_cost() -> None:
    draw = fixed({BASELINE: 0.3, "open": 0.32, "untrained": 0.2}, spread={"open": 7.0})
    concluded, _, _ = played(study(), [BASELINE, "open"], draw)
    assert concluded.arm("open").verdict == "undecided"
    assert "were its mean the truth: about" in (concluded.arm("open").cost_to_decide or "")
    assert (concluded.arm("open").cost_to_decide or "") in concluded.arm("open").reason


def simulated(seed: int, effects: Mapping[str, float], *, guard_is_noise: bool, condemn: int | None = 2) -> tuple[Conclusion, int]:
    """A phase of normal noise; the guard's metric either goes with the arm's own noise or never breaks."""
    noise = np.random.default_rng(seed)
    drawn: dict[tuple[str, int], float] = {}

    def draw(name: str, replicate: int) -> dict[str, float]:
        own = drawn.setdefault((name, replicate), float(noise.standard_normal()))
        bound = own if guard_is_noise and name not in (BASELINE, "untrained") else 1.0
        return {"score": effects.get(name, 0.0) + own, "health": bound}

    found = study(condemn=condemn)
    concluded, given, _ = played(found, [BASELINE, *(name for name in effects if name != "untrained")], draw)
    return concluded, sum(given.values())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("guard_is_noise", "condemn"),
    [(False, 3), (True, 2), (True, 3)],
    ids=["guards hold", "a guard that goes with the objective", "the same, condemned later"],
)
def test_phases_without_any_benefit_rarely_adopt(guard_is_noise: bool, condemn: int) -> None:
    """Sequential, with references, condemnation and futility: the whole of what the runner does."""
    studies, effects = 300, dict.fromkeys([f"arm {i}" for i in range(8)], 0.0) | {"untrained": -40.0}
    wrong = sum(
        any(arm.verdict == "adopt" for arm in simulated(seed, effects, guard_is_noise=guard_is_noise, condemn=condemn)[0].arms)
        for seed in range(studies)
    )
    assert wrong / studies <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / studies)


@pytest.mark.slow
def test_planted_effects_are_found_with_fewer_trials_than_the_fixed_design() -> None:
    effects = dict.fromkeys([f"arm {i}" for i in range(8)], 0.0) | {"arm 0": 12.0, "arm 1": 12.0, "untrained": -40.0}
    outcomes = [simulated(seed, effects, guard_is_noise=False) for seed in range(60)]
    power = np.mean([[concluded.arm(name).verdict == "adopt" for name in ("arm 0", "arm 1")] for concluded, _ in outcomes])
    assert power > 0.9
    assert np.mean([trials for _, trials in outcomes]) < 0.85 * 9 * 6


def raced(seed: int, final: Mapping[str, float], at_rung: Mapping[str, float], alike: float, *, check: float) -> tuple[Conclusion, float]:
    """A phase with one rung; noise there goes with the noise at the end. Effects in standard deviations of the noise.

    Args:
        alike: Correlation of an arm's noise at the rung with its noise at the end.

    Returns:
        The conclusion, and the share of runs to the end that were spared beside the same phase without a rung.
    """
    noise = np.random.default_rng(seed)
    drawn: dict[tuple[str, int, str], float] = {}

    def own(name: str, replicate: int, when: str) -> float:
        return drawn.setdefault((name, replicate, when), float(noise.standard_normal()))

    def draw(name: str, replicate: int) -> dict[str, float]:
        return {"score": final.get(name, 0.0) + own(name, replicate, "end"), "health": 1.0}

    def early(name: str, replicate: int, step: int) -> float:
        mixed = alike * own(name, replicate, "end") + math.sqrt(1 - alike**2) * own(name, replicate, f"at {step}")
        return at_rung.get(name, 0.0) + mixed

    names = [BASELINE, *(name for name in final if name != "untrained")]
    concluded, given, _ = played(study(rungs=[20], check=check), names, draw, early)
    _, without, _ = played(study(), names, draw)
    return concluded, 1 - sum(given.values()) / sum(without.values())


RACE = {"null 0": 0.0, "null 1": 0.0, "null 2": 0.0, "bad 0": -8.0, "bad 1": -8.0, "bad 2": -8.0, "good": 8.0, "untrained": -40.0}


@pytest.mark.slow
def test_a_rung_stops_few_good_arms_adopts_none_and_spares_runs() -> None:
    """Effects at the rung are a quarter of those at the end, its noise goes with theirs by .6."""
    studies = 120
    outcomes = [raced(seed, RACE, {arm: effect / 4 for arm, effect in RACE.items()}, 0.6, check=0.125) for seed in range(studies)]
    stopped = np.mean(["Stopped at step" in concluded.arm("good").reason for concluded, _ in outcomes])
    wrong = np.mean([any(arm.verdict == "adopt" for arm in concluded.arms if arm.name != "good") for concluded, _ in outcomes])
    error = 2 * math.sqrt(0.05 * 0.95 / studies)
    assert stopped <= 0.05 + error
    assert wrong <= 0.05 + error
    assert np.mean([spared for _, spared in outcomes]) > 0.05


@pytest.mark.slow
def test_a_slow_starter_is_lost_unless_it_is_among_the_checked() -> None:
    """What the rule cannot know: an arm that is clearly worse at the rung and best at the end. Checking all of them finds it."""
    at_rung = {arm: effect / 4 for arm, effect in RACE.items()} | {"good": -8.0}
    kept = {
        check: np.mean([raced(seed, RACE, at_rung, 0.6, check=check)[0].arm("good").verdict == "adopt" for seed in range(40)])
        for check in (0.0, 0.125, 1.0)
    }
    assert kept[0.0] < 0.1
    assert kept[0.0] <= kept[0.125] <= kept[1.0]
    assert kept[1.0] > 0.9
