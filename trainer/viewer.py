"""The crop gallery: where the crops of a step lay and what the network saw, in one picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Int, Num, UInt8

from trainer.augment import views, windows_hu
from trainer.config import TrainerConfig
from trainer.data.window import normalise
from trainer.png import write_png

if TYPE_CHECKING:
    from PIL import Image, ImageDraw, ImageFont

    from trainer.data.batches import Batch
    from trainer.data.volumes import Scan

LOCALS = 6
PANEL, THUMB, GAP, TEXT, HEAD = 264, 122, 10, 15, 66
INK, PALE, PAPER, ALARM = (235, 235, 235), (165, 165, 170), (22, 23, 26), (255, 110, 90)
GLOBALS = ((230, 159, 0), (86, 180, 233))  # told apart by colour-blind readers too (Okabe & Ito 2008)
OUTSIDE = (204, 121, 167)

_Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class _Crop:
    name: str
    corner: Int[np.ndarray, "3"]
    size: int
    colour: tuple[int, int, int]
    width: int
    image: Num[np.ndarray, "depth height width"]
    words: tuple[str, ...]
    violated: bool


def gallery(path: Path, scans: Sequence[Scan], batch: Batch, config: TrainerConfig, at_most: int = 4) -> None:
    """Write a PNG of the first scans of a batch (`at_most` different ones): one row each.

    A row shows an axial and a coronal slice in the HU window with the boxes of all crops, then each crop as the network saw it
    (augmented, its middle axial slice) with its body share by the yardstick, its share by the arm's own foreground and its edge. Global
    crops are A and B; a local crop has the colour of the global one that contains it, its parent first, and a third colour where it
    lies in neither. Dashed boxes lie beside the slice.

    The file is written beside and renamed.
    """
    from PIL import Image, ImageDraw

    chosen = np.sort(np.unique(batch.scan, return_index=True)[1])[:at_most]
    shown = min(batch.local_corners.shape[1], LOCALS)
    across = -(-(2 + shown) // 2)
    width = 4 * GAP + 2 * PANEL + across * (THUMB + GAP)
    height = HEAD + len(chosen) * _row_height()
    image = Image.new("RGB", (width, height), PAPER)
    draw = ImageDraw.Draw(image)
    _legend(draw, f"Crops of step {batch.step}, {len(chosen)} of {len(scans)} scans", width, config)
    for row, position in enumerate(chosen):
        scan = scans[int(batch.scan[position])]
        crops = _crops(scan, batch, int(position), config)
        _row(image, draw, HEAD + row * _row_height(), scan, crops, _caption(scan, batch, int(position)), config)
    title, description = _seen(batch, len(chosen), len(scans))
    write_png(path, image.quantize(palette=_palette(), dither=Image.Dither.NONE), title, description)


def _seen(batch: Batch, rows: int, scans: int) -> tuple[str, str]:
    """The picture's title and description: what the whole batch came to."""
    views = batch.ratio.shape[1]
    shares = [f"{batch.ratio[:, :2].mean():.0%} body in global crops"]
    inside = ""
    if views > 2:
        shares.append(f"{batch.ratio[:, 2:].mean():.0%} in local ones")
        inside = f" {(batch.local_containment >= 1).mean():.0%} of the local crops lie whole inside a global one."
    title = f"Crops of step {batch.step}: {', '.join(shares)}; the two globals share IoU {batch.global_iou.mean():.2f}"
    description = (
        f"Means over the {len(batch.scan)} places of the step's batch, of {scans} scans.{inside} {int(batch.violations.sum())} of "
        f"{batch.ratio.size} crops miss the foreground ratio that they had to hold. {rows} scans are drawn, an axial and a coronal slice "
        "with the boxes of all crops (A and B the global ones, dashed: beside the slice), then each crop as the network saw it."
    )
    return title, description


def _palette() -> Image.Image:
    """Greys and the line colours in one byte a pixel: a third of the size, and no colour drifts."""
    from PIL import Image

    colours = [*GLOBALS, OUTSIDE, ALARM, PAPER, INK, PALE]
    greys = np.linspace(0, 255, 256 - len(colours)).round().astype(int)
    palette = Image.new("P", (1, 1))
    palette.putpalette([int(v) for colour in [*colours, *((g, g, g) for g in greys)] for v in colour])
    return palette


def _row_height() -> int:
    return TEXT + 8 + max(PANEL + TEXT, 2 * (THUMB + 3 * TEXT)) + GAP


def _crops(scan: Scan, batch: Batch, position: int, config: TrainerConfig) -> list[_Crop]:
    one = slice(position, position + 1)
    cpu = torch.device("cpu")
    images = [
        *views(batch.globals[one], batch.global_changes[one], config, cpu).numpy()[:, 0],
        *views(batch.locals[one], batch.local_changes[one], config, cpu).numpy()[:, 0],
    ]
    corners = [*batch.global_corners[position], *batch.local_corners[position]]
    edges = [*batch.global_edges[position].tolist(), *batch.local_edges[position].tolist()]
    windows = np.concatenate([windows_hu(changes[one], config)[0] for changes in (batch.global_changes, batch.local_changes)])
    usual = (config.data.window_low_hu, config.data.window_high_hu)
    found = []
    for view in range(2 + min(batch.local_corners.shape[1], LOCALS)):
        ratio, own = float(batch.ratio[position, view]), float(batch.ratio_own[position, view])
        name, colour, width, place = "AB"[view] if view < 2 else str(view - 1), GLOBALS[min(view, 1)], 3, ""
        if view >= 2:
            inside = _inside(corners[view], edges[view], corners[:2], edges[:2], int(batch.local_parents[position, view - 2]))
            colour, width = OUTSIDE if inside is None else GLOBALS[inside], 2
            place = " in neither" if inside is None else f" in {'AB'[inside]}"
        violated = bool(batch.violations[position, view])
        seen = "" if np.allclose(windows[view], usual) else " · {:.0f} to {:.0f} HU".format(*windows[view])
        edge = in_mm([round(edges[view] * mm) for mm in scan.spacing_mm]) + seen + (" · below ratio" if violated else "")
        words = (f"{name}{place}", f"body {ratio:.2f} · own {own:.2f}", edge)
        found.append(_Crop(name, corners[view], edges[view], colour, width, images[view], words, violated))
    return found


def in_mm(edges: Sequence[float]) -> str:
    """A crop's edges (depth, height, width) in words: one where all are equal."""
    return " x ".join(f"{edge:g}" for edge in (edges if len(set(edges)) > 1 else edges[:1])) + " mm"


def _inside(
    corner: Int[np.ndarray, "3"], size: int, parents: Sequence[Int[np.ndarray, "3"]], parent_sizes: Sequence[int], first: int
) -> int | None:
    """The global crop that contains the whole local one, the coin's parent first."""
    for which in (first, 1 - first):
        if (corner >= parents[which]).all() and (corner + size <= parents[which] + parent_sizes[which]).all():
            return which
    return None


def _caption(scan: Scan, batch: Batch, position: int) -> str:
    contained = batch.local_containment[position]
    words = f"{scan.name} · globals share IoU {float(batch.global_iou[position]):.2f}"
    return words + (f" · locals inside a global: {float(np.mean(contained)):.0%} of their voxels" if contained.size else "")


def _legend(draw: ImageDraw.ImageDraw, title: str, width: int, config: TrainerConfig) -> None:
    low, high = config.data.window_low_hu, config.data.window_high_hu
    draw.text((GAP, 8), f"{title}, window {low:g} to {high:g} HU", INK, _font(16))
    x = GAP
    for colour, line, words in (
        (GLOBALS[0], 3, "global A"),
        (GLOBALS[1], 3, "global B"),
        (PALE, 2, "thin: local, in the colour of the global it lies in"),
        (OUTSIDE, 2, "local in neither"),
    ):
        draw.rectangle((x, 36, x + 14, 48), outline=colour, width=line)
        draw.text((x + 20, 34), words, PALE, _font(12))
        x += 32 + int(draw.textlength(words, _font(12)))
    if x + 190 < width:
        _dashed(draw, (x, 36, x + 14, 48), PALE, 2)
        draw.text((x + 20, 34), "dashed: beside this slice", PALE, _font(12))


def _row(
    image: Image.Image, draw: ImageDraw.ImageDraw, top: int, scan: Scan, crops: Sequence[_Crop], caption: str, config: TrainerConfig
) -> None:
    draw.line((GAP, top - 4, image.width - GAP, top - 4), (60, 62, 68))
    draw.text((GAP, top), caption, INK, _font(13))
    top += TEXT + 8
    for column, (plane, axis) in enumerate((("axial", 0), ("coronal", 1))):
        _slice(image, draw, (GAP + column * (PANEL + GAP), top), plane, axis, scan, crops, config)
    left = 3 * GAP + 2 * PANEL
    across = -(-len(crops) // 2)
    for n, crop in enumerate(crops):
        x, y = left + (n % across) * (THUMB + GAP), top + (n // across) * (THUMB + 3 * TEXT)
        middle = crop.image[len(crop.image) // 2]
        image.paste(_grey(middle, THUMB, THUMB), (x, y))
        draw.rectangle((x, y, x + THUMB - 1, y + THUMB - 1), outline=crop.colour, width=crop.width)
        for line, words in enumerate(crop.words):
            draw.text((x, y + THUMB + 1 + line * (TEXT - 2)), words, ALARM if crop.violated and line == 2 else PALE, _font(11))


def _slice(
    image: Image.Image,
    draw: ImageDraw.ImageDraw,
    at: tuple[int, int],
    plane: str,
    axis: int,
    scan: Scan,
    crops: Sequence[_Crop],
    config: TrainerConfig,
) -> None:
    """One slice with boxes; coronal slices have the last slice of the scan, the head, on top."""
    index = _busiest(crops, axis, scan.voxels.shape[axis])
    across, down = 2, 1 - axis  # axial: height runs down; coronal: depth runs up
    pixels = normalise(np.take(scan.voxels, index, axis=axis), config.data)
    if axis == 1:
        pixels = pixels[::-1]
    length = [n * s for n, s in zip(scan.voxels.shape, scan.spacing_mm, strict=True)]
    scale = PANEL / max(length[across], length[down])
    width, height = max(1, round(length[across] * scale)), max(1, round(length[down] * scale))
    image.paste(_grey(pixels, width, height), at)
    per = (width / scan.voxels.shape[across], height / scan.voxels.shape[down])
    boxes: list[tuple[_Crop, _Box]] = []
    for crop in sorted(crops, key=lambda c: -c.size):
        x0, x1 = (at[0] + (crop.corner[across] + n) * per[0] for n in (0, crop.size))
        y0, y1 = (at[1] + (crop.corner[down] + n) * per[1] for n in (0, crop.size))
        if axis == 1:
            y0, y1 = 2 * at[1] + height - y1, 2 * at[1] + height - y0
        box = (round(x0), round(y0), min(round(x1), at[0] + width) - 1, min(round(y1), at[1] + height) - 1)
        while any(box == other for _, other in boxes) and box[2] - box[0] > 12 and box[3] - box[1] > 12:
            box = (box[0] + 3, box[1] + 3, box[2] - 3, box[3] - 3)  # equal boxes nest, so that each shows
        boxes.append((crop, box))
        if crop.corner[axis] <= index < crop.corner[axis] + crop.size:
            draw.rectangle(box, outline=crop.colour, width=crop.width)
        else:
            _dashed(draw, box, crop.colour, max(1, crop.width - 1))
    tags: list[tuple[float, float, float, float]] = []
    for crop, box in boxes:
        _tag(draw, box, crop, tags)
    draw.text((at[0], at[1] + height + 1), f"{plane} {index} of {scan.voxels.shape[axis]}", PALE, _font(11))


def _tag(draw: ImageDraw.ImageDraw, box: _Box, crop: _Crop, taken: list[tuple[float, float, float, float]]) -> None:
    """The crop's name in the corner of its box, moved right past names that are there already."""
    x, y = box[0] + crop.width + 1, box[1] + crop.width
    place = draw.textbbox((x, y), crop.name, _font(11))
    while any(place[0] <= t[2] and t[0] <= place[2] and place[1] <= t[3] and t[1] <= place[3] for t in taken):
        x += 9
        place = draw.textbbox((x, y), crop.name, _font(11))
    taken.append(place)
    draw.rectangle((place[0] - 1, place[1] - 1, place[2] + 1, place[3] + 1), PAPER)
    draw.text((x, y), crop.name, crop.colour, _font(11))


def _busiest(crops: Sequence[_Crop], axis: int, slices: int) -> int:
    """The slice that most crops meet; among equals the one nearest to the middle of A."""
    met = np.zeros(slices, np.int64)
    for crop in crops:
        met[crop.corner[axis] : crop.corner[axis] + crop.size] += 1
    best = np.flatnonzero(met == met.max())
    middle = crops[0].corner[axis] + crops[0].size / 2
    return int(best[np.abs(best - middle).argmin()])


def _grey(pixels: Num[np.ndarray, "height width"], width: int, height: int) -> Image.Image:
    from PIL import Image

    grey: UInt8[np.ndarray, "height width"] = ((np.clip(pixels, -1, 1) + 1) * 127.5).astype(np.uint8)
    return Image.fromarray(grey).resize((width, height), Image.Resampling.BILINEAR).convert("RGB")


def _dashed(draw: ImageDraw.ImageDraw, box: _Box, colour: tuple[int, int, int], width: int, dash: int = 5) -> None:
    x0, y0, x1, y1 = box
    for start in range(x0, x1, 2 * dash):
        for y in (y0, y1):
            draw.line((start, y, min(start + dash, x1), y), colour, width)
    for start in range(y0, y1, 2 * dash):
        for x in (x0, x1):
            draw.line((x, start, x, min(start + dash, y1)), colour, width)


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    from PIL import ImageFont

    return ImageFont.load_default(size)
