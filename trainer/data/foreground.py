"""What counts as foreground, and how much of it any crop holds."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from trainer.data.volumes import Scan

_IN_MEMORY_BYTES = 1 << 29
_SLAB_VOXELS = 1 << 22
"""Voxels that are worked on at once."""


def foreground_mask(
    voxels: Shaped[np.ndarray, "depth height width"], kind: str, threshold_hu: float
) -> Bool[np.ndarray, "depth height width"]:
    """Foreground voxels of a scan in HU.

    Args:
        voxels: HU.
        kind: `threshold`: every voxel above the threshold, so that at -500 HU healthy lung (-950 to -700) is background.
            `body`: the largest 6-connected component above it, holes filled in each axial slice (so that lungs cut off by
            the end of the scan count as inside).
        threshold_hu: Exclusive lower bound of foreground.

    Raises:
        ValueError: Another kind.
    """
    return np.concatenate(list(_mask_slabs(voxels, kind, threshold_hu)))


def scan_foreground(scan: Scan, kind: str, threshold_hu: float) -> Foreground:
    """The integral volume of a scan's foreground, computed once.

    For a scan on disk it is written slab by slab into the cache and mapped from there, so that memory holds neither the mask nor the
    integral of a large scan. For a scan in memory, such as the phantom's, the last `_IN_MEMORY_BYTES` of them are held.

    Args:
        scan: In HU.
        kind: As for `foreground_mask`.
        threshold_hu: As for `foreground_mask`.

    Raises:
        ValueError: Another kind.
        CacheError: The cache cannot be written.
    """
    if scan.kept is None:
        return _IN_MEMORY.get(scan.voxels, kind, threshold_hu)
    d, h, w = (n + 1 for n in scan.voxels.shape)

    def parts() -> Iterator[Int[np.ndarray, "slab height1 width1"]]:
        return _integral_slabs(_mask_slabs(scan.voxels, kind, threshold_hu), (h, w))

    return Foreground(scan.kept.array(f"{kind}{threshold_hu:g}", (d, h, w), np.int32, parts))


def _mask_slabs(
    voxels: Shaped[np.ndarray, "depth height width"], kind: str, threshold_hu: float
) -> Iterator[Bool[np.ndarray, "slab height width"]]:
    if kind not in ("threshold", "body"):
        raise ValueError(f"crops.foreground: expected threshold or body but got {kind!r}. Set one of the two.")
    above = (np.asarray(slab > threshold_hu) for slab in _slabs(voxels))
    return above if kind == "threshold" else _body_slabs(voxels, threshold_hu)


def _slabs(voxels: Shaped[np.ndarray, "depth height width"]) -> Iterator[Shaped[np.ndarray, "slab height width"]]:
    thick = max(1, _SLAB_VOXELS // (voxels.shape[1] * voxels.shape[2]))
    return (voxels[low : low + thick] for low in range(0, len(voxels), thick))


def _body_slabs(voxels: Shaped[np.ndarray, "depth height width"], threshold_hu: float) -> Iterator[Bool[np.ndarray, "slab height width"]]:
    """The largest component, from the components of each slab and where they touch those of the next.

    The components of several slabs are found twice instead of kept: numbers for all voxels have twice the bytes of the scan. Holes are
    the background that no in-plane path connects with the edge of its slice.
    """
    from scipy import ndimage

    in_plane = np.zeros((3, 3, 3), dtype=bool)
    in_plane[1] = ndimage.generate_binary_structure(2, 1)
    labelled: Iterable[_Labelled] = _Components(voxels, threshold_hu)
    if voxels.size <= _SLAB_VOXELS:
        labelled = list(labelled)
    belongs, first = _largest_component(labelled, voxels.shape[1:]), 0
    for components, found in labelled:
        mask = np.concatenate([[False], belongs[first : first + found]])[components]
        first += found
        outside, holes = ndimage.label(~mask, structure=in_plane)
        open_ = np.zeros(holes + 1, dtype=bool)
        for edge in (outside[:, 0], outside[:, -1], outside[:, :, 0], outside[:, :, -1]):
            open_[edge.ravel()] = True
        open_[0] = False
        yield ~open_[outside]


_Labelled = tuple[Int[np.ndarray, "slab height width"], int]
"""The components of a slab, numbered from 1 on, and how many there are."""


class _Components:
    """The components of each slab; found anew each time that one goes through them."""

    def __init__(self, voxels: Shaped[np.ndarray, "depth height width"], threshold_hu: float) -> None:
        self._voxels, self._threshold_hu = voxels, threshold_hu

    def __iter__(self) -> Iterator[_Labelled]:
        from scipy import ndimage

        return (ndimage.label(slab > self._threshold_hu) for slab in _slabs(self._voxels))


def _largest_component(labelled: Iterable[_Labelled], plane: tuple[int, ...]) -> Bool[np.ndarray, " slab_components"]:
    """Which of the slabs' components, numbered through the slabs, belong to the largest of the volume."""
    from scipy import sparse

    sizes, touching, first = [], [np.zeros((2, 0), dtype=np.int64)], 0
    below: Int[np.ndarray, "height width"] = np.zeros(plane, dtype=np.int64)
    for components, found in labelled:
        sizes.append(np.bincount(components.ravel(), minlength=found + 1)[1:])
        here = np.where(components[[0, -1]] > 0, components[[0, -1]].astype(np.int64) + first, 0)  # from 1 on through all slabs
        both = (below > 0) & (here[0] > 0)
        touching.append(np.unique(np.stack([below[both], here[0][both]]) - 1, axis=1))
        below, first = here[1], first + found
    if not first:
        return np.zeros(0, dtype=bool)
    ends = np.concatenate(touching, axis=1)
    graph = sparse.coo_array((np.ones(ends.shape[1], dtype=bool), (ends[0], ends[1])), shape=(first, first))
    _, whole = sparse.csgraph.connected_components(graph, directed=False)
    return np.asarray(whole == np.bincount(whole, weights=np.concatenate(sizes)).argmax())


def _integral_slabs(
    slabs: Iterable[Bool[np.ndarray, "slab height width"]], shape: tuple[int, int]
) -> Iterator[Int[np.ndarray, "slab height1 width1"]]:
    """The integral volume in parts: how many foreground voxels lie before each corner along all axes."""
    last = np.zeros((1, *shape), dtype=np.int32)
    yield last
    for slab in slabs:
        part = np.zeros((len(slab), *shape), dtype=np.int32)
        inner = part[:, 1:, 1:]
        np.cumsum(slab, axis=0, dtype=np.int32, out=inner)
        np.cumsum(inner, axis=1, out=inner)
        np.cumsum(inner, axis=2, out=inner)
        part += last
        last = part[-1:].copy()
        yield part


_UNIT_CUBE = np.array([[z, y, x] for z in (0, 1) for y in (0, 1) for x in (0, 1)], dtype=np.int64)
_SIGNS = np.where((3 - _UNIT_CUBE.sum(axis=1)) % 2, -1, 1).astype(np.int64)
"""Inclusion and exclusion: the far corner counts positively, and the sign changes with each coordinate that is low."""


class Foreground:
    """Integral volume of a mask: the foreground share of any cubic crop from eight look-ups.

    Four bytes a voxel. Source: summed-area tables, Crow 1984, in three dimensions.
    """

    def __init__(self, integral: Int[np.ndarray, "depth1 height1 width1"]) -> None:
        self.shape: tuple[int, int, int] = (integral.shape[0] - 1, integral.shape[1] - 1, integral.shape[2] - 1)
        self._integral = integral
        self._flat = integral.ravel()
        self._strides = np.array([integral.shape[1] * integral.shape[2], integral.shape[2], 1], dtype=np.int64)
        self._unit_offsets = _UNIT_CUBE @ self._strides

    @classmethod
    def of(cls, mask: Bool[np.ndarray, "depth height width"]) -> Foreground:
        """Integrate a mask (at most 2^31 voxels)."""
        _, h, w = (n + 1 for n in mask.shape)
        return cls(np.concatenate(list(_integral_slabs(_slabs(mask), (h, w)))))

    def counts(self, corners: Int[np.ndarray, "n 3"], size: int | Int[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
        """Foreground voxels in the cubes of edge `size`, one for all or one each, at these low corners (which must lie inside the scan)."""
        # One gather of all eight look-ups: the samplers ask for few crops at a time, so calls cost more than bytes.
        offsets = np.multiply.outer(size, self._unit_offsets)
        return np.asarray(self._flat[(corners @ self._strides)[:, None] + offsets] @ _SIGNS)

    def ratio(self, corners: Int[np.ndarray, "n 3"], size: int) -> Float[np.ndarray, " n"]:
        """Share of foreground voxels, 0 to 1, in the cubes of edge `size` at these low corners.

        Raises:
            ValueError: A crop reaches outside the scan.
        """
        corners = np.asarray(corners, dtype=np.int64)
        if corners.size and (corners.min() < 0 or (corners.max(axis=0) + size > self.shape).any()):
            raise ValueError(f"corners: expected crops of {size} voxels inside the scan {self.shape}. Move them inside.")
        return np.asarray(self.counts(corners, size) / float(size**3))

    def count_map(
        self, size: int, low: Int[np.ndarray, "3"] | None = None, room: tuple[int, ...] | None = None
    ) -> Int[np.ndarray, "d h w"]:
        """Foreground voxels of the crop at every low corner in the box of `room` corners from `low`; by default all admissible ones.

        Raises:
            ValueError: The crop does not fit into the scan.
        """
        if min(self.shape) < size:
            raise ValueError(f"crop: {size} voxels do not fit into the scan {self.shape}. Make the crop smaller.")
        z, y, x = (0, 0, 0) if low is None else (int(n) for n in low)
        d, h, w = (n - size + 1 for n in self.shape) if room is None else room
        s = self._integral[z : z + d + size, y : y + h + size, x : x + w + size]
        along_depth = s[size:] - s[:-size]
        along_height = along_depth[:, size:] - along_depth[:, :-size]
        return np.asarray(along_height[:, :, size:] - along_height[:, :, :-size])

    def ratio_map(self, size: int) -> Float[np.ndarray, "d h w"]:
        """Share of foreground voxels, 0 to 1, of the crop at every admissible low corner."""
        return np.asarray(self.count_map(size) / float(size**3))

    def histogram(self, size: int) -> tuple[Int[np.ndarray, " counts"], Int[np.ndarray, " counts"]]:
        """The foreground counts that occur over all admissible crops, ascending, and at how many positions each does.

        Kept instead of the map, which is as large as the scan, and counted slab by slab.

        Raises:
            ValueError: The crop does not fit into the scan.
        """
        d, h, w = (n - size + 1 for n in self.shape)
        positions = np.zeros(size**3 + 1, dtype=np.int64)
        thick = max(1, _SLAB_VOXELS // max(1, self.shape[1] * self.shape[2]))
        for low in range(0, max(d, 1), thick):
            room = None if d < 1 else (min(thick, d - low), h, w)
            found = np.bincount(self.count_map(size, np.array([low, 0, 0]), room).ravel())
            positions[: len(found)] += found
        counts = np.flatnonzero(positions)
        return counts, positions[counts]

    @property
    def size_bytes(self) -> int:
        """Of the integral volume."""
        return self._integral.nbytes


class _InMemory:
    """Foregrounds of scans in memory, the latest used of them; safe for several threads."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit = limit_bytes
        self._lock = threading.Lock()
        self._held: OrderedDict[tuple[int, str, float], tuple[np.ndarray, Foreground]] = OrderedDict()

    def get(self, voxels: Shaped[np.ndarray, "depth height width"], kind: str, threshold_hu: float) -> Foreground:
        key = (id(voxels), kind, threshold_hu)  # the voxels are held beside, so that nothing else can have their place
        with self._lock:
            if key in self._held:
                self._held.move_to_end(key)
                return self._held[key][1]
        made = Foreground.of(foreground_mask(voxels, kind, threshold_hu))
        with self._lock:
            self._held[key] = (voxels, made)
            while len(self._held) > 1 and sum(one.size_bytes for _, one in self._held.values()) > self._limit:
                self._held.popitem(last=False)
        return made


_IN_MEMORY = _InMemory(_IN_MEMORY_BYTES)
