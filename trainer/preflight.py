"""What can be said against a configuration before any training: data that cannot be read, levels that cannot work. No torch."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from functools import lru_cache

import numpy as np

from trainer.config import TrainerConfig, from_mapping, ratio_global, ratio_local
from trainer.data import DataError, Scan, load_scans
from trainer.data.foreground import Foreground, foreground_mask

Finding = dict[str, object]
"""`level` (error: it cannot work; warning), `path`, `what`, `value`, `why`, `mend`."""


def preflight(config: TrainerConfig | Mapping[str, object]) -> list[Finding]:
    """Look at a configuration and its data.

    An error where no crop of the whole data meets the foreground ratio that some crops must have; a warning where that holds for
    single scans, or where the foreground threshold lies outside the intensity window, so that foreground and background look alike.
    """
    settings = config if isinstance(config, TrainerConfig) else from_mapping(config)
    try:
        scans = _scans(_data_key(settings))
    except DataError as error:
        return [
            _finding("error", "data.source", problem.removeprefix("data.source: "), None, "Nothing can be trained without it.", "")
            for problem in error.problems
        ]
    return [*_window(settings), *_feasible(settings, scans)]


def _feasible(settings: TrainerConfig, scans: Sequence[Scan]) -> list[Finding]:
    crops, found = settings.crops, []
    if crops.foreground_crop_prob == 0:
        return []
    for kind, size, ratio, wanted in (
        ("global", crops.global_size_voxels, ratio_global(crops), crops.min_foreground_ratio_global),
        ("local", crops.local_size_voxels, ratio_local(crops), crops.min_foreground_ratio_local),
    ):
        if kind == "local" and not crops.local_crops:
            continue
        shares = [
            _share(_data_key(settings), index, crops.foreground, crops.foreground_threshold, size, ratio) for index in range(len(scans))
        ]
        path = "crops.min_foreground_ratio" if wanted is None else f"crops.min_foreground_ratio_{kind}"
        what = f"a {kind} crop of {size} voxels with a foreground ratio of {ratio:g} above {crops.foreground_threshold:g} HU"
        mend = f"Lower {path} or crops.foreground_threshold."
        why = "Such a crop must hold its ratio; where none can, the best there is would be used and the ratio never be met."
        without = [scan.name for scan, share in zip(scans, shares, strict=True) if share == 0]
        if len(without) == len(scans):
            found.append(
                _finding("error", path, f"feasible fraction 0: no position in any of {len(scans)} scans gives {what}.", 0.0, why, mend)
            )
        elif without:
            some = f"{', '.join(without[:3])}{' and more' if len(without) > 3 else ''}"
            mean = float(np.mean(shares))
            found.append(
                _finding(
                    "warning",
                    path,
                    f"feasible fraction {mean:.2g}; no position in {len(without)} scans ({some}) gives {what}.",
                    mean,
                    why,
                    mend,
                )
            )
    return found


def _window(settings: TrainerConfig) -> list[Finding]:
    crops, data = settings.crops, settings.data
    inside = data.window_low_hu < crops.foreground_threshold < data.window_high_hu
    used = crops.foreground_crop_prob > 0 or settings.loss.foreground_weighting != "none"
    if crops.foreground != "threshold" or inside or not used or crops.foreground_threshold <= data.window_low_hu:
        return []
    return [
        _finding(
            "warning",
            "crops.foreground_threshold",
            f"{crops.foreground_threshold:g} HU lies at or above the window's upper end {data.window_high_hu:g} HU.",
            crops.foreground_threshold,
            "Voxels on both sides of the threshold are clipped to the same value, so the network cannot see what counts as foreground.",
            "Lower crops.foreground_threshold or raise data.window_high_hu.",
        )
    ]


def _finding(level: str, path: str, what: str, value: float | None, why: str, mend: str) -> Finding:
    return {"level": level, "path": path, "what": what, "value": value, "why": why, "mend": mend}


def _data_key(settings: TrainerConfig) -> str:
    """The settings that decide which voxels are read, as a key of the caches."""
    return json.dumps([dataclasses.asdict(settings.data), settings.crops.global_size_voxels, settings.preset])


@lru_cache(maxsize=4)
def _scans(key: str) -> list[Scan]:
    data, global_size, preset = json.loads(key)
    return load_scans(from_mapping({"preset": preset, "data": data, "crops.global_size_voxels": global_size, "measure.rungs": []}))


@lru_cache(maxsize=4096)
def _share(key: str, index: int, kind: str, threshold_hu: float, size: int, ratio: float) -> float:
    """Share of a scan's crop positions that hold the ratio, 0 to 1."""
    counts, positions = _histogram(key, index, kind, threshold_hu, size)
    return float(positions[counts / size**3 >= ratio].sum() / positions.sum())


@lru_cache(maxsize=256)
def _histogram(key: str, index: int, kind: str, threshold_hu: float, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Foreground counts that occur, and at how many positions: kept instead of the map, which is as large as the scan."""
    of = Foreground.of(foreground_mask(_scans(key)[index].voxels, kind, threshold_hu))
    positions = np.bincount(of.count_map(size).ravel())
    counts = np.flatnonzero(positions)
    return counts, positions[counts]
