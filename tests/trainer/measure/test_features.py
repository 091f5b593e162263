"""Feature spread and effective rank equal loops and eigenvalues."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from trainer.measure.features import feature_measures, feature_std, lidar, rankme

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
    found = feature_measures(np.tile(features_of(0, (1, 8)), (10, 1)), np.arange(10) // 2)
    assert found["feature_std"] == pytest.approx(0, abs=1e-9)
    assert found["rankme"] == pytest.approx(1, abs=1e-4)
    assert "lidar" not in found


def test_isotropic_features_have_full_spread_and_rank() -> None:
    found = feature_measures(np.random.default_rng(0).normal(size=(4000, 8)), np.arange(4000) // 2)
    assert found["feature_std"] == pytest.approx(1, abs=0.01)
    assert found["rankme"] == pytest.approx(8, abs=0.02)


def test_zero_features_have_no_rank_and_no_nan() -> None:
    found = feature_measures(np.zeros((5, 4), np.float32), np.zeros(5, np.int64))
    assert found == {"feature_std": 0.0}


def loop_lidar(features: np.ndarray, classes: np.ndarray) -> float:
    """Scatter matrices entry by entry, the inverse root from all eigenvectors, all dim eigenvalues."""
    groups = [[features[i].tolist() for i in range(len(features)) if classes[i] == c] for c in sorted(set(classes.tolist()))]
    groups = [group for group in groups if len(group) > 1]
    dim, n = features.shape[1], sum(len(group) for group in groups)
    means = [[sum(row[d] for row in group) / len(group) for d in range(dim)] for group in groups]
    centre = [sum(mean[d] for mean in means) / len(means) for d in range(dim)]
    within, between = np.zeros((dim, dim)), np.zeros((dim, dim))
    for a in range(dim):
        for b in range(dim):
            for group, mean in zip(groups, means, strict=True):
                between[a, b] += (mean[a] - centre[a]) * (mean[b] - centre[b]) / len(groups)
                for row in group:
                    within[a, b] += (row[a] - mean[a]) * (row[b] - mean[b]) / n
    within += 1e-4 * np.trace(within) / dim * np.eye(dim)
    values, vectors = np.linalg.eigh(within)
    root = vectors @ np.diag(values**-0.5) @ vectors.T
    found = [max(v, 0.0) for v in np.linalg.eigvalsh(root @ between @ root)]
    shares = [v / sum(found) + 1e-7 for v in found]
    return math.exp(-sum(p * math.log(p) for p in shares))


def check_lidar(measure: Callable[[np.ndarray, np.ndarray], float | None]) -> None:
    for seed in range(4):
        rng = np.random.default_rng(seed)
        classes = np.array([0, 0, 0, 4, 4, 2, 2, 2, 2, 7, 5, 5])  # 7 is alone and takes no part
        features = rng.normal(size=(12, 5)) * [3, 1, 1, 0.5, 2] + rng.normal(size=(8, 5))[classes]
        assert measure(features, classes) == pytest.approx(loop_lidar(features, classes), rel=1e-4)
        assert measure(1e3 * features, classes) == pytest.approx(loop_lidar(features, classes), rel=1e-4)


def test_lidar_equals_its_reference() -> None:
    check_lidar(lidar)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda f, c: rankme(np.stack([f[c == k].mean(axis=0) for k in np.unique(c)])),  # not whitened by the scatter within
        lambda f, c: lidar(f, np.where(c == 7, 5, c)),  # the lonely crop in another class
        lambda f, c: math.log(lidar(f, c) or 1.0),  # entropy, not its exponential
    ],
)
def test_planted_errors_in_lidar_are_found(wrong: Callable[[np.ndarray, np.ndarray], float | None]) -> None:
    with pytest.raises(AssertionError):
        check_lidar(wrong)


def test_directions_that_differ_within_a_scan_do_not_count_for_lidar_but_do_for_rankme() -> None:
    rng = np.random.default_rng(0)
    scans = np.repeat(np.arange(30), 8)
    features = rng.normal(size=(240, 6))
    features[:, 0] = rng.normal(size=30)[scans] * 30
    assert lidar(features, scans) == pytest.approx(1, abs=0.1)
    assert (rankme(features - features.mean(axis=0)) or 0) > 1.5


def test_without_two_scans_of_two_crops_there_is_no_lidar() -> None:
    features = np.random.default_rng(0).normal(size=(6, 4))
    assert lidar(features, np.arange(6)) is None
    assert lidar(features, np.zeros(6, np.int64)) is None
    assert lidar(features, np.array([0, 0, 0, 0, 0, 1])) is None
