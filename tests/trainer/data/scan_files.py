"""Scans as files, for tests."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from trainer.config.fields import Data
from trainer.data.phantom import phantom_scan

VOXELS, LABELS = phantom_scan("torso", 32, 15.0, 15.0, 0, 0)


def volume(path: Path, voxels: np.ndarray, spacing_mm: Sequence[float] = (2.0, 2.0, 2.0), vector: bool = False) -> Path:
    """A file of the kind that its suffix says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = sitk.GetImageFromArray(voxels, isVector=vector)
    image.SetSpacing(list(spacing_mm)[: image.GetDimension()])
    sitk.WriteImage(image, str(path))
    return path


def slices(folder: Path, voxels: np.ndarray, uid: str = "1.2.3.4", prefix: str = "s", step_mm: float = 2.0) -> Path:
    """A DICOM series with rescale intercept -1024."""
    folder.mkdir(parents=True, exist_ok=True)
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    for k, plane in enumerate(np.maximum(voxels, -1024)):
        image = sitk.GetImageFromArray(plane[None].astype(np.int16))
        tags = {"0008|0060": "CT", "0020|000d": "1.2.3", "0020|000e": uid, "0008|0018": f"{uid}.{k}", "0020|0013": str(k)}
        tags |= {"0020|0032": f"0\\0\\{step_mm * k}", "0020|0037": "1\\0\\0\\0\\1\\0", "0028|1052": "-1024", "0028|1053": "1"}
        for tag, value in tags.items():
            image.SetMetaData(tag, value)
        writer.SetFileName(str(folder / f"{prefix}{k:03d}.dcm"))
        writer.Execute(image)
    return folder


def data(source: Path, **more: object) -> Data:
    """Settings with a cache beside the scans."""
    return Data(source=str(source), **({"cache_dir": str(source.parent / "cache")} | more))  # type: ignore[arg-type]
