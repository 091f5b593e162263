"""Anatomy measures equal loops over crops, and scikit-learn where it has them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
from sklearn.metrics import normalized_mutual_info_score

from trainer.measure.anatomy import NEIGHBOURS, anatomy_information, anatomy_nmi, knn_accuracy, majority_label

Nmi = Callable[[np.ndarray, np.ndarray], float | None]
Knn = Callable[[np.ndarray, np.ndarray, np.ndarray], float | None]
Soft = Callable[[np.ndarray, np.ndarray], float | None]


def loop_majority(labels: np.ndarray) -> int:
    counts = Counter(v for v in labels.ravel().tolist() if v)
    return min((label for label in counts if counts[label] == max(counts.values())), default=0)


def test_the_majority_label_is_the_commonest_but_air_and_ties_go_to_the_lowest() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        labels = (rng.integers(0, 4, (3, 3, 3)) * rng.integers(0, 2, (3, 3, 3))).astype(np.uint8)
        assert majority_label(labels) == loop_majority(labels)
    assert majority_label(np.zeros((2, 2, 2), np.uint8)) == 0
    assert majority_label(np.array([[[5, 5, 3, 3, 0, 0, 0]]], np.uint8)) == 3


def loop_nmi(a: np.ndarray, b: np.ndarray) -> float:
    n = len(a)
    ca, cb, joint = Counter(a.tolist()), Counter(b.tolist()), Counter(zip(a.tolist(), b.tolist(), strict=True))
    information = sum(c / n * math.log(c * n / (ca[x] * cb[y])) for (x, y), c in joint.items())
    entropies = [-sum(c / n * math.log(c / n) for c in counts.values()) for counts in (ca, cb)]
    return 2 * information / sum(entropies)


def check_nmi(nmi: Nmi) -> None:
    rng = np.random.default_rng(1)
    for _ in range(10):
        prototype, tissue = rng.integers(0, 9, 40), rng.integers(1, 5, 40)
        prototype[:20] = tissue[:20]
        assert nmi(prototype, tissue) == pytest.approx(loop_nmi(prototype, tissue))


def test_nmi_equals_a_loop_and_scikit_learn() -> None:
    check_nmi(anatomy_nmi)
    check_nmi(normalized_mutual_info_score)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda a, b: normalized_mutual_info_score(a, b, average_method="geometric"),
        lambda a, b: normalized_mutual_info_score(a, b, average_method="max"),
        lambda a, b: loop_nmi(a, b) / 2,
    ],
)
def test_planted_errors_in_nmi_are_found(wrong: Nmi) -> None:
    with pytest.raises(AssertionError):
        check_nmi(wrong)


def test_nmi_is_one_for_renamed_tissues_and_zero_for_one_prototype() -> None:
    tissue = np.array([3, 3, 1, 1, 7, 7])
    assert anatomy_nmi(np.array([0, 0, 60, 60, 2, 2]), tissue) == pytest.approx(1)
    assert anatomy_nmi(np.zeros(6, int), tissue) == 0


def loop_information(probs: np.ndarray, tissue: np.ndarray) -> float:
    n, prototypes = probs.shape
    joint: dict[tuple[int, int], float] = {}
    for row, t in zip(probs.tolist(), tissue.tolist(), strict=True):
        for k in range(prototypes):
            joint[k, t] = joint.get((k, t), 0.0) + row[k] / n
    of_k = [sum(p for (k, _), p in joint.items() if k == own) for own in range(prototypes)]
    of_t = {own: sum(p for (_, t), p in joint.items() if t == own) for own in set(tissue.tolist())}
    return sum(p * math.log(p / (of_k[k] * of_t[t])) for (k, t), p in joint.items() if p > 0)


def check_information(soft: Soft) -> None:
    rng = np.random.default_rng(2)
    probs, tissue = rng.dirichlet(np.full(6, 0.4), 30), rng.integers(1, 4, 30)
    assert soft(probs, tissue) == pytest.approx(loop_information(probs, tissue))


def test_soft_information_equals_a_loop() -> None:
    check_information(anatomy_information)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda p, t: anatomy_information(np.eye(6)[p.argmax(axis=1)], t),  # first choices only
        lambda p, t: anatomy_information(p, t) / math.log(2),  # bits
        lambda p, t: anatomy_information(p, np.roll(t, 1)),
    ],
)
def test_planted_errors_in_soft_information_are_found(wrong: Soft) -> None:
    with pytest.raises(AssertionError):
        check_information(wrong)


def test_uniform_outputs_say_nothing_about_tissue_however_the_first_choice_falls() -> None:
    rng = np.random.default_rng(0)
    tissue = np.repeat([1, 2, 3], 10)
    uniform = np.full((30, 8), 1 / 8) + 1e-9 * rng.normal(size=(30, 8))
    assert anatomy_information(uniform, tissue) == pytest.approx(0, abs=1e-9)
    assert (anatomy_nmi(uniform.argmax(axis=1), tissue) or 0) > 0.05  # why the soft measure stands beside it


def loop_knn(features: np.ndarray, tissue: np.ndarray, scan: np.ndarray) -> float:
    several = len(set(scan.tolist())) > 1
    hits = 0
    for i in range(len(features)):
        others = []
        for j in range(len(features)):
            if (scan[j] == scan[i]) if several else (i == j):
                continue
            cosine = float(features[i] @ features[j]) / math.hypot(*features[i].tolist()) / math.hypot(*features[j].tolist())
            others.append((cosine, int(tissue[j])))
        nearest = sorted(others, reverse=True)[:NEIGHBOURS]
        votes = Counter(t for _, t in nearest)
        leaders = [t for t in votes if votes[t] == max(votes.values())]
        best = max(leaders, key=lambda t: sum(c for c, own in nearest if own == t))
        hits += best == tissue[i]
    return hits / len(features)


def knn_case(scans: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(5)
    tissue = rng.integers(1, 5, 60)
    scan = np.arange(60) % scans
    features = np.eye(6)[tissue] + np.eye(6)[scan % 6] + rng.normal(size=(60, 6)) * 0.6
    return features, tissue, scan


def check_knn(knn: Knn) -> None:
    for scans in (1, 2, 4):
        case = knn_case(scans)
        assert knn(*case) == pytest.approx(loop_knn(*case))


def test_knn_equals_a_loop_over_crops_of_other_scans() -> None:
    check_knn(knn_accuracy)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda f, t, s: knn_accuracy(f, t, np.arange(len(s))),  # neighbours of the same scan count
        lambda f, t, s: knn_accuracy(f, t, s) + 1 / len(t),
        lambda f, t, s: knn_accuracy(-np.abs(f), t, s),
    ],
)
def test_planted_errors_in_knn_are_found(wrong: Knn) -> None:
    with pytest.raises(AssertionError):
        check_knn(wrong)


def test_knowing_only_the_scan_does_not_help() -> None:
    scan = np.repeat(np.arange(4), 12)
    tissue = scan + 1
    assert knn_accuracy(np.eye(4)[scan], tissue, scan) == 0


def test_one_tissue_or_none_leaves_nothing_to_tell() -> None:
    one = np.ones(5, int)
    assert anatomy_nmi(np.arange(5), one) is None
    assert anatomy_information(np.eye(5), one) is None
    assert knn_accuracy(np.eye(5), one, np.arange(5)) is None
    assert knn_accuracy(np.empty((0, 5)), one[:0], one[:0]) is None
