"""Where voxels lie: one orientation for all scans, and another spacing, one plane at a time."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float32, Float64, Int, Shaped

Plane = Float32[np.ndarray, "height width"]


@dataclass(frozen=True)
class Grid:
    """A grid in the patient's space (LPS: left, back, head), axes as the file names them."""

    size: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    origin_mm: tuple[float, float, float]
    direction: tuple[tuple[float, float, float], ...]
    """Columns are the axes' directions."""

    @classmethod
    def of(cls, size: Sequence[int], spacing: Sequence[float], origin: Sequence[float], direction: Float64[np.ndarray, "3 3"]) -> Grid:
        """From any sequences of numbers."""
        (a, b, c), (d, e, f), (g, h, i) = ([float(n) for n in some] for some in (spacing, origin, direction[0]))
        rows = ((g, h, i), *(tuple(float(n) for n in row) for row in direction[1:]))
        return cls((int(size[0]), int(size[1]), int(size[2])), (a, b, c), (d, e, f), rows)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Turn:
    """How a file's array becomes (depth: toward the head, height: toward the back, width: toward the left)."""

    axes: tuple[int, int, int]
    """Axis of the array (slowest first) for depth, height and width."""
    flips: tuple[bool, bool, bool]

    @classmethod
    def of(cls, grid: Grid) -> Turn:
        """The turn of least angle: each of the patient's axes takes the axis of the file that is nearest, each once."""
        direction = np.array(grid.direction)
        nearest = max(itertools.permutations(range(3)), key=lambda axes: sum(abs(direction[k, axis]) for k, axis in enumerate(axes)))
        left, back, head = nearest
        return cls((2 - head, 2 - back, 2 - left), (direction[2, head] < 0, direction[1, back] < 0, direction[0, left] < 0))

    def view(self, values: Shaped[np.ndarray, "a b c"]) -> Shaped[np.ndarray, "depth height width"]:
        """The turned array, nothing copied."""
        steps = tuple(slice(None, None, -1 if flip else None) for flip in self.flips)
        return np.asarray(values.transpose(self.axes)[steps])

    def spacing_mm(self, grid: Grid) -> tuple[float, float, float]:
        """Of depth, height and width."""
        d, h, w = (grid.spacing_mm[2 - axis] for axis in self.axes)
        return d, h, w

    def shape(self, grid: Grid) -> tuple[int, int, int]:
        """Of the turned array."""
        d, h, w = (grid.size[2 - axis] for axis in self.axes)
        return d, h, w

    def corner_mm(self, grid: Grid) -> Float64[np.ndarray, "3"]:
        """Place of the turned array's first voxel in the patient's space."""
        first = np.zeros(3)
        for axis, flip in zip(self.axes, self.flips, strict=True):
            first[2 - axis] = grid.size[2 - axis] - 1 if flip else 0
        return np.asarray(np.array(grid.origin_mm) + np.array(grid.direction) @ (first * np.array(grid.spacing_mm)))


def resampled_size(count: int, native_mm: float, spacing_mm: float) -> int:
    """Voxels along an axis after resampling."""
    return max(1, round(count * native_mm / spacing_mm))


def sampling(count: int, native_mm: float, spacing_mm: float) -> Any:
    """Sparse matrix [new voxels, voxels] of resampling along one axis; rows sum to 1.

    Linear between neighbours after a Gaussian of half the step's growth as its sigma (none where the grid gets finer), cut off at four
    sigma; beyond the ends the last voxel goes on. The first new voxel starts at the edge where the first old one did.
    """
    from scipy import sparse

    places = _places(count, native_mm, spacing_mm)
    low = np.minimum(places.astype(np.int64), max(count - 2, 0))
    high, part = np.minimum(low + 1, count - 1), places - low
    rows = np.arange(len(places))
    linear = sparse.coo_array(
        (np.concatenate([1 - part, part]), (np.concatenate([rows, rows]), np.concatenate([low, high]))), shape=(len(places), count)
    ).tocsr()
    if spacing_mm > 1.01 * native_mm and count >= 4:
        linear = linear @ _gaussian(count, (spacing_mm - native_mm) / (2 * native_mm))
    return linear.tocsr().astype(np.float32)


def nearest(count: int, native_mm: float, spacing_mm: float) -> Int[np.ndarray, " new"]:
    """The voxel that each new one's centre lies in; on a border the lower one, whatever the rounding of the numbers."""
    return np.asarray(np.floor(_places(count, native_mm, spacing_mm) + 0.5 - 1e-6), dtype=np.int64)


def _places(count: int, native_mm: float, spacing_mm: float) -> Float64[np.ndarray, " new"]:
    """Centres of the new voxels in old voxels."""
    new = np.arange(resampled_size(count, native_mm, spacing_mm))
    return np.asarray(np.clip((new + 0.5) * spacing_mm / native_mm - 0.5, 0, count - 1))


def _gaussian(count: int, sigma: float) -> Any:
    from scipy import sparse

    reach = int(np.ceil(4 * sigma))
    offsets = np.arange(-reach, reach + 1)
    weights = np.exp(-0.5 * (offsets / sigma) ** 2)
    rows = np.repeat(np.arange(count), len(offsets))
    columns = np.clip(rows + np.tile(offsets, count), 0, count - 1)
    return sparse.coo_array((np.tile(weights / weights.sum(), count), (rows, columns)), shape=(count, count)).tocsr()


def resampled(
    plane_at: Callable[[int], Plane], shape: tuple[int, int, int], native_mm: tuple[float, float, float], spacing_mm: float
) -> Iterator[Plane]:
    """Planes of the resampled volume, of which only those that the next one needs are held."""
    depth, height, width = (sampling(count, native, spacing_mm) for count, native in zip(shape, native_mm, strict=True))
    held: dict[int, Plane] = {}
    for row in range(depth.shape[0]):
        span = slice(depth.indptr[row], depth.indptr[row + 1])
        needed, weights = depth.indices[span], depth.data[span]
        for gone in [z for z in held if z < needed.min()]:
            del held[gone]
        for z in needed.tolist():
            if z not in held:
                held[z] = (width @ (height @ plane_at(z)).T).T
        whole = np.zeros((height.shape[0], width.shape[0]), dtype=np.float32)
        for z, weight in zip(needed.tolist(), weights, strict=True):
            whole += weight * held[z]
        yield whole
