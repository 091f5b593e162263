"""From scans to the crops of an optimizer step; step n depends on the settings and n alone."""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from functools import lru_cache

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int, Int16, Shaped

from trainer.config import Data, TrainerConfig
from trainer.data.augment import normalise_in_place
from trainer.data.changes import Changes, draw_changes
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
    global_edges: Int[np.ndarray, "batch 2"]
    """Edge that each crop spans, in voxels of its scan."""
    local_edges: Int[np.ndarray, "batch local_views"]
    global_changes: Changes
    """Numbers of augmentation, not yet applied."""
    local_changes: Changes
    globals: Int16[np.ndarray, "batch 2 1 depth height width"]
    """HU, as in the scan."""
    locals: Int16[np.ndarray, "batch local_views 1 depth height width"]


def places(batch: Batch, positions: Sequence[int]) -> Batch:
    """Some scans of a batch."""
    at = list(positions)
    arrays = {f.name: getattr(batch, f.name) for f in fields(Batch) if f.name != "step"}
    return replace(batch, **{name: values[at] for name, values in arrays.items()})


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


def _cut_into(images: Shaped[np.ndarray, "n 1 depth height width"], scan: Scan, corners: Int[np.ndarray, "n 3"], size: int) -> None:
    for image, (d, h, w) in zip(images, corners.tolist(), strict=True):
        image[0] = scan.voxels[d : d + size, h : h + size, w : w + size]


def batches(
    scans: Sequence[Scan], train: Sequence[int], config: TrainerConfig, start_step: int, rank: int = 0, ranks: int = 1
) -> Generator[Batch]:
    """Batches from `start_step` on, without end; the same step is the same batch wherever one starts, and on however many ranks.

    `data.prefetch_batches` of them are prepared ahead by a thread that ends with the generator (`close`).

    Args:
        scans: All of them.
        train: Indices of those to draw from; each is drawn once (`data.draws_per_scan` times in a row) before any is drawn again.
        config: Crops, augmentation, batch size and seed.
        start_step: First step, from 0.
        rank: Which share of each batch to give: the rows from `rank * batch_size / ranks` on.
    """
    source = _Source(scans, train, config, rank, ranks)
    if not config.data.prefetch_batches:
        step = start_step
        while True:
            yield source.batch(step)
            step += 1
    yield from _ahead(source, start_step, config.data.prefetch_batches)


def _ahead(source: _Source, step: int, count: int) -> Generator[Batch]:
    ready: queue.Queue[Batch | BaseException] = queue.Queue(count)
    closed = threading.Event()

    def put(item: Batch | BaseException) -> None:
        while not closed.is_set():
            with suppress(queue.Full):
                ready.put(item, timeout=0.1)
                return

    def prepare() -> None:
        at = step
        try:
            while not closed.is_set():
                put(source.batch(at))
                at += 1
        except BaseException as error:  # whatever it is, the consumer hears of it
            put(error)

    worker = threading.Thread(target=prepare, name="batches", daemon=True)
    worker.start()
    try:
        while True:
            item = ready.get()
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        closed.set()
        with suppress(queue.Empty):
            ready.get_nowait()
        worker.join()


_HELD_SCANS = 64
"""Scans whose foreground counts are held at a time."""


class _Source:
    def __init__(self, scans: Sequence[Scan], train: Sequence[int], config: TrainerConfig, rank: int, ranks: int) -> None:
        self._scans, self._train, self._config = scans, np.asarray(train, dtype=np.int64), config
        share = config.loop.batch_size // ranks
        self._rows = slice(rank * share, (rank + 1) * share)
        self._held = lru_cache(_HELD_SCANS)(self._open)

    def _open(self, index: int) -> tuple[Foreground, Foreground, CropSampler]:
        """Foreground by the yardstick, by the arm's own rule, and the sampler of a scan."""
        c, m, voxels = self._config.crops, self._config.measure, self._scans[index].voxels
        body = Foreground.of(foreground_mask(voxels, "body", m.foreground_threshold))
        same = c.foreground == "body" and c.foreground_threshold == m.foreground_threshold
        own = body if same else Foreground.of(foreground_mask(voxels, c.foreground, c.foreground_threshold))
        return body, own, CropSampler(own, c, self._config.model.patch_size_voxels, self._scans[index].spacing_mm[0])

    def batch(self, step: int) -> Batch:
        config, c, rows = self._config, self._config.crops, self._rows
        order = self._order(step)[rows]
        held = [self._held(index) for index in order.tolist()]
        crops = [sampler.draw(config.seed, step, rows.start + n) for n, (_, _, sampler) in enumerate(held)]
        global_corners = np.stack([crop.global_corners for crop in crops])
        local_corners = np.stack([crop.local_corners for crop in crops])
        edges = np.stack([crop.edges for crop in crops])
        ratio = self._ratios([body for body, _, _ in held], crops)
        alike = all(body is own for body, own, _ in held)
        return Batch(
            step=step,
            scan=order,
            global_corners=global_corners,
            local_corners=local_corners,
            local_parents=np.stack([crop.local_parents for crop in crops]),
            ratio=ratio,
            ratio_own=ratio if alike else self._ratios([own for _, own, _ in held], crops),
            violations=np.stack([crop.violations for crop in crops]),
            global_iou=global_iou(global_corners, edges[:, :2]).astype(np.float32),
            local_containment=local_containment(global_corners, local_corners, edges[:, :2], edges[:, 2:]).astype(np.float32),
            global_edges=edges[:, :2],
            local_edges=edges[:, 2:],
            global_changes=draw_changes(config.seed, step, "global", config.loop.batch_size, 2)[rows],
            local_changes=draw_changes(config.seed, step, "local", config.loop.batch_size, c.local_crops)[rows],
            globals=self._images(order, global_corners, edges[:, :2], c.global_size_voxels),
            locals=self._images(order, local_corners, edges[:, 2:], c.local_size_voxels),
        )

    def _order(self, step: int) -> Int[np.ndarray, " batch"]:
        """Scans of this step: a window on one endless row of permutations, one an epoch, each place `draws_per_scan` times."""
        size, scans = self._config.loop.batch_size, len(self._train)
        places = np.arange(step * size, (step + 1) * size) // self._config.data.draws_per_scan
        row = np.empty(size, dtype=np.int64)
        for epoch in range(int(places[0]) // scans, int(places[-1]) // scans + 1):
            here = places // scans == epoch
            row[here] = stream(self._config.seed, epoch, "order").permutation(scans)[places[here] % scans]
        return np.asarray(self._train[row])

    def _ratios(self, by: Sequence[Foreground], crops: Sequence[ScanCrops]) -> Float32[np.ndarray, "batch views"]:
        out = np.empty((len(crops), 2 + self._config.crops.local_crops), dtype=np.float32)
        for row, foreground, crop in zip(out, by, crops, strict=True):
            corners = np.concatenate([crop.global_corners, crop.local_corners])
            for edge in np.unique(crop.edges).tolist():
                here = crop.edges == edge
                row[here] = foreground.counts(corners[here], edge) / edge**3
        return out

    def _images(
        self, order: Int[np.ndarray, " batch"], corners: Int[np.ndarray, "batch views 3"], edges: Int[np.ndarray, "batch views"], size: int
    ) -> Int16[np.ndarray, "batch views 1 depth height width"]:
        images = np.empty((*corners.shape[:2], 1, size, size, size), dtype=np.int16)
        for views, scan, at, spans in zip(images, order.tolist(), corners.tolist(), edges.tolist(), strict=True):
            voxels = self._scans[scan].voxels
            for image, (d, h, w), edge in zip(views, at, spans, strict=True):
                crop = voxels[d : d + edge, h : h + edge, w : w + edge]
                image[0] = crop if edge == size else resized(crop, size)
        return images


def resized(crop: Int16[np.ndarray, "edge edge edge"], size: int) -> Int16[np.ndarray, "size size size"]:
    """A cube at another number of voxels: linear along each axis, over a neighbourhood that grows with the new voxels.

    Every new voxel is a weighted mean, so a constant stays what it is; rounded to whole HU.
    """
    weights = _resizing(crop.shape[0], size)
    found = crop.astype(np.float32)
    for _ in range(3):  # the first axis goes last each time, so all three are reached in order
        found = np.tensordot(found, weights, axes=(0, 1))
    return np.rint(found).astype(np.int16)


@lru_cache(maxsize=1024)
def _resizing(edge: int, size: int) -> Float32[np.ndarray, "size edge"]:
    centres = (np.arange(size) + 0.5) * edge / size - 0.5
    width = max(edge / size, 1.0)
    weights = np.maximum(1 - np.abs(np.arange(edge) - centres[:, None]) / width, 0)
    return np.asarray(weights / weights.sum(axis=1, keepdims=True), dtype=np.float32)


def global_iou(corners: Int[np.ndarray, "batch 2 3"], edges: Int[np.ndarray, "batch 2"]) -> Float64[np.ndarray, " batch"]:
    """IoU, 0 to 1, of the two global crops."""
    low, high = corners, corners + edges[..., None]
    shared = np.maximum(np.minimum(high[:, 0], high[:, 1]) - np.maximum(low[:, 0], low[:, 1]), 0).prod(axis=-1)
    return np.asarray(shared / ((edges**3).sum(axis=1) - shared))


def local_containment(
    global_corners: Int[np.ndarray, "batch 2 3"],
    local_corners: Int[np.ndarray, "batch local_views 3"],
    global_edges: Int[np.ndarray, "batch 2"],
    local_edges: Int[np.ndarray, "batch local_views"],
) -> Float64[np.ndarray, "batch local_views"]:
    """Largest share, 0 to 1, of a local crop that lies inside either global crop."""
    outer, inner = global_corners[:, None, :, :], local_corners[:, :, None, :]
    outer_high, inner_high = outer + global_edges[:, None, :, None], inner + local_edges[:, :, None, None]
    shared = np.minimum(outer_high, inner_high) - np.maximum(outer, inner)
    return np.asarray(np.maximum(shared, 0).prod(axis=-1).max(axis=-1) / local_edges**3)
