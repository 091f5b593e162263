"""Raw intensities as features: the reference that shows what a network adds to the voxels it was given."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Float32

BINS = 32
"""Of the histogram over the window, [-1, 1]; values outside go to the first and last one."""


def histogram(cubes: Float32[np.ndarray, "n d h w"]) -> Float[np.ndarray, "n bins"]:
    """Square roots of the shares of voxels in 32 equal bins, so that the cosine of two rows is the Bhattacharyya coefficient."""
    places = np.clip(((cubes.reshape(len(cubes), -1) + 1) * (BINS / 2)).astype(np.int64), 0, BINS - 1)
    places += BINS * np.arange(len(cubes))[:, None]
    counts = np.bincount(places.ravel(), minlength=BINS * len(cubes)).reshape(len(cubes), BINS)
    return np.asarray(np.sqrt(counts / places.shape[1]))


def downsampled(cubes: Float32[np.ndarray, "n d h w"], grid: int) -> Float[np.ndarray, "n means"]:
    """Means over a grid of at most `grid` cells an axis, of edges that differ by at most one voxel."""
    edge = cubes.shape[-1]
    cells = min(grid, edge)
    starts = np.arange(cells) * edge // cells
    sizes = np.diff([*starts.tolist(), edge])
    found = cubes.astype(np.float64)
    for axis in (1, 2, 3):
        found = np.add.reduceat(found, starts, axis=axis) / np.expand_dims(sizes, tuple({0, 1, 2, 3} - {axis}))
    return np.asarray(found.reshape(len(cubes), -1))


def intensities(cubes: Float32[np.ndarray, "n d h w"], grid: int) -> Float[np.ndarray, "n features"]:
    """What there is, whatever its place, beside where it is: `histogram` and `downsampled`."""
    return np.concatenate([histogram(cubes), downsampled(cubes, grid)], axis=1)
