"""The labels of a scan, read onto its grid, with the names of those that occur."""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Shaped

from trainer.data.errors import DataError
from trainer.data.finding import Source, name_tables
from trainer.data.grid import Grid, Turn, nearest
from trainer.data.images import Image, image

GREATEST_LABEL = 32767

_NAMED = re.compile(r'<Label\s+Key="(\d+)"[^>]*>\s*(?:<!\[CDATA\[)?([^<\]]+)')
"""TotalSegmentator writes its names into the header, as Connectome Workbench does (`<Label Key="1">spleen</Label>`)."""


@dataclass(frozen=True)
class Masks:
    """Labels of a scan."""

    numbers: Shaped[np.ndarray, "depth height width"]
    """uint8 where they fit, else int16; 0 is no label."""
    names: dict[int, str]
    """Of those that occur."""


def read_masks(source: Source, scan: Grid, spacing_mm: float | None) -> Masks:
    """The labels of a scan: one volume of numbers, or a mask for each organ, numbered from 1 in the order of their names.

    Names come from the masks' files, from a table beside the volume (columns `id` and `structure`), or from the volume's own header;
    else a label is called by its number. Where masks share voxels the later one has them.

    Args:
        source: The scan with its label files.
        scan: The grid of its own file.
        spacing_mm: The scan is resampled to this; each new voxel takes the label of the old one that its centre lies in.

    Raises:
        DataError: More than one volume, not whole numbers from 0 to 32767, another shape than the scan's, or elsewhere in space.
    """
    if len(source.labels) > 1 and not source.organs:
        said = ", ".join(file.name for file in source.labels)
        raise DataError([f"data.labels: expected one label volume for {source.name} but found {said}. Keep one."])
    if source.organs:
        return _organs(source, scan, spacing_mm)
    found = image(source.labels, series=False)
    numbers = _numbers(source.labels[0], found, source.name, scan, spacing_mm)
    return Masks(numbers, _names(source, found.note, np.unique(numbers).tolist()))


def _organs(source: Source, scan: Grid, spacing_mm: float | None) -> Masks:
    whole: Shaped[np.ndarray, "depth height width"] | None = None
    for number, file in enumerate(source.labels, start=1):
        mask = _numbers(file, image((file,), series=False), source.name, scan, spacing_mm) != 0
        if whole is None:
            whole = np.zeros(mask.shape, dtype=np.uint8 if len(source.labels) < 256 else np.int16)
        whole[mask] = number
    if whole is None:
        raise ValueError(f"{source.name}: expected organs but got no file. Ask for labels only where there are any.")
    return Masks(whole, {number: source.labels[number - 1].name.split(".")[0] for number in np.unique(whole).tolist() if number})


def _names(source: Source, note: str, present: Sequence[int]) -> dict[int, str]:
    known = {int(number): name.strip() for number, name in _NAMED.findall(note)}
    for table in name_tables(source):
        with table.open(newline="", encoding="utf-8") as handle:
            for row in csv.DictReader(handle):
                number, name = row.get("id") or "", row.get("structure")
                if name and number.isdigit():
                    known[int(number)] = name
    return {number: known.get(number, f"label {number}") for number in present if number}


def _numbers(file: Path, found: Image, scan_name: str, scan: Grid, spacing_mm: float | None) -> Shaped[np.ndarray, "depth height width"]:
    turn = Turn.of(found.grid)
    _check_grid(file, found.grid, scan_name, scan)
    values = turn.view(found.values)
    if spacing_mm is not None:
        places = zip(turn.shape(found.grid), turn.spacing_mm(found.grid), strict=True)
        values = values[np.ix_(*(nearest(count, native, spacing_mm) for count, native in places))]
    if (found.slope, found.intercept) != (1.0, 0.0):
        values = values * found.slope + found.intercept
    low, high = values.min(), values.max()
    if not (low >= 0 and high <= GREATEST_LABEL) or (values.dtype.kind == "f" and (values != np.rint(values)).any()):
        wanted = f"whole labels from 0 to {GREATEST_LABEL}"
        raise DataError([f"{file}: expected {wanted} but got values from {low:g} to {high:g}. Is it a label volume? Leave it out."])
    return np.ascontiguousarray(values, dtype=np.uint8 if high < 256 else np.int16)


def _check_grid(file: Path, labels: Grid, scan_name: str, scan: Grid) -> None:
    turn, of_scan = Turn.of(labels), Turn.of(scan)
    shape, spacing = turn.shape(labels), turn.spacing_mm(labels)
    wanted_shape, wanted_spacing = of_scan.shape(scan), of_scan.spacing_mm(scan)
    if shape != wanted_shape or not np.allclose(spacing, wanted_spacing, rtol=1e-2):
        wanted, got = _said(wanted_shape, wanted_spacing), _said(shape, spacing)
        raise DataError(
            [f"{file}: expected labels on the grid of {scan_name} ({wanted}) but got {got}. Resample them onto the scan's grid."]
        )
    apart = np.abs(turn.corner_mm(labels) - of_scan.corner_mm(scan))
    if apart.max() > 0.5 * max(wanted_spacing):
        far = f"elsewhere in space ({float(np.linalg.norm(apart)):.3g} mm away)"
        raise DataError([f"{file}: expected labels that lie in {scan_name} but they lie {far}. Export both in one frame."])


def _said(shape: Sequence[int], spacing_mm: Sequence[float]) -> str:
    return f"{' x '.join(map(str, shape))} voxels of {' x '.join(f'{s:.3g}' for s in spacing_mm)} mm"
