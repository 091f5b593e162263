"""KoLeo equals a double loop over crops."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from trainer.loss import koleo_loss


def naive(features: list[list[float]]) -> float:
    unit = []
    for row in features:
        norm = math.sqrt(sum(value * value for value in row))
        unit.append([value / norm for value in row])
    total = 0.0
    for i, row in enumerate(unit):
        nearest = min(math.dist(row, other) for j, other in enumerate(unit) if j != i)
        total += math.log(nearest + 1e-8)
    return -total / len(unit)


def check(found: Callable[[Tensor], Tensor]) -> None:
    features = torch.randn(7, 5, generator=torch.Generator().manual_seed(0))
    assert float(found(features)) == pytest.approx(naive(features.tolist()), rel=1e-4)


def test_koleo_equals_the_loop() -> None:
    check(koleo_loss)


@pytest.mark.parametrize("wrong", [lambda x: -koleo_loss(x), lambda x: koleo_loss(x) * len(x), lambda x: koleo_loss(torch.cat([x, x]))])
def test_a_planted_error_fails_the_check(wrong: Callable[[Tensor], Tensor]) -> None:
    with pytest.raises(AssertionError):
        check(wrong)


def test_equal_crops_give_a_finite_loss_and_gradient() -> None:
    features = torch.ones(4, 3, requires_grad=True)
    loss = koleo_loss(features)
    loss.backward()
    assert float(loss.detach()) == pytest.approx(-math.log(2e-8), rel=1e-3)
    assert features.grad is not None
    assert torch.isfinite(features.grad).all()


def test_a_lone_crop_has_no_neighbour_and_no_loss() -> None:
    assert float(koleo_loss(torch.ones(1, 3))) == 0.0
