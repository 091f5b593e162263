"""Our crops: the trainer's own batches, 8 places of the one scan each, and their bare copying as a floor."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.side import Answer, serve, settings, timed
from trainer.config import from_mapping
from trainer.data import Batch, Scan, batches

asked = settings()
VOXELS = np.load(Path(asked["folder"]) / "scan.npy", mmap_mode="r")
MASK = np.load(Path(asked["folder"]) / "mask.npy", mmap_mode="r")
PLACES = 8
LOCALS, GLOBALS = 8, 2
CONFIG = from_mapping(
    {
        "data.source": "one scan",
        "data.prefetch_batches": 0,
        "data.draws_per_scan": PLACES,
        "crops.global_size_voxels": asked["global"],
        "crops.local_size_voxels": asked["local"],
        "crops.local_crops": LOCALS,
        "crops.foreground": "body",
        "crops.foreground_crop_prob": 1.0,
        "crops.min_foreground_ratio": asked["ratio"],
        "loop.batch_size": PLACES,
    }
)
FEED = batches([Scan("one", VOXELS, (1.875, 1.875, 1.875), None, {})], [0], CONFIG, 0)
LAST: list[Batch] = [next(FEED)]


def draw() -> None:
    LAST[0] = next(FEED)


def copy() -> None:
    """The same voxels into memory of the same kind, positions known."""
    batch = LAST[0]
    for corners, size in ((batch.global_corners, asked["global"]), (batch.local_corners, asked["local"])):
        crops = np.empty((*corners.shape[:2], size, size, size), dtype=np.int16)
        for views, at in zip(crops, corners.tolist(), strict=True):
            for crop, (d, h, w) in zip(views, at, strict=True):
                crop[:] = VOXELS[d : d + size, h : h + size, w : w + size]


def answer(question: dict[str, Any]) -> Answer:
    if "ready" in question:
        return {}
    found = timed(copy if question.get("copy") else draw, question["visits"] // PLACES)
    crops = PLACES * (GLOBALS + LOCALS)
    return {"wall_s": found["wall_s"] / crops, "cpu_s": found["cpu_s"] / crops, "violations": float(violations(LAST[0]))}


def violations(batch: Batch) -> int:
    """Crops of a batch below the ratio, counted voxel by voxel."""
    bad = 0
    for corners, size in ((batch.global_corners, asked["global"]), (batch.local_corners, asked["local"])):
        for d, h, w in corners.reshape(-1, 3).tolist():
            bad += MASK[d : d + size, h : h + size, w : w + size].mean() < asked["ratio"]
    return int(bad)


if __name__ == "__main__":
    serve(answer)
