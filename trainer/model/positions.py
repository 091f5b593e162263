"""Positions of patches that mean the same in a global and in a local crop."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

BASE = 100.0
MM_PER_UNIT = 100.0
"""Millimetres of one unit of position where `model.positions_unit` is `mm`; the longest wave then spans 10 cm."""


def patch_coordinates(grid: int, half_extent: Float[Tensor, "*crops"] | float) -> Float[Tensor, "*crops tokens 3"]:
    """Centres of a crop's patches as offsets from the crop's centre, in the unit of `half_extent`.

    Args:
        grid: Patches along an edge.
        half_extent: Half the crop's edge: in units of the global crop's half edge (so a global crop spans [-1, 1] and a local one
            its physical share of it) or of 100 mm. In both a distance means the same in a global and in a local crop.
    """
    share = (torch.arange(grid, dtype=torch.float64) - (grid - 1) / 2) * 2 / grid
    offsets = torch.stack(torch.meshgrid(share, share, share, indexing="ij"), dim=-1).reshape(-1, 3)
    extent = torch.as_tensor(half_extent, dtype=torch.float64)
    return (offsets.to(extent.device) * extent[..., None, None]).float()


def rotary_table(
    coordinates: Float[Tensor, "*crops tokens 3"], head_dim: int
) -> tuple[Float[Tensor, "*crops tokens head_dim"], Float[Tensor, "*crops tokens head_dim"]]:
    """Cosine and signed sine by which :func:`rotate` turns queries and keys.

    Each axis turns a third of the channels, in pairs (i, i + head_dim / 2); the pair `j` of an axis turns by
    2 pi coordinate / BASE^(j / pairs).

    Source: Su et al. 2021, arXiv 2104.09864, Eq. 15. Departs: three axes and coordinates in [-1, 1] instead of indices.
    """
    pairs = head_dim // 6
    periods = BASE ** (torch.arange(pairs, dtype=torch.float64, device=coordinates.device) / pairs)
    angles = (2 * math.pi * coordinates.double()[..., None] / periods).flatten(-2)
    cosine, sine = torch.cos(angles), torch.sin(angles)
    return torch.cat([cosine, cosine], dim=-1).float(), torch.cat([-sine, sine], dim=-1).float()


def rotate(
    x: Float[Tensor, "... tokens head_dim"],
    cosine: Float[Tensor, "... tokens head_dim"],
    signed_sine: Float[Tensor, "... tokens head_dim"],
) -> Float[Tensor, "... tokens head_dim"]:
    """Turn channel pairs (i, i + head_dim / 2) by each token's angles."""
    return x.roll(x.shape[-1] // 2, dims=-1).mul_(signed_sine).addcmul_(x, cosine)
