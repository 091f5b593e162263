"""The DINO loss equals a loop over pairs that a reader believes at sight."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from trainer.loss import dino_loss, pair_losses, view_losses

Loss = Callable[..., Tensor]


def naive_pair(student: list[float], target: list[float], temperature: float) -> float:
    scaled = [value / temperature for value in student]
    largest = max(scaled)
    log_sum = largest + math.log(sum(math.exp(value - largest) for value in scaled))
    return -sum(p * (value - log_sum) for p, value in zip(target, scaled, strict=True))


def naive_loss(student: Tensor, teacher: Tensor, weights: Tensor, temperature: float) -> float:
    total = weight_sum = 0.0
    for t in range(teacher.shape[0]):
        for s in range(student.shape[0]):
            for b in range(student.shape[1]):
                weight = float(weights[t, s, b])
                total += weight * naive_pair(student[s, b].tolist(), teacher[t, b].tolist(), temperature)
                weight_sum += weight
    return total / weight_sum


def case(seed: int, teacher_views: int = 2, student_views: int = 4, batch: int = 3, prototypes: int = 5) -> tuple[Tensor, Tensor, Tensor]:
    random = torch.Generator().manual_seed(seed)
    student = torch.randn(student_views, batch, prototypes, generator=random)
    teacher = torch.softmax(torch.randn(teacher_views, batch, prototypes, generator=random), dim=-1)
    weights = torch.rand(teacher_views, student_views, batch, generator=random)
    weights[weights < 0.3] = 0.0
    return student, teacher, weights


def check(loss: Loss, seed: int = 0) -> None:
    student, teacher, weights = case(seed)
    assert float(loss(student, teacher, weights, student_temp=0.1)) == pytest.approx(naive_loss(student, teacher, weights, 0.1), rel=1e-5)


@settings(max_examples=20)
@given(st.integers(0, 10_000))
def test_loss_equals_the_loop_over_pairs(seed: int) -> None:
    check(dino_loss, seed)


def forgets_weights(s: Tensor, t: Tensor, w: Tensor, *, student_temp: float) -> Tensor:
    return dino_loss(s, t, torch.ones_like(w), student_temp=student_temp)


def forgets_to_renormalise(s: Tensor, t: Tensor, w: Tensor, *, student_temp: float) -> Tensor:
    return (pair_losses(s, t, student_temp=student_temp) * w).sum() / w.numel()


def averages_scans_first(s: Tensor, t: Tensor, w: Tensor, *, student_temp: float) -> Tensor:
    losses = pair_losses(s, t, student_temp=student_temp)
    return ((losses * w).sum((0, 1)) / w.sum((0, 1))).mean()


def multiplies_temperature(s: Tensor, t: Tensor, w: Tensor, *, student_temp: float) -> Tensor:
    return dino_loss(s * student_temp * student_temp, t, w, student_temp=student_temp)


def swaps_views(s: Tensor, t: Tensor, w: Tensor, *, student_temp: float) -> Tensor:
    return dino_loss(s, t.flip(0), w, student_temp=student_temp)


@pytest.mark.parametrize(
    "wrong", [forgets_weights, forgets_to_renormalise, averages_scans_first, multiplies_temperature, swaps_views], ids=lambda f: f.__name__
)
def test_a_planted_error_fails_the_check(wrong: Loss) -> None:
    with pytest.raises(AssertionError):
        check(wrong)


def test_loss_is_refused_when_no_pair_counts() -> None:
    student, teacher, weights = case(0)
    with pytest.raises(ValueError, match="positive weight"):
        dino_loss(student, teacher, torch.zeros_like(weights), student_temp=0.1)


def test_equal_weights_of_any_size_give_the_plain_mean() -> None:
    student, teacher, weights = case(1)
    ones = torch.ones_like(weights)
    plain = dino_loss(student, teacher, ones, student_temp=0.1)
    assert torch.allclose(plain, dino_loss(student, teacher, 7 * ones, student_temp=0.1))
    assert torch.allclose(plain, pair_losses(student, teacher, student_temp=0.1).mean())


def test_gradients_reach_the_student_and_never_the_teacher() -> None:
    student, teacher, weights = case(2)
    student.requires_grad_()
    teacher.requires_grad_()
    dino_loss(student, teacher, weights, student_temp=0.1).backward()
    assert student.grad is not None
    assert student.grad.abs().sum() > 0
    assert teacher.grad is None


def test_the_softmax_is_float32_for_half_precision_logits() -> None:
    student, teacher, weights = case(3)
    loss = dino_loss(student.bfloat16(), teacher, weights, student_temp=0.1)
    assert loss.dtype == torch.float32
    assert torch.allclose(loss, dino_loss(student.bfloat16().float(), teacher, weights, student_temp=0.1))


def test_view_losses_average_each_crops_own_pairs_and_are_nan_without_one() -> None:
    student, teacher, weights = case(4)
    weights[:, 1, 2] = 0.0
    found = view_losses(pair_losses(student, teacher, student_temp=0.1), weights)
    for s in range(student.shape[0]):
        for b in range(student.shape[1]):
            total = float(weights[:, s, b].sum())
            if total == 0:
                assert math.isnan(float(found[s, b]))
                continue
            expected = sum(
                float(weights[t, s, b]) * naive_pair(student[s, b].tolist(), teacher[t, b].tolist(), 0.1) for t in range(teacher.shape[0])
            )
            assert float(found[s, b]) == pytest.approx(expected / total, rel=1e-5)
    assert math.isnan(float(found[1, 2]))
