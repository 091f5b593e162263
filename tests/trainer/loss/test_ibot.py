"""Masks are counted patch by patch; the loss equals loops over crops and their masked patches."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from trainer.config import Loss
from trainer.loss import draw_masks, ibot_loss


@settings(max_examples=40)
@given(st.integers(0, 10_000), st.integers(2, 6), st.floats(0, 1), st.floats(0, 1), st.floats(0, 1))
def test_each_masked_crop_hides_the_drawn_share_of_its_patches_exactly(seed: int, grid: int, a: float, b: float, prob: float) -> None:
    config = Loss(ibot_mask_prob=prob, ibot_mask_ratio_min=min(a, b), ibot_mask_ratio_max=max(a, b))
    masks = draw_masks(np.random.default_rng(seed), 5, grid, config)
    rng = np.random.default_rng(seed)
    chosen = rng.random(5) < prob
    shares = rng.uniform(min(a, b), max(a, b), 5)
    assert masks.shape == (5, grid**3)
    assert masks.sum(axis=1).tolist() == [round(share * grid**3) if masked else 0 for share, masked in zip(shares, chosen, strict=True)]


def neighbours(mask: np.ndarray) -> float:
    """Share of a masked patch's neighbours that are masked too."""
    pairs = [mask[1:] & mask[:-1], mask[:, 1:] & mask[:, :-1], mask[:, :, 1:] & mask[:, :, :-1]]
    return 2 * sum(int(p.sum()) for p in pairs) / (6 * int(mask.sum()))


def test_masks_are_blocks_and_no_scattered_patches() -> None:
    config = Loss(ibot_mask_prob=1.0, ibot_mask_ratio_min=0.3, ibot_mask_ratio_max=0.3)
    masks = draw_masks(np.random.default_rng(0), 200, 6, config).reshape(-1, 6, 6, 6)
    rng = np.random.default_rng(1)
    scattered = [rng.permutation(m.reshape(-1)).reshape(6, 6, 6) for m in masks]
    assert np.mean([neighbours(m) for m in masks]) > 1.5 * np.mean([neighbours(m) for m in scattered])


def test_every_patch_is_hidden_about_equally_often() -> None:
    config = Loss(ibot_mask_prob=1.0, ibot_mask_ratio_min=0.4, ibot_mask_ratio_max=0.4)
    often = draw_masks(np.random.default_rng(0), 2000, 3, config).mean(axis=0)
    assert often.min() > 0.33
    assert often.max() < 0.47


def naive(logits: Tensor, probs: Tensor, mask: Tensor, temperature: float) -> float:
    rows, crops = iter(zip(logits.tolist(), probs.tolist(), strict=True)), []
    for crop in mask.tolist():
        losses = []
        for hidden in crop:
            if hidden:
                row, p = next(rows)
                normaliser = math.log(sum(math.exp(value / temperature) for value in row))
                losses.append(-sum(q * (value / temperature - normaliser) for q, value in zip(p, row, strict=True)))
        if losses:
            crops.append(sum(losses) / len(losses))
    return sum(crops) / len(crops)


def check(loss: Callable[..., Tensor]) -> None:
    random = torch.Generator().manual_seed(0)
    mask = torch.tensor([[1, 1, 1, 0], [0, 0, 0, 0], [0, 1, 0, 0]], dtype=torch.bool)
    logits, probs = torch.randn(4, 5, generator=random), torch.softmax(torch.randn(4, 5, generator=random), dim=1)
    assert float(loss(logits, probs, mask, student_temp=0.3)) == pytest.approx(naive(logits, probs, mask, 0.3), rel=1e-5)


def test_each_crop_counts_the_same_however_many_patches_it_hides() -> None:
    check(ibot_loss)


def test_planted_errors_are_told_apart() -> None:
    def by_token(logits: Tensor, probs: Tensor, mask: Tensor, *, student_temp: float) -> Tensor:
        return -(probs * torch.log_softmax(logits / student_temp, dim=1)).sum(1).mean()

    for wrong in (
        by_token,
        lambda x, p, m, student_temp: ibot_loss(x, p, m, student_temp=1.0),
        lambda x, p, m, student_temp: ibot_loss(x, p, m.flip(0), student_temp=student_temp),
    ):
        with pytest.raises(AssertionError):
            check(wrong)


def test_without_a_masked_patch_there_is_no_loss() -> None:
    assert float(ibot_loss(torch.zeros(0, 5), torch.zeros(0, 5), torch.zeros(3, 4, dtype=torch.bool), student_temp=0.1)) == 0.0
