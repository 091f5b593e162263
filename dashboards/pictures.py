"""Pictures that any trainer left beside its results, each with what its file says of it. This is the door to PIL.

A PNG may carry its own caption: the standard's keywords `Title` (one line) and `Description`. Others show under their file's name.
"""

from __future__ import annotations

import base64
import io
import warnings
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

LARGEST_BYTES = 400_000
"""Of a picture inside a page."""
WIDEST_PIXELS = 1600
LONGEST_CAPTION = 1200
_QUALITIES = (82, 70, 55, 40, 25)
_SMALLER = (1.0, 0.7, 0.5, 0.35, 0.25)


@dataclass(frozen=True)
class Caption:
    """What a picture's file says of it."""

    title: str
    """One line; the file's name where it says none."""
    description: str
    """Empty where it says none."""


def caption(path: Path) -> Caption:
    """The caption inside a PNG, read again only when the file has changed; of an unreadable file its name."""
    try:
        changed_ns = path.stat().st_mtime_ns
    except OSError:
        return Caption(path.name, "")
    return _caption(path, changed_ns)


@lru_cache(maxsize=1024)
def _caption(path: Path, changed_ns: int) -> Caption:
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                said = dict(image.info)
    except Exception:  # PIL raises whatever its decoders raise on a file that is none
        return Caption(path.name, "")
    title, description = (_plain(said.get(name)) for name in ("Title", "Description"))
    return Caption(title or path.name, description)


def _plain(value: object) -> str:
    words = " ".join(value.split()) if isinstance(value, str) else ""
    return words if len(words) <= LONGEST_CAPTION else f"{words[:LONGEST_CAPTION]}…"


def address(path: Path, largest_bytes: int = LARGEST_BYTES) -> str | None:
    """The picture as a data address of at most about this many bytes; none: it cannot be read.

    A PNG that is small enough stays as it is; others become WebP, of lower quality and then smaller until they fit.
    """
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            content, kind = path.read_bytes(), "png"
            with Image.open(path) as image:
                image.load()
                if image.width > WIDEST_PIXELS or len(content) > largest_bytes or image.format != "PNG":
                    content, kind = _webp(image, largest_bytes), "webp"
    except Exception:  # as above; a picture never costs a page
        return None
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def _webp(image: object, largest_bytes: int) -> bytes:
    from PIL import Image

    assert isinstance(image, Image.Image)
    whole = image.convert("RGB")
    whole.thumbnail((WIDEST_PIXELS, WIDEST_PIXELS * 4))
    content = b""
    for share in _SMALLER:
        size = (max(1, round(whole.width * share)), max(1, round(whole.height * share)))
        smaller = whole if share == 1 else whole.resize(size, Image.Resampling.LANCZOS)
        for quality in _QUALITIES:
            buffer = io.BytesIO()
            smaller.save(buffer, "WEBP", quality=quality)
            content = buffer.getvalue()
            if len(content) <= largest_bytes:
                return content
    return content
