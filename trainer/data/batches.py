"""From scans to the crops of an optimizer step; step n depends on the settings and n alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int

from trainer.config import Data, TrainerConfig
from trainer.data.augment import augment_in_place, normalise_in_place
from trainer.data.crops import CropSampler, ScanCrops
from trainer.data.foreground import Foreground, foreground_mask
from trainer.data.streams import stream
from trainer.data.volumes import Scan


@dataclass(frozen=True)
class Batch:
    """The crops of one optimizer step. Views are the two globals, then the locals; corners are low corners in voxels."""

    step: int
    scan: Int[np.ndarray, " batch"]
    """Index into the scans."""
    global_corners: Int[np.ndarray, "batch 2 3"]
    local_corners: Int[np.ndarray, "batch local_views 3"]
    local_parents: Int[np.ndarray, "batch local_views"]
    """0 or 1: the global crop that the coin gave a local one, used or not."""
    ratio: Float32[np.ndarray, "batch views"]
    """Share of body by the fixed yardstick `measure.foreground_threshold`."""
    ratio_own: Float32[np.ndarray, "batch views"]
    """Share of foreground by the arm's own `crops.foreground` and `crops.foreground_threshold`."""
    violations: Bool[np.ndarray, "batch views"]
    global_iou: Float32[np.ndarray, " batch"]
    local_containment: Float32[np.ndarray, "batch local_views"]
    """Largest share of the local crop that lies inside either global one."""
    globals: Float32[np.ndarray, "batch 2 1 depth height width"]
    locals: Float32[np.ndarray, "batch local_views 1 depth height width"]


def cut(scan: Scan, corners: Int[np.ndarray, "n 3"], size: int, data: Data) -> Float32[np.ndarray, "n 1 depth height width"]:
    """Windowed crops at these low corners, without augmentation.

    Raises:
        ValueError: A crop reaches outside the scan.
    """
    corners = np.asarray(corners)
    if corners.size and (corners.min() < 0 or (corners.max(axis=0) + size > scan.voxels.shape).any()):
        raise ValueError(f"{scan.name}: expected crops of {size} voxels inside {scan.voxels.shape}. Move the corners inside.")
    images = np.empty((len(corners), 1, size, size, size), dtype=np.float32)
    _cut_into(images, scan, corners, size)
    normalise_in_place(images, data)
    return images


def _cut_into(images: Float32[np.ndarray, "n 1 depth height width"], scan: Scan, corners: Int[np.ndarray, "n 3"], size: int) -> None:
    for image, (d, h, w) in zip(images, corners.tolist(), strict=True):
        image[0] = scan.voxels[d : d + size, h : h + size, w : w + size]


def batches(scans: Sequence[Scan], train: Sequence[int], config: TrainerConfig, start_step: int) -> Iterator[Batch]:
    """Batches from `start_step` on, without end; the same step is the same batch wherever one starts.

    Args:
        scans: All of them.
        train: Indices of those to draw from; each is drawn once before any is drawn again.
        config: Crops, augmentation, batch size and seed.
        start_step: First step, from 0.
    """
    source = _Source(scans, train, config)
    step = start_step
    while True:
        yield source.batch(step)
        step += 1


class _Source:
    def __init__(self, scans: Sequence[Scan], train: Sequence[int], config: TrainerConfig) -> None:
        c, m = config.crops, config.measure
        self._scans, self._train, self._config = scans, np.asarray(train, dtype=np.int64), config
        self._yardstick, self._own, self._samplers = {}, {}, {}
        for index in train:
            voxels = scans[index].voxels
            body = Foreground.of(foreground_mask(voxels, "body", m.foreground_threshold))
            same = c.foreground == "body" and c.foreground_threshold == m.foreground_threshold
            own = body if same else Foreground.of(foreground_mask(voxels, c.foreground, c.foreground_threshold))
            self._yardstick[index], self._own[index] = body, own
            self._samplers[index] = CropSampler(own, c, config.model.patch_size_voxels)

    def batch(self, step: int) -> Batch:
        config, c = self._config, self._config.crops
        order = self._order(step)
        crops = [self._samplers[s].draw(config.seed, step, position) for position, s in enumerate(order.tolist())]
        global_corners = np.stack([crop.global_corners for crop in crops])
        local_corners = np.stack([crop.local_corners for crop in crops])
        return Batch(
            step=step,
            scan=order,
            global_corners=global_corners,
            local_corners=local_corners,
            local_parents=np.stack([crop.local_parents for crop in crops]),
            ratio=self._ratios(self._yardstick, order, crops),
            ratio_own=self._ratios(self._own, order, crops),
            violations=np.stack([crop.violations for crop in crops]),
            global_iou=global_iou(global_corners, c.global_size_voxels).astype(np.float32),
            local_containment=local_containment(global_corners, local_corners, c.global_size_voxels, c.local_size_voxels).astype(
                np.float32
            ),
            globals=self._images(order, global_corners, c.global_size_voxels, stream(config.seed, step, "augment/global")),
            locals=self._images(order, local_corners, c.local_size_voxels, stream(config.seed, step, "augment/local")),
        )

    def _order(self, step: int) -> Int[np.ndarray, " batch"]:
        """Scans of this step: a window on one endless row of permutations, one an epoch."""
        size, scans = self._config.loop.batch_size, len(self._train)
        places = np.arange(step * size, (step + 1) * size)
        row = np.empty(size, dtype=np.int64)
        for epoch in range(int(places[0]) // scans, int(places[-1]) // scans + 1):
            here = places // scans == epoch
            row[here] = stream(self._config.seed, epoch, "order").permutation(scans)[places[here] % scans]
        return np.asarray(self._train[row])

    def _ratios(
        self, by: dict[int, Foreground], order: Int[np.ndarray, " batch"], crops: Sequence[ScanCrops]
    ) -> Float32[np.ndarray, "batch views"]:
        c = self._config.crops
        out = np.empty((len(crops), 2 + c.local_crops), dtype=np.float32)
        for row, scan, crop in zip(out, order.tolist(), crops, strict=True):
            row[:2] = by[scan].counts(crop.global_corners, c.global_size_voxels) / c.global_size_voxels**3
            row[2:] = by[scan].counts(crop.local_corners, c.local_size_voxels) / c.local_size_voxels**3
        return out

    def _images(
        self, order: Int[np.ndarray, " batch"], corners: Int[np.ndarray, "batch views 3"], size: int, rng: np.random.Generator
    ) -> Float32[np.ndarray, "batch views 1 depth height width"]:
        images = np.empty((*corners.shape[:2], 1, size, size, size), dtype=np.float32)
        for views, scan, at in zip(images, order.tolist(), corners, strict=True):
            _cut_into(views, self._scans[scan], at, size)
        normalise_in_place(images, self._config.data)
        augment_in_place(images.reshape(-1, 1, size, size, size), rng, self._config.augment)
        return images


def global_iou(corners: Int[np.ndarray, "batch 2 3"], size: int) -> Float64[np.ndarray, " batch"]:
    """IoU, 0 to 1, of the two global crops."""
    shared = np.maximum(size - np.abs(corners[:, 0] - corners[:, 1]), 0).prod(axis=-1)
    return np.asarray(shared / (2 * size**3 - shared))


def local_containment(
    global_corners: Int[np.ndarray, "batch 2 3"], local_corners: Int[np.ndarray, "batch local_views 3"], global_size: int, local_size: int
) -> Float64[np.ndarray, "batch local_views"]:
    """Largest share, 0 to 1, of a local crop that lies inside either global crop."""
    outer, inner = global_corners[:, None, :, :], local_corners[:, :, None, :]
    shared = np.minimum(outer + global_size, inner + local_size) - np.maximum(outer, inner)
    return np.asarray(np.maximum(shared, 0).prod(axis=-1).max(axis=-1) / local_size**3)
