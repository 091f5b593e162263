"""A pre-norm vision transformer on cubes. Crops of several sizes go through in one pass: their tokens lie packed in one row for
all that acts token by token, and only attention looks at each size apart.

Source: Dosovitskiy et al. 2020, arXiv 2010.11929; registers: Darcet et al. 2023, arXiv 2309.16588;
LayerScale: Touvron et al. 2021, arXiv 2103.17239; drop path: Huang et al. 2016, arXiv 1603.09382.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from trainer.config import Model
from trainer.model.attention import Attention, Packed, Read, Rotary, Shape, split
from trainer.model.positions import MM_PER_UNIT, patch_coordinates, rotary_table
from trainer.products import GeluLinear, Linear


class Tokens(NamedTuple):
    """What the backbone says of crops of one size, after the last norm (a tuple, in which sharding finds the tensors)."""

    cls: Float[Tensor, "crops dim"] | None
    patches: Float[Tensor, "crops tokens dim"]
    """Without tokens where they were not asked for."""
    picked: Float[Tensor, "picked dim"]
    """Those that were named."""


def patchify(images: Float[Tensor, "batch 1 depth height width"], patch: int) -> Float[Tensor, "batch tokens voxels"]:
    """Cut cubes into patches, tokens and voxels in (depth, height, width) order."""
    return _grid(images, patch).reshape(len(images), -1, patch**3)


def _grid(images: Float[Tensor, "batch 1 depth height width"], patch: int) -> Float[Tensor, "batch d h w patch patch patch"]:
    batch, _, depth, height, width = images.shape
    grid = images.reshape(batch, depth // patch, patch, height // patch, patch, width // patch, patch)
    return grid.permute(0, 1, 3, 5, 2, 4, 6)


class Cut(NamedTuple):
    """Crops of several sizes as patches, packed in one row."""

    voxels: Float[Tensor, "patches voxels"]
    sizes: list[tuple[int, int]]
    """Crops of a size, and their edge in voxels."""

    def first(self, count: int) -> Cut:
        """The first sizes alone."""
        patches = sum(crops * edge**3 for crops, edge in self.sizes[:count]) // self.voxels.shape[1]
        return Cut(self.voxels[:patches], self.sizes[:count])


def cut(groups: Sequence[Float[Tensor, "crops 1 edge edge edge"]], patch: int) -> Cut:
    """Crops of one size each, packed."""
    sizes = [(len(images), images.shape[-1]) for images in groups]
    voxels = groups[0].new_empty(sum(images.numel() for images in groups) // patch**3, patch**3)
    for images, into in zip(groups, torch.split(voxels, [images.numel() // patch**3 for images in groups]), strict=True):
        grid = _grid(images, patch)
        into.view(grid.shape).copy_(grid)
    return Cut(voxels, sizes)


class Block(nn.Module):
    """x + attention(norm x), then x + MLP(norm x)."""

    def __init__(self, config: Model) -> None:
        super().__init__()
        hidden = int(config.dim * config.mlp_ratio)
        self.norm_attention = nn.LayerNorm(config.dim)
        self.attention = Attention(config.dim, config.heads)
        self.norm_mlp = nn.LayerNorm(config.dim)
        # Between them: the layers keep the numbers that they have in checkpoints.
        self.mlp = nn.Sequential(GeluLinear(config.dim, hidden), nn.Identity(), Linear(hidden, config.dim))
        scaled = config.layer_scale is not None
        self.scale_attention = nn.Parameter(torch.empty(config.dim)) if scaled else None
        self.scale_mlp = nn.Parameter(torch.empty(config.dim)) if scaled else None

    def forward(
        self,
        x: Packed,
        shapes: Sequence[Shape],
        rotaries: Sequence[Rotary | None],
        keep: Float[Tensor, "2 packed"] | None,
        read: Read | None = None,
    ) -> Float[Tensor, "read dim"]:
        mixed = self.attention(self.norm_attention(x), shapes, rotaries, read)
        if read is not None:
            x, keep = x[read.numbers], None if keep is None else keep[:, read.numbers]
        x = x + _scaled(mixed, self.scale_attention, None if keep is None else keep[0])
        return x + _scaled(self.mlp(self.norm_mlp(x)), self.scale_mlp, None if keep is None else keep[1])


def _scaled(branch: Packed, scale: Float[Tensor, " dim"] | None, keep: Float[Tensor, " packed"] | None) -> Packed:
    branch = branch if scale is None else branch * scale
    return branch if keep is None else branch * keep[:, None].to(branch.dtype)


class Vit3d(nn.Module):
    """Cubes of any edge that is a multiple of the patch -> tokens.

    Args:
        config: Width, depth, heads, positions, registers.
        global_size: Edge of a global crop in voxels: the yardstick of positions in `crop` units.
        spacing_mm: Edge of a voxel, for positions in millimetres.
        masks: Whether patches may be masked (iBOT).
    """

    def __init__(self, config: Model, global_size: int, spacing_mm: float = 1.0, *, masks: bool = False) -> None:
        super().__init__()
        self.config = config
        self.global_size, self.spacing_mm = global_size, spacing_mm
        grid = global_size // config.patch_size_voxels
        self.patch_embedding = Linear(config.patch_size_voxels**3, config.dim)
        extra = config.registers + (config.pooling != "mean")
        self.extra_tokens = nn.Parameter(torch.empty(extra, config.dim)) if extra else None
        self.mask_token = nn.Parameter(torch.empty(config.dim)) if masks else None
        self.positions = nn.Parameter(torch.empty(config.dim, grid, grid, grid)) if config.positions == "learned" else None
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
        # Feature normalisation takes away any scale and shift of a feature, so that only rounding would move them before it.
        self.norm = nn.LayerNorm(config.dim, elementwise_affine=config.feature_norm == "none")
        self._rotary: dict[tuple[int, torch.device], Rotary] = {}

    def forward(
        self,
        groups: Sequence[Float[Tensor, "crops 1 edge edge edge"]] | Cut,
        *,
        mask: Bool[Tensor, "crops tokens"] | None = None,
        keep: Float[Tensor, "depth 2 all_crops"] | None = None,
        edges_mm: Sequence[Float[Tensor, " crops"]] | None = None,
        picked: Int[Tensor, " picked"] | None = None,
        patches: bool = True,
    ) -> list[Tokens]:
        """One pass over crops of several sizes.

        Args:
            groups: Crops of one size each, or what `cut` made of them: several networks may read the same patches.
            mask: Patches of the first group that the mask token replaces.
            keep: Factor of each residual branch for each crop of all groups: 0 skips it, 1 / (1 - p) makes up for skipping.
            edges_mm: What each crop spans, for positions in mm; none: its voxels times the spacing.
            picked: Numbers of patches of the first group, counted over all its crops, that are given by themselves.
            patches: Whether all patches are given. Without them the last block works out CLS and what is picked alone: with two blocks
                that saves three tenths of a step's arithmetic, with twelve 6 %.
        """
        crops = groups if isinstance(groups, Cut) else cut(groups, self.config.patch_size_voxels)
        x, shapes = self._tokens(crops, mask)
        spans: Sequence[Float[Tensor, " crops"] | None] = [None] * len(shapes) if edges_mm is None else edges_mm
        rotaries = [self._turns(edge, x.device, of) for (_, edge), of in zip(crops.sizes, spans, strict=True)]
        spread = None if keep is None else _spread(keep, shapes)
        for depth, block in enumerate(self.blocks):
            kept = None if spread is None else spread[depth]
            read = self._read(shapes, picked, x.device) if not patches and depth == len(self.blocks) - 1 else None
            if self.config.checkpoint_activations and torch.is_grad_enabled():
                x = checkpoint(block, x, shapes, rotaries, kept, read, use_reentrant=False)
            else:
                x = block(x, shapes, rotaries, kept, read)
        return self._all(x, shapes, picked) if patches else self._few(x, shapes, picked)

    def _read(self, shapes: Sequence[Shape], picked: Int[Tensor, " picked"] | None, device: torch.device) -> Read:
        """CLS of all crops and what is picked, in the order in which `_few` takes them apart."""
        starts = [0, *itertools.accumulate(crops * tokens for crops, tokens in shapes)]
        cls = [start + tokens * torch.arange(crops, device=device) for start, (crops, tokens) in zip(starts, shapes, strict=False)]
        if picked is None:
            numbers = torch.cat(cls)
            return Read([1] * len(shapes), numbers, None, numbers)
        assert self.extra_tokens is not None
        crops, tokens = shapes[0]
        extra = len(self.extra_tokens)
        first = torch.cat([cls[0], picked // (tokens - extra) * tokens + extra + picked % (tokens - extra)])
        asking = torch.cat([torch.arange(crops * tokens, device=device), *cls[1:]])
        others = torch.arange(crops * tokens, len(asking), device=device)
        return Read([tokens] + [1] * (len(shapes) - 1), asking, torch.cat([first, others]), torch.cat([first, *cls[1:]]))

    def _few(self, x: Float[Tensor, "read dim"], shapes: Sequence[Shape], picked: Int[Tensor, " picked"] | None) -> list[Tokens]:
        count = 0 if picked is None else len(picked)
        first, named, *others = torch.split(self.norm(x), [shapes[0][0], count, *(crops for crops, _ in shapes[1:])])
        none = x.new_empty(0, x.shape[1])
        # Copies, so that no output is a view of another: sharding watches outputs.
        return [
            Tokens(cls.clone(), none.expand(len(cls), 0, -1), named.clone() if at == 0 else none) for at, cls in enumerate([first, *others])
        ]

    def _all(self, x: Packed, shapes: Sequence[Shape], picked: Int[Tensor, " picked"] | None) -> list[Tokens]:
        extra = 0 if self.extra_tokens is None else len(self.extra_tokens)
        parts = [part.view(*shape, -1) for part, shape in zip(split(x, shapes), shapes, strict=True)]
        # Normalised apart, so that no output is a view of another: sharding watches outputs.
        cls = [None if self.config.pooling == "mean" else self.norm(part[:, 0]) for part in parts]
        patches = [self.norm(part[:, extra:]) for part in parts]
        named = [x.new_empty(0, x.shape[1]) for _ in parts]
        if picked is not None:
            named[0] = patches[0].flatten(0, 1)[picked]
        return [Tokens(*of) for of in zip(cls, patches, named, strict=True)]

    def _tokens(self, crops: Cut, mask: Bool[Tensor, "crops tokens"] | None) -> tuple[Packed, list[Shape]]:
        x: Tensor = self.patch_embedding(crops.voxels)
        grids = [edge // self.config.patch_size_voxels for _, edge in crops.sizes]
        shapes = [(count, grid**3) for (count, _), grid in zip(crops.sizes, grids, strict=True)]
        if mask is None and self.positions is None and self.extra_tokens is None:
            return x, shapes
        parts = [part.view(*shape, -1) for part, shape in zip(split(x, shapes), shapes, strict=True)]
        if mask is not None:
            assert self.mask_token is not None
            parts[0] = torch.where(mask[..., None], self.mask_token.to(x.dtype), parts[0])
        if self.positions is not None:
            parts = [part + self._learned(grid) for part, grid in zip(parts, grids, strict=True)]
        if self.extra_tokens is not None:
            extra = self.extra_tokens.to(x.dtype)
            parts = [torch.cat([extra.expand(len(part), -1, -1), part], dim=1) for part in parts]
        return torch.cat([part.flatten(0, 1) for part in parts]), [(part.shape[0], part.shape[1]) for part in parts]

    def _learned(self, grid: int) -> Float[Tensor, "tokens dim"]:
        """Learned positions of the global grid, resized trilinearly to this crop's grid."""
        assert self.positions is not None
        table: Tensor = self.positions
        if grid != table.shape[-1]:
            table = F.interpolate(table[None], size=(grid, grid, grid), mode="trilinear", align_corners=False)[0]
        return table.flatten(1).T

    def _turns(self, edge: int, device: torch.device, edges_mm: Float[Tensor, " crops"] | None) -> Rotary | None:
        """Rotary tables: one for all crops of a size, or one for each where they span different millimetres."""
        if self.positions is not None:
            return None
        if self.config.positions_unit == "mm" and edges_mm is not None:
            return self._table(edge, edges_mm.double() / 2 / MM_PER_UNIT)
        if (edge, device) not in self._rotary:
            unit = self.global_size / 2 if self.config.positions_unit == "crop" else MM_PER_UNIT / self.spacing_mm
            cosine, sine = self._table(edge, torch.tensor(edge / 2 / unit, dtype=torch.float64))
            self._rotary[edge, device] = (cosine.to(device), sine.to(device))
        return self._rotary[edge, device]

    def _table(self, edge: int, half_extent: Float[Tensor, "*crops"]) -> Rotary:
        coordinates = patch_coordinates(edge // self.config.patch_size_voxels, half_extent)
        if self.extra_tokens is not None:  # CLS and registers come first and do not turn
            coordinates = F.pad(coordinates, (0, 0, len(self.extra_tokens), 0))
        return rotary_table(coordinates, self.config.dim // self.config.heads)


def _spread(keep: Float[Tensor, "depth 2 all_crops"], shapes: Sequence[Shape]) -> Float[Tensor, "depth 2 packed"]:
    """A crop's factor for each of its tokens."""
    starts = [0, *itertools.accumulate(crops for crops, _ in shapes)]
    return torch.cat(
        [keep[..., a:b].repeat_interleave(tokens, dim=-1) for a, b, (_, tokens) in zip(starts, starts[1:], shapes, strict=False)], dim=-1
    )
