"""Feature measures: are the pre-head features spread, and over how many directions."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Num


def normalised(features: Num[np.ndarray, "n dim"]) -> Float[np.ndarray, "n dim"]:
    """Rows of unit L2 norm, in float64; a row of zeros stays zero."""
    wide = features.astype(np.float64)
    norms = np.linalg.norm(wide, axis=1, keepdims=True)
    return np.asarray(np.divide(wide, norms, out=np.zeros_like(wide), where=norms > 0))


def feature_std(features: Num[np.ndarray, "n dim"]) -> float:
    """Spread of L2-normalised features: sqrt(dim) * mean_d std_i(z_id), population standard deviation, in [0, 1].

    1: as isotropic as can be; 0: all features equal.

    Source: Chen & He 2021, arXiv 2011.10566, Fig. 2 (std of the normalised output against 1 / sqrt(dim)).
    """
    return float(normalised(features).std(axis=0).mean() * np.sqrt(features.shape[1]))


def rankme(features: Num[np.ndarray, "n dim"]) -> float | None:
    """Effective rank exp(-sum_j p_j ln p_j), p_j = s_j / sum(s) + 1e-7, s the singular values; in [1, min(n, dim)].

    Not centred, as published: features that share one direction read near 1. None where all features are zero.

    Source: Garrido et al. 2023, arXiv 2210.02885, Eq. 1; Roy & Vetterli 2007.
    """
    singular = np.linalg.svd(features.astype(np.float64), compute_uv=False)
    total = singular.sum()
    if not total > 0:
        return None
    share = singular / total + 1e-7
    return float(np.exp(-(share * np.log(share)).sum()))


def feature_measures(features: Num[np.ndarray, "n dim"]) -> dict[str, float]:
    """`feature_std` (share of the isotropic spread, in [0, 1]) and `rankme` (directions) of n features."""
    found = {"feature_std": feature_std(features)}
    rank = rankme(features)
    if rank is not None:
        found["rankme"] = rank
    return found
