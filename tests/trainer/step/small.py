"""A network and batches small enough to step many times."""

from __future__ import annotations

from typing import Any

import numpy as np

from trainer.config import Loop, Loss, Model, TrainerConfig, validate
from trainer.data import Batch, draw_changes


def tiny(**loss: Any) -> TrainerConfig:
    config = TrainerConfig()
    config.model = Model(patch_size_voxels=4, dim=12, depth=1, heads=2, head_hidden=16, bottleneck=8, prototypes=6, head_layers=2)
    config.crops.global_size_voxels, config.crops.local_size_voxels, config.crops.local_crops = 8, 4, 2
    config.loop = Loop(steps=10, warmup_steps=2, batch_size=6)
    config.loss = Loss(**loss)
    validate(config)
    return config


def batch_of(seed: int = 0, ratio: float | None = None, scans: int = 6) -> Batch:
    random = np.random.default_rng(seed)
    shares = random.random((scans, 4), dtype=np.float32) if ratio is None else np.full((scans, 4), ratio, np.float32)
    globals_ = random.integers(0, 9, (scans, 2, 3))
    return Batch(
        step=0,
        scan=np.arange(scans),
        global_corners=globals_,
        local_corners=globals_[:, [0, 1]] + random.integers(0, 8, (scans, 2, 3)),
        local_parents=np.zeros((scans, 2), np.int64),
        ratio=shares,
        ratio_own=shares,
        violations=np.zeros((scans, 4), bool),
        global_iou=np.zeros(scans, np.float32),
        local_containment=np.zeros((scans, 2), np.float32),
        global_edges=np.full((scans, 2), 8),
        local_edges=np.full((scans, 2), 4),
        global_changes=draw_changes(seed, 0, "global", scans, 2),
        local_changes=draw_changes(seed, 0, "local", scans, 2),
        globals=random.integers(-600, 600, (scans, 2, 1, 8, 8, 8), dtype=np.int16),
        locals=random.integers(-600, 600, (scans, 2, 1, 4, 4, 4), dtype=np.int16),
    )
