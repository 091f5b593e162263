"""What the crops looked at: body share, overlap of the globals, containment of the locals, broken constraints."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Num


def ratio_summary(ratio: Num[np.ndarray, " crops"], name: str) -> dict[str, float]:
    """`name`: mean body share; `name_p10`: its 10th percentile (linear between order statistics). Shares of voxels, in [0, 1].

    Without a crop both keys are left out.
    """
    if not ratio.size:
        return {}
    return {name: float(ratio.mean(dtype=np.float64)), f"{name}_p10": float(np.percentile(ratio.astype(np.float64), 10))}


def mean_share(shares: Num[np.ndarray, "*crops"] | Bool[np.ndarray, "*crops"], name: str) -> dict[str, float]:
    """`name`: mean of shares or of yes/no, in [0, 1]; left out without a crop.

    `global_iou`: voxels in both global crops over voxels in either. `local_containment`: largest share of a local crop
    inside either global one. `foreground_violations`: share of crops whose body share is below the one asked for, because no
    position of the scan offers it.
    """
    return {name: float(shares.mean(dtype=np.float64))} if shares.size else {}
