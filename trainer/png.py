"""Pictures that say what they show: PNG files with a title and a description inside, written whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL import Image

TITLE, DESCRIPTION = "Title", "Description"
"""Keywords that the PNG standard gives to a picture's name and its longer text; whoever shows the picture reads its caption there."""


def write_png(path: Path, image: Image.Image, title: str, description: str) -> None:
    """Write an image beside its place and rename it; folders are made.

    Args:
        title: What is seen, in one line.
        description: What is seen and how to read it.

    Source: PNG (third edition), 11.3.3: keywords Title and Description.
    """
    from PIL.PngImagePlugin import PngInfo

    words = PngInfo()
    words.add_itxt(TITLE, title)
    words.add_itxt(DESCRIPTION, description)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with beside.open("wb") as file:
            image.save(file, format="PNG", pnginfo=words)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
