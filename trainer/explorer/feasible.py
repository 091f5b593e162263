"""Which positions of a scan hold a foreground ratio above a threshold: as the sampler counts them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int, UInt8

from trainer.config import Crops, ratio_global, ratio_local
from trainer.data import Scan
from trainer.data.crops import SPREAD, spans
from trainer.data.foreground import Foreground, foreground_mask

THRESHOLDS_HU = (*range(-1000, 0, 50), *range(0, 1001, 100))
RATIOS = tuple(n / 100 for n in range(101))
POSITIONS = 40
"""Positions along an axis on the map, at most."""
NAMED_TISSUES = 4


@dataclass(frozen=True)
class Kind:
    """One kind of crop and where its low corners may lie."""

    name: str
    edges: tuple[int, ...]
    """In voxels: one, or five spread over the range of scales."""
    shown_edge: int
    """The edge of the map: the middle one."""
    ratio: float
    """As the settings have it."""
    corners: tuple[Int[np.ndarray, " d"], Int[np.ndarray, " h"], Int[np.ndarray, " w"]]
    """Low corners of the map along each axis; the first and the last possible one are among them."""


@dataclass(frozen=True)
class Feasible:
    """What the sliders read, for each threshold."""

    thresholds_hu: tuple[float, ...]
    ratios: tuple[float, ...]
    kinds: tuple[Kind, ...]
    foreground_share: tuple[float, ...]
    """Share of the scan's voxels that are foreground, 0 to 1."""
    tissues: tuple[tuple[tuple[str, float], ...], ...]
    """What the labelled foreground consists of: names and shares of it, the greatest first; nothing without labels."""
    shares: dict[str, Float64[np.ndarray, "thresholds ratios"]]
    """Of all positions of a kind of crop those that hold each ratio, 0 to 1: exact, as `CropSampler.feasible_fraction` says it."""
    maps: dict[str, UInt8[np.ndarray, "thresholds d h w"]]
    """At each corner of the map the index of the greatest of `ratios` that the crop there holds."""
    crops: Float64[np.ndarray, "thresholds crops"]
    """Foreground ratio of each drawn crop."""


def kinds_of(scan: Scan, crops: Crops) -> tuple[Kind, ...]:
    """Global crops, and local ones where there are any."""
    found = []
    for name, size, scale, ratio in (
        ("global", crops.global_size_voxels, crops.global_scale_mm, ratio_global(crops)),
        ("local", crops.local_size_voxels, crops.local_scale_mm, ratio_local(crops)),
    ):
        if name == "local" and not crops.local_crops:
            continue
        edges = spans(SPREAD, size, None if scale is None else list(scale), scan.spacing_mm[0], min(scan.voxels.shape))
        shown = int(edges[len(edges) // 2])
        d, h, w = (np.unique(np.linspace(0, n - shown, min(n - shown + 1, POSITIONS)).round().astype(np.int64)) for n in scan.voxels.shape)
        found.append(Kind(name, tuple(np.unique(edges).tolist()), shown, ratio, (d, h, w)))
    return tuple(found)


def feasible(
    scan: Scan,
    crops: Crops,
    drawn: Int[np.ndarray, "crops 4"],
    *,
    thresholds_hu: Sequence[float] = THRESHOLDS_HU,
    tell: Callable[[int, int], None] = lambda done, of: None,
) -> Feasible:
    """Look at every position for each threshold; the settings' own threshold and ratios are always among those looked at.

    Args:
        scan: In HU.
        crops: Sizes, kind of foreground, threshold and ratios.
        drawn: Low corner (depth, height, width) and edge of each drawn crop, in voxels.
        thresholds_hu: To look at.
        tell: Called after each threshold with how many of them are done.
    """
    thresholds = tuple(sorted({*map(float, thresholds_hu), crops.foreground_threshold}))
    kinds = kinds_of(scan, crops)
    ratios = tuple(sorted({*RATIOS, *(kind.ratio for kind in kinds)}))
    foreground, tissues, of_crops = [], [], []
    shares: dict[str, list[Float64[np.ndarray, " ratios"]]] = {kind.name: [] for kind in kinds}
    maps: dict[str, list[UInt8[np.ndarray, "d h w"]]] = {kind.name: [] for kind in kinds}
    for done, threshold in enumerate(thresholds, 1):
        mask = foreground_mask(scan.voxels, crops.foreground, threshold)
        of = Foreground.of(mask)
        foreground.append(float(mask.mean()))
        tissues.append(_tissues(scan, mask))
        of_crops.append(of.counts(drawn[:, :3], drawn[:, 3]) / drawn[:, 3] ** 3)
        for kind in kinds:
            shares[kind.name].append(np.mean([_shares(of, edge, ratios) for edge in kind.edges], axis=0))
            corners = np.stack(np.meshgrid(*kind.corners, indexing="ij"), axis=-1)
            held = of.counts(corners.reshape(-1, 3), kind.shown_edge) / kind.shown_edge**3
            least = np.searchsorted(ratios, held, side="right") - 1
            maps[kind.name].append(least.reshape(corners.shape[:3]).astype(np.uint8))
        tell(done, len(thresholds))
    return Feasible(
        thresholds,
        ratios,
        kinds,
        tuple(foreground),
        tuple(tissues),
        {name: np.stack(rows) for name, rows in shares.items()},
        {name: np.stack(rows) for name, rows in maps.items()},
        np.stack(of_crops),
    )


def _shares(of: Foreground, edge: int, ratios: Sequence[float]) -> Float64[np.ndarray, " ratios"]:
    counts, positions = of.histogram(edge)
    held = np.concatenate([np.cumsum(positions[::-1])[::-1], [0]])  # positions of at least so much foreground
    return np.asarray(held[np.searchsorted(counts / edge**3, ratios, side="left")] / held[0])


def _tissues(scan: Scan, mask: np.ndarray) -> tuple[tuple[str, float], ...]:
    if scan.labels is None or not mask.any():
        return ()
    counts = np.bincount(np.asarray(scan.labels)[mask].astype(np.int64), minlength=1)
    ranked = [label for label in np.argsort(-counts, kind="stable").tolist() if counts[label]][:NAMED_TISSUES]
    return tuple((scan.label_names.get(label, "unlabelled"), float(counts[label] / counts.sum())) for label in ranked)
