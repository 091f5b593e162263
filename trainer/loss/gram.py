"""Gram anchoring: which patches look alike must stay as in an earlier teacher.

Source: Siméoni et al. 2025 (DINOv3), arXiv 2508.10104, section 4.2.
"""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from trainer.numerics import at_least_single


def gram_loss(student: Float[Tensor, "crops tokens dim"], anchor: Float[Tensor, "crops tokens dim"]) -> Float[Tensor, ""]:
    """Mean squared difference of the cosines between all pairs of patches of a crop, student against anchor (detached)."""
    return (_cosines(student) - _cosines(anchor.detach())).square().mean()


def _cosines(patches: Float[Tensor, "crops tokens dim"]) -> Float[Tensor, "crops tokens tokens"]:
    unit = F.normalize(at_least_single(patches), dim=-1)
    return unit @ unit.transpose(1, 2)
