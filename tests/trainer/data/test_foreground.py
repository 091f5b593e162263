"""Masks and integral volumes in slabs against a flood fill and plain loops."""

from __future__ import annotations

from collections import deque
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scan_files import VOXELS, data, volume

from trainer.data import Scan, foreground, foreground_mask, scan_foreground
from trainer.data.foreground import Foreground
from trainer.data.index import StoredScans, build


def neighbours(at: tuple[int, int, int], shape: tuple[int, ...], in_plane: bool) -> list[tuple[int, int, int]]:
    found = []
    for axis in (1, 2) if in_plane else (0, 1, 2):
        for step in (-1, 1):
            near = list(at)
            near[axis] += step
            if 0 <= near[axis] < shape[axis]:
                found.append((near[0], near[1], near[2]))
    return found


def flooded(mask: np.ndarray, starts: list[tuple[int, int, int]], in_plane: bool) -> set[tuple[int, int, int]]:
    seen, queue = set(starts), deque(starts)
    while queue:
        for near in neighbours(queue.popleft(), mask.shape, in_plane):
            if mask[near] and near not in seen:
                seen.add(near)
                queue.append(near)
    return seen


def naive_body(voxels: np.ndarray, threshold: float, fill: bool = True) -> np.ndarray:
    """Flood from each voxel in turn; the first of the largest components; then flood the outside of each slice from its edge."""
    above, best = voxels > threshold, set[tuple[int, int, int]]()
    left = {tuple(at) for at in np.argwhere(above).tolist()}
    while left:
        component = flooded(above, [min(left)], in_plane=False)
        left -= component
        best = component if len(component) > len(best) else best
    body = np.zeros(voxels.shape, dtype=bool)
    for at in best:
        body[at] = True
    if not fill:
        return body
    d, h, w = voxels.shape
    edge = [(z, y, x) for z in range(d) for y in range(h) for x in range(w) if (y in (0, h - 1) or x in (0, w - 1)) and not body[z, y, x]]
    outside = flooded(~body, edge, in_plane=True)
    return np.array([[[(z, y, x) not in outside for x in range(w)] for y in range(h)] for z in range(d)])


shapes = st.tuples(*(st.integers(1, 6),) * 3)


@settings(max_examples=60)
@given(shape=shapes, seed=st.integers(0, 999), slab=st.sampled_from([1, 20, 10_000]))
def test_the_body_is_that_of_a_flood_fill_however_it_is_cut_into_slabs(shape: tuple[int, int, int], seed: int, slab: int) -> None:
    voxels = np.random.default_rng(seed).normal(0, 1, shape)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(foreground, "_SLAB_VOXELS", slab)
        np.testing.assert_array_equal(foreground_mask(voxels, "body", 0.0), naive_body(voxels, 0.0))
        np.testing.assert_array_equal(foreground_mask(voxels, "threshold", 0.3), voxels > 0.3)


def test_holes_left_open_would_be_seen() -> None:
    voxels = np.random.default_rng(3).normal(0, 1, (5, 6, 6))
    assert (foreground_mask(voxels, "body", 0.0) != naive_body(voxels, 0.0, fill=False)).any()


@settings(max_examples=40)
@given(shape=shapes, seed=st.integers(0, 999), slab=st.sampled_from([1, 20, 10_000]))
def test_counts_are_those_of_a_loop_however_it_is_cut_into_slabs(shape: tuple[int, int, int], seed: int, slab: int) -> None:
    rng = np.random.default_rng(seed)
    mask, size = rng.random(shape) < 0.5, int(rng.integers(1, min(shape) + 1))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(foreground, "_SLAB_VOXELS", slab)
        fast = Foreground.of(mask)
    for corner in np.argwhere(np.ones([n - size + 1 for n in shape], dtype=bool)).tolist():
        z, y, x = corner
        assert fast.counts(np.array([corner]), size)[0] == sum(
            bool(mask[z + a, y + b, x + c]) for a in range(size) for b in range(size) for c in range(size)
        )
    edges = np.arange(1, size + 1)  # an edge of its own for each corner
    assert fast.counts(np.zeros((size, 3), np.int64), edges).tolist() == [int(mask[:n, :n, :n].sum()) for n in edges]


def in_memory() -> Scan:
    return Scan("a", VOXELS, (2.0, 2.0, 2.0), None, {})


def test_a_scan_on_disk_has_the_foreground_of_its_twin_in_memory_and_keeps_it_on_disk(tmp_path: Path) -> None:
    folder = volume(tmp_path / "ct" / "a.nii.gz", VOXELS).parent
    (stored,) = StoredScans(build(data(folder)).entries, data(folder))
    twin = replace(in_memory(), voxels=np.array(stored.voxels))
    for kind, threshold in (("body", -500.0), ("threshold", 100.0)):
        one, other = scan_foreground(stored, kind, threshold), scan_foreground(twin, kind, threshold)
        np.testing.assert_array_equal(one.count_map(8), other.count_map(8))
        assert isinstance(one._integral, np.memmap)
    assert len(list((tmp_path / "cache").glob("*.body-500.npy"))) == 1
    before = {file: file.stat().st_ino for file in (tmp_path / "cache").glob("*.npy")}
    scan_foreground(stored, "body", -500.0)
    assert {file: file.stat().st_ino for file in (tmp_path / "cache").glob("*.npy")} == before


def test_foregrounds_in_memory_are_bounded_and_the_latest_stay() -> None:
    held = foreground._InMemory(limit_bytes=2 * Foreground.of(VOXELS > 0).size_bytes)
    voxels = [VOXELS + number for number in range(3)]
    first = [held.get(one, "threshold", 0.0) for one in voxels]
    assert held.get(voxels[2], "threshold", 0.0) is first[2]
    assert held.get(voxels[1], "threshold", 0.0) is first[1]
    again = held.get(voxels[0], "threshold", 0.0)
    assert again is not first[0]
    np.testing.assert_array_equal(again.count_map(4), first[0].count_map(4))


def test_another_kind_names_the_two() -> None:
    with pytest.raises(ValueError, match="expected threshold or body but got 'otsu'"):
        scan_foreground(in_memory(), "otsu", 0.0)
