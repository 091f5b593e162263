"""Steadiness of a loss equals loops over its smoothed curve."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.measure.stability import loss_largest_rise, loss_stability

Curve = Callable[[Sequence[float]], float]


def loop_smoothed(losses: Sequence[float]) -> list[float]:
    window = max(1, len(losses) // 10)
    return [math.fsum(losses[i : i + window]) / window for i in range(len(losses) - window + 1)]


def loop_stability(losses: Sequence[float]) -> float:
    curve = loop_smoothed(losses)
    down = up = 0.0
    for before, after in itertools.pairwise(curve):
        if after < before:
            down += before - after
        else:
            up += after - before
    return down / (down + up)


def loop_rise(losses: Sequence[float]) -> float:
    curve = loop_smoothed(losses)
    return max(later - earlier for i, earlier in enumerate(curve) for later in curve[i:])


def losses_of(seed: int) -> list[float]:
    rng = np.random.default_rng(seed)
    n = int(rng.integers(2, 80))
    return (4 + np.cumsum(rng.normal(-0.02, 0.1, n))).tolist()


def check(measure: Curve, reference: Curve) -> None:
    for seed in range(20):
        losses = losses_of(seed)
        assert measure(losses) == pytest.approx(reference(losses), abs=1e-7)


def test_both_measures_equal_loops() -> None:
    check(loss_stability, loop_stability)
    check(loss_largest_rise, loop_rise)


def counts_steps(losses: Sequence[float]) -> float:
    change = np.diff(loop_smoothed(losses))
    return float((change < 0).mean())


def not_smoothed(losses: Sequence[float]) -> float:
    change = np.diff(losses)
    return float(-change[change < 0].sum() / np.abs(change).sum())


def net_descent(losses: Sequence[float]) -> float:
    curve = loop_smoothed(losses)
    return (curve[0] - curve[-1]) / sum(abs(a - b) for a, b in itertools.pairwise(curve))


@pytest.mark.parametrize("wrong", [counts_steps, not_smoothed, net_descent, lambda x: 1 - loss_stability(x)])
def test_planted_errors_in_stability_are_found(wrong: Curve) -> None:
    with pytest.raises(AssertionError):
        check(wrong, loop_stability)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda x: max(loop_smoothed(x)) - min(loop_smoothed(x)),  # range, whichever comes first
        lambda x: max(b - a for a, b in itertools.pairwise(x)),  # one step's rise
        lambda x: loop_smoothed(x)[-1] - min(loop_smoothed(x)),  # the end's rise
    ],
)
def test_planted_errors_in_the_largest_rise_are_found(wrong: Curve) -> None:
    with pytest.raises(AssertionError):
        check(wrong, loop_rise)


def test_a_falling_loss_scores_one_and_a_rising_one_zero() -> None:
    assert loss_stability(np.linspace(5, 1, 50).tolist()) == 1
    assert loss_stability(np.linspace(1, 5, 50).tolist()) == 0
    assert loss_largest_rise(np.linspace(5, 1, 50).tolist()) == 0


@pytest.mark.parametrize("jitter", [0.0, 1e-12])
def test_a_flat_loss_never_rises_and_scores_one(jitter: float) -> None:
    flat = [math.log(64) + jitter * (-1) ** i for i in range(60)]
    assert loss_stability(flat) == 1
    assert loss_largest_rise(flat) == 0


@settings(max_examples=50)
@given(st.lists(st.floats(0, 20), min_size=2, max_size=60))
def test_ranges_hold_for_any_losses(losses: list[float]) -> None:
    assert 0 <= loss_stability(losses) <= 1
    assert 0 <= loss_largest_rise(losses) <= 20


@pytest.mark.parametrize("losses", [[], [1.0], [1.0, math.nan], [1.0, math.inf, 2.0]])
def test_too_few_or_broken_losses_are_refused(losses: list[float]) -> None:
    for measure in (loss_stability, loss_largest_rise):
        with pytest.raises(ValueError, match="at least two finite"):
            measure(losses)
