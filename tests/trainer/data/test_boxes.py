"""What boxes share, against sets of voxels."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.data.boxes import global_iou, greatest_iou, iou, local_containment, overlaps, reach

Corner = tuple[int, int, int]
CORNERS = st.tuples(*[st.integers(0, 6)] * 3)
EDGES = st.integers(1, 6)


def voxels(corner: Corner, edge: int) -> set[Corner]:
    return set(itertools.product(*(range(c, c + edge) for c in corner)))  # type: ignore[arg-type]


def naive_iou(one: set[Corner], other: set[Corner]) -> float:
    return len(one & other) / len(one | other)


@given(CORNERS, CORNERS, EDGES, EDGES)
@settings(max_examples=80)
def test_iou_counts_voxels(first: Corner, second: Corner, edge: int, other: int) -> None:
    expected = naive_iou(voxels(first, edge), voxels(second, other))
    assert global_iou(np.array([[first, second]]), np.array([[edge, other]]))[0] == pytest.approx(expected)
    offset = np.array([second]) - np.array([first])
    assert iou(offset, edge, other)[0] == pytest.approx(expected)


def test_a_box_of_the_other_ones_edge_fails_that_check() -> None:
    assert naive_iou(voxels((0, 0, 0), 4), voxels((2, 0, 0), 2)) == 0.125
    assert iou(np.array([[2, 0, 0]]), 4, 2)[0] == 0.125
    assert iou(np.array([[2, 0, 0]]), 2, 4)[0] == 0.0
    assert iou(np.array([[2, 0, 0]]), 4, 4)[0] != 0.125


@given(CORNERS, CORNERS, CORNERS, EDGES, EDGES, EDGES)
@settings(max_examples=60)
def test_containment_is_the_larger_share_in_either_global(a: Corner, b: Corner, local: Corner, edge_a: int, edge_b: int, edge: int) -> None:
    inner = voxels(local, edge)
    expected = max(len(inner & voxels(a, edge_a)), len(inner & voxels(b, edge_b))) / len(inner)
    found = local_containment(np.array([[a, b]]), np.array([[local]]), np.array([[edge_a, edge_b]]), np.array([[edge]]))
    assert found[0, 0] == pytest.approx(expected)


def test_the_greatest_overlap_is_reached_to_the_last_bit() -> None:
    """Otherwise no position would do where exactly that much is asked."""
    for first, second in itertools.product(range(1, 70), repeat=2):
        assert iou(np.zeros((1, 3), dtype=int), first, second)[0] == greatest_iou(first, second)
    powers = {(a, b) for a, b in itertools.product(range(1, 70), repeat=2) if (min(a, b) / max(a, b)) ** 3 > greatest_iou(a, b)}
    assert powers


@given(EDGES, EDGES, st.floats(0.01, 1))
@settings(max_examples=60)
def test_the_neighbourhood_holds_every_shift_that_keeps_the_overlap(first: int, second: int, asked: float) -> None:
    asked = min(asked, greatest_iou(first, second))
    low, high = reach(first, second, asked)
    inside = overlaps(np.array(low), np.array(high), first, second, asked)
    shifts = list(itertools.product(range(-7, 8), repeat=3))
    for shift, found in zip(shifts, iou(np.array(shifts), first, second), strict=True):
        keeps = bool(found >= asked)
        within = all(low <= n <= high for n in shift)
        assert keeps == (within and bool(inside[tuple(n - low for n in shift)]))
