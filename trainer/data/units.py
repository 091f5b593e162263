"""Whether values are Hounsfield units."""

from __future__ import annotations

from typing import Any

import numpy as np


def unit_problem(voxels: np.ndarray[Any, Any]) -> str | None:
    """What speaks against Hounsfield units, with the mend; None: nothing.

    The constant minimum may be padding and says nothing. A CT has air, lung or their borders below -300 HU; without any, tissue near
    1024 means an offset of +1024 (however noisy the air, which then lies around 0 to 24), and else it is windowed or no CT. Air
    below -1300 without tissue around 0 means an offset of -1024.
    """
    low, high = float(voxels.min()), float(voxels.max())
    if not np.isfinite([low, high]).all() or not np.isfinite(voxels).all():
        return "expected finite values but got NaN or infinity. Export the volume again."
    if low == high:
        return f"expected a CT but all voxels are {low:g}. Leave the volume out."
    dark = np.mean((voxels < -300) & (voxels > max(low, -1100)))
    offset_tissue = np.mean((voxels > 874) & (voxels < 1274))
    if dark < 1e-3 and offset_tissue > 0.02:
        return (
            f"expected Hounsfield units but values look offset by +1024 (least {low:g}, {100 * offset_tissue:.0f} % near 1024, "
            "none like lung or the border of air). Subtract 1024, or set the rescale intercept to -1024."
        )
    if low > -300 or np.mean((voxels < -20) & (voxels > max(low, -1100))) < 1e-3:
        seen = f"values from {low:g} to {high:g} are not like CT (none like fat, lung or air)"
        return f"expected Hounsfield units but {seen}. Convert to HU, or leave it out."
    hollow = np.mean(np.abs(voxels.astype(np.float32)) < 200) < 0.05
    below = voxels < -1300
    sunken = below.mean() > 0.3 or np.mean(below & (voxels > low)) > 0.02
    if (hollow and sunken) or np.mean(voxels > -300) < 5e-3:
        seen = f"values from {low:g} to {high:g} look offset by -1024 (hardly any tissue near 0)"
        return f"expected Hounsfield units but {seen}. Add 1024."
    return None
