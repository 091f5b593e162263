"""What cubic crops share; a box is its low corner and its edge, in voxels of the scan."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, Float64, Int


def iou(offsets: Int[np.ndarray, "n 3"], first: int, second: int) -> Float[np.ndarray, " n"]:
    """IoU, 0 to 1, of two cubes of these edges, the second one's corner at these offsets from the first one's."""
    inter = _shared(offsets, first, second).prod(axis=-1)
    return np.asarray(inter / (first**3 + second**3 - inter))


def greatest_iou(first: int, second: int) -> float:
    """What cubes of these edges reach where one holds the other; to the last bit as `iou` says it."""
    return float(min(first, second) ** 3 / max(first, second) ** 3)


def reach(first: int, second: int, overlap: float) -> tuple[int, int]:
    """Least and greatest shift along one axis that keeps the IoU (of at most `greatest_iou`)."""
    shifts = np.arange(-second, first + 1)
    inside = min(first, second)
    inter = _shared(shifts, first, second) * inside**2
    keep = shifts[inter / (first**3 + second**3 - inter) >= overlap]
    return int(keep.min()), int(keep.max())


def overlaps(low: Int[np.ndarray, "*3"], high: Int[np.ndarray, "*3"], first: int, second: int, overlap: float) -> Bool[np.ndarray, "d h w"]:
    """Which shifts in the box low..high (inclusive) keep the IoU of two cubes of these edges."""
    low, high = np.broadcast_to(low, 3), np.broadcast_to(high, 3)
    d, h, w = (_shared(np.arange(a, b + 1), first, second) for a, b in zip(low, high, strict=True))
    inter = d[:, None, None] * h[None, :, None] * w[None, None, :]
    return np.asarray(inter / (first**3 + second**3 - inter) >= overlap)


def _shared(offsets: Int[np.ndarray, "*shape"], first: int, second: int) -> Int[np.ndarray, "*shape"]:
    """Length that two intervals of these lengths share along an axis."""
    return np.asarray(np.maximum(np.minimum(first, offsets + second) - np.maximum(offsets, 0), 0))


def global_iou(corners: Int[np.ndarray, "batch 2 3"], edges: Int[np.ndarray, "batch 2"]) -> Float64[np.ndarray, " batch"]:
    """IoU, 0 to 1, of the two global crops."""
    low, high = corners, corners + edges[..., None]
    shared = np.maximum(np.minimum(high[:, 0], high[:, 1]) - np.maximum(low[:, 0], low[:, 1]), 0).prod(axis=-1)
    return np.asarray(shared / ((edges**3).sum(axis=1) - shared))


def local_containment(
    global_corners: Int[np.ndarray, "batch 2 3"],
    local_corners: Int[np.ndarray, "batch local_views 3"],
    global_edges: Int[np.ndarray, "batch 2"],
    local_edges: Int[np.ndarray, "batch local_views"],
) -> Float64[np.ndarray, "batch local_views"]:
    """Largest share, 0 to 1, of a local crop that lies inside either global crop."""
    outer, inner = global_corners[:, None, :, :], local_corners[:, :, None, :]
    outer_high, inner_high = outer + global_edges[:, None, :, None], inner + local_edges[:, :, None, None]
    shared = np.minimum(outer_high, inner_high) - np.maximum(outer, inner)
    return np.asarray(np.maximum(shared, 0).prod(axis=-1).max(axis=-1) / local_edges**3)
