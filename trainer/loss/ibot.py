"""iBOT: the student tells what the teacher saw under its mask.

Source: Zhou et al. 2021 (iBOT), arXiv 2111.07832; Oquab et al. 2023 (DINOv2), arXiv 2304.07193: a head of its own, Sinkhorn-Knopp.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from trainer.config import Loss
from trainer.numerics import at_least_single, ranks, total

_LEAST_ASPECT = 0.5


def draw_masks(rng: np.random.Generator, crops: int, grid: int, config: Loss) -> Bool[np.ndarray, "crops tokens"]:
    """Masked patches of global crops: none in a share of 1 - `ibot_mask_prob`, else blocks that cover a uniformly drawn share.

    The number of masked patches of a crop is the drawn share times all patches, rounded, exactly. Blocks are boxes with edges of a
    drawn aspect; what the last one has too many is taken away at random.

    Args:
        rng: One named stream a call; a crop's mask depends on the crops before it.
        grid: Patches along an edge of the crop.

    Source: block masking of Bao et al. 2021 (BEiT), arXiv 2106.08254, Algorithm 1. Departs: three axes, an exact count.
    """
    masks = np.zeros((crops, grid, grid, grid), dtype=bool)
    chosen = rng.random(crops) < config.ibot_mask_prob
    shares = rng.uniform(config.ibot_mask_ratio_min, config.ibot_mask_ratio_max, crops)
    for crop in np.flatnonzero(chosen):
        _fill(masks[crop], round(float(shares[crop]) * grid**3), rng)
    return masks.reshape(crops, -1)


def _fill(mask: Bool[np.ndarray, "grid grid grid"], wanted: int, rng: np.random.Generator) -> None:
    grid = len(mask)
    while (missing := wanted - int(mask.sum())) > 0:
        volume = rng.uniform(1, missing) if missing > 1 else 1.0
        aspects = np.exp(rng.uniform(np.log(_LEAST_ASPECT), -np.log(_LEAST_ASPECT), 3))
        edges = np.clip(np.round((volume / aspects.prod()) ** (1 / 3) * aspects), 1, grid).astype(int)
        low = [int(rng.integers(1 - edge, grid)) for edge in edges]  # may reach out of the crop, or its middle would be hidden more often
        block = mask[tuple(slice(max(at, 0), at + edge) for at, edge in zip(low, edges, strict=True))]
        new = np.flatnonzero(~block.reshape(-1))
        if len(new) > missing:
            new = rng.permutation(new)[:missing]
        flat = block.reshape(-1).copy()
        flat[new] = True
        block[...] = flat.reshape(block.shape)


def ibot_loss(
    student_logits: Float[Tensor, "masked prototypes"],
    teacher_probs: Float[Tensor, "masked prototypes"],
    mask: Bool[Tensor, "crops tokens"],
    *,
    student_temp: float,
) -> Float[Tensor, ""]:
    """Cross-entropy of masked patches in nats: the mean over a crop's masked patches, then over masked crops (of all ranks).

    So each token weighs 1 / (masked tokens in its crop). Zero where no crop is masked.

    Args:
        student_logits: Before softmax, of the masked patches in the order of `mask`'s rows.
        teacher_probs: The teacher's assignments of the same patches, unmasked; detached.

    Source: Oquab et al. 2023, arXiv 2304.07193, section 4. Departs: the mean is over masked crops, not over all.
    """
    masked = mask.sum(dim=1, keepdim=True)
    weights = (1.0 / masked.clamp_min(1)).expand_as(mask)[mask].to(student_logits.device)
    crops = total((masked > 0).sum().to(student_logits)).clamp_min(1)
    log_probs = torch.log_softmax(at_least_single(student_logits) / student_temp, dim=-1)
    losses = -(teacher_probs.detach() * log_probs).sum(dim=-1)
    return (losses * weights).sum() / crops * ranks()
