"""Batches: which scans a step sees, where their crops lie, and the crops themselves."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32, Int

from trainer.config import TrainerConfig
from trainer.data.augment import augment_in_place, normalise_in_place
from trainer.data.crops import CropSampler, ScanCrops
from trainer.data.foreground import Foreground, foreground_mask
from trainer.data.streams import stream
from trainer.data.volumes import Scan


@dataclass(frozen=True)
class Batch:
    """What one optimizer step sees. Views are the two globals, then the locals; corners are low corners in voxels."""

    step: int
    scan: Int[np.ndarray, " batch"]
    """Index into the scans."""
    global_corners: Int[np.ndarray, "batch 2 3"]
    local_corners: Int[np.ndarray, "batch local_views 3"]
    local_parents: Int[np.ndarray, "batch local_views"]
    ratio: Float32[np.ndarray, "batch views"]
    """Body share by the fixed yardstick, 0 to 1."""
    ratio_own: Float32[np.ndarray, "batch views"]
    """Foreground share by the arm's own definition: what weighting and matching use."""
    violations: Bool[np.ndarray, "batch views"]
    global_iou: Float32[np.ndarray, " batch"]
    local_containment: Float32[np.ndarray, "batch local_views"]
    """Largest share of the local crop inside either global crop."""
    globals: Float32[np.ndarray, "batch 2 1 depth height width"]
    locals: Float32[np.ndarray, "batch local_views 1 depth height width"]
    """Windowed and augmented."""


@dataclass(frozen=True)
class _Source:
    """A training scan with what drawing from it needs."""

    scan: Scan
    sampler: CropSampler
    own: Foreground
    yardstick: Foreground


def batches(scans: Sequence[Scan], train: Sequence[int], config: TrainerConfig, start_step: int) -> Iterator[Batch]:
    """Batches from `start_step` on, without end; each depends on the settings and its step alone, so going on is starting there."""
    sources = {index: _source(scans[index], config) for index in train}
    step = start_step
    while True:
        yield _batch(sources, np.asarray(train), config, step)
        step += 1


def cut(scan: Scan, corners: Int[np.ndarray, "n 3"], size: int, config: TrainerConfig) -> Float32[np.ndarray, "n 1 d h w"]:
    """Windowed crops of one scan, not augmented."""
    images = np.empty((len(corners), 1, size, size, size), np.float32)
    for image, (z, y, x) in zip(images, corners.tolist(), strict=True):
        image[0] = scan.voxels[z : z + size, y : y + size, x : x + size]
    normalise_in_place(images, config.data)
    return images


def _source(scan: Scan, config: TrainerConfig) -> _Source:
    crops = config.crops
    own = Foreground.of(foreground_mask(scan.voxels, crops.foreground, crops.foreground_threshold))
    yardstick = Foreground.of(foreground_mask(scan.voxels, "body", config.measure.foreground_threshold))
    return _Source(scan, CropSampler(own, crops, config.model.patch_size_voxels), own, yardstick)


def _scans_of_step(train: Int[np.ndarray, " scans"], config: TrainerConfig, step: int) -> Int[np.ndarray, " batch"]:
    """The next scans of a sequence of permutations, so every scan is seen equally often."""
    places = np.arange(step * config.loop.batch_size, (step + 1) * config.loop.batch_size)
    rounds = places // len(train)
    orders = {turn: stream(config.seed, turn, "scan order").permutation(train) for turn in np.unique(rounds).tolist()}
    return np.array([orders[turn][place % len(train)] for turn, place in zip(rounds.tolist(), places.tolist(), strict=True)])


def _batch(sources: dict[int, _Source], train: Int[np.ndarray, " scans"], config: TrainerConfig, step: int) -> Batch:
    crops = config.crops
    chosen = _scans_of_step(train, config, step)
    drawn = [sources[scan].sampler.draw(config.seed, step, place) for place, scan in enumerate(chosen.tolist())]
    global_corners = np.stack([one.global_corners for one in drawn])
    local_corners = np.stack([one.local_corners for one in drawn])
    used = [sources[scan] for scan in chosen.tolist()]
    globals_ = _images([s.scan for s in used], global_corners, crops.global_size_voxels, config, step, "augment/global")
    locals_ = _images([s.scan for s in used], local_corners, crops.local_size_voxels, config, step, "augment/local")
    return Batch(
        step=step,
        scan=chosen,
        global_corners=global_corners,
        local_corners=local_corners,
        local_parents=np.stack([one.local_parents for one in drawn]),
        ratio=_ratios([s.yardstick for s in used], drawn, config),
        ratio_own=_ratios([s.own for s in used], drawn, config),
        violations=np.stack([one.violations for one in drawn]),
        global_iou=_iou(global_corners, crops.global_size_voxels),
        local_containment=_containment(global_corners, local_corners, crops.global_size_voxels, crops.local_size_voxels),
        globals=globals_,
        locals=locals_,
    )


def _images(
    scans: Sequence[Scan], corners: Int[np.ndarray, "batch views 3"], size: int, config: TrainerConfig, step: int, purpose: str
) -> Float32[np.ndarray, "batch views 1 d h w"]:
    images = np.empty((*corners.shape[:2], 1, size, size, size), np.float32)
    for row, scan, places in zip(images, scans, corners.tolist(), strict=True):
        for image, (z, y, x) in zip(row, places, strict=True):
            image[0] = scan.voxels[z : z + size, y : y + size, x : x + size]
    flat = images.reshape(-1, 1, size, size, size)
    normalise_in_place(flat, config.data)
    augment_in_place(flat, stream(config.seed, step, purpose), config.augment)
    return images


def _ratios(foregrounds: Sequence[Foreground], drawn: Sequence[ScanCrops], config: TrainerConfig) -> Float32[np.ndarray, "batch views"]:
    crops = config.crops
    shares = np.empty((len(drawn), 2 + crops.local_crops), np.float32)
    for row, f, one in zip(shares, foregrounds, drawn, strict=True):
        row[:2] = f.counts(one.global_corners, crops.global_size_voxels) / crops.global_size_voxels**3
        row[2:] = f.counts(one.local_corners, crops.local_size_voxels) / crops.local_size_voxels**3
    return shares


def _iou(corners: Int[np.ndarray, "batch 2 3"], size: int) -> Float32[np.ndarray, " batch"]:
    """Intersection over union of the two global crops, 0 to 1."""
    shared = np.maximum(size - np.abs(corners[:, 0] - corners[:, 1]), 0).prod(axis=-1)
    return np.asarray(shared / (2 * size**3 - shared), dtype=np.float32)


def _containment(
    global_corners: Int[np.ndarray, "batch 2 3"], local_corners: Int[np.ndarray, "batch local_views 3"], global_size: int, local_size: int
) -> Float32[np.ndarray, "batch local_views"]:
    low = np.maximum(global_corners[:, None], local_corners[:, :, None])
    high = np.minimum(global_corners[:, None] + global_size, local_corners[:, :, None] + local_size)
    inside = np.maximum(high - low, 0).prod(axis=-1) / local_size**3
    return np.asarray(inside.max(axis=-1), dtype=np.float32)
