"""Volumes from files: NIfTI, NRRD, MHA and DICOM series, as HU in a memory-mapped cache. The one door to SimpleITK."""

from __future__ import annotations

import csv
import getpass
import glob
import gzip
import hashlib
import json
import os
import tempfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Int16, UInt8

from trainer.config import Data
from trainer.data.errors import DataError
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


def found(source: str) -> list[Source]:
    """The scans below a folder, or those that a glob or a single path names, by name. Folders and files called `labels` are no scans.

    Raises:
        DataError: Nothing there, with the mend.
    """
    path = Path(source).expanduser()
    if path.is_dir():
        places = [Path(folder) / name for folder, _, names in os.walk(path) for name in names]
    elif path.is_file():
        places = [path]
    else:
        places = [Path(one) for one in glob.glob(str(path), recursive=True)]
        if not places and not glob.has_magic(source):
            raise DataError([f"data.source: expected `phantom`, a folder or a glob of scans but {source} does not exist. Check the path."])
    folders = {place for place in places if place.is_dir()}
    files = sorted(place for place in places if place.is_file() and not place.name.startswith(".") and not _is_label(place, path))
    volumes = [Source(stem(file), (file,)) for file in files if file.name.lower().endswith(SUFFIXES)]
    rest = {file.parent for file in files if not file.name.lower().endswith(SUFFIXES) and file.suffix.lower() in ("", ".dcm", ".ima")}
    series = [one for folder in sorted(folders | rest) for one in _series(folder)]
    scans = sorted([*volumes, *series], key=lambda one: (one.name, one.files))
    if not scans:
        kinds = f"{', '.join(SUFFIXES)} or DICOM series"
        raise DataError([f"data.source: expected scans ({kinds}) in {source} but found none. Point it at the folder that holds them."])
    return scans


def stem(file: Path) -> str:
    """File name without its volume suffix."""
    suffix = next(s for s in SUFFIXES if file.name.lower().endswith(s))
    return file.name[: -len(suffix)]


def read(source: Source, data: Data) -> Scan:
    """A scan in HU, reoriented, resampled, clamped to [-1024, 3071], from the cache where it was read before.

    Raises:
        DataError: Unreadable, not 3-D, not scalar, not finite, or not in HU; the message names the file and the mend.
    """
    folder = cache_folder(data)
    labels = labels_of(source, data)
    key = hashlib.sha256(
        json.dumps([VERSION, data.spacing_mm, content_hash(source.files, data), content_hash(labels, data)]).encode()
    ).hexdigest()[:24]
    facts = folder / f"{key}.json"
    if not facts.exists():
        image = _resampled(_oriented(_image(source), source), data.spacing_mm)
        _keep(folder / f"{key}.npy", _voxels(image))
        if labels:
            _keep(folder / f"{key}.labels.npy", _labels(labels[0], image))
        spacing = [float(s) for s in reversed(image.GetSpacing())]
        _replace(facts, json.dumps({"spacing_mm": spacing, "labels": bool(labels)}).encode())
    known = json.loads(facts.read_text())
    d, h, w = known["spacing_mm"]
    masks = np.load(folder / f"{key}.labels.npy", mmap_mode="r") if known["labels"] else None
    names = _label_names(labels[0], masks) if masks is not None else {}
    return Scan(source.name, np.load(folder / f"{key}.npy", mmap_mode="r"), (d, h, w), masks, names)


def labels_of(source: Source, data: Data) -> tuple[Path, ...]:
    """The label volume of a scan, `<scan>_*.nii.gz` in `data.labels`; empty where there is none."""
    if data.labels is None:
        return ()
    return tuple(sorted(Path(data.labels).expanduser().glob(f"{glob.escape(source.name)}_*.nii.gz"))[:1])


def cache_folder(data: Data) -> Path:
    """Where read volumes are kept; made private to the user.

    Raises:
        DataError: It cannot be made, or belongs to somebody else.
    """
    folder = Path(data.cache_dir).expanduser() if data.cache_dir else Path(tempfile.gettempdir()) / f"trainer-cache-{getpass.getuser()}"
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise DataError(
            [f"data.cache_dir: expected a folder that can be written but {folder}: {error.strerror}. Set another one."]
        ) from error
    if hasattr(os, "getuid") and folder.stat().st_uid != os.getuid():
        raise DataError([f"data.cache_dir: expected a folder of your own but {folder} belongs to another user. Set another one."])
    return folder


def content_hash(files: Sequence[Path], data: Data) -> str:
    """SHA-256 over the contents of files; remembered by path, size and time of change."""
    if not files:
        return ""
    facts = [(str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    memo = cache_folder(data) / f"hash-{hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:24]}"
    if memo.exists():
        return memo.read_text()
    whole = hashlib.sha256()
    for file in files:
        with file.open("rb") as handle:
            while block := handle.read(1 << 22):
                whole.update(block)
    _replace(memo, whole.hexdigest().encode())
    return whole.hexdigest()


def unit_problem(voxels: np.ndarray[Any, Any]) -> str | None:
    """What speaks against Hounsfield units, with the mend; None: nothing.

    Fat (-100) and, nearly always, air or lung lie below -20 HU, so a CT without any such voxel (padding, the constant minimum, left out)
    is not in HU. If its tissue sits near 1024 instead, the values are offset. Values all below -300 are offset the other way.
    """
    low, high = float(voxels.min()), float(voxels.max())
    if not np.isfinite([low, high]).all() or not np.isfinite(voxels).all():
        return "expected finite values but got NaN or infinity. Export the volume again."
    if low == high:
        return f"expected a CT but all voxels are {low:g}. Leave the volume out."
    fatty = np.mean((voxels < -20) & (voxels > max(low, -1100)))
    tissue = np.mean((voxels > 874) & (voxels < 1274))
    if fatty < 1e-3:
        if tissue > 0.02:
            return (
                f"expected Hounsfield units but values look offset by +1024 (least {low:g}, {100 * tissue:.0f} % near 1024, "
                "none like fat or lung). Subtract 1024, or set the rescale intercept to -1024."
            )
        seen = f"values from {low:g} to {high:g} are not like CT (none like fat, lung or air)"
        return f"expected Hounsfield units but {seen}. Convert to HU, or leave it out."
    if np.mean(voxels > -300) < 5e-3:
        return f"expected Hounsfield units but values from {low:g} to {high:g} hold no tissue: they look offset by -1024. Add 1024."
    return None


def _is_label(file: Path, top: Path) -> bool:
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
    if image.GetDimension() != 3 or image.GetNumberOfComponentsPerPixel() != 1:
        shape, parts = " x ".join(map(str, image.GetSize())), image.GetNumberOfComponentsPerPixel()
        raise DataError(
            [f"{source.files[0]}: expected one value at each place of a 3-D grid but got {shape} with {parts} values each. Leave it out."]
        )
    return image


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


def _labels(file: Path, image: sitk.Image) -> UInt8[np.ndarray, "depth height width"]:
    import SimpleITK as sitk

    masks = np.rint(sitk.GetArrayFromImage(sitk.Resample(sitk.ReadImage(str(file)), image, sitk.Transform(), sitk.sitkNearestNeighbor, 0)))
    if masks.min() < 0 or masks.max() > 255:
        raise DataError([f"{file}: expected labels from 0 to 255 but got {masks.min():g} to {masks.max():g}. Renumber them."])
    return np.asarray(masks.astype(np.uint8))


def _label_names(file: Path, masks: UInt8[np.ndarray, "depth height width"]) -> Mapping[int, str]:
    """Names from a table beside the labels (`structure` and `id` columns), else the numbers."""
    names = {int(i): f"label {i}" if i else "unlabelled" for i in np.unique(masks)}
    scan = stem(file).rsplit("_", 1)[0]
    for table in sorted(file.parent.glob(f"{glob.escape(scan)}*.csv")):
        with table.open(newline="", encoding="utf-8") as handle:
            for row in csv.DictReader(handle):
                if row.get("id", "").isdigit() and int(row["id"]) in names:
                    names[int(row["id"])] = row["structure"]
    return names


def _keep(path: Path, array: np.ndarray[Any, Any]) -> None:
    beside = path.with_name(f".{path.name}.{os.getpid()}.npy")
    np.save(beside, array)
    os.replace(beside, path)


def _replace(path: Path, content: bytes) -> None:
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    beside.write_bytes(content)
    os.replace(beside, path)
