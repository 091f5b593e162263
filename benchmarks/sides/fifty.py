"""Scans to index: real ones, each written several times with another noise of one HU, so that no two files are equal."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from trainer.config import from_mapping
from trainer.data import load_scans

ROOT = Path(__file__).resolve().parents[2]
CT = Path(os.environ.get("ABLATE_CT_DIR", ROOT.parent / "shared/ct"))


def write(folder: Path, count: int) -> str:
    """`count` compressed NIfTI files into a folder; says what they are. Phantoms of 160 voxels where the real scans are not at hand."""
    rng = np.random.default_rng(0)
    files = sorted(CT.glob("*.nii.gz"))
    if files:
        read = [sitk.ReadImage(str(file)) for file in files]
    else:
        read = []
        for scan in load_scans(from_mapping({"data.phantom.size_voxels": 160, "data.phantom.scans": 5})):
            read.append(sitk.GetImageFromArray(scan.voxels))
            read[-1].SetSpacing((2.5, 2.5, 2.5))
    for number in range(count):
        like = read[number % len(read)]
        values = sitk.GetArrayFromImage(like).astype(np.int16)
        image = sitk.GetImageFromArray(np.maximum(values + rng.integers(-1, 2, size=values.shape, dtype=np.int16), -1024))
        image.CopyInformation(like)
        sitk.WriteImage(image, str(folder / f"scan_{number:03d}.nii.gz"), useCompression=True)
    voxels = sum(int(np.prod(image.GetSize())) for image in read) / len(read)
    return f"{count} {'real scans' if files else 'phantoms'} of {voxels / 1e6:.1f} million voxels in the mean"


if __name__ == "__main__":
    print(write(Path(sys.argv[1]), int(sys.argv[2])))
