"""Which crops can hold what is asked of them, by looking at every position of every scan."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import Int

from trainer.config import Crops, TrainerConfig, ratio_global, ratio_local
from trainer.data import CropSampler, Scan, scan_foreground
from trainer.data.crops import SPREAD, spans
from trainer.data.foreground import Foreground, foreground_mask
from trainer.preflight.finding import Finding, data_key, finding, scans_of

THRESHOLDS_HU = (-900.0, -700.0, -500.0, -300.0, -100.0, 0.0, 100.0, 300.0, 500.0)
RATIOS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
FEW_HOLD_A_LOCAL = 0.5
MAPPED_VOXELS = 2**24
"""A map looks at each position for each threshold: a second or two for so many."""


def ratios(settings: TrainerConfig, scans: Sequence[Scan]) -> list[Finding]:
    """Ratios that no crop of the data, or of single scans, can hold."""
    crops, read, found = settings.crops, _Read.of(settings), list[Finding]()
    if crops.foreground_crop_prob == 0:
        return []
    for kind, size, scale, ratio, wanted in (
        ("global", crops.global_size_voxels, crops.global_scale_mm, ratio_global(crops), crops.min_foreground_ratio_global),
        ("local", crops.local_size_voxels, crops.local_scale_mm, ratio_local(crops), crops.min_foreground_ratio_local),
    ):
        if kind == "local" and not crops.local_crops:
            continue
        shares = [_shares(read, index, kind, crops.foreground_threshold, (ratio,))[0] for index in range(len(scans))]
        path = "crops.min_foreground_ratio" if wanted is None else f"crops.min_foreground_ratio_{kind}"
        edge = f"{size} voxels" if scale is None else f"{scale[0]:g} to {scale[1]:g} mm"
        what = f"a {kind} crop of {edge} with a foreground ratio of {ratio:g} above {crops.foreground_threshold:g} HU"
        mend = f"Lower {path} or crops.foreground_threshold."
        why = "Such a crop must hold its ratio; where none can, the best there is would be used and the ratio never be met."
        without = [scan.name for scan, share in zip(scans, shares, strict=True) if share == 0]
        if len(without) == len(scans):
            nowhere = f"feasible fraction 0: no position in any of {len(scans)} scans looked at gives {what}."
            found.append(finding("error", path, nowhere, 0.0, why, mend))
        elif without:
            some = f"{', '.join(without[:3])}{' and more' if len(without) > 3 else ''}"
            mean = float(np.mean(shares))
            found.append(
                finding(
                    "warning",
                    path,
                    f"feasible fraction {mean:.2g}; no position in {len(without)} scans ({some}) gives {what}.",
                    mean,
                    why,
                    mend,
                )
            )
    return found


def inside(settings: TrainerConfig, scans: Sequence[Scan]) -> list[Finding]:
    """Whether the global crops that hold their ratio hold a local crop of its ratio on their patch grid."""
    crops = settings.crops
    if not (crops.foreground_crop_prob and crops.localcrops_subset_of_globalcrops and crops.local_crops):
        return []
    read = json.dumps(dataclasses.asdict(crops))
    share = float(np.mean([_locals_inside(data_key(settings), n, read, settings.model.patch_size_voxels) for n in range(len(scans))]))
    if share >= FEW_HOLD_A_LOCAL:
        return []
    return [
        finding(
            "error" if share == 0 else "warning",
            "crops.min_foreground_ratio_local",
            f"{share:.0%} of the global crops that hold their ratio have room for a local crop that holds its own.",
            share,
            "A local crop inside a global one then cannot hold its ratio; the best there is would be used.",
            "Lower crops.min_foreground_ratio_local, or raise crops.min_foreground_ratio_global.",
        )
    ]


def maps(settings: TrainerConfig) -> list[Finding]:
    """For each kind of crop the share of positions that hold each ratio at each threshold, as the study's baseline has its crops."""
    crops, read, rows, found = settings.crops, _Read.of(settings), feasible_map(settings), list[Finding]()
    for kind, ratio in (("global", ratio_global(crops)), ("local", ratio_local(crops))):
        if kind == "local" and not crops.local_crops:
            continue
        shares = [row["shares"] for row in rows if row["kind"] == kind]
        now = float(np.mean([_shares(read, n, kind, crops.foreground_threshold, (ratio,))[0] for n in _mapped(settings)]))
        found.append(
            finding(
                "info",
                f"crops.min_foreground_ratio_{kind}",
                f"{now:.0%} of a {kind} crop's positions hold a foreground ratio of {ratio:g} above {crops.foreground_threshold:g} HU.",
                now,
                "Where few positions do, crops repeat; where nearly all do, the ratio chooses nothing.",
                "",
            )
            | {
                "map": {
                    "x": "crops.min_foreground_ratio",
                    "xs": list(RATIOS),
                    "y": "crops.foreground_threshold, HU",
                    "ys": list(THRESHOLDS_HU),
                    "z": f"share of positions of a {kind} crop",
                    "rows": shares,
                }
            }
        )
    return found


def _mapped(settings: TrainerConfig) -> list[int]:
    """Scans that a map is made of: the first, and others as long as they stay few voxels together."""
    scans, voxels, chosen = scans_of(data_key(settings)), 0, list[int]()
    for index in range(len(scans)):
        voxels += scans[index].voxels.size
        if chosen and voxels > MAPPED_VOXELS:
            break
        chosen.append(index)
    return chosen


def feasible_map(settings: TrainerConfig) -> list[dict[str, object]]:
    """Mean share of positions that hold a ratio, for each threshold in HU and kind of crop: a map to choose levels from."""
    scans, read = _mapped(settings), _Read.of(settings)
    return [
        {"threshold_hu": threshold, "kind": kind, "ratios": list(RATIOS), "shares": np.mean(shares, axis=0).round(4).tolist()}
        for threshold in THRESHOLDS_HU
        for kind in ("global", "local")
        for shares in [[_shares(read, n, kind, threshold, RATIOS) for n in scans]]
    ]


@dataclass(frozen=True)
class _Read:
    """What decides the share of positions that hold a ratio: equal for most arms of a study."""

    key: str
    foreground: str
    sizes: tuple[tuple[str, int, tuple[float, ...] | None], ...]
    """Kind of crop, its edge in voxels, its range in mm."""

    @staticmethod
    def of(settings: TrainerConfig) -> _Read:
        c = settings.crops
        crops = (("global", c.global_size_voxels, c.global_scale_mm), ("local", c.local_size_voxels, c.local_scale_mm))
        sizes = tuple((kind, size, None if scale is None else tuple(scale)) for kind, size, scale in crops)
        return _Read(data_key(settings), c.foreground, sizes)


@lru_cache(maxsize=1024)
def _locals_inside(key: str, index: int, read: str, patch: int) -> float:
    crops, scan = Crops(**json.loads(read)), scans_of(key)[index]
    of = scan_foreground(scan, crops.foreground, crops.foreground_threshold)
    return CropSampler(of, crops, patch, scan.spacing_mm[0]).feasible_fraction()["local_in_global"]


@lru_cache(maxsize=65536)
def _shares(read: _Read, index: int, kind: str, threshold_hu: float, ratios: tuple[float, ...]) -> tuple[float, ...]:
    """Share of a scan's crop positions that hold each ratio, 0 to 1; the mean over the range of scales where there is one."""
    scan = scans_of(read.key)[index]
    least, spacing_mm = min(scan.voxels.shape), scan.spacing_mm[0]
    edges = {
        name: np.unique(spans(SPREAD, size, None if scale is None else list(scale), spacing_mm, least)).tolist()
        for name, size, scale in read.sizes
    }
    counted = _histograms(read.key, index, read.foreground, threshold_hu, tuple(sorted({*edges["global"], *edges["local"]})))
    shares = []
    for edge in edges[kind]:
        counts, positions = counted[edge]
        shares.append([positions[counts / edge**3 >= ratio].sum() / positions.sum() for ratio in ratios])
    return tuple(np.mean(shares, axis=0).tolist())


@lru_cache(maxsize=256)
def _histograms(
    key: str, index: int, kind: str, threshold_hu: float, edges: tuple[int, ...]
) -> dict[int, tuple[Int[np.ndarray, " counts"], Int[np.ndarray, " counts"]]]:
    """For each edge the foreground counts that occur, and at how many positions."""
    of = Foreground.of(foreground_mask(scans_of(key)[index].voxels, kind, threshold_hu))
    return {edge: of.histogram(edge) for edge in edges}
