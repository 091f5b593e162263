"""The scan as the page shows it: blocks of voxels averaged, HU in one byte."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64, Shaped, UInt8

from trainer.data import Scan

SHOWN_VOXELS = 6_000_000
"""At most so many on the page, which then stays below 15 MB however noisy the scan is."""

HU_OF_CODE: Float64[np.ndarray, "256"] = np.concatenate(
    [np.linspace(-1024, -208, 69), np.arange(-200, 301, 4), np.arange(325, 1501, 25), np.linspace(1600, 3071, 13)]
)
"""HU of each byte: 4 HU apart in soft tissue, 12 in lung, 25 in bone, so that every window has its greys."""


def factors(scan: Scan) -> tuple[int, int, int]:
    """Voxels of the scan along each axis that become one of the page; the axis of finest millimetres gets coarser first."""
    found = [1, 1, 1]
    while np.prod([-(-n // f) for n, f in zip(scan.voxels.shape, found, strict=True)]) > SHOWN_VOXELS:
        axis = int(np.argmin([f * mm for f, mm in zip(found, scan.spacing_mm, strict=True)]))
        found[axis] += 1
    return found[0], found[1], found[2]


def codes(scan: Scan, by: tuple[int, int, int]) -> UInt8[np.ndarray, "depth height width"]:
    """Means over blocks of `by` voxels, each as the byte of nearest HU."""
    between = (HU_OF_CODE[1:] + HU_OF_CODE[:-1]) / 2
    slabs = (scan.voxels[low : low + by[0]] for low in range(0, scan.voxels.shape[0], by[0]))
    planes = [np.searchsorted(between, _mean(_mean(slab.mean(axis=0), 0, by[1]), 1, by[2])) for slab in slabs]
    return np.stack(planes).astype(np.uint8)


def _mean(plane: Shaped[np.ndarray, "height width"], axis: int, by: int) -> Float64[np.ndarray, "height width"]:
    starts = np.arange(0, plane.shape[axis], by)
    counts = np.diff([*starts, plane.shape[axis]])
    return np.asarray(np.add.reduceat(plane, starts, axis=axis) / (counts[:, None] if axis == 0 else counts))
