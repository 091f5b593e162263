"""Where crops are cut: the exact law of the draw.

For each crop a coin with `foreground_crop_prob` decides whether its foreground ratio must hold. Then

1. the first global crop is uniform over its feasible positions that have a feasible partner,
2. the second is uniform over its feasible positions whose IoU with the first is at least `min_global_overlap`,
3. each local crop takes one of the two as parent by a fair coin and is uniform over the feasible positions inside it, at
   multiples of the patch size from its low corner; without `localcrops_subset_of_globalcrops` over the whole scan.

Feasible means: inside the scan, and of the least ratio where the coin says so. A crop is always a partner of itself (IoU 1),
so step 1 has to look for a partner only where the first crop is free, the second is not, and the first lacks the ratio.

With `global_scale_mm` or `local_scale_mm` each crop first draws the millimetres that it spans, uniformly in the range. All rules
then hold for crops of these edges, with three differences: an overlap is asked as far as two edges permit it, the first global crop
is not chosen with regard to a partner, and a local crop lies anywhere inside its parent, as patch grids of different scales
cannot agree.

Drawn by rejection from one named stream a crop, so that a draw without constraint is the first proposal and a constrained one
the first that holds; after `_PROPOSALS` in vain by enumeration from the same stream. Both are uniform over the same set,
hence so is the mixture. A parent is not chosen with regard to the local crops. Where no position is feasible the crop is
uniform over the positions of greatest ratio that keep the other rules, and is flagged; an overlap is always feasible.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from trainer.config import Crops, ratio_global, ratio_local
from trainer.data.foreground import Foreground
from trainer.data.streams import stream

_LOG = logging.getLogger("trainer.data")
_PROPOSALS = (16, 64, 256, 1024)  # sizes of the chunks in which proposals are tested
_PARTNER_SEARCHES = 16  # neighbourhoods searched one by one before the map of all of them is cheaper

Corners = Int[np.ndarray, "n 3"]
Accept = Callable[[Int[np.ndarray, "n 3"]], Bool[np.ndarray, " n"]]


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
        ValueError: A global crop does not fit into the scan.
    """

    def __init__(self, foreground: Foreground, crops: Crops, patch_size: int, spacing_mm: float = 1.0) -> None:
        """`spacing_mm`: edge of a voxel of the scan, for crops whose scale is in mm."""
        if min(foreground.shape) < crops.global_size_voxels:
            raise ValueError(
                f"crops.global_size_voxels: {crops.global_size_voxels} voxels do not fit into a scan of {foreground.shape}. "
                "Make the crop smaller."
            )
        self._foreground = foreground
        self._crops = crops
        self._global_size, self._local_size = crops.global_size_voxels, crops.local_size_voxels
        self._ratio_global, self._ratio_local = ratio_global(crops), ratio_local(crops)
        self._patch, self._spacing_mm = patch_size, spacing_mm
        self._scaled = crops.global_scale_mm is not None or crops.local_scale_mm is not None
        self._steps_inside = np.full(3, (self._global_size - self._local_size) // patch_size + 1)
        self._partners: Bool[np.ndarray, "d h w"] | None = None
        self._partner_searches = 0
        self._global_feasible: bool | None = None
        self._warned = False

    def draw(self, seed: int, step: int, index: int) -> ScanCrops:
        """The crops at position `index` of the batch of this step; depends on the arguments and the settings alone."""
        c, locals_ = self._crops, self._crops.local_crops
        constrained = stream(seed, step, "crop/coins", index).random(2 + locals_) < c.foreground_crop_prob
        parents = (stream(seed, step, "crop/parents", index).random(locals_) < 0.5).astype(np.int64)
        edges = self._edges(seed, step, index)
        coins, sizes = constrained.tolist(), edges.tolist()
        corners, violations = np.empty((2 + locals_, 3), dtype=np.int64), np.zeros(2 + locals_, dtype=bool)
        corners[0], violations[0] = self._first_global(sizes[0], coins[0], coins[1], stream(seed, step, "crop/global0", index))
        corners[1], violations[1] = self._second_global(corners[0], sizes[0], sizes[1], coins[1], stream(seed, step, "crop/global1", index))
        for view in range(locals_):
            parent = (corners[parents[view]], sizes[parents[view]]) if c.localcrops_subset_of_globalcrops else None
            rng = stream(seed, step, f"crop/local{view}", index)
            corners[2 + view], violations[2 + view] = self._local(parent, sizes[2 + view], coins[2 + view], rng)
        if violations.any():
            self._warn()
        return ScanCrops(corners[:2], corners[2:], parents, edges, violations, constrained)

    def _edges(self, seed: int, step: int, index: int) -> Int[np.ndarray, " views"]:
        """Edges in voxels of the scan; as large as the scan at most."""
        edges = np.repeat([self._global_size, self._local_size], [2, self._crops.local_crops])
        if not self._scaled:
            return edges
        share = stream(seed, step, "crop/edges", index).random(len(edges))
        for views, scale in ((slice(2), self._crops.global_scale_mm), (slice(2, None), self._crops.local_scale_mm)):
            if scale is not None:
                edges[views] = np.rint((scale[0] + share[views] * (scale[1] - scale[0])) / self._spacing_mm)
        return np.asarray(np.clip(edges, 1, min(self._foreground.shape)))

    def feasible_fraction(self) -> dict[str, float]:
        """Shares, 0 to 1, of positions that hold their ratio.

        `global`, `local`: of all positions in the scan. `pairs`: of the first global crops, both coins up, those with a
        feasible partner (equal to `global`, as a crop is its own partner). `local_in_global`: of the feasible global crops,
        those that hold a feasible local position on their patch grid (0 if there is none).
        """
        global_holds = self._foreground.ratio_map(self._global_size) >= self._ratio_global
        local_holds = self._foreground.ratio_map(self._local_size) >= self._ratio_local
        d, h, w = global_holds.shape
        inside = np.zeros_like(global_holds)
        for z, y, x in np.ndindex(*self._steps_inside):
            z, y, x = z * self._patch, y * self._patch, x * self._patch
            inside |= local_holds[z : z + d, y : y + h, x : x + w]
        share = float(global_holds.mean())
        return {
            "global": share,
            "local": float(local_holds.mean()),
            "pairs": share,
            "local_in_global": float(inside[global_holds].mean()) if share else 0.0,
        }

    def _room(self, size: int) -> Int[np.ndarray, "3"]:
        return np.array(self._foreground.shape) - size + 1

    def _first_global(self, size: int, must: bool, partner_must: bool, rng: np.random.Generator) -> tuple[Int[np.ndarray, "3"], bool]:
        room = self._room(size)
        if must:
            return self._constrained_in_box(np.zeros(3, dtype=np.int64), room, 1, size, self._ratio_global, rng)
        if not partner_must or self._scaled or self._crops.min_global_overlap <= 0 or not self._any_global_feasible():
            # The last case: no partner anywhere. The first crop is free all the same; the second one takes the violation.
            return _uniform(rng, room, 1)[0], False
        found = _reject(rng, room, self._has_partner)
        if found is not None:
            return found, False
        return _pick(self._partner_map(), rng), False

    def _second_global(
        self, first: Int[np.ndarray, "3"], first_size: int, size: int, must: bool, rng: np.random.Generator
    ) -> tuple[Int[np.ndarray, "3"], bool]:
        room, ratio, overlap = self._room(size), self._ratio_global, self._overlap(first_size, size)
        if overlap <= 0:
            if must:
                return self._constrained_in_box(np.zeros(3, dtype=np.int64), room, 1, size, ratio, rng)
            return _uniform(rng, room, 1)[0], False

        def accept(corners: Corners) -> Bool[np.ndarray, " n"]:
            near = _iou(corners - first, first_size, size) >= overlap
            if must and near.any():
                near[near] = self._foreground.counts(corners[near], size) / size**3 >= ratio
            return near

        found = _reject(rng, room, accept)
        if found is not None:
            return found, False
        low, near = self._neighbourhood(first, first_size, size)
        if not must:
            return low + _pick(near, rng), False
        counts = np.where(near, self._foreground.count_map(size, low, near.shape), -1)
        holds = near & (counts / size**3 >= ratio)
        if holds.any():
            return low + _pick(holds, rng), False
        return low + _pick(counts == counts.max(), rng), True

    def _local(
        self, parent: tuple[Int[np.ndarray, "3"], int] | None, size: int, must: bool, rng: np.random.Generator
    ) -> tuple[Int[np.ndarray, "3"], bool]:
        if parent is None:
            low, steps, stride = np.zeros(3, dtype=np.int64), self._room(size), 1
        elif self._scaled:
            low, steps, stride = parent[0], np.full(3, parent[1] - size + 1), 1
        else:
            low, steps, stride = parent[0], self._steps_inside, self._patch
        if must:
            return self._constrained_in_box(low, steps, stride, size, self._ratio_local, rng)
        return low + stride * _uniform(rng, steps, 1)[0], False

    def _constrained_in_box(
        self, low: Int[np.ndarray, "3"], steps: Int[np.ndarray, "3"], stride: int, size: int, ratio: float, rng: np.random.Generator
    ) -> tuple[Int[np.ndarray, "3"], bool]:
        """Uniform over low + stride * {0 .. steps - 1} where the ratio holds; else over its greatest ratio, flagged."""
        found = _reject(rng, steps, lambda at: self._foreground.counts(low + stride * at, size) / size**3 >= ratio)
        if found is not None:
            return low + stride * found, False
        counts = self._foreground.count_map(size, low, tuple((steps - 1) * stride + 1))[::stride, ::stride, ::stride]
        holds = counts / size**3 >= ratio
        if holds.any():
            return low + stride * _pick(holds, rng), False
        return low + stride * _pick(counts == counts.max(), rng), True

    def _any_global_feasible(self) -> bool:
        if self._global_feasible is None:
            self._global_feasible = bool((self._foreground.ratio_map(self._global_size) >= self._ratio_global).any())
        return self._global_feasible

    def _overlap(self, first_size: int, size: int) -> float:
        """Least IoU; at most what cubes of these edges can reach."""
        return min(self._crops.min_global_overlap, (min(first_size, size) / max(first_size, size)) ** 3)

    def _neighbourhood(
        self, first: Int[np.ndarray, "3"], first_size: int, size: int
    ) -> tuple[Int[np.ndarray, "3"], Bool[np.ndarray, "d h w"]]:
        """Low corner of the box of admissible corners around `first`, and which of them overlap it enough."""
        overlap = self._overlap(first_size, size)
        before, after = _reach(first_size, size, overlap)
        low, high = np.maximum(first + before, 0), np.minimum(first + after, self._room(size) - 1)
        return low, _overlaps(low - first, high - first, first_size, size, overlap)

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
            reach = np.minimum(_reach(size, size, overlap)[1], self._room(size) - 1)
            near = _overlaps(-reach, reach, size, size, overlap)
            # A count of neighbours, so one half tells none from some far above the rounding of the transform.
            self._partners = np.asarray(fftconvolve(holds.astype(float), near.astype(float), mode="same") > 0.5)
        return self._partners

    def _warn(self) -> None:
        if not self._warned:
            self._warned = True
            shares = self.feasible_fraction()
            _LOG.warning(
                "crops.min_foreground_ratio: no crop reached its ratio somewhere; the best there was is used and counted as a violation. "
                "Feasible share of positions: global %.3g (ratio %.3g), local %.3g (ratio %.3g). "
                "Lower the ratio or crops.foreground_threshold.",
                shares["global"],
                self._ratio_global,
                shares["local"],
                self._ratio_local,
            )


def _uniform(rng: np.random.Generator, room: Int[np.ndarray, "3"], count: int) -> Corners:
    d, h, w = room.tolist()
    flat = rng.integers(d * h * w, size=count)
    corners = np.empty((count, 3), dtype=np.int64)
    rows, corners[:, 2] = np.divmod(flat, w)
    corners[:, 0], corners[:, 1] = np.divmod(rows, h)
    return corners


def _reject(rng: np.random.Generator, room: Int[np.ndarray, "3"], accept: Accept) -> Int[np.ndarray, "3"] | None:
    """The first acceptable of at most sum(_PROPOSALS) uniform proposals in [0, room)."""
    for count in _PROPOSALS:
        proposals = _uniform(rng, room, count)
        accepted = accept(proposals)
        first = int(accepted.argmax())
        if accepted[first]:
            return np.asarray(proposals[first])
    return None


def _pick(among: Bool[np.ndarray, "d h w"], rng: np.random.Generator) -> Int[np.ndarray, "3"]:
    """Uniform over the positions that are true (at least one)."""
    flat = np.flatnonzero(among)
    return np.array(np.unravel_index(flat[rng.integers(len(flat))], among.shape))


def _iou(offsets: Corners, first: int, second: int) -> Float[np.ndarray, " n"]:
    """IoU, 0 to 1, of two cubes of these edges, the second one's corner at these offsets from the first one's."""
    inter = _shared(offsets, first, second).prod(axis=-1)
    return np.asarray(inter / (first**3 + second**3 - inter))


def _shared(offsets: Int[np.ndarray, "*shape"], first: int, second: int) -> Int[np.ndarray, "*shape"]:
    """Length that two intervals of these lengths share along an axis."""
    return np.asarray(np.maximum(np.minimum(first, offsets + second) - np.maximum(offsets, 0), 0))


def _reach(first: int, second: int, overlap: float) -> tuple[int, int]:
    """Least and greatest shift along one axis that keeps the IoU; 0, 0 where sizes differ too much for any to keep it."""
    shifts = np.arange(-second, first + 1)
    inside = min(first, second)
    inter = _shared(shifts, first, second) * inside**2
    keep = shifts[inter / (first**3 + second**3 - inter) >= overlap]
    return (int(keep.min()), int(keep.max())) if len(keep) else (0, 0)


def _overlaps(
    low: Int[np.ndarray, "*3"], high: Int[np.ndarray, "*3"], first: int, second: int, overlap: float
) -> Bool[np.ndarray, "d h w"]:
    """Which shifts in the box low..high (inclusive) keep the IoU of two cubes of these edges."""
    low, high = np.broadcast_to(low, 3), np.broadcast_to(high, 3)
    d, h, w = (_shared(np.arange(a, b + 1), first, second) for a, b in zip(low, high, strict=True))
    inter = d[:, None, None] * h[None, :, None] * w[None, None, :]
    return np.asarray(inter / (first**3 + second**3 - inter) >= overlap)
