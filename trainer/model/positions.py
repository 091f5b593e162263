"""Positions of patches that mean the same in a global and in a local crop."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

BASE = 100.0


def patch_coordinates(grid: int, patch_size: int, global_size: int) -> Float[Tensor, "tokens 3"]:
    """Centres of a crop's patches as offsets from the crop's centre, in units of the *global* crop's half edge.

    A global crop spans [-1, 1]; a local crop spans its physical share of it, so one voxel is one distance in both.
    """
    offsets = (torch.arange(grid, dtype=torch.float64) - (grid - 1) / 2) * patch_size / (global_size / 2)
    return torch.stack(torch.meshgrid(offsets, offsets, offsets, indexing="ij"), dim=-1).reshape(-1, 3).float()


def rotary_table(
    coordinates: Float[Tensor, "tokens 3"], head_dim: int
) -> tuple[Float[Tensor, "tokens head_dim"], Float[Tensor, "tokens head_dim"]]:
    """Cosine and signed sine by which :func:`rotate` turns queries and keys.

    Each axis turns a third of the channels, in pairs (i, i + head_dim / 2); the pair `j` of an axis turns by
    2 pi coordinate / BASE^(j / pairs).

    Source: Su et al. 2021, arXiv 2104.09864, Eq. 15. Departs: three axes and coordinates in [-1, 1] instead of indices.
    """
    pairs = head_dim // 6
    periods = BASE ** (torch.arange(pairs, dtype=torch.float64) / pairs)
    angles = 2 * math.pi * coordinates.double()[:, :, None] / periods
    angles = angles.flatten(1)
    cosine, sine = torch.cos(angles), torch.sin(angles)
    return torch.cat([cosine, cosine], dim=1).float(), torch.cat([-sine, sine], dim=1).float()


def rotate(
    x: Float[Tensor, "... tokens head_dim"], cosine: Float[Tensor, "tokens head_dim"], signed_sine: Float[Tensor, "tokens head_dim"]
) -> Float[Tensor, "... tokens head_dim"]:
    """Turn channel pairs (i, i + head_dim / 2) by each token's angles."""
    return x * cosine + x.roll(x.shape[-1] // 2, dims=-1) * signed_sine
