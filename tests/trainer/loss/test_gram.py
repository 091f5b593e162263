"""Gram anchoring equals loops over pairs of patches."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from trainer.loss import gram_loss


def cosine(a: list[float], b: list[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True)) / math.sqrt(sum(x * x for x in a) * sum(y * y for y in b))


def check(loss: Callable[[Tensor, Tensor], Tensor]) -> None:
    random = torch.Generator().manual_seed(0)
    student, anchor = torch.randn(2, 4, 3, generator=random), torch.randn(2, 4, 3, generator=random)
    differences = [
        (cosine(s[i], s[j]) - cosine(a[i], a[j])) ** 2
        for s, a in zip(student.tolist(), anchor.tolist(), strict=True)
        for i in range(4)
        for j in range(4)
    ]
    assert float(loss(student, anchor)) == pytest.approx(sum(differences) / len(differences), rel=1e-5)


def test_gram_loss_equals_the_loop() -> None:
    check(gram_loss)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda s, a: (s @ s.transpose(1, 2) - a @ a.transpose(1, 2)).square().mean(),
        lambda s, a: gram_loss(s.flatten(0, 1)[None], a.flatten(0, 1)[None]),
        lambda s, a: gram_loss(s, s.flip(1)),
    ],
)
def test_planted_errors_are_told_apart(wrong: Callable[[Tensor, Tensor], Tensor]) -> None:
    with pytest.raises(AssertionError):
        check(wrong)


def test_only_what_looks_alike_matters_and_only_the_student_moves() -> None:
    student = torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(1)).requires_grad_()
    turned = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(2)))[0]
    anchor = (student.detach() @ turned * 5).requires_grad_()
    assert float(gram_loss(student, anchor).detach()) == pytest.approx(0.0, abs=1e-10)
    gram_loss(student, anchor + torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(3))).backward()
    assert student.grad is not None
    assert anchor.grad is None
