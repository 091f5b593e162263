"""Feature measures: are the pre-head features spread, and over how many directions."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int, Num

WITHIN_REGULAR = 1e-4
"""Added to the within-class scatter, as a share of its mean diagonal, so that it can be inverted."""


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
    return _effective_rank(np.linalg.svd(features.astype(np.float64), compute_uv=False))


def lidar(features: Num[np.ndarray, "n dim"], classes: Int[np.ndarray, " n"]) -> float | None:
    """Effective rank of what tells classes apart, in [1, classes - 1]: directions that differ within a class count for nothing.

    exp(-sum_j p_j ln p_j), p_j = l_j / sum(l) + 1e-7, l the eigenvalues of Sw^-1/2 Sb Sw^-1/2; Sb the scatter of class means, each
    class counted once, Sw the mean scatter within a class. With scans as classes: how many directions tell patients apart, beyond
    what differs between two crops of one. None with fewer than two classes of two crops each, or where all features are equal.

    Source: Thilak et al. 2024 (LiDAR), arXiv 2312.04000, Eqs. 1-4. Departs: delta is relative (1e-4 of Sw's mean diagonal), so the
    scale of features does not matter; crops alone in their class are left out.
    """
    names, of, counts = np.unique(classes, return_inverse=True, return_counts=True)
    several = counts[of] > 1
    wide, names, of = features[several].astype(np.float64), *np.unique(of[several], return_inverse=True)
    if len(names) < 2:
        return None
    means = np.stack([wide[of == c].mean(axis=0) for c in range(len(names))])
    within = wide - means[of]
    scatter = within.T @ within / len(wide)
    between = (means - means.mean(axis=0)) / np.sqrt(len(names))
    scale = float(np.trace(scatter)) / len(scatter)
    if not scale > 0 or not between.any():
        return None
    scatter[np.diag_indices_from(scatter)] += WITHIN_REGULAR * scale
    # Sw^-1/2 B^T B Sw^-1/2 and B Sw^-1 B^T have the same eigenvalues but for zeros; the second is classes x classes.
    values = np.linalg.eigvalsh(between @ np.linalg.solve(scatter, between.T))
    return _effective_rank(np.maximum(values, 0.0))


def feature_measures(features: Num[np.ndarray, "n dim"], scans: Int[np.ndarray, " n"]) -> dict[str, float]:
    """`feature_std` (share of the isotropic spread, in [0, 1]), `rankme` and `lidar` (directions; classes are scans) of n features."""
    found = {"feature_std": feature_std(features), "rankme": rankme(features), "lidar": lidar(features, scans)}
    return {name: value for name, value in found.items() if value is not None}


def _effective_rank(values: Float[np.ndarray, " directions"]) -> float | None:
    total = values.sum()
    if not total > 0:
        return None
    share = values / total + 1e-7
    return float(np.exp(-(share * np.log(share)).sum()))
