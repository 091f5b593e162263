"""What the sampler promises beside its law: ratios that are exact, streams that do not disturb each other, violations that are counted."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.config import Crops
from trainer.data.crops import CropSampler
from trainer.data.foreground import Foreground, foreground_mask
from trainer.data.streams import stream


def ball(edge: int = 20, radius: float = 7.0) -> np.ndarray:
    axes = np.indices((edge, edge, edge)) - (edge - 1) / 2
    return np.asarray((axes**2).sum(axis=0) < radius**2)


def speckled(edge: int = 12) -> np.ndarray:
    return np.random.default_rng(0).random((edge, edge, edge)) < 0.75


def naive_ratio(mask: np.ndarray, corner: np.ndarray, size: int) -> float:
    total = 0
    for z in range(corner[0], corner[0] + size):
        for y in range(corner[1], corner[1] + size):
            for x in range(corner[2], corner[2] + size):
                total += int(mask[z, y, x])
    return total / size**3


CROPS = Crops(global_size_voxels=8, local_size_voxels=4, local_crops=3, foreground_crop_prob=1.0, min_foreground_ratio=0.5)


@given(st.integers(0, 2**31), st.integers(1, 6))
@settings(max_examples=40)
def test_the_integral_volume_gives_the_counted_ratio_of_any_crop(seed: int, size: int) -> None:
    rng = np.random.default_rng(seed)
    mask = rng.random((7, 8, 9)) < rng.random()
    corners = np.stack([rng.integers(0, n - size + 1, 5) for n in mask.shape], axis=1)
    fast = Foreground.of(mask).ratio(corners, size)
    np.testing.assert_allclose(fast, [naive_ratio(mask, c, size) for c in corners], atol=1e-12)
    assert Foreground.of(mask).ratio_map(size)[tuple(corners[0])] == fast[0]


def test_an_integral_shifted_by_one_voxel_fails_that_check() -> None:
    mask = ball(8, 3)
    shifted = Foreground.of(np.roll(mask, 1, axis=0))
    corners = np.array([[0, 2, 2]])
    assert shifted.ratio(corners, 4)[0] != naive_ratio(mask, corners[0], 4)


def test_a_crop_outside_the_scan_is_an_error() -> None:
    with pytest.raises(ValueError, match="inside the scan"):
        Foreground.of(ball(8, 3)).ratio(np.array([[5, 0, 0]]), 4)


@given(st.integers(0, 10_000), st.floats(0, 0.6), st.booleans())
@settings(max_examples=40)
def test_constrained_crops_hold_their_ratio_overlap_and_parent(step: int, overlap: float, subset: bool) -> None:
    mask = ball()
    crops = dataclasses.replace(CROPS, min_global_overlap=overlap, localcrops_subset_of_globalcrops=subset)
    drawn = CropSampler(Foreground.of(mask), crops, 2).draw(0, step, 1)
    placed = [(c, 8) for c in drawn.global_corners] + [(c, 4) for c in drawn.local_corners]
    for (corner, size), violated in zip(placed, drawn.violations, strict=True):
        assert violated or naive_ratio(mask, corner, size) >= 0.5
    one, other = drawn.global_corners
    shared = np.prod(np.maximum(8 - np.abs(one - other), 0))
    assert shared / (2 * 8**3 - shared) >= overlap
    if subset:
        for corner, parent in zip(drawn.local_corners, drawn.local_parents, strict=True):
            inside = corner - drawn.global_corners[parent]
            assert (inside >= 0).all()
            assert (inside + 4 <= 8).all()
            assert (inside % 2 == 0).all()


def test_without_constraints_switching_them_on_leaves_the_other_draws_as_they_were() -> None:
    foreground = Foreground.of(ball())
    free = dataclasses.replace(CROPS, foreground_crop_prob=0.0)
    overlapping = dataclasses.replace(free, min_global_overlap=0.4)
    for step in range(30):
        plain, other = CropSampler(foreground, free, 2).draw(3, step, 0), CropSampler(foreground, overlapping, 2).draw(3, step, 0)
        np.testing.assert_array_equal(plain.global_corners[0], other.global_corners[0])
        np.testing.assert_array_equal(plain.local_corners, other.local_corners)
        np.testing.assert_array_equal(plain.local_parents, other.local_parents)


def test_streams_depend_on_their_whole_name() -> None:
    names = [(0, 0, "a", 0), (1, 0, "a", 0), (0, 1, "a", 0), (0, 0, "b", 0), (0, 0, "a", 1)]
    draws = [tuple(stream(*name).integers(1 << 60, size=3)) for name in names]
    assert len(set(draws)) == len(names)
    assert draws[0] == tuple(stream(0, 0, "a", 0).integers(1 << 60, size=3))


def test_where_no_position_is_feasible_the_best_is_used_and_counted() -> None:
    mask = np.zeros((12, 12, 12), dtype=bool)
    mask[2:5, 2:5, 2:5] = True
    crops = dataclasses.replace(CROPS, min_foreground_ratio=0.9, local_crops=0)
    sampler = CropSampler(Foreground.of(mask), crops, 2)
    drawn = [sampler.draw(0, step, 0) for step in range(5)]
    best = Foreground.of(mask).ratio_map(8).max()
    assert all(d.violations.all() for d in drawn)
    assert all(naive_ratio(mask, c, 8) == best for d in drawn for c in d.global_corners)


def test_feasible_fractions_are_those_of_all_positions() -> None:
    mask = speckled()
    crops = dataclasses.replace(CROPS, min_foreground_ratio_global=0.74, min_foreground_ratio_local=0.8)
    shares = CropSampler(Foreground.of(mask), crops, 2).feasible_fraction()
    assert shares["global"] == shares["pairs"] == pytest.approx(np.mean(feasible(mask, 8, 0.74)))
    assert shares["local"] == pytest.approx(np.mean(feasible(mask, 4, 0.8)))
    on_the_grid, anywhere = (holding_a_local(mask, 8, 4, stride) for stride in (2, 1))
    assert shares["local_in_global"] == pytest.approx(on_the_grid)
    assert anywhere != pytest.approx(on_the_grid)


def test_feasible_fractions_of_scaled_crops_are_means_over_their_range_and_any_place_inside() -> None:
    mask = speckled()
    crops = dataclasses.replace(
        CROPS, min_foreground_ratio_global=0.74, min_foreground_ratio_local=0.8, global_scale_mm=[12.0, 20.0], local_scale_mm=[6.0, 10.0]
    )
    shares = CropSampler(Foreground.of(mask), crops, 2, spacing_mm=2.0).feasible_fraction()
    pairs = [(6, 3), (7, 4), (8, 4), (9, 4), (10, 5)]  # five edges over each range in voxels, halves rounded to even
    assert shares["global"] == pytest.approx(np.mean([np.mean(feasible(mask, outer, 0.74)) for outer, _ in pairs]))
    assert shares["local"] == pytest.approx(np.mean([np.mean(feasible(mask, inner, 0.8)) for _, inner in pairs]))
    assert shares["local_in_global"] == pytest.approx(np.mean([holding_a_local(mask, outer, inner, 1) for outer, inner in pairs]))


def feasible(mask: np.ndarray, size: int, ratio: float) -> np.ndarray:
    room = len(mask) - size + 1
    return np.array([naive_ratio(mask, np.array(c), size) >= ratio for c in np.ndindex(room, room, room)]).reshape(room, room, room)


def holding_a_local(mask: np.ndarray, outer: int, inner: int, stride: int) -> float:
    """Of the outer crops that hold .74, the share with an inner one of .8, `stride` voxels apart from their corner on."""
    holds, wanted = feasible(mask, outer, 0.74), feasible(mask, inner, 0.8)
    found = []
    for z, y, x in np.argwhere(holds):
        steps = range(0, outer - inner + 1, stride)
        found.append(any(wanted[z + a, y + b, x + c] for a in steps for b in steps for c in steps))
    return float(np.mean(found)) if found else 0.0


def test_a_crop_larger_than_the_scan_is_an_error_unless_it_is_resampled() -> None:
    small = Foreground.of(ball(6, 2))
    with pytest.raises(ValueError, match="do not fit"):
        CropSampler(small, CROPS, 2)
    scaled = dataclasses.replace(CROPS, global_scale_mm=[7.0, 9.0], local_scale_mm=[2.0, 4.0], min_foreground_ratio=0.0)
    drawn = CropSampler(small, scaled, 2).draw(0, 0, 0)
    assert drawn.edges[:2].tolist() == [6, 6]
    assert (drawn.global_corners == 0).all()


@given(st.integers(0, 10_000), st.floats(0, 1), st.integers(3, 12), st.integers(3, 12))
@settings(max_examples=60)
def test_any_two_edges_reach_the_overlap_that_is_asked_as_far_as_their_sizes_permit(
    step: int, overlap: float, least: int, most: int
) -> None:
    scale = [float(min(least, most)), float(max(least, most))]
    crops = dataclasses.replace(CROPS, foreground_crop_prob=0.5, min_global_overlap=overlap, global_scale_mm=scale, local_crops=0)
    drawn = CropSampler(Foreground.of(ball(16, 5)), crops, 2).draw(0, step, 1)
    first, second = drawn.edges.tolist()
    one, other = (set(np.ndindex(edge, edge, edge)) for edge in (first, second))
    one, other = ({tuple(np.add(at, c)) for at in box} for box, c in zip((one, other), drawn.global_corners.tolist(), strict=True))
    permitted = min(first, second) ** 3 / max(first, second) ** 3
    assert len(one & other) / len(one | other) >= min(overlap, permitted)


def test_a_scale_of_local_crops_leaves_the_global_ones_where_they_were() -> None:
    foreground = Foreground.of(ball())
    crops = dataclasses.replace(CROPS, foreground_crop_prob=0.5, min_global_overlap=0.4)
    scaled = dataclasses.replace(crops, local_scale_mm=[3.0, 7.0])
    for step in range(30):
        plain, other = CropSampler(foreground, crops, 2).draw(3, step, 0), CropSampler(foreground, scaled, 2).draw(3, step, 0)
        np.testing.assert_array_equal(plain.global_corners, other.global_corners)


def test_the_body_is_the_largest_component_with_its_holes_filled_and_the_threshold_is_not() -> None:
    voxels = np.full((20, 20, 20), -1000, dtype=np.int16)
    voxels[4:16, 4:16, 4:16] = 40
    voxels[8:12, 8:12, 8:12] = -850  # lung
    voxels[:, 18, :] = 100  # table
    body, above = foreground_mask(voxels, "body", -500), foreground_mask(voxels, "threshold", -500)
    assert body[10, 10, 10]
    assert not body[10, 18, 10]
    assert not above[10, 10, 10]
    assert above[10, 18, 10]
