"""`patches.png`: patch features as colours over slices of a held-out scan, beside the scan itself.

The slices pass through the middle of the scan's foreground-rich probe crops, so they are the same for every arm. Each slice is covered by
overlapping cubes of the network's own size; a cell of half a patch (of a whole one where that is odd, or the scan is long) takes the mean
of all patches over it. The features of all cells are reduced to their first three principal components (PCA fitted on this scan alone):
the first is lightness, the second goes from blue to yellow, the third from green to magenta, so that a colour-blind reader misses at
most the third.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from jaxtyping import Float64, Int, UInt8

from trainer.config import TrainerConfig
from trainer.data import Scan, cut, scan_foreground
from trainer.measure.organs import EmbedPatches
from trainer.measure.yardstick import ScanProbe
from trainer.pictures.components import FAINTEST, explained_by, principal, shaded, told_apart, turned

PLANES = ("axial", "coronal", "sagittal")
"""By the axis that a slice is taken along: depth, height, width."""
TOWARD = ("the head", "the back", "the left")
CUBES = 1024
"""Cubes that cover the three slices; where they would be more they overlap less."""
CELLS = 160
"""Along the longest axis a cell is half a patch up to as many cells, then a whole patch."""
AT_ONCE = 128
"""Cubes in memory at once."""


@dataclass(frozen=True)
class Plane:
    """One slice in cells of `edge` voxels: a cell's feature is the mean of the patches over it."""

    axis: int
    index: int
    """Of the slice, in voxels along the axis."""
    start: Int[np.ndarray, "2"]
    """Low corner of the cells in voxels, along the other two axes."""
    edge: int
    features: Float64[np.ndarray, "down across dim"]
    brightness: Float64[np.ndarray, "down across"]
    """Mean of the windowed voxels of a patch around each cell, in [-1, 1]."""
    body: Float64[np.ndarray, "down across"]
    """Body share of the same patch by the yardstick."""


@dataclass(frozen=True)
class PatchMap:
    """Patch features of a scan in three planes, as colours."""

    scan: Scan
    planes: tuple[Plane, ...]
    colours: tuple[UInt8[np.ndarray, "down across 3"], ...]
    explained: tuple[float, float, float]
    """Share of the variance in each component."""
    meanings: tuple[str, str, str]
    """What each component rises with, of brightness and the three directions."""
    by_brightness: float
    """Share of the variance that a straight line of the patch's mean brightness explains."""
    spread: float
    """Root mean square distance of a patch from the mean patch, over the root mean square length; in [0, 1]."""
    told_apart: float | None
    """Probability that the first component ranks a patch of body above one of background, or below, whichever is more, in [.5, 1]."""

    def title(self) -> str:
        """What is seen, in one line."""
        if self.spread < FAINTEST:
            return f"Patch features hardly differ: their spread is {self.spread:.1%} of their length"
        share = f"three components hold {sum(self.explained):.0%} of the variance"
        if self.told_apart is None:
            return f"Patch features: {share}"
        verdict = "tell" if self.told_apart >= 0.9 else "partly tell" if self.told_apart >= 0.7 else "do not tell"
        return f"Patch features {verdict} body from background (AUC {self.told_apart:.2f}); {share}"

    def description(self) -> str:
        """The same in sentences, with how to read the picture."""
        parts = ("lightness", "blue to yellow", "green to magenta")
        said = "; ".join(
            f"{part} {share:.0%} of the variance, {meaning}"
            for part, share, meaning in zip(parts, self.explained, self.meanings, strict=True)
        )
        apart = "" if self.told_apart is None else f"The first alone ranks body against background with AUC {self.told_apart:.2f}. "
        return (
            f"Held-out scan {self.scan.name} in a soft-tissue window, and its patch features as colours in cells of "
            f"{self.planes[0].edge * self.scan.spacing_mm[1]:.0f} mm: {said}. {apart}Brightness alone explains "
            f"{self.by_brightness:.0%} of the features' variance; their spread is {self.spread:.2f} of their length. Equal colours are "
            "equal features; any network keeps brightness, so look for borders that brightness does not have."
        )


def patch_map(probe: ScanProbe, embed_patches: EmbedPatches, config: TrainerConfig) -> PatchMap:
    """Read a network on cubes that cover three slices.

    Args:
        embed_patches: Images [n, 1, edge, edge, edge] to [n, grid, grid, grid, dim].

    Raises:
        ValueError: Features that are not finite.
    """
    centre = np.median(probe.corners, axis=0).astype(int) + config.crops.global_size_voxels // 2
    planes = tuple(_plane(probe.owner, axis, int(centre[axis]), embed_patches, config) for axis in range(3))
    features = np.concatenate([plane.features.reshape(-1, plane.features.shape[-1]) for plane in planes])
    if not np.isfinite(features).all():
        raise ValueError("expected finite features of patches but the network's are not. Lower loop.lr, or set loop.clip_norm.")
    brightness, body = (np.concatenate([getattr(p, name).ravel() for p in planes]) for name in ("brightness", "body"))
    scores, explained = principal(features)
    references = {"with brightness": brightness} | {f"toward {TOWARD[axis]}": _along(planes, axis) for axis in range(3)}
    scores, meanings = turned(scores, references)
    length = float(np.sqrt(np.square(features).sum(axis=1).mean()))
    spread = float(np.sqrt(np.square(features - features.mean(axis=0)).sum(axis=1).mean())) / length if length else 0.0
    colours = shaded(scores, length)
    ends = np.cumsum([plane.body.size for plane in planes])[:-1]
    m = config.measure
    return PatchMap(
        probe.owner,
        planes,
        tuple(part.reshape(*plane.body.shape, 3) for part, plane in zip(np.split(colours, ends), planes, strict=True)),
        explained,
        meanings,
        explained_by(features, brightness),
        spread,
        told_apart(scores[:, 0], body >= m.rich_ratio, body <= m.background_ratio),
    )


def _plane(scan: Scan, axis: int, index: int, embed_patches: EmbedPatches, config: TrainerConfig) -> Plane:
    patch, size = config.model.patch_size_voxels, config.crops.global_size_voxels
    shape = np.array(scan.voxels.shape)
    edge, places = _lattice(scan.voxels.shape, config)
    others = [n for n in range(3) if n != axis]
    cells = shape[others] // edge
    start = (shape[others] - cells * edge) // 2
    low = int(np.clip(index - (size // patch // 2) * patch - patch // 2, 0, shape[axis] - size))
    layer = min((index - low) // patch, size // patch - 1)
    corners = list(product(*(places[n] for n in others)))
    at = np.insert(start + np.array(corners) * edge, axis, low, axis=1)
    parts = [embed_patches(cut(scan, at[n : n + AT_ONCE], size, config.data)) for n in range(0, len(at), AT_ONCE)]
    patches = np.concatenate([np.take(part, layer, axis=1 + axis) for part in parts])
    fine = patches.repeat(patch // edge, axis=1).repeat(patch // edge, axis=2)
    total = np.zeros((*cells.tolist(), patches.shape[-1]))
    count = np.zeros(cells.tolist())
    for (down, right), found in zip(corners, fine, strict=True):
        window = np.s_[down : down + found.shape[0], right : right + found.shape[1]]
        total[window] += found
        count[window] += 1
    around = _around(shape, axis, index, start, cells, edge, patch)
    brightness = cut(scan, around, patch, config.data).mean(axis=(1, 2, 3, 4), dtype=np.float64)
    body = scan_foreground(scan, "body", config.measure.foreground_threshold).ratio(around, patch)
    return Plane(
        axis, index, start, edge, total / count[..., None], brightness.reshape(cells.tolist()), np.asarray(body).reshape(cells.tolist())
    )


def _lattice(shape: Sequence[int], config: TrainerConfig) -> tuple[int, list[list[int]]]:
    """Edge of a cell in voxels, and along each axis the first cells of the cubes, the last of which ends with the cells.

    As dense as `CUBES` for all three planes allows. Cubes lie an odd number of cells apart, so that patches begin at odd cells and at
    even ones and a cell of half a patch is told from its neighbour; where that is too many, side by side.
    """
    patch, size = config.model.patch_size_voxels, config.crops.global_size_voxels
    edge = patch // 2 if patch % 2 == 0 and max(shape) // (patch // 2) <= CELLS else patch
    across = size // edge
    for apart in (*range(1, across, 2), across):
        places = [sorted({*range(0, n // edge - across + 1, apart), n // edge - across}) for n in shape]
        depth, height, width = map(len, places)
        if depth * height + depth * width + height * width <= CUBES:
            break
    return edge, places


def _around(
    shape: Int[np.ndarray, "3"], axis: int, index: int, start: Int[np.ndarray, "2"], cells: Int[np.ndarray, "2"], edge: int, patch: int
) -> Int[np.ndarray, "n 3"]:
    """Low corners of a patch around the middle of each cell, moved inside the scan."""
    down, right = (first + edge // 2 + edge * np.arange(n) for first, n in zip(start.tolist(), cells.tolist(), strict=True))
    middles = np.stack(np.meshgrid(down, right, indexing="ij"), axis=-1).reshape(-1, 2)
    return np.asarray(np.clip(np.insert(middles, axis, index, axis=1) - patch // 2, 0, shape - patch))


def _along(planes: Sequence[Plane], axis: int) -> Float64[np.ndarray, " n"]:
    """The place of each cell along an axis of the scan, in voxels."""
    found = []
    for plane in planes:
        if plane.axis == axis:
            found.append(np.full(plane.body.size, float(plane.index)))
            continue
        along = 0 if axis == min({0, 1, 2} - {plane.axis}) else 1
        places = plane.start[along] + plane.edge * np.indices(plane.body.shape)[along]
        found.append(places.ravel().astype(float))
    return np.concatenate(found)
