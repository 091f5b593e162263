"""Local-to-global retrieval: expected reciprocal rank under ties, so that a constant network scores chance."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest

from trainer.measure.retrieval import fresh_views, reciprocal_ranks

Ranks = Callable[[np.ndarray, np.ndarray], np.ndarray]
CHANCE_OF_32 = sum(1 / r for r in range(1, 33)) / 32


def loop_ranks(locals_: np.ndarray, parents: np.ndarray) -> list[float]:
    """The mean over every order of the parents in which a stable sort may find the tied ones."""
    n = len(parents)
    found = []
    for i in range(n):
        cosine = []
        for j in range(n):
            dot = sum(a * b for a, b in zip(locals_[i].tolist(), parents[j].tolist(), strict=True))
            cosine.append(round(dot / (math.hypot(*locals_[i].tolist()) * math.hypot(*parents[j].tolist())), 5))
        values = []
        for order in itertools.permutations(range(n)):
            ranked = sorted(order, key=lambda j: -cosine[j])
            values.append(1 / (ranked.index(i) + 1))
        found.append(sum(values) / len(values))
    return found


def check(ranks: Ranks) -> None:
    rng = np.random.default_rng(3)
    for tied in (1, 2, 4):
        parents = rng.normal(size=(5, 3)).astype(np.float32)
        parents[:tied] = parents[0]
        locals_ = (parents + rng.normal(size=(5, 3)) * 0.7).astype(np.float32)
        assert ranks(locals_, parents) == pytest.approx(loop_ranks(locals_, parents), abs=1e-9)


def test_reciprocal_ranks_equal_the_mean_over_all_orders_of_ties() -> None:
    check(reciprocal_ranks)


def optimistic(locals_: np.ndarray, parents: np.ndarray) -> np.ndarray:
    s = (locals_ @ parents.T) / np.linalg.norm(parents, axis=1)
    return 1 / (1 + (s > np.diagonal(s)[:, None] + 1e-5).sum(axis=1))


def first_found(locals_: np.ndarray, parents: np.ndarray) -> np.ndarray:
    s = (locals_ @ parents.T) / np.linalg.norm(parents, axis=1)
    order = np.argsort(-s.round(5), axis=1, kind="stable")
    return 1 / (1 + (order == np.arange(len(s))[:, None]).argmax(axis=1))


def without_norm(locals_: np.ndarray, parents: np.ndarray) -> np.ndarray:
    s = locals_ @ (parents * np.array([[1.0], [1.0], [1.0], [1.0], [9.0]], np.float32)).T
    return 1 / (1 + (s > np.diagonal(s)[:, None]).sum(axis=1))


def transposed(locals_: np.ndarray, parents: np.ndarray) -> np.ndarray:
    return reciprocal_ranks(parents, locals_)


@pytest.mark.parametrize("wrong", [optimistic, first_found, without_norm, transposed])
def test_planted_errors_in_the_ranks_are_found(wrong: Ranks) -> None:
    with pytest.raises(AssertionError):
        check(wrong)


def test_a_constant_network_scores_chance_and_never_one() -> None:
    constant = np.ones((32, 8), np.float32)
    assert reciprocal_ranks(constant, constant) == pytest.approx(np.full(32, CHANCE_OF_32))
    assert pytest.approx(0.127, abs=5e-4) == CHANCE_OF_32


def test_rounding_differences_between_two_batches_are_ties() -> None:
    rng = np.random.default_rng(0)
    nearly = (1 + rng.normal(size=(32, 8)) * 1e-7).astype(np.float32)
    assert reciprocal_ranks(nearly, np.ones((32, 8), np.float32)).mean() == pytest.approx(CHANCE_OF_32)


def test_zero_features_score_chance() -> None:
    assert reciprocal_ranks(np.zeros((32, 8)), np.zeros((32, 8))).mean() == pytest.approx(CHANCE_OF_32)


def test_noise_scores_chance_on_average_and_a_match_scores_one() -> None:
    rng = np.random.default_rng(0)
    noise = [reciprocal_ranks(rng.normal(size=(32, 16)), rng.normal(size=(32, 16))).mean() for _ in range(60)]
    assert np.mean(noise) == pytest.approx(CHANCE_OF_32, abs=0.02)
    same = rng.normal(size=(32, 16))
    assert reciprocal_ranks(2 * same, same) == pytest.approx(np.ones(32))


def test_rows_that_do_not_pair_are_refused() -> None:
    with pytest.raises(ValueError, match="in the order of their locals"):
        reciprocal_ranks(np.ones((3, 2)), np.ones((4, 2)))


def check_views(change: Callable[[np.ndarray, np.random.Generator], np.ndarray]) -> None:
    """By the one line that says the law, crop by crop, on the same draws."""
    images = np.random.default_rng(0).normal(size=(3, 1, 4, 4, 4)).astype(np.float32)
    kept = images.copy()
    found = change(images, np.random.default_rng(7))
    assert (images == kept).all()
    rng = np.random.default_rng(7)
    scales, shifts = ([float(v) for v in rng.standard_normal(3)] for _ in range(2))
    rng.random((3, 3))
    noise = rng.standard_normal((3, 1, 4, 4, 4), dtype=np.float32)
    for i in range(3):
        assert found[i] == pytest.approx(kept[i] * (1 + 0.1 * scales[i]) + 0.02 * shifts[i] + 0.03 * noise[i], abs=1e-6)


def test_fresh_views_scale_shift_and_add_noise_on_the_same_draws_as_ever() -> None:
    check_views(fresh_views)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda x, rng: fresh_views(x, rng) + 0.01,
        lambda x, rng: fresh_views(x, np.random.default_rng(8)),
        lambda x, rng: fresh_views(x[::-1], rng)[::-1],
    ],
)
def test_planted_errors_in_the_views_are_found(wrong: Callable[[np.ndarray, np.random.Generator], np.ndarray]) -> None:
    with pytest.raises(AssertionError):
        check_views(wrong)
