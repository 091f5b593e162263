"""Paired differences, against plain loops and scipy."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from ablate.stats.effects import Paired, mean, paired

ARM = {0: 0.31, 1: 0.35, 2: 0.29, 3: 0.36, 5: 0.5}
OTHER = {0: 0.30, 1: 0.31, 2: 0.28, 3: 0.30, 4: 0.1}

values = st.floats(-10, 10).map(lambda v: round(v, 3))
series = st.dictionaries(st.integers(0, 7), values, max_size=8)


def naive_t(differences: list[float]) -> float:
    """Mean over its standard error, written out."""
    total = 0.0
    for d in differences:
        total += d
    average = total / len(differences)
    squares = 0.0
    for d in differences:
        squares += (d - average) * (d - average)
    return average / math.sqrt(squares / (len(differences) - 1) / len(differences))


def check_p(p_greater: Callable[[Paired], float | None]) -> None:
    pairs = paired(ARM, OTHER)
    differences = [ARM[r] - OTHER[r] for r in (0, 1, 2, 3)]
    assert p_greater(pairs) == pytest.approx(stats.t(df=3).sf(naive_t(differences)), rel=1e-9)


def test_the_p_is_that_of_a_paired_t_test() -> None:
    check_p(Paired.p_greater)
    scipys = stats.ttest_rel([ARM[r] for r in range(4)], [OTHER[r] for r in range(4)], alternative="greater").pvalue
    assert paired(ARM, OTHER).p_greater() == pytest.approx(scipys, rel=1e-9)


def wrong_unpaired(pairs: Paired) -> float:
    return float(stats.ttest_ind([ARM[r] for r in range(4)], [OTHER[r] for r in range(4)], alternative="greater").pvalue)


def wrong_tail(pairs: Paired) -> float:
    return 1 - (pairs.p_greater() or 0.0)


def wrong_freedom(pairs: Paired) -> float:
    assert pairs.mean is not None
    return float(stats.t(df=pairs.pairs).sf(pairs.mean / pairs.standard_error))


def wrong_population_deviation(pairs: Paired) -> float:
    assert pairs.mean is not None
    return float(stats.t(df=pairs.pairs - 1).sf(pairs.mean / (pairs.deviation * math.sqrt(3 / 4) / 2)))


@pytest.mark.parametrize("wrong", [wrong_unpaired, wrong_tail, wrong_freedom, wrong_population_deviation])
def test_a_planted_error_in_the_p_is_found(wrong: Callable[[Paired], float]) -> None:
    with pytest.raises(AssertionError):
        check_p(wrong)


def test_the_interval_is_that_of_a_paired_t_test() -> None:
    confidence = stats.ttest_rel([ARM[r] for r in range(4)], [OTHER[r] for r in range(4)]).confidence_interval(0.95)
    assert paired(ARM, OTHER).interval(0.95) == pytest.approx((confidence.low, confidence.high), rel=1e-9)


def test_replicates_that_only_one_arm_has_are_named() -> None:
    assert paired(ARM, OTHER).dropped == (4, 5)


@pytest.mark.parametrize("missing", [math.nan, math.inf, -math.inf])
def test_values_that_are_not_finite_drop_their_pair_and_are_named(missing: float) -> None:
    pairs = paired({**ARM, 2: missing}, OTHER)
    assert set(pairs.differences) == {0, 1, 3}
    assert pairs.dropped == (2, 4, 5)


def test_constant_differences_have_no_p_and_no_interval() -> None:
    pairs = paired({r: OTHER[r] + 0.1 for r in OTHER}, OTHER)
    assert pairs.constant
    assert pairs.p_greater() is None
    assert pairs.interval(0.95) is None


def test_two_pairs_have_no_p() -> None:
    pairs = paired({0: 1.0, 1: 2.5}, {0: 0.0, 1: 0.0})
    assert not pairs.testable
    assert pairs.p_greater() is None
    assert pairs.p_different() is None


def test_without_a_common_replicate_there_is_no_mean() -> None:
    assert paired({0: 1.0}, {1: 1.0}).mean is None


def test_the_mean_leaves_out_what_is_not_finite() -> None:
    assert mean([1.0, math.nan, 3.0, math.inf]) == 2.0
    assert mean([math.nan]) is None


@given(series, series)
def test_swapping_arms_mirrors_everything(arm: Mapping[int, float], other: Mapping[int, float]) -> None:
    forward, backward = paired(arm, other), paired(other, arm, sign=-1)
    assert forward.differences == backward.differences
    assert forward.dropped == backward.dropped
    mirrored = paired(other, arm)
    p, q = forward.p_greater(), mirrored.p_greater()
    assert (p is None) == (q is None)
    if p is not None and q is not None:
        assert p + q == pytest.approx(1)
        assert forward.p_different() == pytest.approx(mirrored.p_different())


@given(series, series, st.randoms())
def test_the_order_of_replicates_changes_nothing(arm: dict[int, float], other: dict[int, float], dice: object) -> None:
    shuffled = list(arm.items())
    dice.shuffle(shuffled)  # type: ignore[attr-defined]
    one, two = paired(arm, other), paired(dict(shuffled), other)
    assert one == two
    assert one.p_greater() == two.p_greater()
