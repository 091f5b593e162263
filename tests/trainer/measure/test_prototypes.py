"""Prototype measures equal loops over crops and prototypes, and planted errors in each are found."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.measure.prototypes import (
    distinct_prototypes,
    entropy,
    kl_divergence,
    mutual_information,
    prototype_measures,
    softmax,
    uniformity,
)

Measures = Callable[..., dict[str, float]]
RICH, BACKGROUND = 0.5, 0.05


def loop_entropy(row: list[float]) -> float:
    total = 0.0
    for p in row:
        if p > 0:
            total -= p * math.log(p)
    return total


def loop_mean(rows: list[list[float]]) -> list[float]:
    return [sum(row[k] for row in rows) / len(rows) for k in range(len(rows[0]))]


def loop_information(rows: list[list[float]]) -> float:
    """As the mean Kullback-Leibler divergence from the mean distribution: another form of the same quantity."""
    mean = loop_mean(rows)
    total = 0.0
    for row in rows:
        for p, q in zip(row, mean, strict=True):
            if p > 0:
                total += p * math.log(p / q)
    return total / len(rows)


def loop_measures(rows: list[list[float]], ratios: list[float]) -> dict[str, float]:
    n, k = len(rows), len(rows[0])
    rich = [row for row, r in zip(rows, ratios, strict=True) if r >= RICH]
    background = [row for row, r in zip(rows, ratios, strict=True) if r <= BACKGROUND]
    marginal = loop_entropy(loop_mean(rows))
    found = {
        "prototype_entropy": sum(loop_entropy(row) for row in rows) / n / math.log(k),
        "marginal_entropy": marginal / math.log(k),
        "prototype_usage": len({row.index(max(row)) for row in rows}) / min(n, k),
        "prototype_perplexity": math.exp(marginal),
    }
    if n > 1:
        found["mutual_information"] = loop_information(rows)
        found["marginal_spread"] = min(1.0, marginal / math.log(min(n, k)))
    mixed = [row for row, r in zip(rows, ratios, strict=True) if BACKGROUND < r < RICH]
    for name, group in (("foreground", rich), ("mixed", mixed), ("background", background)):
        if group:
            found[f"prototype_entropy_{name}"] = sum(loop_entropy(row) for row in group) / len(group) / math.log(k)
        if len(group) > 1:
            found[f"{name}_mutual_information"] = loop_information(group)
            found[f"{name}_information_share"] = loop_information(group) / math.log(min(len(group), k))
    return found


def case(seed: int, n: int = 12, prototypes: int = 7) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(n, prototypes)).astype(np.float32)
    probs = softmax(logits, 0.3)
    probs[0] = np.eye(prototypes)[1]  # zeros must not make NaN
    ratio = rng.random(n)
    ratio[:6] = [0.5, 0.9, 0.05, 0.0, 0.2, 0.7]  # both bounds are inclusive
    return probs, ratio


def check(measures: Measures, seed: int = 0) -> None:
    probs, ratio = case(seed)
    expected = loop_measures(probs.tolist(), ratio.tolist())
    found = measures(probs, ratio, RICH, BACKGROUND)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, abs=1e-9), name


@settings(max_examples=30)
@given(st.integers(0, 10_000))
def test_all_prototype_measures_equal_loops(seed: int) -> None:
    check(prototype_measures, seed)


def not_normalised(probs: np.ndarray, ratio: np.ndarray, rich: float, background: float) -> dict[str, float]:
    found = prototype_measures(probs, ratio, rich, background)
    return found | {"prototype_entropy": found["prototype_entropy"] * math.log(probs.shape[1])}


def base_two(probs: np.ndarray, ratio: np.ndarray, rich: float, background: float) -> dict[str, float]:
    found = prototype_measures(probs, ratio, rich, background)
    return found | {"foreground_mutual_information": found["foreground_mutual_information"] / math.log(2)}


def swapped_groups(probs: np.ndarray, ratio: np.ndarray, rich: float, background: float) -> dict[str, float]:
    return prototype_measures(probs, 1 - ratio, rich, background)


def exclusive_bound(probs: np.ndarray, ratio: np.ndarray, rich: float, background: float) -> dict[str, float]:
    return prototype_measures(probs, ratio, rich + 1e-9, background)


def information_of_all_crops(probs: np.ndarray, ratio: np.ndarray, rich: float, background: float) -> dict[str, float]:
    found = prototype_measures(probs, ratio, rich, background)
    return found | {"background_mutual_information": found["mutual_information"]}


def mean_of_entropies_as_marginal(probs: np.ndarray, ratio: np.ndarray, rich: float, background: float) -> dict[str, float]:
    found = prototype_measures(probs, ratio, rich, background)
    return found | {"marginal_entropy": found["prototype_entropy"]}


def usage_over_prototypes_only(probs: np.ndarray, ratio: np.ndarray, rich: float, background: float) -> dict[str, float]:
    found = prototype_measures(probs, ratio, rich, background)
    return found | {"prototype_usage": len(set(probs.argmax(axis=1).tolist())) / len(probs)}


@pytest.mark.parametrize(
    "wrong",
    [
        not_normalised,
        base_two,
        swapped_groups,
        exclusive_bound,
        information_of_all_crops,
        mean_of_entropies_as_marginal,
        usage_over_prototypes_only,
    ],
)
def test_planted_errors_in_prototype_measures_are_found(wrong: Measures) -> None:
    with pytest.raises(AssertionError):
        check(wrong)


@settings(max_examples=30)
@given(st.integers(0, 10_000), st.integers(2, 40), st.integers(2, 50))
def test_measures_stay_in_their_stated_ranges(seed: int, n: int, prototypes: int) -> None:
    rng = np.random.default_rng(seed)
    probs = softmax(rng.normal(size=(n, prototypes)).astype(np.float32), float(rng.choice([0.001, 0.1, 10.0])))
    found = prototype_measures(probs, np.ones(n), RICH, BACKGROUND)
    for name in ("prototype_entropy", "marginal_entropy", "prototype_usage", "marginal_spread", "foreground_information_share"):
        assert -1e-9 <= found[name] <= 1 + 1e-9, name
    assert 0 <= found["mutual_information"] <= math.log(min(n, prototypes)) + 1e-9
    assert 1 <= found["prototype_perplexity"] <= prototypes + 1e-6
    assert not any(math.isnan(value) for value in found.values())


def test_a_group_without_crops_leaves_its_keys_out() -> None:
    found = prototype_measures(np.full((4, 8), 1 / 8), np.full(4, 0.3), RICH, BACKGROUND)
    assert not [name for name in found if "foreground" in name or "background" in name]


def test_one_crop_has_an_entropy_but_no_information() -> None:
    found = prototype_measures(np.full((1, 8), 1 / 8), np.ones(1), RICH, BACKGROUND)
    assert found["prototype_entropy_foreground"] == pytest.approx(1)
    assert not [name for name in found if "information" in name]


def test_air_hides_healthy_foreground_in_the_mean_but_not_in_the_split() -> None:
    probs = np.concatenate([np.eye(16)[:8], np.full((72, 16), 1 / 16)])
    found = prototype_measures(probs, np.repeat([1.0, 0.0], [8, 72]), RICH, BACKGROUND)
    assert found["prototype_entropy"] == pytest.approx(0.9)
    assert found["prototype_entropy_foreground"] == pytest.approx(0)
    assert found["foreground_mutual_information"] == pytest.approx(math.log(8))


def test_softmax_equals_a_loop_and_survives_large_logits() -> None:
    logits = np.array([[1.0, 2.0, 4.0], [500.0, 0.0, -500.0]], np.float32)
    scaled = [math.exp(v / 0.5) for v in (1.0, 2.0, 4.0)]
    assert softmax(logits, 0.5)[0] == pytest.approx([v / sum(scaled) for v in scaled])
    assert softmax(logits, 0.01)[1] == pytest.approx([1, 0, 0])


def test_information_of_many_prototypes_and_few_crops_is_bounded_by_the_crops() -> None:
    probs = np.zeros((6, 65_536), np.float32)
    probs[np.arange(6), np.arange(6) * 1000] = 1
    assert mutual_information(probs) == pytest.approx(math.log(6))
    assert entropy(probs).max() == 0


@pytest.mark.parametrize(
    ("probs", "ratio", "where"),
    [
        (np.ones((3, 4)), np.ones(3), "sum to 1"),
        (np.full((3, 4), 0.25), np.ones(2), "ratio"),
        (np.ones((3, 1)), np.ones(3), "two prototypes"),
        (np.full((0, 4), 0.25), np.ones(0), "at least one crop"),
    ],
)
def test_what_is_no_distribution_gets_an_error_with_a_mend(probs: np.ndarray, ratio: np.ndarray, where: str) -> None:
    with pytest.raises(ValueError, match=where):
        prototype_measures(probs, ratio, RICH, BACKGROUND)


def loop_uniformity(rows: list[list[float]], columns: int) -> float:
    k = len(rows[0])
    floor = math.log(k / columns) if columns < k else 0.0
    return (sum(loop_entropy(row) for row in rows) / len(rows) - floor) / (math.log(k) - floor)


def check_uniformity(measure: Callable[[float, int, float], float | None]) -> None:
    rows = case(0, 12, 24)[0].tolist()
    conditional = sum(loop_entropy(row) for row in rows) / 12
    for columns in (2, 8, 23, 24, 500):
        assert measure(conditional, 24, columns) == pytest.approx(loop_uniformity(rows, columns))


def test_uniformity_equals_its_formula_from_the_floor_to_uniform() -> None:
    check_uniformity(uniformity)
    assert uniformity(math.log(64), 64, 8) == pytest.approx(1)
    assert uniformity(math.log(64 / 8), 64, 8) == pytest.approx(0)
    assert uniformity(0.5 * math.log(64), 64, math.inf) == pytest.approx(0.5)
    assert uniformity(math.log(64), 64, 1) is None


@pytest.mark.parametrize(
    "wrong",
    [
        lambda h, k, b: h / math.log(k),  # no floor
        lambda h, k, b: (h - math.log(k / b)) / (math.log(k) - math.log(k / b)),  # a floor below 0
        lambda h, k, b: (h - math.log(max(1, k / b))) / math.log(k),  # the floor on one side only
    ],
)
def test_planted_errors_in_uniformity_are_found(wrong: Callable[[float, int, float], float | None]) -> None:
    with pytest.raises(AssertionError):
        check_uniformity(wrong)


def loop_divergence(teacher: list[float], student: list[float]) -> float:
    return sum(t * math.log(t / s) for t, s in zip(teacher, student, strict=True) if t > 0)


def check_divergence(measure: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> None:
    teacher, student = case(1)[0], softmax(np.random.default_rng(2).normal(size=(12, 7)), 0.5)
    expected = [loop_divergence(t, s) for t, s in zip(teacher.tolist(), student.tolist(), strict=True)]
    assert measure(teacher, student) == pytest.approx(expected)


def test_the_divergence_equals_a_loop_and_survives_a_student_without_mass() -> None:
    check_divergence(kl_divergence)
    certain = np.eye(3)[[0]]
    assert kl_divergence(certain, np.eye(3)[[1]])[0] == pytest.approx(-math.log(1e-300))
    assert kl_divergence(certain, certain)[0] == 0


@pytest.mark.parametrize("wrong", [lambda t, s: kl_divergence(s, t + 1e-12), lambda t, s: kl_divergence(t, s) + entropy(t)])
def test_planted_errors_in_the_divergence_are_found(wrong: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> None:
    with pytest.raises(AssertionError):
        check_divergence(wrong)


def loop_distinct(prototypes: list[list[float]]) -> int:
    counted: list[list[float]] = []
    for row in prototypes:
        cosines = [sum(a * b for a, b in zip(row, other, strict=True)) / math.hypot(*row) / math.hypot(*other) for other in counted]
        if all(c < 0.975 for c in cosines):
            counted.append(row)
    return len(counted)


def check_distinct(measure: Callable[[np.ndarray], int]) -> None:
    for seed in range(4):
        rng = np.random.default_rng(seed)
        prototypes = rng.normal(size=(8, 6))[rng.integers(8, size=30)] * rng.uniform(0.5, 2, (30, 1)) + rng.normal(size=(30, 6)) * 0.1
        assert measure(prototypes) == loop_distinct(prototypes.tolist())


def test_near_duplicates_count_once() -> None:
    check_distinct(distinct_prototypes)
    assert distinct_prototypes(np.ones((5, 3))) == 1
    assert distinct_prototypes(np.concatenate([np.eye(4), 3 * np.eye(4)])) == 4
    assert distinct_prototypes(np.tile(np.eye(4), (5000, 1))) == 4


@pytest.mark.parametrize(
    "wrong",
    [
        lambda p: len(p),
        lambda p: len(np.unique(p.round(6), axis=0)),  # exact duplicates only
        lambda p: int(np.linalg.matrix_rank(p)),
        lambda p: distinct_prototypes(p - p.mean(axis=0)),  # centred
    ],
)
def test_planted_errors_in_the_count_are_found(wrong: Callable[[np.ndarray], int]) -> None:
    with pytest.raises(AssertionError):
        check_distinct(wrong)
