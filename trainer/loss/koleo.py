"""A regulariser that spreads points over the sphere."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from trainer.numerics import all_rows, at_least_single


def koleo_loss(features: Float[Tensor, "batch dim"], eps: float = 1e-8) -> Float[Tensor, ""]:
    """-mean log(distance to the nearest other point + eps), points L2-normalised, at least in float32.

    Zero for a batch of one, which has no neighbour. Call it for each global crop apart: two views of one scan are near on purpose.
    Neighbours are looked for among the rows given; `koleo_over_ranks` looks on all ranks.

    Source: Sablayrolles et al. 2018, arXiv 1806.03198, Eq. 2; Oquab et al. 2023 (DINOv2), arXiv 2304.07193, appendix A.
    """
    if len(features) < 2:
        return features.sum() * 0.0
    unit = F.normalize(at_least_single(features), dim=-1)
    with torch.no_grad():
        similarity = unit @ unit.T
        nearest = similarity.fill_diagonal_(-2.0).argmax(dim=1)
    distance = (unit - unit[nearest]).square().sum(dim=-1).clamp_min(eps**2).sqrt()
    return -torch.log(distance + eps).mean()


def koleo_over_ranks(features: Float[Tensor, "batch dim"]) -> Float[Tensor, ""]:
    """The same over the rows of all ranks, each of which computes all of it."""
    return koleo_loss(all_rows(features))
