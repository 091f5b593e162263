"""Windowing of HU."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float32, Shaped

from trainer.config import Data


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
