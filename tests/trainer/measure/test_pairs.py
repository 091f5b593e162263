"""Measures of pairs equal loops over pairs, and the divergence is what the loss has above the teacher's entropy."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from trainer.measure.pairs import pair_measures
from trainer.measure.prototypes import softmax

Measures = Callable[..., dict[str, float]]
IOU = np.array([0.0, 0.1, 0.3, 0.8, 0.0, 0.29])
BINS = {"apart": (0, 4), "touching": (1, 5), "overlapping": (2, 3)}


def case(seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(12, 5)).astype(np.float32)
    return softmax(logits, 0.1), softmax(logits, 0.3), rng.dirichlet(np.ones(5), 12)


def h(row: list[float]) -> float:
    return -sum(p * math.log(p) for p in row if p > 0)


def reference(probs: np.ndarray, student: np.ndarray, teacher: np.ndarray) -> dict[str, float]:
    found = {}
    divergences = []
    for i in range(6):
        both = [(teacher[i], student[6 + i]), (teacher[6 + i], student[i])]
        divergences.append(sum(math.log(t / s) * t for one, other in both for t, s in zip(one.tolist(), other.tolist(), strict=True)) / 2)
    for name, pairs in BINS.items():
        rows = [probs[view * 6 + i].tolist() for view in (0, 1) for i in pairs]
        mean = [sum(row[k] for row in rows) / len(rows) for k in range(5)]
        conditional = sum(h(row) for row in rows) / len(rows)
        found[f"prototype_entropy_{name}"] = conditional / math.log(5)
        found[f"{name}_mutual_information"] = h(mean) - conditional
        found[f"{name}_information_share"] = (h(mean) - conditional) / math.log(4)
        found[f"kl_teacher_student_{name}"] = sum(divergences[i] for i in pairs) / len(pairs)
    found["kl_teacher_student"] = sum(divergences) / 6
    found["teacher_entropy"] = sum(h(row) for row in teacher.tolist()) / 12 / math.log(5)
    return found


def check(measures: Measures) -> None:
    for seed in range(3):
        assert measures(*case(seed), IOU) == pytest.approx(reference(*case(seed)))


def test_pair_measures_equal_loops() -> None:
    check(pair_measures)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda p, s, t, iou: pair_measures(p, np.roll(s, 6, axis=0), t, iou),  # teacher against its own view
        lambda p, s, t, iou: pair_measures(p, t, s, iou),  # student to teacher
        lambda p, s, t, iou: pair_measures(p, s, t, np.where(iou == 0.3, 0.2, iou)),  # bound not inclusive
        lambda p, s, t, iou: pair_measures(p, p, t, iou),  # the yardstick's temperature in the divergence
        lambda p, s, t, iou: pair_measures(p.reshape(2, 6, 5).transpose(1, 0, 2).reshape(12, 5), s, t, iou),  # scan by scan
    ],
)
def test_planted_errors_in_pair_measures_are_found(wrong: Measures) -> None:
    with pytest.raises(AssertionError):
        check(wrong)


def test_divergence_and_teacher_entropy_add_up_to_the_cross_entropy_of_the_loss() -> None:
    probs, student, teacher = case()
    found = pair_measures(probs, student, teacher, IOU)
    crossed = [-float(teacher[i] @ np.log(student[(i + 6) % 12])) for i in range(12)]
    assert found["kl_teacher_student"] + found["teacher_entropy"] * math.log(5) == pytest.approx(sum(crossed) / 12)


def test_bins_without_pairs_and_a_missing_teacher_leave_their_keys_out() -> None:
    probs, student, _ = case()
    found = pair_measures(probs, student, None, np.zeros(6))
    assert set(found) == {"prototype_entropy_apart", "apart_mutual_information", "apart_information_share"}


def test_crops_that_are_no_pairs_are_said() -> None:
    probs, student, teacher = case()
    with pytest.raises(ValueError, match="two crops a scan"):
        pair_measures(probs, student, teacher, IOU[:5])
