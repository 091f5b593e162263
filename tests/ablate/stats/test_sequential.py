"""The sequential rule: exact boundaries, error rates under all looks, and decisions that agree with their intervals."""

from __future__ import annotations

import functools
import itertools
import math

import numpy as np
import pytest
from jaxtyping import Float
from scipy.special import stdtr

from ablate.stats import looks as rule
from ablate.stats.effects import Paired, paired
from ablate.stats.intervals import Simultaneous, simultaneous
from ablate.stats.looks import Looks
from ablate.stats.power import detectable, noise_floor, power_at, replicates_needed
from ablate.stats.sequential import repeated
from ablate.stats.stopping import chance_of_adoption, early_chance, judge

ALPHA = 0.05
STUDIES = 4_000
ALLOWED = ALPHA + 2 * math.sqrt(ALPHA * (1 - ALPHA) / STUDIES)
LOOKS = Looks(3, 8)


def looked_at(values: Float[np.ndarray, "studies arms pairs"], looks: Looks) -> tuple[np.ndarray, np.ndarray]:
    seen = [values[..., : int(n)] for n in looks.pairs]
    error = np.stack([s.std(axis=-1, ddof=1) / np.sqrt(s.shape[-1]) for s in seen], axis=-1)
    return np.stack([s.mean(axis=-1) for s in seen], axis=-1), error


@functools.cache
def nulls(kind: str, looks: Looks) -> Simultaneous:
    noise = np.random.default_rng(11)

    def draw(*shape: int) -> np.ndarray:
        return {"normal": noise.standard_normal, "exponential": lambda s: noise.exponential(1, s), "uniform": noise.random}[kind](shape)

    values = draw(STUDIES, 8, looks.at_most) - draw(STUDIES, 1, looks.at_most)
    return repeated(*looked_at(values, looks), looks, ALPHA)


@pytest.mark.parametrize("kind", ["normal", "exponential", "uniform"])
@pytest.mark.parametrize("looks", [LOOKS, Looks(4, 6)], ids=["3 to 8", "4 to 6"])
def test_eight_null_arms_at_all_looks_keep_the_error_rate_and_the_coverage(kind: str, looks: Looks) -> None:
    found = nulls(kind, looks)
    assert (found.p_adjusted < ALPHA).any(axis=-1).mean() <= ALLOWED
    assert ((found.low > 0) | (found.high < 0)).any(axis=-1).mean() <= ALLOWED


def test_looking_after_every_replicate_without_correction_would_fail_that_check() -> None:
    values = np.random.default_rng(12).standard_normal((STUDIES, 1, 8))
    mean, error = looked_at(values, LOOKS)
    wrong = stdtr(LOOKS.pairs - 1, -np.abs(mean) / error).min(axis=-1) < ALPHA / 2
    assert wrong.mean() > ALLOWED + 0.04


def test_the_level_of_the_looks_is_that_of_a_plain_simulation() -> None:
    values = np.random.default_rng(13).standard_normal((200_000, 1, 8))
    mean, error = looked_at(values, LOOKS)
    smallest = (stdtr(LOOKS.pairs - 1, -mean / error) / LOOKS.weights).min(axis=-1)
    for scale in (0.3, 0.1, 0.02, 0.004):
        exact = float(LOOKS.level(scale))
        assert (smallest <= scale).mean() == pytest.approx(exact, abs=4 * math.sqrt(exact / 200_000))


@pytest.mark.parametrize("looks", [LOOKS, Looks(4, 6), Looks(3, 20)], ids=["3 to 8", "4 to 6", "3 to 20"])
def test_the_table_of_levels_is_that_of_a_much_finer_integral(looks: Looks, monkeypatch: pytest.MonkeyPatch) -> None:
    scales = np.geomspace(1.7e-8, 0.4, 9)
    found = looks.level(scales)
    monkeypatch.setattr(rule, "_RADII", 1601)
    monkeypatch.setattr(rule, "_NODES", 64)
    exact = np.array([rule._any_crossing(looks.start, tuple(scale * looks.weights)) for scale in scales])
    assert np.abs(found / exact - 1).max() < 0.03
    assert np.abs(found / exact - 1)[scales > 1e-3].max() < 0.006


def test_a_single_look_is_the_plain_t_test() -> None:
    looks = Looks(5, 5)
    assert float(looks.level(0.0123)) == pytest.approx(0.0123, rel=1e-6)
    noise = np.random.default_rng(3)
    mean, error = noise.normal(1, 1, (50, 4)), noise.uniform(0.1, 1, (50, 4))
    plain = simultaneous(mean, error, np.full(mean.shape, 4.0), ALPHA)
    found = repeated(mean[..., None], error[..., None], looks, ALPHA)
    for name in ("p_adjusted", "low", "high"):
        np.testing.assert_allclose(getattr(found, name), getattr(plain, name), rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("level", [1e-5, 0.001, 0.025, 0.2])
def test_boundaries_invert_the_level_and_the_spent_error_ends_at_it(level: float) -> None:
    assert float(LOOKS.level(LOOKS.nominal(level)[-1])) == pytest.approx(level, rel=1e-3)
    spent = LOOKS.spent(level)
    assert np.all(np.diff(spent) > 0)
    assert spent[-1] == pytest.approx(level, rel=2e-2)


def test_a_stricter_level_never_rejects_more() -> None:
    levels = np.geomspace(1e-7, 0.4, 60)
    assert np.all(np.diff(LOOKS.critical(levels), axis=0) < 0)


def test_intervals_hold_at_once_with_good_null_and_bad_arms() -> None:
    truth = np.array([0.0, 0.0, 0.0, 3.0, 8.0, -2.0])[:, None]
    noise = np.random.default_rng(5)
    values = truth + noise.standard_normal((STUDIES, 6, 8)) - noise.standard_normal((STUDIES, 1, 8))
    found = repeated(*looked_at(values, LOOKS), LOOKS, ALPHA)
    assert ((found.low > truth[:, 0]) | (found.high < truth[:, 0])).any(axis=-1).mean() <= ALLOWED
    assert np.array_equal(found.p_adjusted < ALPHA, found.low > 0)


def pairs(values: list[float]) -> Paired:
    return paired(dict(enumerate(values)), dict.fromkeys(range(len(values)), 0.0))


GREAT = [1.00, 1.02, 0.98, 1.01, 0.99, 1.0, 1.01, 0.99]
NOTHING = [0.03, -0.02, 0.01, -0.01, 0.02, -0.03, 0.0, 0.01]
NOISY = [0.9, -0.7, 0.4, 0.2, -0.3, 0.8, -0.1, 0.5]


def test_each_arm_gets_its_decision() -> None:
    found = judge({"great": pairs(GREAT[:5]), "nothing": pairs(NOTHING[:7]), "noisy": pairs([0.9, 0.1, 0.8])}, LOOKS, ALPHA, 0.2)
    assert {name: one.decision for name, one in found.items()} == {"great": "adopt", "nothing": "reject", "noisy": "go on"}
    assert found["great"].cost is None
    noisy = found["noisy"]
    assert noisy.cost is not None
    assert noisy.cost.least is not None
    assert noisy.cost.pairs is not None
    assert noisy.cost.least < noisy.cost.pairs


def test_an_arm_that_hardly_can_be_adopted_any_more_is_futile() -> None:
    found = judge({"a": pairs([0.1, -0.3, 0.05, -0.2, 0.1, -0.15])}, LOOKS, ALPHA, 0.2)["a"]
    assert found.decision in ("futile", "reject")
    assert chance_of_adoption(np.array(GREAT[:4]), LOOKS, LOOKS.critical(0.025), 0.2) > 0.95


def test_after_the_last_look_an_arm_is_open_and_says_what_it_would_cost() -> None:
    found = judge({"a": pairs(NOISY)}, LOOKS, ALPHA, 0.1)["a"]
    assert found.decision == "open"
    assert found.chance is None
    assert found.cost is not None


def test_a_verdict_once_given_stays_whatever_comes_after() -> None:
    first = judge({"a": pairs(GREAT[:5])}, LOOKS, ALPHA, 0.2)["a"]
    later = judge({"a": pairs([*GREAT[:5], 0.1, 1.9, 0.9])}, LOOKS, ALPHA, 0.2)["a"]
    assert first.decision == later.decision == "adopt"


def test_bad_input_is_said() -> None:
    found = judge(
        {
            "constant": pairs([0.5] * 8),
            "one": pairs([0.5]),
            "none": paired({0: math.nan, 1: math.inf}, {0: 1.0, 1: 1.0}),
            "too many": pairs([*GREAT, 5.0]),
        },
        LOOKS,
        ALPHA,
        0.2,
    )
    assert [(one.decision, one.pairs, one.p_adjusted is None) for one in found.values()] == [
        ("open", 8, True),
        ("go on", 1, True),
        ("go on", 0, True),
        ("adopt", 8, False),
    ]
    assert found["too many"].unused == 1
    with pytest.raises(ValueError, match="says nothing"):
        Looks(2, 4)
    with pytest.raises(ValueError, match="at_most 3"):
        Looks(4, 3)


def test_the_replicates_needed_reach_the_power_and_one_fewer_does_not() -> None:
    needed = replicates_needed(0.02, 0.015, ALPHA, arms=3)
    assert needed is not None
    level = ALPHA / 6
    assert power_at(needed, 0.02 / 0.015, level) >= 0.8 > power_at(needed - 1, 0.02 / 0.015, level)
    assert replicates_needed(1e-6, 1.0, ALPHA) is None


def test_power_has_a_value_everywhere_and_rises_with_the_pairs() -> None:
    for effect in (0.1, 1.0, 5.0, 10.0, 16.56, 100.0):
        found = [power_at(pairs, effect, 0.05 / 16) for pairs in range(3, 120)]
        assert all(0 <= one <= 1 for one in found)
        assert all(later >= earlier - 1e-6 for earlier, later in itertools.pairwise(found))
    assert replicates_needed(0.02, 0.0012076, ALPHA, arms=8) == 3


def test_power_is_that_of_a_simulation() -> None:
    values = np.random.default_rng(8).normal(1.0, 1.0, (20_000, 6))
    t = values.mean(axis=1) / values.std(axis=1, ddof=1) * math.sqrt(6)
    assert power_at(6, 1.0, 0.01) == pytest.approx((stdtr(5, -t) < 0.01).mean(), abs=0.015)


def test_the_detectable_effect_is_detected_with_the_stated_power() -> None:
    effect = detectable(LOOKS, 0.5, ALPHA, arms=8)
    values = np.random.default_rng(9).normal(effect, 0.5, (5_000, 1, 8))
    mean, error = looked_at(values, LOOKS)
    shown = (mean / error >= LOOKS.critical(ALPHA / 16)).any(axis=-1)
    assert shown.mean() == pytest.approx(0.8, abs=0.025)


def test_the_noise_floor_is_the_spread_of_a_difference() -> None:
    noise = np.random.default_rng(4)
    floors = [noise_floor(noise.normal(3, 0.2, 6)) for _ in range(2_000)]
    inside = np.mean([f is not None and f.low <= 0.2 * math.sqrt(2) <= f.high for f in floors])
    assert inside == pytest.approx(0.8, abs=0.03)
    assert noise_floor([1.0, math.nan]) is None
    assert noise_floor([1.0, 1.0, 1.0]) is None


def test_a_look_at_as_many_pairs_as_there_are_counts_where_none_was_taken_yet() -> None:
    shown, flat = pairs(GREAT[:4]), pairs([0.1, -0.3, 0.05, -0.2])
    once = Looks(4, 4)
    assert early_chance({"a": shown, "b": flat}, "a", once, 0.025, 0.2) == 1.0
    assert early_chance({"a": shown, "b": flat}, "b", once, 0.025, 0.2) == 0.0
    assert chance_of_adoption(np.array(GREAT[:4]), once, once.critical(0.025), 0.2) == 0.0, "the only look is over"
    several, unsteady = Looks(4, 6), [0.9, 0.55, 0.7, 0.4]
    first = early_chance({"a": pairs(unsteady)}, "a", several, 0.025, 0.2)
    later = chance_of_adoption(np.array(unsteady), several, several.critical(0.025), 0.2)
    assert (first, later < 1.0) == (1.0, True), "the look at 4 would adopt at once"
