"""Which crops can hold what is asked of them, by looking at every position of every scan."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from trainer.config import TrainerConfig, ratio_global, ratio_local
from trainer.data import CropSampler, Scan
from trainer.data.foreground import Foreground, foreground_mask
from trainer.preflight.finding import Finding, data_key, finding, scans_of

THRESHOLDS_HU = (-900.0, -700.0, -500.0, -300.0, -100.0, 0.0, 100.0)
RATIOS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
FEW_HOLD_A_LOCAL = 0.5


def ratios(settings: TrainerConfig, scans: Sequence[Scan]) -> list[Finding]:
    """Ratios that no crop of the data, or of single scans, can hold."""
    crops, found = settings.crops, list[Finding]()
    if crops.foreground_crop_prob == 0:
        return []
    for kind, size, ratio, wanted in (
        ("global", crops.global_size_voxels, ratio_global(crops), crops.min_foreground_ratio_global),
        ("local", crops.local_size_voxels, ratio_local(crops), crops.min_foreground_ratio_local),
    ):
        if kind == "local" and not crops.local_crops:
            continue
        shares = [
            _share(data_key(settings), index, crops.foreground, crops.foreground_threshold, size, ratio) for index in range(len(scans))
        ]
        path = "crops.min_foreground_ratio" if wanted is None else f"crops.min_foreground_ratio_{kind}"
        what = f"a {kind} crop of {size} voxels with a foreground ratio of {ratio:g} above {crops.foreground_threshold:g} HU"
        mend = f"Lower {path} or crops.foreground_threshold."
        why = "Such a crop must hold its ratio; where none can, the best there is would be used and the ratio never be met."
        without = [scan.name for scan, share in zip(scans, shares, strict=True) if share == 0]
        if len(without) == len(scans):
            found.append(
                finding("error", path, f"feasible fraction 0: no position in any of {len(scans)} scans gives {what}.", 0.0, why, mend)
            )
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
    scaled = crops.global_scale_mm is not None or crops.local_scale_mm is not None
    if not (crops.foreground_crop_prob and crops.localcrops_subset_of_globalcrops and crops.local_crops) or scaled:
        return []
    share = float(np.mean([_locals_inside(data_key(settings), n, *_sampler_key(settings)) for n in range(len(scans))]))
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


def feasible_map(settings: TrainerConfig) -> list[dict[str, object]]:
    """Mean share of positions that hold a ratio, for each threshold in HU and kind of crop: a map to choose levels from."""
    key, c = data_key(settings), settings.crops
    scans = range(len(scans_of(key)))
    return [
        {
            "threshold_hu": threshold,
            "kind": kind,
            "ratios": list(RATIOS),
            "shares": [round(float(np.mean([_share(key, n, c.foreground, threshold, size, ratio) for n in scans])), 4) for ratio in RATIOS],
        }
        for threshold in THRESHOLDS_HU
        for kind, size in (("global", c.global_size_voxels), ("local", c.local_size_voxels))
    ]


def _sampler_key(settings: TrainerConfig) -> tuple[str, float, int, int, int, float, float]:
    c = settings.crops
    sizes = (c.global_size_voxels, c.local_size_voxels, settings.model.patch_size_voxels)
    return (c.foreground, c.foreground_threshold, *sizes, ratio_global(c), ratio_local(c))


@lru_cache(maxsize=1024)
def _locals_inside(
    key: str, index: int, kind: str, threshold_hu: float, size: int, local: int, patch: int, ratio: float, local_ratio: float
) -> float:
    from trainer.config import Crops

    crops = Crops(
        global_size_voxels=size, local_size_voxels=local, min_foreground_ratio_global=ratio, min_foreground_ratio_local=local_ratio
    )
    of = Foreground.of(foreground_mask(scans_of(key)[index].voxels, kind, threshold_hu))
    return CropSampler(of, crops, patch).feasible_fraction()["local_in_global"]


@lru_cache(maxsize=4096)
def _share(key: str, index: int, kind: str, threshold_hu: float, size: int, ratio: float) -> float:
    """Share of a scan's crop positions that hold the ratio, 0 to 1."""
    counts, positions = _histogram(key, index, kind, threshold_hu, size)
    return float(positions[counts / size**3 >= ratio].sum() / positions.sum())


@lru_cache(maxsize=256)
def _histogram(key: str, index: int, kind: str, threshold_hu: float, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Foreground counts that occur, and at how many positions: kept instead of the map, which is as large as the scan."""
    of = Foreground.of(foreground_mask(scans_of(key)[index].voxels, kind, threshold_hu))
    positions = np.bincount(of.count_map(size).ravel())
    counts = np.flatnonzero(positions)
    return counts, positions[counts]
