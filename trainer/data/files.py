"""Volumes from files: NIfTI, NRRD, MHA and DICOM series, as HU in a memory-mapped cache. The one door to SimpleITK."""

from __future__ import annotations

import csv
import glob
import gzip
import hashlib
import itertools
import json
import os
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Int16, UInt8

from trainer.config import Data
from trainer.data.cache import cache_folder, content_hash, keep_array, keep_bytes
from trainer.data.errors import CacheError, DataError
from trainer.data.units import unit_problem
from trainer.data.volumes import Scan

if TYPE_CHECKING:
    import SimpleITK as sitk

VERSION = 1
"""Goes into the cache's keys and the data hash: raise it whenever a voxel changes."""

SUFFIXES = (".nii.gz", ".nii", ".nrrd", ".nhdr", ".mha", ".mhd")
LOWEST_HU, HIGHEST_HU = -1024, 3071
_BYTES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 8, 7: 8, 8: 4, 9: 8}
"""Bytes a voxel by SimpleITK's pixel id (sitkUInt8 is 1, sitkFloat64 is 9)."""
ORIENTATION = "LPS"
"""Axes of the array: depth to the head, height to the back, width to the patient's left."""


@dataclass(frozen=True)
class Source:
    """One scan on disk: a file, or the files of a DICOM series in their order."""

    name: str
    files: tuple[Path, ...]
    series: bool = False
    labels: tuple[Path, ...] = ()
    """What `data.labels` holds for this scan; more than one is refused when it is read."""


def found(data: Data) -> list[Source]:
    """The scans below a folder, or those that a glob or a single path names, by name.

    Folders and files called `labels`, and the folder `data.labels`, hold no scans. Scans of one name get that of their folder in front.

    Raises:
        DataError: No scan there, or a label folder without a label for any, with the mend.
    """
    source, path = data.source, Path(data.source).expanduser()
    if path.is_dir():
        places = [Path(folder) / name for folder, _, names in os.walk(path) for name in names]
    elif path.is_file():
        places = [path]
    else:
        places = [Path(one) for one in glob.glob(str(path), recursive=True)]
        if not places and not glob.has_magic(source):
            raise DataError([f"data.source: expected `phantom`, a folder or a glob of scans but {source} does not exist. Check the path."])
    folders = {place for place in places if place.is_dir()}
    top = path if path.is_dir() else path.parent if path.is_file() else _fixed_part(path)
    files = sorted(p for p in places if p.is_file() and not p.name.startswith(".") and not _is_label(p, top, data.labels))
    volumes = [Source(stem(file), (file,)) for file in files if file.name.lower().endswith(SUFFIXES)]
    slices = [file for file in files if not file.name.lower().endswith(SUFFIXES) and _may_be_dicom(file)]
    series = [one for folder in sorted(folders | {file.parent for file in slices}) for one in _series(folder)]
    in_series = {file for one in series for file in one.files}
    # A slice that no series takes is damaged: as a scan of its own it is named when it is read.
    lost = [Source(file.name, (file,)) for file in slices if file.suffix.lower() in (".dcm", ".ima") and file not in in_series]
    scans = sorted(_told_apart([*volumes, *series, *lost]), key=lambda one: (one.name, one.files))
    if not scans:
        kinds = f"{', '.join(SUFFIXES)} or DICOM series"
        raise DataError([f"data.source: expected scans ({kinds}) in {source} but found none. Point it at the folder that holds them."])
    return _labelled(scans, data.labels)


def stem(file: Path) -> str:
    """File name without its volume suffix."""
    suffix = next(s for s in SUFFIXES if file.name.lower().endswith(s))
    return file.name[: -len(suffix)]


def read(source: Source, data: Data) -> Scan:
    """A scan in HU, reoriented, resampled, clamped to [-1024, 3071], from the cache where it was read before.

    Raises:
        DataError: Unreadable, not 3-D, not scalar, not finite, or not in HU; the message names the file and the mend.
    """
    folder, labels = cache_folder(data), source.labels
    key = hashlib.sha256(
        json.dumps([VERSION, data.spacing_mm, content_hash(source.files, data), content_hash(labels, data)]).encode()
    ).hexdigest()[:24]
    return _cached(folder, key, source) or _read_into(folder, key, source, data)


def _cached(folder: Path, key: str, source: Source) -> Scan | None:
    """The scan as it was read before; None where it was not, or where what was kept is damaged or partly swept away."""
    try:
        known = json.loads((folder / f"{key}.json").read_text())
        d, h, w = known["spacing_mm"]
        voxels = np.load(folder / f"{key}.npy", mmap_mode="r")
        masks = np.load(folder / f"{key}.labels.npy", mmap_mode="r") if known["labels"] else None
    except (OSError, ValueError, KeyError, EOFError):
        return None
    names = _label_names(source, masks) if masks is not None else {}
    return Scan(source.name, voxels, (d, h, w), masks, names)


def _read_into(folder: Path, key: str, source: Source, data: Data) -> Scan:
    image = _resampled(_oriented(_image(source), source), data.spacing_mm)
    masks = _labels(source, image) if source.labels else None
    spacing = [float(s) for s in reversed(image.GetSpacing())]
    keep_array(folder / f"{key}.npy", _voxels(image))
    if masks is not None:
        keep_array(folder / f"{key}.labels.npy", masks)
    keep_bytes(folder / f"{key}.json", json.dumps({"spacing_mm": spacing, "labels": masks is not None}).encode())
    scan = _cached(folder, key, source)
    if scan is None:
        raise CacheError([f"data.cache_dir: expected what was written to {folder} to be read back but it was not. Set another folder."])
    return scan


def _labelled(scans: Sequence[Source], labels: str | None) -> list[Source]:
    """The scans with their label volumes, `<scan>_*.nii.gz`; a file goes to the scan of the longest name that it begins with."""
    if labels is None:
        return list(scans)
    files = sorted(Path(labels).expanduser().glob("*_*.nii.gz"))
    owners: dict[str, list[Path]] = {}
    for file in files:
        names = [scan.name for scan in scans if file.name.startswith(f"{scan.name}_")]
        if names:
            owners.setdefault(max(names, key=len), []).append(file)
    if not owners:
        wanted = f"label volumes named `<scan>_*.nii.gz` in {labels}"
        raise DataError([f"data.labels: expected {wanted} but found none for any scan. Check the path and names."])
    return [replace(scan, labels=tuple(owners.get(scan.name, ()))) for scan in scans]


def _told_apart(scans: Sequence[Source]) -> list[Source]:
    """Scans of one name get their folders' names in front, as many as it takes."""
    named, deepest = list(scans), max((len(scan.files[0].parts) for scan in scans), default=0)
    for depth in range(1, deepest):
        times = Counter(scan.name for scan in named)
        if max(times.values()) == 1:
            break
        for at, scan in enumerate(named):
            above = scan.files[0].parent.parts[:-1] if scan.series else scan.files[0].parent.parts
            if times[scan.name] > 1 and depth <= len(above):
                named[at] = replace(scan, name=f"{above[-depth].strip('/')}_{scan.name}")
    return named


def _fixed_part(pattern: Path) -> Path:
    """The folders of a glob before its first wildcard."""
    parts = list(itertools.takewhile(lambda part: not glob.has_magic(part), pattern.parts))
    return Path(*parts) if parts else Path()


def _may_be_dicom(file: Path) -> bool:
    """By its suffix, or by the mark that DICOM files carry at byte 128 (scanners name slices `CT.1.2.840.113`)."""
    if file.suffix.lower() in ("", ".dcm", ".ima"):
        return True
    with file.open("rb") as handle:
        return handle.read(132)[128:] == b"DICM"


def _is_label(file: Path, top: Path, labels: str | None) -> bool:
    if labels is not None and Path(labels).expanduser().resolve() in file.resolve().parents:
        # A label folder that is the scans' own folder tells its files apart by name alone.
        return Path(labels).expanduser().resolve() != top.resolve()
    inside = file.relative_to(top).parts[:-1] if file.is_relative_to(top) else ()
    return "labels" in inside or any(file.name.lower().endswith("_labels" + suffix) for suffix in SUFFIXES)


def _series(folder: Path) -> list[Source]:
    import SimpleITK as sitk

    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    ids = sitk.ImageSeriesReader.GetGDCMSeriesIDs(str(folder))
    named = []
    for number, one in enumerate(ids):
        files = tuple(Path(f) for f in sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder), one))
        named.append(Source(folder.name if len(ids) == 1 else f"{folder.name}-{number}", files, series=True))
    return named


def _image(source: Source) -> sitk.Image:
    import SimpleITK as sitk

    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    _check_whole(source.files[0])
    try:
        image = sitk.ReadImage([str(f) for f in source.files]) if source.series else sitk.ReadImage(str(source.files[0]))
    except RuntimeError as error:
        cause = str(error).strip().splitlines()[-1].strip()
        raise DataError([f"{source.files[0]}: expected a readable volume but got: {cause} Replace the file."]) from error
    if source.series:
        _check_slices(source)
    if image.GetDimension() != 3 or image.GetNumberOfComponentsPerPixel() != 1:
        shape, parts = " x ".join(map(str, image.GetSize())), image.GetNumberOfComponentsPerPixel()
        raise DataError(
            [f"{source.files[0]}: expected one value at each place of a 3-D grid but got {shape} with {parts} values each. Leave it out."]
        )
    return image


def _check_slices(source: Source) -> None:
    """A series with a slice missing or damaged is read without it, the others spread over the gap: that is refused."""
    import SimpleITK as sitk

    reader, along = sitk.ImageFileReader(), []
    for file in source.files:
        reader.SetFileName(str(file))
        reader.ReadImageInformation()
        normal = np.array(reader.GetDirection()).reshape(3, 3)[:, 2]
        along.append(float(np.dot(normal, reader.GetOrigin())))
    steps = np.abs(np.diff(along))
    if len(steps) == 0:
        return
    widest, usual = int(steps.argmax()), float(np.median(steps))
    if steps[widest] > 1.25 * usual or steps.min() < 0.75 * usual:
        raise DataError(
            [
                f"{source.files[widest].parent}: expected slices {usual:.4g} mm apart but got {steps.min():.4g} to {steps[widest]:.4g} mm, "
                f"the widest after {source.files[widest].name}. A slice is missing, damaged or double: export the series again."
            ]
        )


def _check_whole(file: Path) -> None:
    """ITK reads a truncated NIfTI file without a word, the rest filled with zeros."""
    try:
        if file.name.lower().endswith(".nii.gz"):
            with gzip.open(file) as handle:
                length = 0
                while block := handle.read(1 << 22):
                    length += len(block)
        elif file.name.lower().endswith(".nii"):
            length = file.stat().st_size
        else:
            return
    except (EOFError, OSError, zlib.error) as error:
        raise DataError([f"{file}: expected a whole gzip file but got: {error}. Replace the file."]) from error
    import SimpleITK as sitk

    reader = sitk.ImageFileReader()
    reader.SetFileName(str(file))
    try:
        reader.ReadImageInformation()
    except RuntimeError:
        return  # said by the reader itself
    voxels = int(np.prod(reader.GetSize(), dtype=np.int64)) * reader.GetNumberOfComponents()
    if length < voxels * _BYTES.get(reader.GetPixelID(), 1):
        raise DataError([f"{file}: expected {voxels} voxels but the file ends after {length} bytes. Replace the file."])


def _oriented(image: sitk.Image, source: Source) -> sitk.Image:
    import SimpleITK as sitk

    problem = unit_problem(sitk.GetArrayViewFromImage(image))
    if problem is not None:
        raise DataError([f"{source.files[0]}: {problem}"])
    return sitk.DICOMOrient(sitk.Clamp(sitk.Cast(image, sitk.sitkFloat32), sitk.sitkFloat32, LOWEST_HU, HIGHEST_HU), ORIENTATION)


def _resampled(image: sitk.Image, spacing_mm: float | None) -> sitk.Image:
    """On an isotropic grid, linear, each axis smoothed first where it gets coarser (Gaussian, sigma half of what the step grows by)."""
    import SimpleITK as sitk

    if spacing_mm is None:
        return image
    for axis, native in enumerate(image.GetSpacing()):
        if spacing_mm > 1.01 * native and image.GetSize()[axis] >= 4:
            image = sitk.RecursiveGaussian(image, sigma=(spacing_mm - native) / 2, direction=axis)
    size = [max(1, round(n * s / spacing_mm)) for n, s in zip(image.GetSize(), image.GetSpacing(), strict=True)]
    # Pixel centres: the first new voxel starts at the edge where the first old one did.
    shift = [(spacing_mm - s) / 2 for s in image.GetSpacing()]
    matrix = np.array(image.GetDirection()).reshape(3, 3)
    origin = np.array(image.GetOrigin()) + matrix @ np.array(shift)
    resampler = sitk.ResampleImageFilter()
    resampler.SetOutputSpacing([spacing_mm] * 3)
    resampler.SetSize(size)
    resampler.SetOutputOrigin(origin.tolist())
    resampler.SetOutputDirection(image.GetDirection())
    resampler.SetInterpolator(sitk.sitkLinear)
    resampler.SetUseNearestNeighborExtrapolator(True)
    return resampler.Execute(image)


def _voxels(image: sitk.Image) -> Int16[np.ndarray, "depth height width"]:
    import SimpleITK as sitk

    return np.asarray(np.clip(np.rint(sitk.GetArrayViewFromImage(image)), LOWEST_HU, HIGHEST_HU).astype(np.int16))


def _labels(source: Source, image: sitk.Image) -> UInt8[np.ndarray, "depth height width"]:
    import SimpleITK as sitk

    file = source.labels[0]
    if len(source.labels) > 1:
        raise DataError(
            [f"data.labels: expected one label volume for {source.name} but found {', '.join(f.name for f in source.labels)}. Keep one."]
        )
    read = _image(Source(source.name, (file,)))
    masks = np.rint(sitk.GetArrayFromImage(sitk.Resample(read, image, sitk.Transform(), sitk.sitkNearestNeighbor, 0)))
    if masks.min() < 0 or masks.max() > 255:
        raise DataError([f"{file}: expected labels from 0 to 255 but got {masks.min():g} to {masks.max():g}. Renumber them."])
    if not masks.any() and sitk.GetArrayViewFromImage(read).any():
        raise DataError([f"{file}: expected labels that lie in {source.name} but they lie elsewhere in space. Export both in one frame."])
    return np.asarray(masks.astype(np.uint8))


def _label_names(source: Source, masks: UInt8[np.ndarray, "depth height width"]) -> Mapping[int, str]:
    """Names from a table `<scan>_*.csv` beside the labels (`structure` and `id` columns), else the numbers."""
    names = {int(i): f"label {i}" if i else "unlabelled" for i in np.unique(masks)}
    for table in sorted(source.labels[0].parent.glob(f"{glob.escape(source.name)}_*.csv")):
        with table.open(newline="", encoding="utf-8") as handle:
            for row in csv.DictReader(handle):
                label, name = row.get("id") or "", row.get("structure")
                if name and label.isdigit() and int(label) in names:
                    names[int(label)] = name
    return names
