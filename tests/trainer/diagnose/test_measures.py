"""Each measure equals a loop that a reader believes, and a wrong variant does not."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.config import Measure
from trainer.diagnose import Sample
from trainer.diagnose.measures import explained_share, first_direction_share, mean_cosine, measures
from trainer.measure.features import normalised


def rows(n: int = 12, dim: int = 5, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, dim)) + 0.5


def naive_cosine(unit: np.ndarray) -> float:
    found = [sum(a * b for a, b in zip(unit[i], unit[j], strict=True)) for i, j in itertools.combinations(range(len(unit)), 2)]
    return sum(found) / len(found)


def naive_share(values: np.ndarray, groups: np.ndarray, *, adjusted: bool = True) -> float:
    """Dimension by dimension, the sums of squares of a one-way analysis of variance."""
    within = total = 0.0
    names = sorted(set(groups.tolist()))
    for d in range(values.shape[1]):
        column = [float(v) for v in values[:, d]]
        grand = sum(column) / len(column)
        total += sum((v - grand) ** 2 for v in column)
        for name in names:
            some = [v for v, g in zip(column, groups, strict=True) if g == name]
            within += sum((v - sum(some) / len(some)) ** 2 for v in some)
    if not adjusted:
        return 1 - within / total
    return 1 - (within / (len(values) - len(names))) / (total / (len(values) - 1))


@pytest.mark.parametrize("seed", range(4))
def test_mean_cosine_is_that_of_all_pairs(seed: int) -> None:
    unit = normalised(rows(seed=seed))
    assert mean_cosine(unit) == pytest.approx(naive_cosine(unit))
    planted = float((unit @ unit.T).mean())  # counts each crop with itself
    assert planted != pytest.approx(naive_cosine(unit), abs=1e-3)


@pytest.mark.parametrize("seed", range(4))
def test_the_explained_share_is_that_of_an_analysis_of_variance(seed: int) -> None:
    values, groups = rows(seed=seed), np.random.default_rng(seed).integers(3, size=12)
    assert explained_share(values, groups) == pytest.approx(naive_share(values, groups))
    assert naive_share(values, groups, adjusted=False) != pytest.approx(naive_share(values, groups), abs=1e-3)


def test_groups_by_chance_explain_nothing_however_many_they_are() -> None:
    values = rows(400, 16)
    groups = np.random.default_rng(1).integers(100, size=400)
    found = explained_share(values, groups)
    assert found is not None
    assert abs(found) < 0.03
    assert naive_share(values, groups, adjusted=False) > 0.2  # the planted error: unadjusted, a quarter is explained by chance


@settings(max_examples=40)
@given(st.integers(0, 10_000), st.floats(0.1, 50.0), st.floats(-5.0, 5.0))
def test_the_explained_share_does_not_depend_on_scale_origin_or_names(seed: int, scale: float, shift: float) -> None:
    values, groups = rows(seed=seed), np.arange(12) % 4
    assert explained_share(values * scale + shift, 7 - groups) == pytest.approx(explained_share(values, groups), abs=1e-6)


def test_the_explained_share_is_unknown_where_nothing_can_be_compared() -> None:
    assert explained_share(rows(), np.zeros(12, int)) is None
    assert explained_share(rows(), np.arange(12)) is None
    assert explained_share(np.ones((12, 3)), np.arange(12) % 2) is None


def test_the_share_of_the_first_direction_is_that_of_the_largest_eigenvalue() -> None:
    values = rows(30, 4)
    covariance = np.zeros((4, 4))
    for row in values - values.mean(axis=0):
        covariance += np.outer(row, row)
    eigen = np.linalg.eigvalsh(covariance)
    assert first_direction_share(values) == pytest.approx(eigen[-1] / eigen.sum())
    singular = np.sqrt(eigen)
    assert singular[-1] / singular.sum() != pytest.approx(eigen[-1] / eigen.sum(), abs=1e-3)  # planted: without squares
    assert first_direction_share(np.ones((5, 3))) is None


def test_what_is_not_known_leaves_its_measures_out() -> None:
    found = measures(Sample(rows()), Measure())
    assert found.keys() == {"crops", "dim", "feature_std", "mean_cosine", "rankme", "directions", "one_direction_share"}
    assert (found["crops"], found["dim"]) == (12, 5)
    logits = np.random.default_rng(0).standard_normal((12, 4))
    more = measures(Sample(rows(), logits=logits, scan=np.arange(12) % 3), Measure())
    assert {"scan_share", "lidar", "marginal_entropy", "foreground_mutual_information"} <= more.keys()
    assert all(math.isfinite(value) for value in more.values())


def test_the_scan_is_looked_for_among_body_crops_only() -> None:
    rng = np.random.default_rng(0)
    features = rng.standard_normal((60, 8))
    ratio, scan = np.where(np.arange(60) < 30, 0.9, 0.0), np.arange(60) % 3
    features[30:] += 10 * np.eye(8)[scan[30:]]  # scans differ in their air alone
    found = measures(Sample(features, ratio=ratio, scan=scan), Measure())
    assert abs(found["scan_share"]) < 0.1
    assert measures(Sample(features, scan=scan), Measure())["scan_share"] > 0.15
