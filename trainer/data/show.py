"""Scans as a picture and in words."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Shaped, UInt8

from trainer.config import Data
from trainer.data.index import Entry
from trainer.data.volumes import Scan

if TYPE_CHECKING:
    from PIL import Image

PANEL, GAP, TEXT = 256, 12, 18
INK, PAPER = (235, 235, 235), (22, 23, 26)
SHOWN_LABELS = 12


def describe(entry: Entry, scan: Scan) -> Iterator[str]:
    """Size, spacing, HU range, air and labels of a scan, a line each."""
    record = entry.record
    yield f"{scan.name}  ({entry.source.files[0]}{f' and {len(entry.source.files) - 1} more' if len(entry.source.files) > 1 else ''})"
    yield f"  size     {_grid(record.shape, record.spacing_mm)}"
    if record.stored_shape != record.shape:
        yield f"  in file  {_grid(record.stored_shape, record.stored_spacing_mm)}"
    yield f"  HU       {record.hu[0]} to {record.hu[1]} in the file; {100 * record.air_share:.0f} % below -500"
    if record.warning is not None:
        yield f"  note     {record.warning}"
    if scan.labels is None:
        yield "  labels   none"
        return
    counts = np.bincount(scan.labels.ravel(), minlength=1)
    ranked = sorted(scan.label_names, key=lambda number: -counts[number])
    named = ", ".join(f"{scan.label_names[number]} {100 * counts[number] / counts.sum():.2g} %" for number in ranked[:SHOWN_LABELS])
    more = f" and {len(ranked) - SHOWN_LABELS} more" if len(ranked) > SHOWN_LABELS else ""
    yield f"  labels   {len(ranked)}: {named}{more}"


def picture(path: Path, scans: Sequence[Scan], data: Data) -> None:
    """A PNG with a row for each scan: middle axial, coronal and sagittal slice in the HU window of `data`, labels in colour.

    Slices keep their proportions in mm; the patient's right or front is on the left, the front or head above. The file is written beside
    and renamed.
    """
    from PIL import Image, ImageDraw, ImageFont

    width, row = GAP + 3 * (PANEL + GAP), TEXT + PANEL + GAP
    sheet = Image.new("RGB", (width, GAP + len(scans) * row), PAPER)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=13)
    for number, scan in enumerate(scans):
        top = GAP + number * row
        window = f"{data.window_low_hu:g} to {data.window_high_hu:g} HU"
        draw.text((GAP, top), f"{scan.name}   {_grid(scan.voxels.shape, scan.spacing_mm)}   {window}", INK, font)
        for column, panel in enumerate(_panels(scan, data)):
            sheet.paste(panel, (GAP + column * (PANEL + GAP) + (PANEL - panel.width) // 2, top + TEXT + (PANEL - panel.height) // 2))
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    with beside.open("wb") as file:
        sheet.save(file, format="PNG")
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)


def _panels(scan: Scan, data: Data) -> Iterator[Image.Image]:
    from PIL import Image

    for axis in range(3):
        at = _middle(scan, axis)
        plane = np.asarray(scan.voxels.take(at, axis=axis), dtype=np.float32)
        grey = np.clip((plane - data.window_low_hu) / (data.window_high_hu - data.window_low_hu), 0, 1) * 255
        colour = np.repeat(grey[..., None], 3, axis=-1)
        if scan.labels is not None:
            labels = scan.labels.take(at, axis=axis)
            colour[labels > 0] = 0.6 * colour[labels > 0] + 0.4 * _colours(labels[labels > 0])
        shown = colour.round().astype(np.uint8)
        # Depth grows toward the head, which belongs above.
        shown = shown if axis == 0 else shown[::-1]
        mm = [n * s for k, (n, s) in enumerate(zip(scan.voxels.shape, scan.spacing_mm, strict=True)) if k != axis]
        scale = PANEL / max(mm)
        yield Image.fromarray(shown).resize((max(1, round(mm[1] * scale)), max(1, round(mm[0] * scale))), Image.Resampling.BILINEAR)


def _middle(scan: Scan, axis: int) -> int:
    """Half way, or the slice with most labelled voxels where there are labels."""
    if scan.labels is None:
        return int(scan.voxels.shape[axis]) // 2
    others = tuple(k for k in range(3) if k != axis)
    return int(np.asarray(np.count_nonzero(scan.labels, axis=others)).argmax())


def _colours(labels: Shaped[np.ndarray, " n"]) -> UInt8[np.ndarray, "n 3"]:
    """Far apart for neighbouring numbers: hues at steps of the golden angle."""
    hue = (labels.astype(np.float64) * 0.381966) % 1.0
    phases = hue[:, None] + np.array([0.0, 1 / 3, 2 / 3])
    return np.asarray((127.5 + 127.5 * np.cos(2 * np.pi * phases)).round().astype(np.uint8))


def _grid(shape: Sequence[int], spacing_mm: Sequence[float]) -> str:
    return f"{' x '.join(map(str, shape))} voxels of {' x '.join(f'{s:.3g}' for s in spacing_mm)} mm (depth, height, width)"
