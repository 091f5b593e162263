"""Turning and resampling against ITK and against plain loops."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.data.grid import Grid, Turn, nearest, resampled, resampled_size, sampling

CODES = ["".join(code) for axes in itertools.permutations(("LR", "PA", "SI")) for code in itertools.product(*axes)]


def grid_of(image: sitk.Image) -> Grid:
    return Grid.of(image.GetSize(), image.GetSpacing(), image.GetOrigin(), np.array(image.GetDirection()).reshape(3, 3))


def tilted(image: sitk.Image, angle: float) -> sitk.Image:
    turn = np.array([[math.cos(angle), -math.sin(angle), 0], [math.sin(angle), math.cos(angle), 0], [0, 0, 1]])
    image.SetDirection((turn @ np.array(image.GetDirection()).reshape(3, 3)).ravel().tolist())
    return image


@pytest.mark.parametrize("angle", [0.0, 0.3], ids=["straight", "oblique"])
@pytest.mark.parametrize("code", CODES)
def test_every_orientation_is_turned_as_itk_turns_it(code: str, angle: float) -> None:
    image = sitk.GetImageFromArray(np.arange(60, dtype=np.int16).reshape(3, 4, 5))
    image.SetSpacing((1.0, 2.0, 3.0))
    image.SetOrigin((7.0, -5.0, 11.0))
    image = tilted(sitk.DICOMOrient(image, code), angle)
    wanted, turn, grid = sitk.DICOMOrient(image, "LPS"), Turn.of(grid_of(image)), grid_of(image)
    np.testing.assert_array_equal(turn.view(sitk.GetArrayFromImage(image)), sitk.GetArrayFromImage(wanted))
    assert turn.spacing_mm(grid) == pytest.approx(wanted.GetSpacing()[::-1])
    assert turn.shape(grid) == wanted.GetSize()[::-1]
    assert turn.corner_mm(grid) == pytest.approx(wanted.GetOrigin())


def naive_axis(values: list[float], native: float, spacing: float, shift: float = 0.0) -> list[float]:
    """Smooth, then look up between neighbours, voxel by voxel; `shift` plants an error in mm."""
    count, smooth = len(values), list(values)
    if spacing > 1.01 * native and count >= 4:
        sigma = (spacing - native) / 2 / native
        reach = math.ceil(4 * sigma)
        for at in range(count):
            weights = {k: math.exp(-0.5 * (k / sigma) ** 2) for k in range(-reach, reach + 1)}
            total = sum(weights.values())
            smooth[at] = sum(w * values[min(max(at + k, 0), count - 1)] for k, w in weights.items()) / total
    new = []
    for at in range(max(1, round(count * native / spacing))):
        place = min(max(((at + 0.5) * spacing + shift) / native - 0.5, 0.0), count - 1.0)
        low = min(math.floor(place), max(count - 2, 0))
        high = min(low + 1, count - 1)
        new.append(smooth[low] * (1 - (place - low)) + smooth[high] * (place - low))
    return new


def naive(values: np.ndarray, native: tuple[float, ...], spacing: float, shift: float = 0.0) -> np.ndarray:
    for axis in range(3):
        values = np.apply_along_axis(
            lambda line, axis=axis: np.array(naive_axis(line.tolist(), native[axis], spacing, shift)), axis, values
        )
    return values


@settings(max_examples=30)
@given(
    shape=st.tuples(*(st.integers(1, 9),) * 3),
    native=st.tuples(*(st.floats(0.5, 4.0),) * 3),
    spacing=st.floats(0.5, 6.0),
    seed=st.integers(0, 99),
)
def test_resampling_plane_by_plane_equals_plain_loops(
    shape: tuple[int, int, int], native: tuple[float, float, float], spacing: float, seed: int
) -> None:
    values = np.random.default_rng(seed).normal(0, 100, shape).astype(np.float32)
    planes = np.stack(list(resampled(lambda z: values[z], shape, native, spacing)))
    np.testing.assert_allclose(planes, naive(values.astype(float), native, spacing), atol=2e-2)
    assert planes.shape == tuple(resampled_size(n, s, spacing) for n, s in zip(shape, native, strict=True))


def test_half_a_voxel_of_shift_would_be_seen() -> None:
    values = np.random.default_rng(0).normal(0, 100, (9, 8, 7)).astype(np.float32)
    planes = np.stack(list(resampled(lambda z: values[z], (9, 8, 7), (1.0, 1.0, 2.0), 1.5)))
    assert np.abs(planes - naive(values.astype(float), (1.0, 1.0, 2.0), 1.5, shift=0.5)).max() > 10


def test_resampling_is_that_of_itk_within_the_rounding_of_its_gaussian() -> None:
    """ITK's recursive filter is an approximation of the same Gaussian."""
    values = np.random.default_rng(0).normal(0, 100, (30, 28, 26)).astype(np.float32)
    image = sitk.GetImageFromArray(values)
    for axis in range(3):
        image = sitk.RecursiveGaussian(image, sigma=1.0, direction=axis)
    filter_ = sitk.ResampleImageFilter()
    filter_.SetOutputSpacing([3.0] * 3)
    filter_.SetSize([round(n / 3) for n in image.GetSize()])
    filter_.SetOutputOrigin([1.0] * 3)
    filter_.SetUseNearestNeighborExtrapolator(True)
    wanted = sitk.GetArrayFromImage(filter_.Execute(image))
    planes = np.stack(list(resampled(lambda z: values[z], values.shape, (1.0, 1.0, 1.0), 3.0)))  # type: ignore[arg-type]
    inner = (slice(1, -1),) * 3
    assert np.abs(planes - wanted)[inner].max() < 1.0
    assert wanted.std() > 10


@given(count=st.integers(1, 60), native=st.floats(0.3, 5.0), spacing=st.floats(0.3, 10.0))
def test_a_constant_stays_what_it_is(count: int, native: float, spacing: float) -> None:
    np.testing.assert_allclose(sampling(count, native, spacing).sum(axis=1), 1.0, atol=1e-5)


@given(count=st.integers(1, 60), native=st.floats(0.3, 5.0), spacing=st.floats(0.3, 10.0))
def test_a_label_is_that_of_the_voxel_around_the_new_centre(count: int, native: float, spacing: float) -> None:
    for at, old in enumerate(nearest(count, native, spacing).tolist()):
        centre = min((at + 0.5) * spacing, (count - 0.5) * native)
        assert old * native - 1e-3 <= centre <= (old + 1) * native + 1e-3
