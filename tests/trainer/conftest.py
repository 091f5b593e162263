"""One thread for torch: tiny networks are fastest so, and tests run beside each other."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when torch is first imported

TINY_RUN: dict[str, object] = {
    "data.phantom.size_voxels": 32,
    "data.phantom.scans": 6,
    "data.rotate_split_below": 0,
    "crops.global_size_voxels": 12,
    "crops.local_size_voxels": 6,
    "crops.local_crops": 2,
    "model.patch_size_voxels": 3,
    "model.dim": 12,
    "model.depth": 1,
    "model.heads": 2,
    "model.head_hidden": 16,
    "model.bottleneck": 8,
    "model.prototypes": 8,
    "loop.steps": 3,
    "loop.warmup_steps": 1,
    "loop.batch_size": 4,
    "measure.crops_per_scan": 8,
    "measure.background_crops_per_scan": 4,
    "measure.record_crops": False,
    "measure.pictures": False,
}


class Silent:
    """A run that tells nobody."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def report(self, step: int, metrics: Mapping[str, float]) -> bool:
        return True


@pytest.fixture(scope="session")
def tiny_settings() -> dict[str, object]:
    """The settings of `tiny_run`."""
    return dict(TINY_RUN)


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a real run of three steps."""
    from trainer.train import train

    folder = tmp_path_factory.mktemp("tiny_run")
    train(TINY_RUN, Silent(folder))
    return folder
