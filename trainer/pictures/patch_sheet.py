"""How a `PatchMap` is drawn: three planes of the scan, and the colours below them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from trainer.pictures.drawing import GAP, INK, LINE, PALE, PAPER, fitted, font, grey, sheet
from trainer.pictures.patches import PLANES, PatchMap, Plane

if TYPE_CHECKING:
    from PIL import Image

SOFT_TISSUE_HU = (-160.0, 240.0)
"""Window in which the scan is shown, whatever the network sees: level 40, width 400."""
PANEL = 330
"""Pixels of the longest edge of a slice."""


def draw_patches(found: PatchMap) -> Image.Image:
    """The picture: slices in the scan's proportions, the head on top in coronal and sagittal ones, and their colours below."""
    panels = [(_slice(found, plane), _colours(found, n)) for n, plane in enumerate(found.planes)]
    tall, width = max(slice_.height for slice_, _ in panels), 4 * GAP + 3 * PANEL
    _, ruler = sheet(1, 1)
    title = fitted(ruler, found.title(), 18, width - 2 * GAP)
    words = [line for said in _said(found) for line in fitted(ruler, said, 13, width - 2 * GAP)]
    head = GAP + 23 * len(title) + 17 * len(words) + GAP
    image, draw = sheet(width, head + 2 * (tall + GAP) + LINE + GAP)
    for line, said in enumerate(title):
        draw.text((GAP, GAP + 23 * line), said, INK, font(18))
    for line, said in enumerate(words):
        draw.text((GAP, GAP + 23 * len(title) + 17 * line), said, PALE, font(13))
    for n, (slice_, colours) in enumerate(panels):
        x, plane = GAP + n * (PANEL + GAP), found.planes[n]
        image.paste(slice_, (x, head))
        of = found.scan.voxels.shape[plane.axis]
        draw.text((x, head + tall + 1), f"{PLANES[plane.axis]} {plane.index} of {of}", PALE, font(12))
        image.paste(colours, (x, head + tall + LINE + GAP))
    return image


def _said(found: PatchMap) -> list[str]:
    low, high = SOFT_TISSUE_HU
    parts = ("Lightness", "Blue to yellow", "Green to magenta")
    components = "  ·  ".join(
        f"{part}: {share:.0%}, {meaning}" for part, share, meaning in zip(parts, found.explained, found.meanings, strict=True)
    )
    rest = f"brightness alone explains {found.by_brightness:.0%}; spread {found.spread:.2f} of the features' length"
    return [f"{found.scan.name}, {low:g} to {high:g} HU. Below: shares of the variance of its patch features; {rest}", components]


def _size(found: PatchMap, plane: Plane) -> tuple[int, int]:
    """Width and height of a slice in pixels."""
    lengths = [n * s for n, s in zip(found.scan.voxels.shape, found.scan.spacing_mm, strict=True)]
    down, across = (lengths[axis] for axis in range(3) if axis != plane.axis)
    scale = PANEL / max(down, across)
    return max(1, round(across * scale)), max(1, round(down * scale))


def _slice(found: PatchMap, plane: Plane) -> Image.Image:
    low, high = SOFT_TISSUE_HU
    voxels = np.take(found.scan.voxels, plane.index, axis=plane.axis).astype(np.float32)
    shown = (voxels - low) * (2 / (high - low)) - 1
    return grey(shown if plane.axis == 0 else shown[::-1], *_size(found, plane))


def _colours(found: PatchMap, n: int) -> Image.Image:
    """The cells where they lie in the slice, as large as they are; what no cell covers stays empty."""
    from PIL import Image

    plane, colours = found.planes[n], found.colours[n]
    shape = [size for axis, size in enumerate(found.scan.voxels.shape) if axis != plane.axis]
    fine = np.full((*shape, 3), PAPER, np.uint8)
    (down, across), cells = plane.start.tolist(), colours.repeat(plane.edge, axis=0).repeat(plane.edge, axis=1)
    fine[down : down + cells.shape[0], across : across + cells.shape[1]] = cells
    return Image.fromarray(fine if plane.axis == 0 else fine[::-1].copy()).resize(_size(found, plane), Image.Resampling.NEAREST)
