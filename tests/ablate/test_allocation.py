"""Who gets another replicate: the rules, and whole simulated phases under them."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import pytest

from ablate.allocation import allocate
from ablate.conclusion import Conclusion, Metrics
from ablate.study import BASELINE, Phase, Range, Study, Tune
from benchmarks import early
from benchmarks.early import Draw, played

CHECKED, UNCHECKED = "ill", "ill too"
"""Of these two, who is chosen by its name to check a rule."""

NOISE = [0.004, -0.006, 0.001, 0.003, -0.002, 0.005, -0.004, 0.002]


def study(*, rungs: list[int] | None = None, **replicates: Any) -> Study:
    """Without the stop before the first look, and condemning after two replicates, unless a test says otherwise."""
    return early.study(rungs=rungs, **{"condemn": 2, "futile": None, **replicates})


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


def slow_start(name: str, replicate: int, step: int) -> Metrics:
    """At a rung arm "late" and arm "worse" lie below the baseline."""
    base = {"late": 0.2, "worse": 0.1}.get(name, 0.3 + 0.001 * step * (name == "good"))
    return {"score": base + 0.01 * replicate + NOISE[(replicate * 3 + len(name)) % 8]}


def test_an_arm_that_a_rung_shows_to_be_worse_stops_there_and_the_others_go_on() -> None:
    draw = fixed({BASELINE: 0.3, "good": 0.5, "worse": 0.1, "untrained": 0.2})
    concluded, given, taken = played(study(rungs=[20, 50], check=0), [BASELINE, "good", "worse"], draw, slow_start)
    assert [step.until for step in taken[:3]] == [20, 50, None]
    assert "worse" not in taken[1].replicates
    assert given == {BASELINE: 4, "good": 4, "worse": 0}
    worse = concluded.arm("worse")
    assert (worse.verdict, worse.effect) == ("reject", None)
    assert worse.reason == "Given up at a rung. Stopped at step 20: score -0.197 there, worse than the baseline (3 pairs)."
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


@pytest.mark.slow
def test_a_rung_stops_few_good_arms_adopts_none_and_spares_runs() -> None:
    """Effects at the rung are a quarter of those at the end, its noise goes with theirs by .6."""
    phases = 120
    found = early.raced(phases, {arm: effect / 4 for arm, effect in early.RACE.items()}, 0.125)
    error = 2 * math.sqrt(0.05 * 0.95 / phases)
    assert found.stopped <= 0.05 + error
    assert found.wrong <= 0.05 + error
    assert found.spared > 0.02


@pytest.mark.slow
def test_a_slow_starter_is_lost_unless_it_is_among_the_checked() -> None:
    """What the rule cannot know: an arm that is clearly worse at the rung and best at the end. Checking all of them finds it."""
    at_rung = {arm: effect / 4 for arm, effect in early.RACE.items()} | {"good": -8.0}
    kept = {check: early.raced(40, at_rung, check).adopted for check in (0.0, 0.125, 1.0)}
    assert kept[0.0] < 0.2
    assert kept[0.0] <= kept[0.125] <= kept[1.0]
    assert kept[1.0] > 0.9


def ill_at_rung(name: str, replicate: int, step: int) -> Metrics:
    return {**slow_start(name, replicate, step), "health": 0.1 + 0.01 * replicate if name.startswith("ill") else 0.5}


def test_an_arm_that_breaks_a_guard_at_a_rung_in_every_replicate_stops_there_and_one_checks_the_rule() -> None:
    draw = fixed({BASELINE: 0.3, "good": 0.5, "ill": 0.7, "ill too": 0.7, "untrained": 0.2}, ill=("ill", "ill too"))
    names = [BASELINE, "good", "ill", "ill too"]
    concluded, given, taken = played(study(rungs=[20], condemn=3), names, draw, ill_at_rung)
    assert taken[0].replicates == dict.fromkeys(names, 3), "no more are run to a rung than condemn there"
    assert sorted([given["ill"], given["ill too"]]) == [0, 3], "the check ends where the same guard condemns it at the end"
    stopped = next(name for name in ("ill", "ill too") if given[name] == 0)
    assert concluded.short == {stopped: 20}
    assert [concluded.arm(name).verdict for name in ("good", "ill", "ill too")] == ["adopt", "reject", "reject"]
    assert "Stopped at step 20: health >= 0.2 is broken (0.1, 0.11, 0.12) in each of 3 replicates there." in concluded.arm(stopped).reason
    assert [(check.arm == stopped, check.confirmed) for check in concluded.checks] == [(False, True)]
    assert [(guard.metric, guard.value) for guard in concluded.arm(stopped).guards] == [("health", pytest.approx(0.11))]


def test_an_arm_unlikely_to_be_adopted_stops_at_a_rung_only_where_the_study_asks_for_it() -> None:
    draw = fixed({BASELINE: 0.3, "good": 0.5, "flat": 0.3, "flat too": 0.3, "untrained": 0.2})

    def early_(name: str, replicate: int, step: int) -> Metrics:
        return {"score": 0.3 + 0.1 * (name == "good") + 0.01 * replicate + NOISE[(3 * replicate + len(name)) % 8]}

    names = [BASELINE, "good", "flat", "flat too"]
    assert min(played(study(rungs=[20], check=0), names, draw, early_)[1].values()) >= 3
    concluded, given, _ = played(study(rungs=[20], at_rungs="unlikely", check=0), names, draw, early_)
    assert (given["flat"], given["flat too"]) == (0, 0)
    flat = concluded.arm("flat")
    assert (flat.verdict, flat.effect, flat.p_adjusted) == ("undecided", None, None)
    assert flat.reason.startswith("Not tested. Stopped at step 20: score ")
    assert flat.reason.endswith("were the end like that, the chance of adoption by 6 would be 0 %.")
    assert concluded.arm("good").verdict == "adopt"
    checked, given, _ = played(study(rungs=[20], at_rungs="unlikely", condemn=3), names, draw, early_)
    assert sorted([given["flat"], given["flat too"]])[0] == 0, "one of the two goes on to the end"
    assert [check.confirmed for check in checked.checks] == [True]


def test_an_arm_that_is_well_in_the_end_shows_that_the_rung_condemned_too_early() -> None:
    draw = fixed({BASELINE: 0.3, "ill": 0.5, "ill too": 0.5, "untrained": 0.2})
    concluded, given, _ = played(study(rungs=[20]), [BASELINE, "ill", "ill too"], draw, ill_at_rung)
    assert min(given.values()) >= 4
    assert [check.confirmed for check in concluded.checks] == [False]
    assert [concluded.arm(name).verdict for name in ("ill", "ill too")] == ["adopt", "adopt"]


def test_a_guard_that_no_trial_keeps_at_a_rung_condemns_nobody_there() -> None:
    draw = fixed({BASELINE: 0.3, "good": 0.5, "better": 0.6, "untrained": 0.2})

    def all_ill(name: str, replicate: int, step: int) -> Metrics:
        return {**slow_start("good", replicate, step), "health": 0.1}

    concluded, given, _ = played(study(rungs=[20], condemn=3), [BASELINE, "good", "better"], draw, all_ill)
    assert concluded.short == {}
    assert min(given.values()) >= 4


def test_a_guard_that_the_trainer_does_not_report_at_a_rung_condemns_nobody_there() -> None:
    draw = fixed({BASELINE: 0.3, "ill": 0.5, "untrained": 0.2}, ill=("ill",))
    _, given, taken = played(study(rungs=[20], check=0), [BASELINE, "ill"], draw, slow_start)
    assert taken[1].replicates["ill"] == 2
    assert given["ill"] == 2, "it is condemned at the end"


def test_an_arm_without_prospect_stops_before_its_first_look_and_is_neither_adopted_nor_rejected() -> None:
    draw = fixed({BASELINE: 0.3, "good": 0.5, "poor": 0.25, "untrained": 0.2})
    concluded, given, _ = played(study(futile=3), [BASELINE, "good", "poor"], draw)
    assert given == {BASELINE: 4, "good": 4, "poor": 3}
    poor = concluded.arm("poor")
    assert (poor.verdict, poor.p_adjusted) == ("undecided", None)
    assert poor.effect is not None
    assert (poor.effect.low, poor.effect.high) == (None, None)
    assert poor.reason.startswith("Not tested: score -0.0")
    assert "over 3 pairs, by itself (" in poor.reason
    assert "Stopped after 3 replicates, before its first look at 4: the predicted chance of adoption by 6 is 0 %." in poor.reason
    assert concluded.arm("good").verdict == "adopt"


def test_arms_that_stop_before_their_first_look_still_count_in_the_correction() -> None:
    draw = fixed({BASELINE: 0.3, "good": 0.5, "poor": 0.25, "untrained": 0.2})
    p = {futile: played(study(futile=futile), [BASELINE, "good", "poor"], draw)[0].arm("good").p_adjusted for futile in (None, 3)}
    alone = played(study(), [BASELINE, "good"], draw)[0].arm("good").p_adjusted
    assert p[None] == p[3]
    assert p[3] == pytest.approx(2 * (alone or 0))


def test_an_arm_that_breaks_its_guard_on_the_mean_is_rejected_also_where_it_has_no_prospect() -> None:
    def draw(name: str, replicate: int) -> Metrics:
        return {
            "score": 0.3 - 0.1 * (name == "poor") + NOISE[replicate],
            "health": 0.1 + 0.11 * (replicate == 0) if name == "poor" else 0.5,
        }

    concluded, given, _ = played(study(futile=3, condemn=3), [BASELINE, "poor"], draw)
    assert given["poor"] == 3
    assert concluded.arm("poor").verdict == "reject"
    assert concluded.arm("poor").reason.startswith("Guard broken")


@pytest.mark.slow
@pytest.mark.parametrize("futile", [2, 3])
def test_the_stop_before_the_first_look_spares_trials_and_loses_few_good_arms(futile: int) -> None:
    noise = early.Noise({"good 0": 3.0, "null 0": 3.0})
    before, after = (early.prospects(40, 8.0, noise, count) for count in (None, futile))
    assert after.trials < before.trials - 4
    assert after.power > before.power - 0.1
    assert after.wrong <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / 40)


def test_the_confirmation_is_measured_on_all_of_its_start_replicates() -> None:
    found = study(futile=3, at_rungs="unlikely").confirmation.replicates
    assert found is not None
    assert (found.start, found.at_most, found.futile, found.at_rungs) == (4, 6, None, "worse")


def test_a_fixed_design_runs_whole_whatever_the_prospects() -> None:
    draw = fixed({BASELINE: 0.3, "poor": 0.2, "untrained": 0.2})
    assert played(study(start=4, at_most=4, futile=3), [BASELINE, "poor"], draw)[1] == {BASELINE: 4, "poor": 4}


def shown_at_once(name: str, replicate: int, step: int) -> Metrics:
    """At a rung arms "good" and "better" lie far above the baseline, with little noise; all others lie where it is."""
    lead = {"good": 0.598, "better": 0.4}.get(name, 0.0)
    return {"score": 0.3 + lead + 0.01 * replicate + NOISE[(3 * replicate + len(name)) % 8]}


@pytest.mark.parametrize(
    "counts",
    [{"start": 3, "at_most": 3}, {"start": 3, "at_most": 5}, {"start": 4, "at_most": 4, "condemn": None}, {"start": 4, "condemn": None}],
    ids=str,
)
def test_a_rung_with_as_many_pairs_as_a_look_has_counts_that_look(counts: dict[str, Any]) -> None:
    draw = fixed({BASELINE: 0.3, "good": 0.9, "flat": 0.3, "untrained": 0.2})
    found = study(rungs=[20], at_rungs="unlikely", check=0, **counts)
    concluded, given, _ = played(found, [BASELINE, "good", "flat"], draw, shown_at_once)
    assert concluded.short == {"flat": 20}
    assert given["good"] >= counts["start"]
    assert concluded.arm("good").verdict == "adopt"


def test_a_fixed_design_runs_whole_past_a_rung_that_shows_no_arm_to_be_worse() -> None:
    draw = fixed({BASELINE: 0.3, "good": 0.9, "poor": 0.2, "untrained": 0.2})
    found = study(rungs=[20], start=4, at_most=4, futile=3)
    assert played(found, [BASELINE, "good", "poor"], draw, shown_at_once)[1] == {BASELINE: 4, "good": 4, "poor": 4}


def test_a_guard_that_held_when_a_rung_was_checked_frees_for_good_whatever_comes_after() -> None:
    base = fixed({BASELINE: 0.3, "ill": 0.5, "ill too": 0.5, "untrained": 0.2})

    def draw(name: str, replicate: int) -> Metrics | None:
        return {**(base(name, replicate) or {}), "health": -9.0 if (name, replicate) == (CHECKED, 3) else 0.5}

    concluded, given, _ = played(study(rungs=[20], condemn=3), [BASELINE, "ill", "ill too"], draw, ill_at_rung)
    other = concluded.arm(UNCHECKED)
    assert [(check.arm, check.confirmed) for check in concluded.checks] == [(CHECKED, False)]
    assert (other.verdict, given[UNCHECKED]) == ("adopt", 4)
    assert concluded.short == {}


def test_a_gain_that_was_there_when_a_rung_was_checked_frees_for_good_whatever_comes_after() -> None:
    base = fixed({BASELINE: 0.3, "ill": 0.5, "ill too": 0.5, "untrained": 0.2})

    def draw(name: str, replicate: int) -> Metrics | None:
        return {"score": -9.0, "health": 0.5} if (name, replicate) == (CHECKED, 3) else base(name, replicate)

    def behind(name: str, replicate: int, step: int) -> Metrics:
        return slow_start("worse" if name.startswith("ill") else name, replicate, step)

    concluded, given, _ = played(study(rungs=[20], condemn=3), [BASELINE, "ill", "ill too"], draw, behind)
    assert [(check.arm, check.confirmed) for check in concluded.checks] == [(CHECKED, False)]
    assert (concluded.arm(UNCHECKED).verdict, given[UNCHECKED]) == ("adopt", 4)
    assert concluded.short == {}


def test_a_guard_that_held_when_condemnation_was_checked_frees_for_good_whatever_comes_after() -> None:
    base = fixed({BASELINE: 0.3, "ill": 0.34, "ill too": 0.34, "untrained": 0.2}, spread={"ill": 7.0, "ill too": 7.0})

    def draw(name: str, replicate: int) -> Metrics | None:
        health = 0.5 if name in (BASELINE, "untrained") else [0.1, 0.1, 0.9, 0.9, 0.9, 0.9][replicate]
        return {**(base(name, replicate) or {}), "health": -9.0 if (name, replicate) == (CHECKED, 4) else health}

    concluded, given, _ = played(study(), [BASELINE, "ill", "ill too"], draw)
    assert [(check.arm, check.confirmed) for check in concluded.checks] == [(CHECKED, False)]
    assert given == {BASELINE: 5, CHECKED: 5, UNCHECKED: 4}
    assert concluded.arm(UNCHECKED).verdict == "adopt"


def test_a_check_of_which_nothing_was_measured_bears_nothing_out() -> None:
    base = fixed({BASELINE: 0.3, "ill": 0.5, "ill too": 0.5, "untrained": 0.2})
    found = study(rungs=[20], condemn=3)
    concluded, _, _ = played(found, [BASELINE, "ill", "ill too"], lambda n, r: None if n == CHECKED else base(n, r), ill_at_rung)
    assert concluded.checks == []
    assert concluded.short == {UNCHECKED: 20}


def test_a_checked_arm_is_not_condemned_before_its_check_has_come_to_its_end() -> None:
    """It is behind at the rung, best at the end, and breaks a guard there."""
    base = fixed({BASELINE: 0.3, "ill": 0.6, "ill too": 0.6, "untrained": 0.2}, ill=(CHECKED,))

    def behind(name: str, replicate: int, step: int) -> Metrics:
        return slow_start("worse" if name.startswith("ill") else name, replicate, step)

    for condemn in (1, 2):
        concluded, given, _ = played(study(rungs=[20], condemn=condemn), [BASELINE, "ill", "ill too"], base, behind)
        assert [(check.arm, check.confirmed) for check in concluded.checks] == [(CHECKED, False)]
        assert given[CHECKED] == 3
        assert ("in the first of them." if condemn == 1 else "in each of the first 2.") in concluded.arm(CHECKED).reason
        assert [concluded.arm(name).verdict for name in (CHECKED, UNCHECKED)] == ["reject", "adopt"]


@pytest.mark.parametrize("first", [0, 500])
def test_the_prospect_of_an_arm_stays_when_a_baseline_with_a_failed_replicate_gets_more(first: int) -> None:
    """After three replicates, of which the baseline lost one, two pairs of each arm tell, whatever the others get later."""
    scores = {BASELINE: [0.3] * 5, "open": [0.3, 0.31, 0.36, 9.0, 0.3], "fair": [0.3, 0.32, 0.34]}
    found = study(futile=3, first=first)

    def bleak(counts: Mapping[str, int]) -> Collection[str]:
        evidence = {
            name: {first + r: {"score": value, "health": 0.5} for r, value in enumerate(scores[name][:count]) if (name, r) != (BASELINE, 0)}
            for name, count in counts.items()
        }
        return allocate(found, found.phases[0], list(scores), counts, evidence, {}).stops.bleak

    assert bleak({BASELINE: 3, "open": 3, "fair": 3}) == bleak({BASELINE: 5, "open": 5, "fair": 3}) == ()


def test_one_effect_is_not_stopped_at_a_rung_in_the_confirmation_nor_where_a_tuned_point_competes() -> None:
    found = study(rungs=[20], check=0)
    tuning = Phase(name="thresholds", design=Tune(tune=4), factors={"x": Range(low=0.0, high=1.0)})
    for phase in (found.confirmation, tuning):
        assert allocate(found, phase, [BASELINE, "winner"], {}, {}, {}).until is None, phase.name
    assert allocate(found, found.phases[0], [BASELINE, "winner"], {}, {}, {}).until == 20


def test_a_check_that_was_over_before_other_arms_were_condemned_still_frees_all() -> None:
    """Of the two, "arm 2" runs on in place of "arm 7" to check condemnation."""
    found, names = study(), [BASELINE, "arm 2", "arm 7", "arm 8"]
    shown = {BASELINE: [0.5] * 4, "arm 2": [0.1, 0.1], "arm 7": [0.1, 0.1, 0.9, 0.9], "arm 8": [0.1, 0.1]}
    evidence = {name: {r: {"score": 0.3, "health": health} for r, health in enumerate(shown[name])} for name in names}

    def condemned(among: list[str]) -> Collection[str]:
        counts = {name: len(shown[name]) for name in among}
        return allocate(found, found.phases[0], among, counts, {name: evidence[name] for name in among}, {}).stops.condemned

    assert condemned([BASELINE, "arm 7", "arm 8"]) == []
    assert condemned(names) == []
    assert condemned([BASELINE, "arm 2", "arm 8"]) == ["arm 8"]
