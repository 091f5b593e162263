"""Which (teacher view, student view) pairs are compared. Masks are 1 for a pair and 0 for none.

Views are the two globals, then the locals; a view is never matched with itself. Beside the globals, `loss.matching` may add teacher
views: the teacher's view of the locals (`hierarchical`), or one that says "background" (`background_prototype`).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from trainer.config import Loss

GLOBALS = 2


@dataclass(frozen=True)
class Geometry:
    """Where the crops of a batch lie, in voxels of their scan, and how much foreground each shows."""

    global_corners: Int[Tensor, "batch 2 3"]
    local_corners: Int[Tensor, "batch local_views 3"]
    global_edges: Int[Tensor, "batch 2"]
    local_edges: Int[Tensor, "batch local_views"]
    ratio: Float[Tensor, "views batch"]
    """By the arm's own foreground threshold."""


def match(geometry: Geometry, config: Loss) -> Float[Tensor, "teacher_views student_views batch"]:
    """Pair mask of `loss.matching`; teacher views are the globals, with `hierarchical` the locals too.

    all_pairs: every global with every other view.
    own_global: a local only with globals that contain it whole.
    hierarchical: a local with enough foreground with the globals; any other with the teacher's view of *other* locals of its
        scan, of an IoU of at least `local_pair_min_iou`. Teacher and student never see the same crop.
    foreground_only: every global with every other view, where both have enough foreground.
    background_prototype: as foreground_only; every view without enough foreground with the one teacher view that says background.
    """
    mask = _all_pairs(geometry)
    enough = geometry.ratio >= config.matching_threshold
    if config.matching == "own_global":
        mask[:, GLOBALS:] *= contains(geometry)
    elif config.matching in ("foreground_only", "background_prototype"):
        mask *= enough[:GLOBALS, None] & enough[None, :]
        if reserves_background(config):
            mask = torch.cat([mask, (~enough[None]).to(mask.dtype)])
    elif config.matching == "hierarchical":
        mask[:, GLOBALS:] *= enough[None, GLOBALS:]
        partners = local_iou(geometry) >= config.local_pair_min_iou
        partners &= ~torch.eye(partners.shape[0], dtype=torch.bool, device=mask.device)[:, :, None]
        partners &= ~enough[None, GLOBALS:]
        nothing = mask.new_zeros(partners.shape[0], GLOBALS, mask.shape[2])
        mask = torch.cat([mask, torch.cat([nothing, partners.to(mask.dtype)], dim=1)])
    return mask


def teacher_ratio(ratio: Float[Tensor, "views batch"], teacher_views: int, config: Loss) -> Float[Tensor, "teacher_views batch"]:
    """Foreground ratio of each teacher view; the one that says background counts as the student's own (1 never lowers a minimum)."""
    return torch.cat([ratio[:GLOBALS], torch.ones_like(ratio[:1])]) if reserves_background(config) else ratio[:teacher_views]


def needs_local_teacher(mask: Float[Tensor, "teacher_views student_views batch"], config: Loss) -> bool:
    """Whether any pair's teacher view is a local crop."""
    return config.matching == "hierarchical" and bool(mask[GLOBALS:].any())


def reserves_background(config: Loss) -> bool:
    """Whether the last prototype is kept for background crops."""
    return config.matching == "background_prototype"


def unmatched_locals(mask: Float[Tensor, "teacher_views student_views batch"]) -> int:
    """Local crops of the batch that no teacher view is matched with."""
    return int((mask[:, GLOBALS:].sum(dim=0) == 0).sum())


def contains(geometry: Geometry) -> Bool[Tensor, "2 local_views batch"]:
    """Whether global crop g holds the whole of local crop l."""
    low = geometry.global_corners[:, :, None] <= geometry.local_corners[:, None]
    local_high = geometry.local_corners + geometry.local_edges[..., None]
    global_high = geometry.global_corners + geometry.global_edges[..., None]
    high = local_high[:, None] <= global_high[:, :, None]
    return (low & high).all(dim=-1).permute(1, 2, 0)


def local_iou(geometry: Geometry) -> Float[Tensor, "local_views local_views batch"]:
    """Intersection over union of the volumes of two local crops of a scan, in [0, 1]."""
    low, edges = geometry.local_corners, geometry.local_edges
    high = low + edges[..., None]
    shared = (torch.minimum(high[:, :, None], high[:, None]) - torch.maximum(low[:, :, None], low[:, None])).clamp_min(0).prod(dim=-1)
    volume = edges**3
    return (shared.float() / (volume[:, :, None] + volume[:, None] - shared)).permute(1, 2, 0)


def _all_pairs(geometry: Geometry) -> Float[Tensor, "2 student_views batch"]:
    views, batch = geometry.ratio.shape
    mask = torch.ones(GLOBALS, views, batch, device=geometry.ratio.device)
    for view in range(GLOBALS):
        mask[view, view] = 0
    return mask
