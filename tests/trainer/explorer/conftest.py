"""A scan whose answer is known by looking: air, a block of tissue, and bone in a corner of it."""

from __future__ import annotations

import numpy as np
import pytest

from trainer.config import TrainerConfig
from trainer.data import Scan

TISSUE, BONE = slice(4, 36), slice(20, 36)


@pytest.fixture(scope="session")
def planted() -> Scan:
    """40 voxels along each axis: tissue of 40 HU from 4 to 36, bone of 1200 HU from 20 to 36."""
    voxels = np.full((40, 40, 40), -1000, dtype=np.int16)
    labels = np.zeros(voxels.shape, dtype=np.uint8)
    for part, hu, label in ((TISSUE, 40, 1), (BONE, 1200, 2)):
        voxels[part, part, part], labels[part, part, part] = hu, label
    return Scan("planted", voxels, (2.0, 1.0, 1.0), labels, {1: "tissue", 2: "bone"})


@pytest.fixture
def settings() -> TrainerConfig:
    config = TrainerConfig()
    config.crops.global_size_voxels, config.crops.local_size_voxels, config.crops.local_crops = 12, 6, 3
    config.crops.foreground_crop_prob, config.crops.min_foreground_ratio = 1.0, 0.35
    config.model.patch_size_voxels, config.loop.batch_size = 3, 4
    return config
