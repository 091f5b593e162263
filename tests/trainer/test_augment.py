"""Each change of a view equals a naive form, and none depends on how the batch is cut."""

from __future__ import annotations

import dataclasses
import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy import ndimage

from trainer.augment import ROTATIONS, prepare_, views, windows_hu
from trainer.config import TrainerConfig, compose
from trainer.data import Changes, draw_changes

CPU = torch.device("cpu")
OFF = {"intensity_shift": 0, "intensity_scale": 0}
EVERYTHING = {
    "noise": 0.05,
    "flip": True,
    "rotate_right_angles": True,
    "affine_prob": 0.5,
    "window_prob": 0.5,
    "gamma_prob": 0.5,
    "blur_prob": 0.5,
}


def settings(**augment: Any) -> TrainerConfig:
    return compose([f"augment.{name}={value}" for name, value in augment.items()])


def crops(count: int = 6, edge: int = 7) -> np.ndarray:
    return np.random.default_rng(0).integers(-900, 900, (count, 2, 1, edge, edge, edge), dtype=np.int16)


def changes(count: int = 6, seed: int = 0) -> Changes:
    return draw_changes(seed, 3, "global", count, 2)


def applied(images: np.ndarray, drawn: Changes, **augment: Any) -> np.ndarray:
    """[batch, views, d, h, w]"""
    found = views(images, drawn, settings(**{**OFF, **augment}), CPU).numpy()
    return found.reshape(2, len(images), *found.shape[2:]).swapaxes(0, 1)


def windowed(images: np.ndarray) -> np.ndarray:
    return np.clip(images[:, :, 0].astype(np.float64) / 400, -1, 1)


def differs(found: np.ndarray, wrong: np.ndarray, atol: float = 1e-4) -> bool:
    """Whether a planted error fails the check that the right form passes."""
    return not np.allclose(found, wrong, atol=atol)


def test_without_any_change_the_window_alone_is_applied() -> None:
    np.testing.assert_allclose(applied(crops(), changes()), windowed(crops()), atol=1e-6)


def test_scale_and_shift_follow_their_numbers() -> None:
    drawn = changes()
    found = applied(crops(), drawn, intensity_scale=0.1, intensity_shift=0.02)
    scale, shift = (drawn.intensity[:, :, n, None, None, None] for n in range(2))
    plain = windowed(crops())
    np.testing.assert_allclose(found, plain * (1 + 0.1 * scale) + 0.02 * shift, atol=1e-5)
    assert differs(found, (plain + 0.02 * shift) * (1 + 0.1 * scale))
    assert differs(found, plain * (1 + 0.1 * shift) + 0.02 * scale)
    assert drawn.intensity.std() == pytest.approx(1, abs=0.4)


def test_mirrors_follow_their_coins() -> None:
    drawn, found, plain = changes(), applied(crops(), changes(), flip=True), windowed(crops())
    for row, view in itertools.product(range(6), range(2)):
        axes = tuple(np.flatnonzero(drawn.flips[row, view]))
        np.testing.assert_allclose(found[row, view], np.flip(plain[row, view], axes), atol=1e-6)
        reverse = tuple(np.flatnonzero(drawn.flips[row, view][::-1]))
        assert reverse == axes or differs(found[row, view], np.flip(plain[row, view], reverse))


def test_right_angles_are_the_24_rotations_of_a_cube_and_no_mirror() -> None:
    marked = np.arange(27).reshape(3, 3, 3)
    seen = {tuple(np.flip(marked.transpose(axes), [n for n in range(3) if signs[n] < 0]).reshape(-1)) for axes, signs in ROTATIONS}
    turns = [lambda x: np.rot90(x, axes=(0, 1)), lambda x: np.rot90(x, axes=(1, 2))]
    reached, new = {tuple(marked.reshape(-1))}, [marked]
    while new:
        found = [turn(x) for x in new for turn in turns]
        new = [x for x in found if tuple(x.reshape(-1)) not in reached]
        reached |= {tuple(x.reshape(-1)) for x in found}
    assert len(reached) == 24
    assert seen == reached
    assert tuple(np.flip(marked, 0).reshape(-1)) not in seen


def test_turns_follow_their_numbers() -> None:
    drawn, found, plain = changes(), applied(crops(), changes(), rotate_right_angles=True), windowed(crops())
    wrong = 0
    for row, view in itertools.product(range(6), range(2)):
        axes, signs = ROTATIONS[int(drawn.turn[row, view])]
        expected = np.flip(plain[row, view].transpose(axes), [n for n in range(3) if signs[n] < 0])
        np.testing.assert_allclose(found[row, view], expected, atol=1e-6)
        mirrored_first = np.flip(plain[row, view], [n for n in range(3) if signs[n] < 0]).transpose(axes)
        wrong += differs(found[row, view], mirrored_first)
    assert wrong


def naive_affine(image: np.ndarray, numbers: np.ndarray, degrees: float, scale: float) -> np.ndarray:
    """scipy's affine transform of the crop about its centre, nearest voxel outside; axes are (depth, height, width)."""
    turn = np.eye(3)
    for axis in range(3):  # axes of the numbers are (width, height, depth), as grids are written
        angle = math.radians(degrees) * numbers[1 + axis]
        i, j = [n for n in range(3) if n != axis]
        about = np.eye(3)
        about[i, i] = about[j, j] = math.cos(angle)
        about[i, j], about[j, i] = -math.sin(angle), math.sin(angle)
        turn = turn @ about
    matrix = (turn / (1 + scale * numbers[4]))[::-1, ::-1]
    centre = (np.array(image.shape) - 1) / 2
    return ndimage.affine_transform(image, matrix, centre - matrix @ centre, order=1, mode="nearest")


def test_the_small_affine_change_equals_scipy_and_spares_the_others() -> None:
    images = ndimage.gaussian_filter(crops(6, 12).astype(float), (0, 0, 0, 1, 1, 1)).astype(np.int16)
    drawn = changes()
    found = applied(images, drawn, affine_prob=0.5, affine_rotation_degrees=20, affine_scale=0.2)
    moved = 0
    for row, view in itertools.product(range(6), range(2)):
        numbers, image = drawn.affine[row, view], images[row, view, 0].astype(np.float64)
        expected = image if numbers[0] >= 0.5 else naive_affine(image, numbers, 20, 0.2)
        moved += numbers[0] < 0.5
        np.testing.assert_allclose(found[row, view], np.clip(expected / 400, -1, 1), atol=2e-3)
        if numbers[0] < 0.5:
            with pytest.raises(AssertionError):
                np.testing.assert_allclose(found[row, view], np.clip(naive_affine(image, numbers, -20, 0.2) / 400, -1, 1), atol=2e-3)
    assert 0 < moved < 12


def test_the_window_that_is_told_of_a_view_is_the_one_it_is_seen_through() -> None:
    """At its lower end a view reads -1, at its upper one 1; without the coin it is that of the settings."""
    asked = {"window_prob": 0.5, "window_shift_hu": 200, "window_stretch": 0.5}
    told = windows_hu(changes(), settings(**{**OFF, **asked}))
    assert told.shape == (6, 2, 2)
    assert 0 < (told == [-400, 400]).all(axis=-1).sum() < 12
    for end, value in ((0, -1.0), (1, 1.0)):
        hu = np.broadcast_to(np.round(told[:, :, end])[:, :, None, None, None, None], (6, 2, 1, 7, 7, 7)).astype(np.int16)
        np.testing.assert_allclose(applied(hu, changes(), **asked), value, atol=0.5 / 200)


def test_a_random_window_reads_hu_that_the_fixed_one_would_clip() -> None:
    drawn = changes()
    found, struck = applied(crops(), drawn, window_prob=0.5, window_shift_hu=200, window_stretch=0.5), 0
    for row, view in itertools.product(range(6), range(2)):
        coin, shift, stretch = drawn.window[row, view]
        on = coin < 0.5
        image = crops()[row, view, 0].astype(np.float64)
        expected = np.clip((image - on * 200 * shift) / (400 * (1 + on * 0.5 * stretch)), -1, 1)
        np.testing.assert_allclose(found[row, view], expected, atol=1e-5)
        of_the_windowed = np.clip((np.clip(image, -400, 400) - on * 200 * shift) / (400 * (1 + on * 0.5 * stretch)), -1, 1)
        struck += on and differs(found[row, view], of_the_windowed)
    assert struck


def test_gamma_bends_the_window() -> None:
    drawn, plain = changes(), windowed(crops())
    found = applied(crops(), drawn, gamma_prob=0.5, gamma=0.7)
    for row, view in itertools.product(range(6), range(2)):
        coin, number = drawn.gamma[row, view]
        gamma = math.exp(0.7 * number) if coin < 0.5 else 1.0
        np.testing.assert_allclose(found[row, view], 2 * ((plain[row, view] + 1) / 2) ** gamma - 1, atol=1e-5)
        assert gamma == 1 or differs(found[row, view], 2 * ((plain[row, view] + 1) / 2) ** (1 / gamma) - 1)
        assert gamma == 1 or differs(found[row, view], np.sign(plain[row, view]) * np.abs(plain[row, view]) ** gamma)


def test_blur_equals_scipy() -> None:
    drawn = changes()
    found = applied(crops(6, 12), drawn, blur_prob=0.5, blur_voxels=1.0)
    for row, view in itertools.product(range(6), range(2)):
        coin, width = drawn.blur[row, view]
        image = crops(6, 12)[row, view, 0].astype(np.float64)
        expected = ndimage.gaussian_filter(image, width, mode="nearest", radius=3) if coin < 0.5 else image
        np.testing.assert_allclose(found[row, view], np.clip(expected / 400, -1, 1), atol=1e-4)
        if coin < 0.5 and width > 0.3:
            dark_outside = ndimage.gaussian_filter(image, width, mode="constant", radius=3)
            of_the_windowed = ndimage.gaussian_filter(np.clip(image, -400, 400), width, mode="nearest", radius=3)
            assert differs(found[row, view], np.clip(dark_outside / 400, -1, 1))
            assert differs(found[row, view], of_the_windowed / 400)


def test_noise_is_each_crops_own_and_of_the_asked_strength() -> None:
    noise = applied(crops(6, 12), changes(), noise=0.1) - applied(crops(6, 12), changes())
    assert noise.std() == pytest.approx(0.1, rel=0.05)
    flat = noise.reshape(12, -1)
    assert np.abs(np.corrcoef(flat) - np.eye(12)).max() < 0.1


def silenced(drawn: Changes, kind: str) -> Changes:
    """The same numbers, but those of one change such that it does nothing."""
    name = {"flip": "flips", "rotate_right_angles": "turn"}.get(kind, kind.removesuffix("_prob"))
    values = getattr(drawn, name).copy()
    if kind in ("flip", "rotate_right_angles"):
        values[:] = 0
    else:
        values[..., 0] = 1.0
    return dataclasses.replace(drawn, **{name: values})


@pytest.mark.parametrize("kind", [kind for kind in EVERYTHING if kind != "noise"])
def test_a_change_that_is_off_equals_one_that_never_strikes(kind: str) -> None:
    """The numbers are drawn whether they are used or not, so all other changes stay what they were."""
    drawn, rest = changes(), {name: value for name, value in EVERYTHING.items() if name != kind}
    off = applied(crops(), drawn, **rest)
    np.testing.assert_allclose(applied(crops(), silenced(drawn, kind), **EVERYTHING), off, atol=1e-6)
    assert differs(applied(crops(), drawn, **EVERYTHING), off)


def test_noise_comes_last_and_leaves_all_else_as_it_was() -> None:
    drawn, rest = changes(), {name: value for name, value in EVERYTHING.items() if name != "noise"}
    noise = applied(crops(), drawn, noise=0.05) - applied(crops(), drawn)
    np.testing.assert_allclose(applied(crops(), drawn, **EVERYTHING), applied(crops(), drawn, **rest) + noise, atol=1e-5)


@pytest.mark.parametrize("edge", [7, 16])
def test_one_call_equals_four_calls_on_its_parts_to_the_last_bit(edge: int) -> None:
    """So that micro-batches and ranks see what one batch sees, in float64 too."""
    images, drawn = crops(32, edge), changes(32)
    everything = {**EVERYTHING, **{"intensity_shift": 0.02, "intensity_scale": 0.1}}
    whole = applied(images, drawn, **everything)
    parts = [applied(images[n : n + 8], drawn[n : n + 8], **everything) for n in range(0, 32, 8)]
    np.testing.assert_array_equal(np.concatenate(parts), whole)
    shifted = applied(images[8:16], drawn[0:8], **everything)
    assert differs(shifted, whole[8:16])


def test_the_scan_itself_is_never_written_to() -> None:
    images = crops()
    before = images.copy()
    applied(images, changes(), **EVERYTHING)
    np.testing.assert_array_equal(images, before)


def test_prepare_takes_crops_as_they_come() -> None:
    images, drawn = crops(3), changes(3)
    flat = torch.from_numpy(images).transpose(0, 1).flatten(0, 1)
    found = prepare_(flat.float(), drawn.by_view(), settings(**EVERYTHING))
    assert torch.equal(found, views(images, drawn, settings(**EVERYTHING), CPU))
