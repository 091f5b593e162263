"""Where crops are cut: the exact law of the draw.

For each crop a coin with `foreground_crop_prob` decides whether its foreground ratio must hold. Then

1. the first global crop is uniform over its feasible positions that have a feasible partner,
2. the second is uniform over its feasible positions whose IoU with the first is at least `min_global_overlap`,
3. each local crop takes one of the two as parent by a fair coin and is uniform over the feasible positions inside it, at
   multiples of the patch size from its low corner; without `localcrops_subset_of_globalcrops` over the whole scan.

Feasible means: inside the scan, and of the least ratio where the coin says so. A crop is always a partner of itself (IoU 1),
so step 1 has to look for a partner only where the first crop is free, the second is not, and the first lacks the ratio.

With `global_scale_mm` or `local_scale_mm` each such crop first draws the millimetres that it spans, uniformly in the range. All
rules then hold for crops of these edges, with three differences: an overlap is asked as far as two edges permit it, a first global
crop of drawn edge is not chosen with regard to a partner, and a local crop lies anywhere inside its parent, as patch grids of
different scales cannot agree.

Drawn by rejection from one named stream a crop, so that a draw without constraint is the first proposal and a constrained one
the first that holds; after `PROPOSALS` in vain by enumeration from the same stream. Both are uniform over the same set,
hence so is the mixture. A parent is not chosen with regard to the local crops. Where no position is feasible the crop is
uniform over the positions of greatest ratio that keep the other rules, and is flagged; an overlap is always feasible.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from trainer.config import Crops, ratio_global, ratio_local
from trainer.data.boxes import greatest_iou, iou, overlaps, reach
from trainer.data.foreground import Foreground
from trainer.data.streams import stream
from trainer.data.uniform import Accept, one, one_each, pick, reject, reject_each

_PARTNER_SEARCHES = 16  # neighbourhoods searched one by one before the map of all of them is cheaper
SPREAD = np.linspace(0, 1, 5)
"""Shares of a range of scales at which positions are counted where all of them would take too long."""

Corners = Int[np.ndarray, "n 3"]


class _Box(NamedTuple):
    """Where a crop may lie: low + stride * {0 .. steps - 1}, and what it draws from."""

    low: Int[np.ndarray, "3"]
    steps: Int[np.ndarray, "3"]
    stride: int
    size: int
    ratio: float
    rng: np.random.Generator


@dataclass(frozen=True)
class ScanCrops:
    """The crops of one scan; corners are low corners in voxels (depth, height, width), views are the globals, then the locals."""

    global_corners: Int[np.ndarray, "2 3"]
    local_corners: Int[np.ndarray, "local_views 3"]
    local_parents: Int[np.ndarray, " local_views"]
    edges: Int[np.ndarray, " views"]
    """What each crop spans, in voxels of the scan."""
    violations: Bool[np.ndarray, " views"]
    constrained: Bool[np.ndarray, " views"]


class CropSampler:
    """Draws the crops of one scan.

    Raises:
        ValueError: A crop that is not resampled does not fit into the scan.
    """

    def __init__(self, foreground: Foreground, crops: Crops, patch_size: int, spacing_mm: float = 1.0) -> None:
        """`spacing_mm`: edge of a voxel of the scan, for crops whose scale is in mm."""
        for kind, edge, scale in (
            ("global", crops.global_size_voxels, crops.global_scale_mm),
            ("local", crops.local_size_voxels, crops.local_scale_mm),
        ):
            if scale is None and min(foreground.shape) < edge:
                raise ValueError(
                    f"crops.{kind}_size_voxels: {edge} voxels do not fit into a scan of {foreground.shape}. Make the crop smaller."
                )
        self._foreground = foreground
        self._shape = np.array(foreground.shape)
        self._crops = crops
        self._global_size, self._local_size = crops.global_size_voxels, crops.local_size_voxels
        self._ratio_global, self._ratio_local = ratio_global(crops), ratio_local(crops)
        self._patch, self._spacing_mm = patch_size, spacing_mm
        self._scaled = crops.global_scale_mm is not None or crops.local_scale_mm is not None
        self._unscaled_edges = np.concatenate(self._spans(np.zeros(2), np.zeros(crops.local_crops)))
        self._rooms: dict[int, Int[np.ndarray, "3"]] = {}
        self._steps_inside = np.full(3, (self._global_size - self._local_size) // patch_size + 1)
        self._partners: Bool[np.ndarray, "d h w"] | None = None
        self._partner_searches = 0
        self._global_feasible: bool | None = None

    def draw(self, seed: int, step: int, index: int) -> ScanCrops:
        """The crops at position `index` of the batch of this step; depends on the arguments and the settings alone."""
        c, locals_ = self._crops, self._crops.local_crops
        constrained = stream(seed, step, "crop/coins", index).random(2 + locals_) < c.foreground_crop_prob
        parents = (stream(seed, step, "crop/parents", index).random(locals_) < 0.5).astype(np.int64)
        edges = self._edges(seed, step, index)
        coins, sizes = constrained.tolist(), edges.tolist()
        corners, violations = np.empty((2 + locals_, 3), dtype=np.int64), np.zeros(2 + locals_, dtype=bool)
        boxes: dict[int, _Box] = {}
        first, second = (stream(seed, step, f"crop/global{view}", index) for view in (0, 1))
        if c.min_global_overlap <= 0 and coins[0] and coins[1]:
            boxes = {view: self._anywhere(sizes[view], self._ratio_global, rng) for view, rng in ((0, first), (1, second))}
            if c.localcrops_subset_of_globalcrops:  # they are parents
                self._place(boxes, corners, violations)
                boxes = {}
        else:
            corners[0], violations[0] = self._first_global(sizes[0], coins[0], coins[1], first)
            corners[1], violations[1] = self._second_global(corners[0], sizes[0], sizes[1], coins[1], second)
        free: dict[int, _Box] = {}
        for view, parent in enumerate(parents.tolist(), start=2):
            inside = (corners[parent], sizes[parent]) if c.localcrops_subset_of_globalcrops else None
            box = self._local_box(inside, sizes[view], stream(seed, step, f"crop/local{view - 2}", index))
            (boxes if coins[view] else free)[view] = box
        self._place(boxes, corners, violations)
        if free:  # boxes of one stride
            lows, stride = np.array([box.low for box in free.values()]), next(iter(free.values())).stride
            corners[list(free)] = lows + stride * one_each([box.rng for box in free.values()], [box.steps for box in free.values()])
        return ScanCrops(corners[:2], corners[2:], parents, edges, violations, constrained)

    def _edges(self, seed: int, step: int, index: int) -> Int[np.ndarray, " views"]:
        """Edges in voxels of the scan."""
        if not self._scaled:
            return self._unscaled_edges
        shares = stream(seed, step, "crop/edges", index).random(2 + self._crops.local_crops)
        return np.concatenate(self._spans(shares[:2], shares[2:]))

    def _spans(
        self, globals_: Float[np.ndarray, " n"], locals_: Float[np.ndarray, " m"]
    ) -> tuple[Int[np.ndarray, " n"], Int[np.ndarray, " m"]]:
        """Edges in voxels of the scan at these shares of the ranges of scale."""
        c, least = self._crops, min(self._foreground.shape)
        return (
            spans(globals_, c.global_size_voxels, c.global_scale_mm, self._spacing_mm, least),
            spans(locals_, c.local_size_voxels, c.local_scale_mm, self._spacing_mm, least),
        )

    def feasible_fraction(self) -> dict[str, float]:
        """Shares, 0 to 1, of positions that hold their ratio.

        `global`, `local`: of all positions in the scan. `pairs`: of the first global crops, both coins up, those with a
        feasible partner (equal to `global`, as a crop is its own partner). `local_in_global`: of the feasible global crops,
        those that hold a feasible local position on their patch grid (0 if there is none).

        With a scale in mm: means over five edges spread evenly over the range, and any local position, the smallest local crop in
        the smallest global one and so on.
        """
        shares, stride = (SPREAD, 1) if self._scaled else (SPREAD[:1], self._patch)
        outers, inners = self._spans(shares, shares)
        found = []
        for outer, inner in zip(outers.tolist(), inners.tolist(), strict=True):
            global_holds = self._foreground.ratio_map(outer) >= self._ratio_global
            local_holds = self._foreground.ratio_map(inner) >= self._ratio_local
            contained = 0.0
            if inner <= outer and global_holds.any():
                inside = _any_inside(local_holds, global_holds.shape, (outer - inner) // stride + 1, stride)
                contained = float(inside[global_holds].mean())
            found.append((float(global_holds.mean()), float(local_holds.mean()), contained))
        global_, local, within = np.mean(found, axis=0).tolist()
        return {"global": global_, "local": local, "pairs": global_, "local_in_global": within}

    def _room(self, size: int) -> Int[np.ndarray, "3"]:
        if size not in self._rooms:
            self._rooms[size] = np.asarray(self._shape - size + 1)
        return self._rooms[size]

    def _first_global(self, size: int, must: bool, partner_must: bool, rng: np.random.Generator) -> tuple[Int[np.ndarray, "3"], bool]:
        room = self._room(size)
        if must:
            return self._constrained_one(self._anywhere(size, self._ratio_global, rng))
        scaled = self._crops.global_scale_mm is not None
        if not partner_must or scaled or self._crops.min_global_overlap <= 0 or not self._any_global_feasible():
            # The last case: no partner anywhere. The first crop is free all the same; the second one takes the violation.
            return one(rng, room), False
        found = reject(rng, room, self._has_partner)
        if found is not None:
            return found, False
        return pick(self._partner_map(), rng), False

    def _second_global(
        self, first: Int[np.ndarray, "3"], first_size: int, size: int, must: bool, rng: np.random.Generator
    ) -> tuple[Int[np.ndarray, "3"], bool]:
        room, ratio, overlap = self._room(size), self._ratio_global, self._overlap(first_size, size)
        if overlap <= 0:
            if must:
                return self._constrained_one(self._anywhere(size, ratio, rng))
            return one(rng, room), False

        def accept(corners: Corners) -> Bool[np.ndarray, " n"]:
            near = iou(corners - first, first_size, size) >= overlap
            if must and near.any():
                near[near] = self._foreground.counts(corners[near], size) / size**3 >= ratio
            return near

        found = reject(rng, room, accept)
        if found is not None:
            return found, False
        low, near = self._neighbourhood(first, first_size, size)
        if not must:
            return low + pick(near, rng), False
        counts = np.where(near, self._foreground.count_map(size, low, near.shape), -1)
        holds = near & (counts / size**3 >= ratio)
        if holds.any():
            return low + pick(holds, rng), False
        return low + pick(counts == counts.max(), rng), True

    def _anywhere(self, size: int, ratio: float, rng: np.random.Generator) -> _Box:
        return _Box(np.zeros(3, dtype=np.int64), self._room(size), 1, size, ratio, rng)

    def _local_box(self, parent: tuple[Int[np.ndarray, "3"], int] | None, size: int, rng: np.random.Generator) -> _Box:
        if parent is None:
            return self._anywhere(size, self._ratio_local, rng)
        if self._scaled:
            return _Box(parent[0], np.full(3, parent[1] - size + 1), 1, size, self._ratio_local, rng)
        return _Box(parent[0], self._steps_inside, self._patch, size, self._ratio_local, rng)

    def _place(self, views: Mapping[int, _Box], corners: Int[np.ndarray, "n 3"], violations: Bool[np.ndarray, " n"]) -> None:
        """Corners of these views, each uniform over its box where the ratio holds; else over its greatest ratio, flagged.

        Boxes of one stride: what holds in their first proposals is asked at once.
        """
        if not views:
            return
        boxes = list(views.values())
        stride = boxes[0].stride
        lows, rooms = np.array([box.low for box in boxes])[:, None], np.array([box.steps for box in boxes])
        sizes, ratios = np.array([box.size for box in boxes]), np.array([box.ratio for box in boxes])[:, None]

        def accept(at: Int[np.ndarray, "boxes n 3"]) -> Bool[np.ndarray, "boxes n"]:
            counts = self._foreground.counts((lows + stride * at).reshape(-1, 3), sizes.repeat(at.shape[1])).reshape(at.shape[:2])
            return np.asarray(counts / (sizes**3)[:, None] >= ratios)

        found = reject_each([box.rng for box in boxes], rooms, accept, lambda row: self._holds(boxes[row]))
        for view, box, at in zip(views, boxes, found, strict=True):
            corners[view], violations[view] = self._settled(box, at)

    def _constrained_one(self, box: _Box) -> tuple[Int[np.ndarray, "3"], bool]:
        return self._settled(box, reject(box.rng, box.steps, self._holds(box)))

    def _holds(self, box: _Box) -> Accept:
        low, stride, size, ratio = box.low, box.stride, box.size, box.ratio
        return lambda at: np.asarray(self._foreground.counts(low + stride * at, size) / size**3 >= ratio)

    def _settled(self, box: _Box, found: Int[np.ndarray, "3"] | None) -> tuple[Int[np.ndarray, "3"], bool]:
        """The corner found by proposals; by enumeration where they were in vain."""
        low, steps, stride, size, ratio, rng = box
        if found is not None:
            return low + stride * found, False
        counts = self._foreground.count_map(size, low, tuple((steps - 1) * stride + 1))[::stride, ::stride, ::stride]
        holds = counts / size**3 >= ratio
        if holds.any():
            return low + stride * pick(holds, rng), False
        return low + stride * pick(counts == counts.max(), rng), True

    def _any_global_feasible(self) -> bool:
        if self._global_feasible is None:
            self._global_feasible = bool((self._foreground.ratio_map(self._global_size) >= self._ratio_global).any())
        return self._global_feasible

    def _overlap(self, first_size: int, size: int) -> float:
        """Least IoU; at most what cubes of these edges can reach."""
        return min(self._crops.min_global_overlap, greatest_iou(first_size, size))

    def _neighbourhood(
        self, first: Int[np.ndarray, "3"], first_size: int, size: int
    ) -> tuple[Int[np.ndarray, "3"], Bool[np.ndarray, "d h w"]]:
        """Low corner of the box of admissible corners around `first`, and which of them overlap it enough."""
        overlap = self._overlap(first_size, size)
        before, after = reach(first_size, size, overlap)
        low, high = np.maximum(first + before, 0), np.minimum(first + after, self._room(size) - 1)
        return low, overlaps(low - first, high - first, first_size, size, overlap)

    def _has_partner(self, corners: Corners) -> Bool[np.ndarray, " n"]:
        """Which of these first crops have a second one of the ratio that overlaps them enough (found one by one up to the first)."""
        size, ratio = self._global_size, self._ratio_global
        has = self._foreground.counts(corners, size) / size**3 >= ratio
        for n in range(len(corners)):
            if not has[n] and self._partners is None and self._partner_searches < _PARTNER_SEARCHES:
                self._partner_searches += 1
                low, near = self._neighbourhood(corners[n], size, size)
                has[n] = (near & (self._foreground.count_map(size, low, near.shape) / size**3 >= ratio)).any()
            elif not has[n]:
                has[n] = self._partner_map()[tuple(corners[n])]
            if has[n]:
                break
        return has

    def _partner_map(self) -> Bool[np.ndarray, "d h w"]:
        """Every admissible corner that has a partner: the feasible ones, dilated by the neighbourhood of enough overlap."""
        if self._partners is None:
            from scipy.signal import fftconvolve

            size, overlap = self._global_size, self._crops.min_global_overlap
            holds = self._foreground.ratio_map(size) >= self._ratio_global
            far = np.minimum(reach(size, size, overlap)[1], self._room(size) - 1)
            near = overlaps(-far, far, size, size, overlap)
            # A count of neighbours, so one half tells none from some far above the rounding of the transform.
            self._partners = np.asarray(fftconvolve(holds.astype(float), near.astype(float), mode="same") > 0.5)
        return self._partners


def spans(
    shares: Float[np.ndarray, " n"], size_voxels: int, scale_mm: Sequence[float] | None, spacing_mm: float, least: int
) -> Int[np.ndarray, " n"]:
    """Edges in voxels of the scan at these shares, 0 to 1, of a range in mm; without a range those of the crop itself.

    Rounded, and no larger than the scan's least axis of `least` voxels.
    """
    if scale_mm is None:
        return np.full(len(shares), size_voxels)
    low, high = scale_mm
    return np.clip(np.rint((low + shares * (high - low)) / spacing_mm).astype(np.int64), 1, least)


def _any_inside(
    holds: Bool[np.ndarray, "d h w"], rooms: tuple[int, ...], steps: int, stride: int
) -> Bool[np.ndarray, "outer_d outer_h outer_w"]:
    """For each corner of an outer crop whether any of its `steps` inner positions along each axis holds."""
    for axis, room in enumerate(rooms):
        along, width = np.moveaxis(holds, axis, 0)[: room + (steps - 1) * stride], 1
        while width < steps:  # twice as wide each time
            more = min(width, steps - width)
            along, width = along[: len(along) - more * stride] | along[more * stride :], width + more
        holds = np.moveaxis(along, 0, axis)
    return holds
