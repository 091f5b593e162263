"""Images from files: headers, DICOM series and rarer formats by SimpleITK (whose one door this is), voxels held once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float64

from trainer.data.errors import AccessError, DataError
from trainer.data.grid import Grid
from trainer.data.stored import stored, voxels

if TYPE_CHECKING:
    import SimpleITK as sitk

STRANGERS = 3
"""Slices of another kind that are named one by one: a series has hundreds."""
_DAMAGED = "Copy or export it again, or leave it out."


@dataclass(frozen=True)
class Image:
    """A volume as its file stores it."""

    values: np.ndarray[Any, Any]
    """Axes as in the file, the slowest first."""
    slope: float
    intercept: float
    """A value is `stored * slope + intercept`."""
    grid: Grid
    note: str = ""
    """Text of the header's extensions (NIfTI)."""


def image(files: Sequence[Path], series: bool) -> Image:
    """One volume from a file, or from the slices of a DICOM series.

    Raises:
        AccessError: A file that cannot be opened.
        DataError: Empty, damaged, truncated, not 3-D, not of one value a voxel, or slices that are missing or do not belong together.
    """
    for file in files:
        _check_access(file)
    return _series(files) if series else _single(files[0])


def series_in(folder: Path, files: Sequence[Path]) -> dict[str, list[str]]:
    """File names of each DICOM series among these files of a folder, by series; files that are no DICOM are in none."""
    import SimpleITK as sitk

    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    wanted, found = {file.name for file in files}, {}
    for uid in sitk.ImageSeriesReader.GetGDCMSeriesIDs(str(folder)):
        names = sorted({Path(file).name for file in sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder), uid)} & wanted)
        if names:
            found[uid] = names
    return found


def _check_access(file: Path) -> None:
    try:
        if not file.stat().st_size:
            raise DataError([f"{file}: expected a volume but the file is empty. {_DAMAGED}"])
        with file.open("rb"):
            pass
    except OSError as error:
        raise AccessError([f"{file}: expected a file that can be read but got: {error.strerror}. Ask for the right to read it."]) from error


def _single(file: Path) -> Image:
    reader = _header(file)
    size = [int(n) for n in reader.GetSize()]
    parts = int(reader.GetNumberOfComponents())
    _check_kind(file, size, parts)
    grid = Grid.of(size[:3], reader.GetSpacing()[:3], reader.GetOrigin()[:3], _three(reader.GetDirection(), len(size)))
    try:
        described = stored(file)
        if described is not None:
            return Image(voxels(described, tuple(reversed(size[:3]))), described.slope, described.intercept, grid, described.note)
        read = reader.Execute()
    except OSError as error:
        raise AccessError([f"{file}: expected a file that can be read but got: {error.strerror or error}. {_DAMAGED}"]) from error
    except RuntimeError as error:
        raise DataError([f"{file}: expected a readable volume but it is damaged or cut short ({_cause(error)}). {_DAMAGED}"]) from error
    import SimpleITK as sitk

    return Image(sitk.GetArrayFromImage(read).reshape(tuple(reversed(size[:3]))), 1.0, 0.0, grid)


def _header(file: Path) -> sitk.ImageFileReader:
    import SimpleITK as sitk

    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(file))
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:
        raise DataError([f"{file}: expected a readable volume but its header is not one ({_cause(error)}). {_DAMAGED}"]) from error
    return reader


def _check_kind(file: Path, size: Sequence[int], parts: int) -> None:
    said = " x ".join(map(str, size))
    if parts != 1:
        mend = "Colours are no CT: leave it out." if parts in (3, 4) else "Export one value a voxel, or leave it out."
        raise DataError([f"{file}: expected one value at each place of a 3-D grid but got {parts} ({said} voxels). {mend}"])
    if len(size) < 3 or min(size[:3]) < 2:
        raise DataError([f"{file}: expected a 3-D grid but got a single plane ({said}). Export the volume, or leave it out."])
    if any(n != 1 for n in size[3:]):
        raise DataError([f"{file}: expected a 3-D grid but got {len(size)}-D ({said}). Save each volume in a file of its own."])


def _series(files: Sequence[Path]) -> Image:
    """Slices sorted by their place along their normal; a missing or damaged one is refused, its neighbours spread no gap."""
    headers = [_header(file) for file in files]
    first = headers[0]
    width, height = first.GetSize()[:2]
    direction = np.array(first.GetDirection()).reshape(3, 3)
    problems = [problem for file, header in zip(files, headers, strict=True) if (problem := _stranger(file, header, files[0], first))]
    if problems:
        more = len(problems) - STRANGERS
        said = f"{files[0].parent}: expected slices of one kind but {more} more are of another. Move each series into a folder of its own."
        raise DataError([*problems[:STRANGERS], said] if more > 0 else problems)
    if len(files) == 1:
        return _single(files[0])
    along = np.array([float(np.dot(direction[:, 2], header.GetOrigin())) for header in headers])
    order = np.argsort(along, kind="stable")
    step = _even(along[order], [files[at] for at in order])
    values = np.empty((len(files), height, width), dtype=np.int16)
    for plane, at in zip(values, order.tolist(), strict=True):
        plane[:] = _slice(headers[at], files[at])
    spacing = (*first.GetSpacing()[:2], step)
    return Image(values, 1.0, 0.0, Grid.of((width, height, len(files)), spacing, headers[order[0]].GetOrigin(), direction))


def _stranger(file: Path, header: sitk.ImageFileReader, like: Path, first: sitk.ImageFileReader) -> str | None:
    """What tells a slice apart from the first one of its series."""
    parts = int(header.GetNumberOfComponents())
    if parts != 1:
        return f"{file}: expected one value a voxel but got {parts}: colours are no CT. Leave the series out."
    own, wanted = header.GetSize()[:2], first.GetSize()[:2]
    turned = not np.allclose(header.GetDirection(), first.GetDirection(), atol=1e-3)
    if own == wanted and not turned and np.allclose(header.GetSpacing()[:2], first.GetSpacing()[:2], rtol=1e-3):
        return None
    seen = "turned otherwise" if own == wanted and turned else f"{own[0]} x {own[1]} pixels of {header.GetSpacing()[0]:.4g} mm"
    like_it = f"{wanted[0]} x {wanted[1]} pixels of {first.GetSpacing()[0]:.4g} mm, turned as {like.name}"
    return f"{file}: expected slices of one kind ({like_it}) but this one is {seen}. Series are mixed: move each into a folder of its own."


def _even(along: Float64[np.ndarray, " slices"], files: Sequence[Path]) -> float:
    """The step in mm between slices; a wider one says that a slice is missing."""
    steps = np.diff(along)
    widest, usual = int(steps.argmax()), float(np.median(steps))
    if steps[widest] > 1.25 * usual or steps.min() < 0.75 * usual:
        raise DataError(
            [
                f"{files[widest].parent}: expected slices {usual:.4g} mm apart but got {steps.min():.4g} to {steps[widest]:.4g} mm, "
                f"the widest after {files[widest].name}. A slice is missing, damaged or double: export the series again."
            ]
        )
    return float(steps.mean())


def _slice(reader: sitk.ImageFileReader, file: Path) -> np.ndarray[Any, Any]:
    import SimpleITK as sitk

    try:
        read = sitk.GetArrayFromImage(reader.Execute())
    except RuntimeError as error:
        raise DataError([f"{file}: expected a readable slice but it is damaged or cut short ({_cause(error)}). {_DAMAGED}"]) from error
    if not np.isfinite(read).all():
        raise DataError([f"{file}: expected finite values but got NaN or infinity. Export the series again."])
    limits = np.iinfo(np.int16)
    return np.asarray(read if read.dtype == np.int16 else np.rint(np.clip(read, limits.min, limits.max)))


def _three(direction: Sequence[float], dimension: int) -> Float64[np.ndarray, "3 3"]:
    return np.array(direction, dtype=np.float64).reshape(dimension, dimension)[:3, :3]


def _cause(error: RuntimeError) -> str:
    """ITK's last line without its odd prefixes."""
    said = str(error).strip().splitlines()[-1].strip()
    return said.removeprefix("sitk::ERROR: ").removeprefix("Reason: ").rstrip(".")


def clamped_copy(file: Path, target: Path, lowest_hu: int) -> None:
    """Write a volume again, values below `lowest_hu` raised to it.

    Raises:
        DataError: It cannot be read.
    """
    import SimpleITK as sitk

    read = _header(file).Execute()
    sitk.WriteImage(sitk.Cast(sitk.Maximum(sitk.Cast(read, sitk.sitkInt16), lowest_hu), sitk.sitkInt16), str(target), useCompression=True)
