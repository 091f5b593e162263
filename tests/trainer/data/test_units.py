"""Hounsfield units are told from what only looks like them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis.extra import numpy as arrays
from scipy import ndimage

from trainer.data.phantom import phantom_scan
from trainer.data.units import Verdict, judge, value_counts

HU = {(family, noise): phantom_scan(family, 48, 15.0, noise, 1, 0)[0] for family in ("torso", "stocky") for noise in (0.0, 60.0)}


def verdict(voxels: np.ndarray) -> Verdict:
    counts = value_counts(voxels)
    assert counts is not None
    return judge(counts)


@given(arrays.arrays(np.int16, (3, 4, 5)))
def test_counts_are_those_of_a_dictionary(voxels: np.ndarray) -> None:
    counts = value_counts(voxels)
    assert counts is not None
    assert {int(at) - 32768: int(counts[at]) for at in np.flatnonzero(counts)} == dict(Counter(voxels.ravel().tolist()))


def test_floats_are_rounded_and_what_is_not_finite_is_seen() -> None:
    counts = value_counts(np.array([[[-3.4, 1e30], [-1e30, 7.6]]]))
    assert counts is not None
    assert [int(at) - 32768 for at in np.flatnonzero(counts)] == [-32768, -3, 8, 32767]
    assert value_counts(np.array([[[1.0, np.inf]]])) is None


def as_it_is(voxels: np.ndarray) -> np.ndarray:
    return voxels


def clamped(voxels: np.ndarray) -> np.ndarray:
    return np.maximum(voxels, -1024)


def padded(value: int, blended: bool) -> Callable[[np.ndarray], np.ndarray]:
    def make(voxels: np.ndarray) -> np.ndarray:
        out = voxels.astype(np.float32)
        out[:, :12] = value
        if blended:
            out = ndimage.gaussian_filter(out, (0, 0.8, 0.8))
        return out.round().astype(np.int16)

    make.__name__ = f"padding {value}{' blended' if blended else ''}"
    return make


FAIR = [as_it_is, clamped, *(padded(value, blended) for value in (-1024, -2000, -3024) for blended in (False, True))]


@pytest.mark.parametrize("make", FAIR, ids=lambda make: make.__name__)
@pytest.mark.parametrize("which", HU, ids=str)
def test_hounsfield_units_pass(which: tuple[str, float], make: Callable[[np.ndarray], np.ndarray]) -> None:
    assert verdict(make(HU[which])) == Verdict()


@pytest.mark.parametrize("make", FAIR, ids=lambda make: make.__name__)
@pytest.mark.parametrize("offset", [1000, 1024])
@pytest.mark.parametrize("which", HU, ids=str)
def test_an_offset_of_a_thousand_is_refused_whatever_the_padding(
    which: tuple[str, float], offset: int, make: Callable[[np.ndarray], np.ndarray]
) -> None:
    assert "offset by +1024" in str(verdict(make(HU[which] + offset)).problem)


@pytest.mark.parametrize("which", HU, ids=str)
@pytest.mark.parametrize("make", [as_it_is, clamped], ids=lambda make: make.__name__)
def test_other_scales_are_refused(which: tuple[str, float], make: Callable[[np.ndarray], np.ndarray]) -> None:
    voxels = make(HU[which])
    assert "offset by -1024" in str(verdict(voxels - 1024).problem)
    assert "stretched" in str(verdict(voxels * 2).problem)
    assert verdict(voxels // 2).problem is not None
    assert verdict((voxels.clip(-400, 400) + 400) // 4).problem is not None, "windowed to 0..200"


@pytest.mark.parametrize("which", HU, ids=str)
def test_tight_view_without_air_passes_with_a_warning_that_says_so(which: tuple[str, float]) -> None:
    voxels = HU[which]
    tissue = voxels[(voxels > -180) & (voxels < 900)]
    view = tissue[: len(tissue) // 1000 * 1000].reshape(10, 10, -1)
    assert verdict(view).problem is None
    assert "tight field of view" in str(verdict(view).warning)


def magnetic(voxels: np.ndarray) -> np.ndarray:
    """Another modality of the same body: noise of a magnitude image outside, broad intensities inside."""
    rng = np.random.default_rng(0)
    body = voxels > -500
    inside = 150 + 0.6 * np.abs(voxels.astype(np.float32)) + rng.normal(0, 35, voxels.shape)
    return np.where(body, inside, np.abs(rng.normal(0, 15, voxels.shape)))


@pytest.mark.parametrize("which", HU, ids=str)
@pytest.mark.parametrize("scale", [0, 200, 500, 1000])
def test_another_modality_is_refused_or_warned_of_on_a_signed_scale_too(which: tuple[str, float], scale: int) -> None:
    values = magnetic(HU[which])
    inside = values[HU[which] > -500]
    signed = (values - inside.mean()) / inside.std() * scale if scale else values
    assert verdict(signed.astype(np.int16)) != Verdict()


def test_a_constant_and_a_ramp_are_no_ct() -> None:
    assert "all voxels are 7" in str(verdict(np.full((4, 4, 4), 7, np.int16)).problem)
    assert "not like CT" in str(verdict(np.linspace(0, 255, 1000).reshape(10, 10, 10).astype(np.int16)).problem)
