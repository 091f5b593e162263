"""Holm and the simultaneous intervals, against naive loops, statsmodels, and each other."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.multitest import multipletests

from ablate.stats.intervals import ABOVE_ZERO, holm, simultaneous

ALPHA = 0.05

p_values = st.lists(st.floats(1e-6, 1.0), min_size=1, max_size=9)
arm_estimates = st.lists(st.tuples(st.floats(-20, 40), st.integers(2, 7)), min_size=1, max_size=8)


def naive_holm(p: Sequence[float]) -> list[float]:
    """Smallest first: each times the number still in the race, never below the one before."""
    adjusted = [0.0] * len(p)
    before, remaining = 0.0, len(p)
    for index in sorted(range(len(p)), key=lambda i: p[i]):
        before = max(before, min(1.0, p[index] * remaining))
        adjusted[index] = before
        remaining -= 1
    return adjusted


def check_holm(adjust: Callable[[np.ndarray], np.ndarray]) -> None:
    for p in ([0.01, 0.04, 0.03, 0.005], [0.012, 0.01, 0.011], [0.5, 0.9], [0.2]):
        assert adjust(np.array(p)).tolist() == pytest.approx(naive_holm(p))
        assert adjust(np.array(p)).tolist() == pytest.approx(multipletests(p, method="holm")[1].tolist())


def test_holm_equals_the_naive_loop_and_statsmodels() -> None:
    check_holm(holm)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda p: np.minimum(p * len(p), 1.0),
        lambda p: np.minimum(p * (len(p) - np.argsort(np.argsort(p))), 1.0),
        lambda p: np.minimum(p * (np.argsort(np.argsort(p)) + 1), 1.0),
        lambda p: p,
    ],
    ids=["bonferroni", "not monotone", "wrong order", "uncorrected"],
)
def test_a_planted_error_in_holm_is_found(wrong: Callable[[np.ndarray], np.ndarray]) -> None:
    with pytest.raises(AssertionError):
        check_holm(wrong)


@given(p_values)
def test_holm_never_lowers_a_p_and_keeps_their_order(p: list[float]) -> None:
    adjusted = holm(np.array(p))
    assert adjusted.tolist() == pytest.approx(naive_holm(p))
    assert all(adjusted >= np.array(p))
    assert all(np.diff(adjusted[np.argsort(p)]) >= 0)


@given(p_values)
def test_holm_takes_many_studies_at_once(p: list[float]) -> None:
    both = holm(np.array([p, p[::-1]]))
    assert both[0].tolist() == holm(np.array(p)).tolist()
    assert both[1].tolist() == holm(np.array(p[::-1])).tolist()


def naive_bounds(mean: Sequence[float], error: Sequence[float], freedom: Sequence[float]) -> list[tuple[float, float, float]]:
    """(adjusted p, low, high) for each arm, one arm and one case at a time."""
    m = len(mean)
    raw = [float(stats.t(df=freedom[i]).sf(mean[i] / error[i])) for i in range(m)]
    adjusted = [min(1.0, 2 * p) for p in naive_holm(raw)]
    retained = 0
    for p in adjusted:
        if p >= ALPHA:
            retained += 1
    spent = ALPHA / (5 * m)
    upper = (ALPHA / 2 - (m - 1) * spent) / m
    found = []
    for i in range(m):
        if adjusted[i] >= ALPHA:
            level = ALPHA / (2 * retained)
        elif retained == 0:
            level = ALPHA / (2 * m)
        else:
            level = spent
        low = mean[i] - float(stats.t(df=freedom[i]).isf(level)) * error[i]
        low = min(0.0, low) if adjusted[i] >= ALPHA else max(ABOVE_ZERO, low)
        found.append((adjusted[i], low, mean[i] + float(stats.t(df=freedom[i]).isf(upper)) * error[i]))
    return found


EXAMPLES = [
    ([5.0, 9.0, 0.2, -3.0], [1.0, 0.4, 1.0, 1.5], [3.0, 3.0, 3.0, 3.0]),
    ([30.0, 40.0], [1.0, 1.0], [3.0, 4.0]),
    ([3.0], [0.5], [5.0]),
    ([0.1, 0.2, -0.5], [1.0, 1.0, 1.0], [7.0, 7.0, 7.0]),
]


def check_bounds(bounds: Callable[..., object]) -> None:
    for mean, error, freedom in EXAMPLES:
        found = bounds(np.array(mean), np.array(error), np.array(freedom), ALPHA)
        naive = naive_bounds(mean, error, freedom)
        for i, (p, low, high) in enumerate(naive):
            assert (found.p_adjusted[i], found.low[i], found.high[i]) == pytest.approx((p, low, high), rel=1e-6)  # type: ignore[attr-defined]


def test_the_bounds_equal_the_naive_loop() -> None:
    check_bounds(simultaneous)


@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_bounds_at_another_level_are_found(factor: float) -> None:
    with pytest.raises(AssertionError):
        check_bounds(lambda mean, error, freedom, alpha: simultaneous(mean, error, freedom, alpha * factor))


def test_one_arm_alone_has_the_plain_two_sided_interval() -> None:
    found = simultaneous(np.array([2.0]), np.array([0.5]), np.array([3.0]), ALPHA)
    low, high = stats.t(df=3, loc=2.0, scale=0.5).interval(0.95)
    assert (found.low[0], found.high[0]) == pytest.approx((low, high))
    assert found.p_adjusted[0] == pytest.approx(2 * stats.t(df=3).sf(4.0))


@given(arm_estimates)
def test_p_and_interval_never_contradict_each_other(arms: list[tuple[float, int]]) -> None:
    mean, freedom = np.array([a[0] for a in arms]), np.array([float(a[1]) for a in arms])
    found = simultaneous(mean, np.ones(len(arms)), freedom, ALPHA)
    assert ((found.p_adjusted < ALPHA) == (found.low > 0)).all()
    assert (found.low <= found.high).all()
    assert (found.low <= np.maximum(mean, 0)).all()
    assert (mean <= found.high).all()


@given(arm_estimates, st.randoms())
def test_the_order_of_arms_changes_nothing(arms: list[tuple[float, int]], dice: object) -> None:
    order = list(range(len(arms)))
    dice.shuffle(order)  # type: ignore[attr-defined]
    mean, freedom = np.array([a[0] for a in arms]), np.array([float(a[1]) for a in arms])
    one = simultaneous(mean, np.ones(len(arms)), freedom, ALPHA)
    two = simultaneous(mean[order], np.ones(len(arms)), freedom[order], ALPHA)
    assert two.p_adjusted.tolist() == pytest.approx(one.p_adjusted[order].tolist())
    assert two.low.tolist() == pytest.approx(one.low[order].tolist())
    assert two.high.tolist() == pytest.approx(one.high[order].tolist())


@settings(max_examples=50)
@given(arm_estimates, st.floats(0.01, 5))
def test_a_better_mean_never_has_a_larger_p(arms: list[tuple[float, int]], more: float) -> None:
    mean, freedom = np.array([a[0] for a in arms]), np.array([float(a[1]) for a in arms])
    before = simultaneous(mean, np.ones(len(arms)), freedom, ALPHA).p_adjusted[0]
    mean[0] += more
    assert simultaneous(mean, np.ones(len(arms)), freedom, ALPHA).p_adjusted[0] <= before + 1e-12
