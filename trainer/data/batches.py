"""From scans to the crops of an optimizer step; step n depends on the settings and n alone."""

from __future__ import annotations

import logging
import queue
import threading
from collections import OrderedDict
from collections.abc import Generator, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float32, Int, Int16, Shaped

from trainer.config import Data, TrainerConfig, ratio_global, ratio_local
from trainer.data.boxes import global_iou, local_containment
from trainer.data.changes import Changes, draw_changes
from trainer.data.crops import CropSampler, ScanCrops
from trainer.data.foreground import Foreground, scan_foreground
from trainer.data.streams import stream
from trainer.data.volumes import Scan
from trainer.data.window import normalise_in_place

_LOG = logging.getLogger("trainer.data")


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

    def prepare() -> None:
        at = step
        try:
            while not closed.is_set():
                ready.put(source.batch(at))
                at += 1
        except BaseException as error:  # whatever it is, the consumer hears of it
            ready.put(error)

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
        with suppress(queue.Empty):  # room for the one batch that may be under way, after which the worker sees the end
            ready.get_nowait()
        worker.join()


HELD_BYTES = 4 * 2**30
"""Memory for the foreground counts of the scans drawn last; a scan that is not held is opened again when it is drawn."""


class _Opened(NamedTuple):
    body: Foreground
    """By the yardstick."""
    own: Foreground
    """By the arm's own rule; the same object where the rules are the same."""
    sampler: CropSampler


class _Source:
    def __init__(self, scans: Sequence[Scan], train: Sequence[int], config: TrainerConfig, rank: int, ranks: int) -> None:
        self._scans, self._train, self._config = scans, np.asarray(train, dtype=np.int64), config
        share = config.loop.batch_size // ranks
        self._rows = slice(rank * share, (rank + 1) * share)
        c, m = config.crops, config.measure
        self._alike = c.foreground == "body" and c.foreground_threshold == m.foreground_threshold
        self._held: OrderedDict[int, _Opened] = OrderedDict()
        self._warned = False

    def _opened(self, index: int) -> _Opened:
        """A scan's foreground; those drawn longest ago make room before it is counted."""
        if index not in self._held:
            needed = 0
            for at in (index, *reversed(self._held)):
                needed += self._scans[at].voxels.size * np.dtype(np.int32).itemsize * (1 if self._alike else 2)
                if at != index and needed > HELD_BYTES:
                    del self._held[at]
            self._held[index] = self._open(index)
        self._held.move_to_end(index)
        return self._held[index]

    def _open(self, index: int) -> _Opened:
        c, m, scan = self._config.crops, self._config.measure, self._scans[index]
        body = scan_foreground(scan, "body", m.foreground_threshold)
        own = body if self._alike else scan_foreground(scan, c.foreground, c.foreground_threshold)
        return _Opened(body, own, CropSampler(own, c, self._config.model.patch_size_voxels, scan.spacing_mm[0]))

    def batch(self, step: int) -> Batch:
        config, c, rows = self._config, self._config.crops, self._rows
        order = self._order(step)[rows]
        drawn = [self._drawn(step, rows.start + n, index) for n, index in enumerate(order.tolist())]
        crops = [crop for crop, _, _ in drawn]
        global_corners = np.stack([crop.global_corners for crop in crops])
        local_corners = np.stack([crop.local_corners for crop in crops])
        edges = np.stack([crop.edges for crop in crops])
        return Batch(
            step=step,
            scan=order,
            global_corners=global_corners,
            local_corners=local_corners,
            local_parents=np.stack([crop.local_parents for crop in crops]),
            ratio=np.stack([ratio for _, ratio, _ in drawn]),
            ratio_own=np.stack([own for _, _, own in drawn]),
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

    def _drawn(self, step: int, place: int, index: int) -> tuple[ScanCrops, Float32[np.ndarray, " views"], Float32[np.ndarray, " views"]]:
        """The crops of one place in the batch, and their foreground shares by the yardstick and by the arm's own rule."""
        scan = self._opened(index)
        crops = scan.sampler.draw(self._config.seed, step, place)
        if crops.violations.any() and not self._warned:
            self._warn(self._scans[index].name, scan.sampler)
        ratio = _ratios(scan.body, crops)
        return crops, ratio, ratio if self._alike else _ratios(scan.own, crops)

    def _warn(self, name: str, sampler: CropSampler) -> None:
        self._warned = True
        shares, c = sampler.feasible_fraction(), self._config.crops
        _LOG.warning(
            "crops.min_foreground_ratio: a crop of %s could not reach its ratio; the best there was is used and counted as a violation "
            "(said once for all scans). Feasible share of its positions: global %.3g (ratio %.3g), local %.3g (ratio %.3g). "
            "Lower the ratio or crops.foreground_threshold.",
            name,
            shares["global"],
            ratio_global(c),
            shares["local"],
            ratio_local(c),
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

    def _images(
        self, order: Int[np.ndarray, " batch"], corners: Int[np.ndarray, "batch views 3"], edges: Int[np.ndarray, "batch views"], size: int
    ) -> Int16[np.ndarray, "batch views 1 depth height width"]:
        images = np.empty((*corners.shape[:2], 1, size, size, size), dtype=np.int16)
        for views, scan, at, spans in zip(images, order.tolist(), corners.tolist(), edges.tolist(), strict=True):
            voxels = np.asarray(self._scans[scan].voxels)  # slices of a map's own class cost more than small crops
            for image, (d, h, w), edge in zip(views, at, spans, strict=True):
                crop = voxels[d : d + edge, h : h + edge, w : w + edge]
                image[0] = crop if edge == size else resized(crop, size)
        return images


def _ratios(by: Foreground, crops: ScanCrops) -> Float32[np.ndarray, " views"]:
    corners = np.concatenate([crops.global_corners, crops.local_corners])
    return np.asarray(by.counts(corners, crops.edges) / crops.edges**3, dtype=np.float32)


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
