"""A pre-norm vision transformer on cubes.

Source: Dosovitskiy et al. 2020, arXiv 2010.11929; registers: Darcet et al. 2023, arXiv 2309.16588;
LayerScale: Touvron et al. 2021, arXiv 2103.17239.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from trainer.config import Model
from trainer.model.positions import patch_coordinates, rotary_table, rotate

Rotary = tuple[Float[Tensor, "tokens head_dim"], Float[Tensor, "tokens head_dim"]]


def patchify(images: Float[Tensor, "batch 1 depth height width"], patch: int) -> Float[Tensor, "batch tokens voxels"]:
    """Cut cubes into patches, tokens and voxels in (depth, height, width) order."""
    batch, _, depth, height, width = images.shape
    grid = images.reshape(batch, depth // patch, patch, height // patch, patch, width // patch, patch)
    return grid.permute(0, 1, 3, 5, 2, 4, 6).reshape(batch, -1, patch**3)


class Attention(nn.Module):
    """Multi-head self-attention; patch tokens turn by their positions, CLS and registers do not."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.out = nn.Linear(dim, dim)

    def forward(self, x: Float[Tensor, "batch tokens dim"], rotary: Rotary | None) -> Float[Tensor, "batch tokens dim"]:
        batch, tokens, dim = x.shape
        qkv = self.qkv(x).view(batch, tokens, 3, self.heads, dim // self.heads).permute(2, 0, 3, 1, 4)
        if rotary is None:
            q, k, v = qkv.unbind(0)
        else:
            q, k = rotate(qkv[:2], rotary[0].to(x.dtype), rotary[1].to(x.dtype)).unbind(0)
            v = qkv[2]
        mixed = F.scaled_dot_product_attention(q, k, v)
        out: Tensor = self.out(mixed.transpose(1, 2).reshape(batch, tokens, dim))
        return out


class Block(nn.Module):
    """x + attention(norm x), then x + MLP(norm x)."""

    def __init__(self, config: Model) -> None:
        super().__init__()
        hidden = int(config.dim * config.mlp_ratio)
        self.norm_attention = nn.LayerNorm(config.dim)
        self.attention = Attention(config.dim, config.heads)
        self.norm_mlp = nn.LayerNorm(config.dim)
        self.mlp = nn.Sequential(nn.Linear(config.dim, hidden), nn.GELU(), nn.Linear(hidden, config.dim))
        scaled = config.layer_scale is not None
        self.scale_attention = nn.Parameter(torch.empty(config.dim)) if scaled else None
        self.scale_mlp = nn.Parameter(torch.empty(config.dim)) if scaled else None

    def forward(self, x: Float[Tensor, "batch tokens dim"], rotary: Rotary | None) -> Float[Tensor, "batch tokens dim"]:
        mixed = self.attention(self.norm_attention(x), rotary)
        x = x + (mixed if self.scale_attention is None else mixed * self.scale_attention)
        changed: Tensor = self.mlp(self.norm_mlp(x))
        return x + (changed if self.scale_mlp is None else changed * self.scale_mlp)


class Vit3d(nn.Module):
    """Cubes of any edge that is a multiple of the patch -> one feature vector each.

    Args:
        config: Width, depth, heads, positions, pooling, registers.
        global_size: Edge of a global crop in voxels: the yardstick of positions in every crop.
    """

    def __init__(self, config: Model, global_size: int) -> None:
        super().__init__()
        self.config = config
        self.global_size = global_size
        grid = global_size // config.patch_size_voxels
        self.patch_embedding = nn.Linear(config.patch_size_voxels**3, config.dim)
        extra = config.registers + (config.pooling == "cls")
        self.extra_tokens = nn.Parameter(torch.empty(extra, config.dim)) if extra else None
        self.positions = nn.Parameter(torch.empty(config.dim, grid, grid, grid)) if config.positions == "learned" else None
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
        self.norm = nn.LayerNorm(config.dim)
        self._rotary: dict[tuple[int, torch.device], Rotary] = {}

    def forward(self, images: Float[Tensor, "batch 1 depth height width"]) -> Float[Tensor, "batch dim"]:
        patches = patchify(images, self.config.patch_size_voxels)
        grid = images.shape[-1] // self.config.patch_size_voxels
        x = self.patch_embedding(patches)
        if self.positions is not None:
            x = x + self._learned(grid)
        extra = 0
        if self.extra_tokens is not None:
            extra = len(self.extra_tokens)
            x = torch.cat([self.extra_tokens.to(x.dtype).expand(len(x), -1, -1), x], dim=1)
        rotary = self._table(grid, x.device) if self.positions is None else None
        for block in self.blocks:
            x = block(x, rotary)
        if self.config.pooling == "cls":
            return self.norm(x[:, 0])  # type: ignore[no-any-return]
        return self.norm(x[:, extra:]).mean(dim=1)  # type: ignore[no-any-return]

    def _learned(self, grid: int) -> Float[Tensor, "tokens dim"]:
        """Learned positions of the global grid, resized trilinearly to this crop's grid."""
        assert self.positions is not None
        table: Tensor = self.positions
        if grid != table.shape[-1]:
            table = F.interpolate(table[None], size=(grid, grid, grid), mode="trilinear", align_corners=False)[0]
        return table.flatten(1).T

    def _table(self, grid: int, device: torch.device) -> Rotary:
        """Rotary tables of a grid, computed once; CLS and registers come first and do not turn."""
        if (grid, device) not in self._rotary:
            coordinates = patch_coordinates(grid, self.config.patch_size_voxels, self.global_size)
            still = 0 if self.extra_tokens is None else len(self.extra_tokens)
            coordinates = torch.cat([torch.zeros(still, 3), coordinates])
            cosine, sine = rotary_table(coordinates, self.config.dim // self.config.heads)
            self._rotary[grid, device] = (cosine.to(device), sine.to(device))
        return self._rotary[grid, device]
