"""Windowing of HU and the intensity and mirror changes of each view."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float32, Shaped

from trainer.config import Augment, Data


def normalise(voxels_hu: Shaped[np.ndarray, "*shape"], data: Data) -> Float32[np.ndarray, "*shape"]:
    """Clip HU to the window and map it to [-1, 1] linearly."""
    out = voxels_hu.astype(np.float32)
    normalise_in_place(out, data)
    return out


def normalise_in_place(voxels_hu: Float32[np.ndarray, "*shape"], data: Data) -> None:
    """The same, overwriting its input."""
    half = (data.window_high_hu - data.window_low_hu) / 2
    voxels_hu -= np.float32(data.window_low_hu + half)
    voxels_hu *= np.float32(1 / half)
    np.clip(voxels_hu, -1, 1, out=voxels_hu)


def augment(
    images: Float32[np.ndarray, "n 1 depth height width"], rng: np.random.Generator, settings: Augment
) -> Float32[np.ndarray, "n 1 depth height width"]:
    """x * (1 + scale) + shift, mirror, noise; each image on its own. The result may leave [-1, 1].

    Every kind of number is drawn whether it is used or not, noise last, so that switching one change leaves the others as
    they were.

    Args:
        images: Windowed; left as they are.
        rng: One named stream a call.
        settings: Standard deviations in the window's unit (its full width is 2).
    """
    return augment_in_place(images.copy(), rng, settings)


def augment_in_place(
    images: Float32[np.ndarray, "n 1 depth height width"], rng: np.random.Generator, settings: Augment
) -> Float32[np.ndarray, "n 1 depth height width"]:
    """The same, overwriting its input; returns it."""
    count = len(images)
    scale = 1 + settings.intensity_scale * rng.standard_normal((count, 1, 1, 1, 1))
    shift = settings.intensity_shift * rng.standard_normal((count, 1, 1, 1, 1))
    flips = rng.random((count, 3)) < 0.5
    if settings.intensity_scale:
        images *= scale.astype(np.float32)
    if settings.intensity_shift:
        images += shift.astype(np.float32)
    if settings.flip:
        for image, flipped in zip(images, flips, strict=True):
            if flipped.any():
                image[:] = np.flip(image, tuple(1 + np.flatnonzero(flipped))).copy()
    if settings.noise:
        images += np.float32(settings.noise) * rng.standard_normal(images.shape, dtype=np.float32)
    return images
