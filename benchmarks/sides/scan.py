"""The scan that the crop benchmark draws from: 256^3 voxels of int16 on disk."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np

from trainer.config import from_mapping
from trainer.data import foreground_mask, load_scans

ROOT = Path(__file__).resolve().parents[2]
CT = Path(os.environ.get("ABLATE_CT_DIR", ROOT.parent / "shared/ct")) / "abdomen_tcga_ov_092043.nii.gz"
EDGE = 256
SPACING_MM = 1.875
THRESHOLD_HU = -500.0


def write(folder: Path) -> str:
    """`scan.npy` (HU) and `mask.npy` (body, uint8) into a folder; says what they are.

    The real scan has 160 x 176 x 176 voxels of 3 mm; resampled to 1.875 mm its middle has 256^3. Without it: a phantom of that size.
    """
    if CT.exists():
        given = {"data.source": str(CT), "data.spacing_mm": SPACING_MM, "data.cache_dir": str(folder / "cache")}
        whole = load_scans(from_mapping(given))[0].voxels
        low = [(n - EDGE) // 2 for n in whole.shape]
        voxels = np.ascontiguousarray(whole[tuple(slice(n, n + EDGE) for n in low)])
        kind = "a real abdomen"
    else:
        phantom = {"data.phantom.size_voxels": EDGE, "data.phantom.scans": 3}
        voxels, kind = np.ascontiguousarray(load_scans(from_mapping(phantom))[0].voxels), "a phantom"
    mask = foreground_mask(voxels, "body", THRESHOLD_HU)
    np.save(folder / "scan.npy", voxels)
    np.save(folder / "mask.npy", mask.view(np.uint8))
    return f"{kind}, {EDGE}^3 int16, body share {mask.mean():.2f}"


if __name__ == "__main__":
    print(write(Path(sys.argv[1])))
