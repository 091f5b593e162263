"""Weights of view pairs by how much body both views show."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from trainer.config import Loss


def weight(ratio: Float[Tensor, "*shape"], config: Loss) -> Float[Tensor, "*shape"]:
    """f(ratio) in [0, 1], non-decreasing: what `loss.foreground_weighting` names.

    none 1 · linear r · sqrt r^(1/2) · squared r^2 · threshold 1 from `weighting_threshold` on, else 0 ·
    sigmoid 1 / (1 + exp(-(r - weighting_threshold) / weighting_width)).
    """
    match config.foreground_weighting:
        case "linear":
            return ratio
        case "sqrt":
            return ratio.sqrt()
        case "squared":
            return ratio.square()
        case "threshold":
            return (ratio >= config.weighting_threshold).to(ratio.dtype)
        case "sigmoid":
            return torch.sigmoid((ratio - config.weighting_threshold) / config.weighting_width)
        case _:
            return torch.ones_like(ratio)


def pair_ratio(
    teacher_ratio: Float[Tensor, "teacher_views batch"], student_ratio: Float[Tensor, "student_views batch"]
) -> Float[Tensor, "teacher_views student_views batch"]:
    """The smaller of both views' foreground ratios: a pair teaches no more anatomy than its emptier view shows."""
    return torch.minimum(teacher_ratio[:, None], student_ratio[None, :])


def batch_scale(student_ratio: Float[Tensor, "student_views batch"], config: Loss) -> Float[Tensor, ""]:
    """Mean of f(ratio) over all crops of the batch: the factor of `foreground_weighting_scope=batch_mean`.

    One scalar a batch: it rescales the learning rate and weights no crop against another. Kept as an arm to compare.
    """
    return weight(student_ratio, config).mean()
