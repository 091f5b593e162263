"""What both pictures share: a dark sheet, type, grey slices."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Num, UInt8

if TYPE_CHECKING:
    from PIL import Image, ImageDraw, ImageFont

Colour = tuple[int, int, int]

GAP, LINE = 10, 15
INK, PALE, FAINT, PAPER, ALARM = (235, 235, 235), (165, 165, 170), (60, 62, 68), (22, 23, 26), (255, 130, 105)
BODY, MIXED, AIR = (86, 180, 233), (150, 150, 155), (230, 159, 0)
"""Crops rich in body, between, and of background; told apart by colour-blind readers too (Okabe & Ito 2008)."""


def sheet(width: int, height: int) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    """An empty picture and its pen."""
    from PIL import Image, ImageDraw

    image = Image.new("RGB", (width, height), PAPER)
    return image, ImageDraw.Draw(image)


@lru_cache
def font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """The built-in type."""
    from PIL import ImageFont

    return ImageFont.load_default(size)


def fitted(draw: ImageDraw.ImageDraw, words: str, size: int, width: int) -> list[str]:
    """Words in lines that are no wider than `width` pixels."""
    lines: list[str] = []
    for word in words.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and draw.textlength(longer, font(size)) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines


def grey(pixels: Num[np.ndarray, "height width"], width: int, height: int) -> Image.Image:
    """Values in [-1, 1] as grey, made this large."""
    from PIL import Image

    shades: UInt8[np.ndarray, "height width"] = ((np.clip(pixels, -1, 1) + 1) * 127.5).astype(np.uint8)
    return Image.fromarray(shades).resize((width, height), Image.Resampling.BILINEAR).convert("RGB")


def in_few_colours(image: Image.Image, kept: tuple[Colour, ...]) -> Image.Image:
    """Greys and `kept` in one byte a pixel: a third of the size, and no colour drifts."""
    from PIL import Image

    greys = np.linspace(0, 255, 256 - len(kept)).round().astype(int).tolist()
    palette = Image.new("P", (1, 1))
    palette.putpalette([value for colour in (*kept, *((g, g, g) for g in greys)) for value in colour])
    return image.quantize(palette=palette, dither=Image.Dither.NONE)
