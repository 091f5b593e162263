"""A batch cut into what fits into memory at once, and what a network says of each part."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from trainer.augment import views
from trainer.config import TrainerConfig
from trainer.data import Batch, stream
from trainer.loss import draw_masks
from trainer.model import Cut, DinoNet, Tokens, cut, spacing_mm
from trainer.numerics import rank

GLOBALS = 2


@dataclass(frozen=True)
class Part:
    """Some rows of a batch on the device. Crops lie view by view: all rows' first views, then all second ones."""

    rows: int
    crops: Cut
    """Global ones, and local ones where there are any, in patches that student and teacher read."""
    edges_mm: list[Float[Tensor, " crops"]]
    mask: Bool[Tensor, "global_crops tokens"] | None
    """Patches of global crops that iBOT hides from the student."""
    masked: Int[Tensor, " masked"] | None
    """Their numbers, counted over all patches of global crops."""
    keep: Float[Tensor, "depth 2 crops"] | None
    """Drop path of the student."""


class Outputs(NamedTuple):
    """What the losses read of a network."""

    features: Float[Tensor, "views rows features"]
    masked: Float[Tensor, "masked dim"]
    patches: Float[Tensor, "2 rows tokens dim"]
    """Of global crops; without rows where nothing reads them."""


def parts_of(batch: Batch, config: TrainerConfig, step: int, device: torch.device) -> list[Part]:
    """The batch in parts of about equal size, at most `loop.micro_batch_size` rows each.

    The draws of a step do not depend on how its batch is cut, nor on the number of ranks.
    """
    rows = len(batch.scan)
    count = -(-rows // (config.loop.micro_batch_size or rows))
    masks, keep = _masks(batch, config, step), _keep(batch, config, step)
    edges = itertools.pairwise(rows * n // count for n in range(count + 1))
    return [_part(batch, config, slice(low, high), masks, keep, device) for low, high in edges]


def _part(
    batch: Batch,
    config: TrainerConfig,
    rows: slice,
    masks: Bool[np.ndarray, "2 all_rows tokens"] | None,
    keep: Float[np.ndarray, "depth 2 views all_rows"] | None,
    device: torch.device,
) -> Part:
    dtype = torch.float64 if config.loop.precision == "float64" else torch.float32
    groups = [views(batch.globals[rows], batch.global_changes[rows], config, device).to(dtype)]
    edges = [batch.global_edges[rows]]
    if batch.locals.shape[1]:
        groups.append(views(batch.locals[rows], batch.local_changes[rows], config, device).to(dtype))
        edges.append(batch.local_edges[rows])
    hidden = None if masks is None else masks[:, rows].reshape(-1, masks.shape[2])
    return Part(
        rows=rows.stop - rows.start,
        crops=cut(groups, config.model.patch_size_voxels),
        edges_mm=[torch.from_numpy(e.T.reshape(-1) * spacing_mm(config)).to(device) for e in edges],
        mask=None if hidden is None else torch.from_numpy(hidden).to(device),
        masked=None if hidden is None else torch.from_numpy(np.flatnonzero(hidden)).to(device),
        keep=None if keep is None else torch.from_numpy(keep[..., rows].reshape(*keep.shape[:2], -1)).to(device, dtype),
    )


def _masks(batch: Batch, config: TrainerConfig, step: int) -> Bool[np.ndarray, "2 rows tokens"] | None:
    if not config.loss.ibot_weight:
        return None
    grid = config.crops.global_size_voxels // config.model.patch_size_voxels
    whole = config.loop.batch_size
    masks = draw_masks(stream(config.seed, step, "ibot/masks"), GLOBALS * whole, grid, config.loss).reshape(GLOBALS, whole, -1)
    return masks[:, _own_rows(batch)]


def _keep(batch: Batch, config: TrainerConfig, step: int) -> Float[np.ndarray, "depth 2 views rows"] | None:
    """Each residual branch of each crop by its own coin, so the expectation holds at any batch size; linear over depth."""
    depth = config.model.depth
    if not config.model.drop_path:
        return None
    skip = np.linspace(0 if depth > 1 else config.model.drop_path, config.model.drop_path, depth)[:, None, None, None]
    coins = stream(config.seed, step, "drop_path").random((depth, 2, GLOBALS + batch.locals.shape[1], config.loop.batch_size))
    return ((coins >= skip) / (1 - skip))[..., _own_rows(batch)]


def _own_rows(batch: Batch) -> slice:
    return slice(rank() * len(batch.scan), (rank() + 1) * len(batch.scan))


def run(net: DinoNet, backbone: torch.nn.Module, part: Part, *, hidden: bool, locals_: bool, patches: bool) -> Outputs:
    """One pass of a network over a part.

    Args:
        backbone: `net.backbone`, or what wraps it.
        hidden: Whether masks hide patches and drop path skips branches: the student's lot.
        locals_: Whether local crops take part.
        patches: Whether all patches of global crops are kept for a loss.
    """
    count = len(part.crops.sizes) if locals_ else 1
    tokens: list[Tokens] = backbone(
        part.crops.first(count),
        mask=part.mask if hidden else None,
        keep=part.keep if hidden else None,
        edges_mm=part.edges_mm[:count],
        picked=part.masked,
        patches=patches or net.pooling != "cls",
    )
    features = torch.cat([net.pool(group) for group in tokens])
    seen = tokens[0].patches
    return Outputs(
        features.view(-1, part.rows, features.shape[-1]),
        tokens[0].picked,
        seen.view(GLOBALS, part.rows, *seen.shape[1:]) if patches else seen[:0].view(GLOBALS, 0, *seen.shape[1:]),
    )


def joined(outputs: Sequence[Outputs]) -> Outputs:
    """The outputs of all parts as those of the whole batch (masked patches part by part)."""
    if len(outputs) == 1:
        return outputs[0]
    return Outputs(
        torch.cat([o.features for o in outputs], dim=1),
        torch.cat([o.masked for o in outputs]),
        torch.cat([o.patches for o in outputs], dim=1),
    )


def divided(whole: Outputs, like: Sequence[Outputs]) -> list[Outputs]:
    """The inverse of `joined`: the share of each part."""
    features = torch.split(whole.features, [o.features.shape[1] for o in like], dim=1)
    masked = torch.split(whole.masked, [len(o.masked) for o in like])
    patches = torch.split(whole.patches, [o.patches.shape[1] for o in like], dim=1)
    return [Outputs(*shares) for shares in zip(features, masked, patches, strict=True)]
