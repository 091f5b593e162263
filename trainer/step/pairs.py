"""Which pairs of views a batch compares and how much each counts."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from trainer.config import TrainerConfig
from trainer.data import Batch
from trainer.loss import (
    Geometry,
    batch_scale,
    match,
    needs_local_teacher,
    pair_ratio,
    teacher_ratio,
    unmatched_locals,
    weight,
)
from trainer.numerics import ranks, total


@dataclass(frozen=True)
class Pairs:
    """Pairs of a batch; they depend on where its crops lie, not on the network."""

    weights: Float[Tensor, "teacher_views student_views batch"]
    scale: Float[Tensor, ""]
    local_teacher: bool
    unmatched_locals: int
    ratio: Float[Tensor, "views batch"]


def pairs_of(batch: Batch, config: TrainerConfig, device: torch.device) -> Pairs:
    """Matching and weighting of a batch."""
    ratio = torch.from_numpy(batch.ratio_own.T.copy()).float()
    geometry = Geometry(
        torch.from_numpy(batch.global_corners),
        torch.from_numpy(batch.local_corners),
        torch.from_numpy(batch.global_edges),
        torch.from_numpy(batch.local_edges),
        ratio,
    )
    mask = match(geometry, config.loss)
    weights, scale = mask, torch.ones(())
    if config.loss.foreground_weighting_scope == "pair":
        weights = mask * weight(pair_ratio(teacher_ratio(ratio, len(mask), config.loss), ratio), config.loss)
    else:
        scale = total(batch_scale(ratio, config.loss).to(device)) / ranks()
    return Pairs(weights.to(device), scale.to(device), needs_local_teacher(weights, config.loss), unmatched_locals(mask), ratio.to(device))
