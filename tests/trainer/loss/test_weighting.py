"""Each weighting equals its formula, written as plain python."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from trainer.config import Loss
from trainer.loss import batch_scale, pair_ratio, weight

RATIOS = [0.0, 0.05, 0.2999, 0.3, 0.31, 0.5, 0.9, 1.0]
FORMULAS: dict[str, Callable[[float], float]] = {
    "none": lambda r: 1.0,
    "linear": lambda r: r,
    "sqrt": math.sqrt,
    "squared": lambda r: r * r,
    "threshold": lambda r: 1.0 if r >= 0.3 else 0.0,
    "sigmoid": lambda r: 1 / (1 + math.exp(-(r - 0.3) / 0.1)),
}


def check(kind: str, formula: Callable[[float], float]) -> None:
    found = weight(torch.tensor(RATIOS, dtype=torch.float64), Loss(foreground_weighting=kind))
    assert found.tolist() == pytest.approx([formula(r) for r in RATIOS])


@pytest.mark.parametrize("kind", FORMULAS)
def test_a_weighting_equals_its_formula(kind: str) -> None:
    check(kind, FORMULAS[kind])


@pytest.mark.parametrize("kind", FORMULAS)
@pytest.mark.parametrize("other", FORMULAS)
def test_no_weighting_passes_for_another(kind: str, other: str) -> None:
    if kind != other:
        with pytest.raises(AssertionError):
            check(kind, FORMULAS[other])


def test_a_threshold_includes_its_own_value() -> None:
    with pytest.raises(AssertionError):
        check("threshold", lambda r: 1.0 if r > 0.3 else 0.0)


def check_pairs(found: Callable[[Tensor, Tensor], Tensor]) -> None:
    teacher, student = torch.tensor([[0.1, 0.9], [0.5, 0.4]]), torch.tensor([[0.2, 0.8], [0.5, 0.4], [0.0, 1.0]])
    ratios = found(teacher, student)
    assert ratios.shape == (2, 3, 2)
    for t in range(2):
        for s in range(3):
            for b in range(2):
                assert float(ratios[t, s, b]) == min(float(teacher[t, b]), float(student[s, b]))


def test_a_pairs_ratio_is_that_of_its_emptier_view() -> None:
    check_pairs(pair_ratio)


def test_the_product_of_ratios_is_told_apart() -> None:
    with pytest.raises(AssertionError):
        check_pairs(lambda teacher, student: teacher[:, None] * student[None])


def test_batch_mean_is_one_number_for_all_crops() -> None:
    ratio = torch.tensor([[0.2, 0.4], [0.6, 1.0]])
    assert float(batch_scale(ratio, Loss(foreground_weighting="squared"))) == pytest.approx((0.04 + 0.16 + 0.36 + 1.0) / 4)
