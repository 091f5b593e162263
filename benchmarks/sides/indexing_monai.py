"""MONAI's PersistentDataset over a folder: loaded, turned, resampled, clamped, kept as int16 and opened by two workers."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import DataLoader, PersistentDataset
from monai.transforms import CastToTyped, Compose, EnsureChannelFirstd, LoadImaged, Orientationd, Spacingd, ThresholdIntensityd

from benchmarks.side import Answer, serve, settings, timed_with_children

warnings.simplefilter("ignore")
asked = settings()
KEYS = ["image"]
READ = Compose(
    [
        LoadImaged(KEYS, dtype=np.float32),
        EnsureChannelFirstd(KEYS),
        Orientationd(KEYS, axcodes="RAS", labels=(("L", "R"), ("P", "A"), ("I", "S"))),
        Spacingd(KEYS, pixdim=(asked["spacing_mm"],) * 3, mode="bilinear"),
        ThresholdIntensityd(KEYS, -1024, above=True, cval=-1024),
        ThresholdIntensityd(KEYS, 3071, above=False, cval=3071),
        CastToTyped(KEYS, np.int16),
    ]
)


def edge(one: dict[str, Any]) -> int:
    """All that comes back from a worker, so that no voxel is sent."""
    return int(one["image"].shape[1])


def opened() -> int:
    """Every scan read whole, as PersistentDataset gives it."""
    files = [{"image": str(file)} for file in sorted(Path(asked["folder"]).glob("*.nii.gz"))]
    dataset = PersistentDataset(files, READ, cache_dir=asked["kept"])
    return sum(DataLoader(dataset, batch_size=None, num_workers=2, collate_fn=edge))


def answer(question: dict[str, Any]) -> Answer:
    return {} if "ready" in question else timed_with_children(opened)


if __name__ == "__main__":
    torch.set_num_threads(1)
    serve(answer)
