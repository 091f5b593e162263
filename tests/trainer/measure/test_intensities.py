"""Raw intensities equal loops over voxels."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from trainer.measure.intensities import BINS, downsampled, histogram, intensities


def cubes(edge: int = 7) -> np.ndarray:
    found = np.random.default_rng(0).normal(size=(3, edge, edge, edge)).astype(np.float32)
    found[0, 0, 0, :4] = [-1, 1, -1.5, 0]  # the ends, beyond, and a bound between bins
    return found


def loop_histogram(cube: np.ndarray) -> list[float]:
    counts = [0] * BINS
    for value in cube.ravel().tolist():
        counts[min(max(math.floor((value + 1) / (2 / BINS)), 0), BINS - 1)] += 1
    return [math.sqrt(count / cube.size) for count in counts]


def loop_means(cube: np.ndarray, grid: int) -> list[float]:
    edge = len(cube)
    bounds = [n * edge // grid for n in range(grid + 1)]
    found = []
    for a in range(grid):
        for b in range(grid):
            for c in range(grid):
                values = [
                    float(cube[d, h, w])
                    for d in range(bounds[a], bounds[a + 1])
                    for h in range(bounds[b], bounds[b + 1])
                    for w in range(bounds[c], bounds[c + 1])
                ]
                found.append(sum(values) / len(values))
    return found


def check_histogram(measure: Callable[[np.ndarray], np.ndarray]) -> None:
    assert measure(cubes()) == pytest.approx(np.array([loop_histogram(cube) for cube in cubes()]))


def check_means(measure: Callable[[np.ndarray, int], np.ndarray]) -> None:
    for edge, grid in ((7, 3), (8, 4), (6, 6), (5, 4)):
        assert measure(cubes(edge), grid) == pytest.approx(np.array([loop_means(cube, grid) for cube in cubes(edge)]))


def test_both_equal_loops() -> None:
    check_histogram(histogram)
    check_means(downsampled)


def test_a_grid_finer_than_the_cube_is_the_cube_itself() -> None:
    assert downsampled(cubes(4), 9) == pytest.approx(cubes(4).reshape(3, -1))


@pytest.mark.parametrize(
    "wrong",
    [
        lambda x: histogram(x) ** 2,  # shares, not their roots
        lambda x: histogram(np.clip(x, -0.99, 0.5)),
        lambda x: histogram(-x),
    ],
)
def test_planted_errors_in_the_histogram_are_found(wrong: Callable[[np.ndarray], np.ndarray]) -> None:
    with pytest.raises(AssertionError):
        check_histogram(wrong)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda x, grid: downsampled(x.transpose(0, 3, 2, 1), grid),  # axes swapped
        lambda x, grid: downsampled(x[:, : len(x[0]) // grid * grid], grid),  # the rest cut off
    ],
)
def test_planted_errors_in_the_means_are_found(wrong: Callable[[np.ndarray, int], np.ndarray]) -> None:
    with pytest.raises(AssertionError):
        check_means(wrong)


def test_histograms_of_crops_of_any_size_compare() -> None:
    assert histogram(np.zeros((1, 4, 4, 4), np.float32)) == pytest.approx(histogram(np.zeros((1, 9, 9, 9), np.float32)))
    assert intensities(cubes(), 3).shape == (3, BINS + 27)
