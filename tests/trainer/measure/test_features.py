"""Feature spread and effective rank equal loops and eigenvalues."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from trainer.measure.features import feature_measures, feature_std, rankme

Measure = Callable[[np.ndarray], float | None]


def loop_std(features: np.ndarray) -> float:
    rows = [[v / math.sqrt(sum(u * u for u in row)) for v in row] for row in features.tolist()]
    total = 0.0
    for d in range(len(rows[0])):
        column = [row[d] for row in rows]
        mean = sum(column) / len(column)
        total += math.sqrt(sum((v - mean) ** 2 for v in column) / len(column))
    return total / len(rows[0]) * math.sqrt(len(rows[0]))


def loop_rank(features: np.ndarray) -> float:
    """Singular values as roots of the eigenvalues of the Gram matrix."""
    wide = features.astype(np.float64)
    gram = wide @ wide.T if len(wide) <= wide.shape[1] else wide.T @ wide
    values = [math.sqrt(max(v, 0.0)) for v in np.linalg.eigvalsh(gram)]
    shares = [v / sum(values) + 1e-7 for v in values]
    return math.exp(-sum(p * math.log(p) for p in shares))


def features_of(seed: int, shape: tuple[int, int] = (20, 8)) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (rng.normal(size=shape) * rng.random(shape[1]) * 3 + 0.3).astype(np.float32)


def check(measure: Measure, reference: Measure) -> None:
    for seed in range(5):
        for shape in ((20, 8), (6, 12)):
            features = features_of(seed, shape)
            assert measure(features) == pytest.approx(reference(features), rel=1e-5)


def test_both_equal_their_references() -> None:
    check(feature_std, loop_std)
    check(rankme, loop_rank)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda f: float(f.std(axis=0).mean() * math.sqrt(f.shape[1])),  # not L2-normalised
        lambda f: loop_std(f) / math.sqrt(f.shape[1]),  # not scaled
        lambda f: loop_std(f) * math.sqrt(len(f) / (len(f) - 1)),  # sample standard deviation
    ],
)
def test_planted_errors_in_the_spread_are_found(wrong: Measure) -> None:
    with pytest.raises(AssertionError):
        check(wrong, loop_std)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda f: rankme(f - f.mean(axis=0)),  # centred
        lambda f: float(np.linalg.matrix_rank(f)),
        lambda f: math.log(loop_rank(f)),  # entropy, not its exponential
    ],
)
def test_planted_errors_in_the_rank_are_found(wrong: Measure) -> None:
    with pytest.raises(AssertionError):
        check(wrong, loop_rank)


def test_equal_features_have_no_spread_and_rank_one() -> None:
    found = feature_measures(np.tile(features_of(0, (1, 8)), (10, 1)))
    assert found["feature_std"] == pytest.approx(0, abs=1e-9)
    assert found["rankme"] == pytest.approx(1, abs=1e-4)


def test_isotropic_features_have_full_spread_and_rank() -> None:
    found = feature_measures(np.random.default_rng(0).normal(size=(4000, 8)))
    assert found["feature_std"] == pytest.approx(1, abs=0.01)
    assert found["rankme"] == pytest.approx(8, abs=0.02)


def test_zero_features_have_no_rank_and_no_nan() -> None:
    found = feature_measures(np.zeros((5, 4), np.float32))
    assert found == {"feature_std": 0.0}
