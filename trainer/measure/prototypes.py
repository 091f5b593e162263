"""Prototype measures: entropies, mutual information and usage of the distributions over prototypes.

Notation: p_i is the distribution of crop i over K prototypes, n the number of crops, H(p) = -sum_k p_k ln p_k in nats.
Mean entropy alone misleads: a network that ignores its input may have H high (uniform) or low (one prototype), and crops of air
pull the mean wherever they go. Hence the split by foreground, the marginal and the mutual information.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Num


def softmax(logits: Num[np.ndarray, "n prototypes"], temperature: float) -> Float[np.ndarray, "n prototypes"]:
    """Plain softmax of logits / temperature in float64; no Sinkhorn, no centre. Rows sum to 1."""
    scaled = logits.astype(np.float64) / temperature
    scaled -= scaled.max(axis=1, keepdims=True)
    np.exp(scaled, out=scaled)
    scaled /= scaled.sum(axis=1, keepdims=True)
    return scaled


def entropy(probs: Num[np.ndarray, "*batch prototypes"]) -> Float[np.ndarray, "*batch"]:
    """H(p) = -sum_k p_k ln p_k along the last axis, in nats, in [0, ln K]; 0 ln 0 = 0 (Shannon 1948)."""
    wide = probs.astype(np.float64)
    logs = np.log(wide, out=np.zeros_like(wide), where=wide > 0)
    return np.asarray(np.maximum(-(wide * logs).sum(axis=-1), 0.0))


def mutual_information(probs: Num[np.ndarray, "n prototypes"]) -> float:
    """Information that a prototype carries about which crop it came from, in nats.

    MI = H(mean_i p_i) - mean_i H(p_i), in [0, min(ln K, ln n)]: the Jensen-Shannon divergence of the crops' distributions.
    0: every crop has the same distribution. It cannot tell anatomy from noise: a random network may have plenty.

    Source: Bridle et al. 1991 (unsupervised classifiers, mutual information); Lin 1991 (Jensen-Shannon divergence).
    """
    return float(max(entropy(probs.mean(axis=0, dtype=np.float64)) - entropy(probs).mean(), 0.0))


def prototype_measures(
    probs: Num[np.ndarray, "n prototypes"],
    ratio: Num[np.ndarray, " n"],
    rich_ratio: float,
    background_ratio: float,
) -> dict[str, float]:
    """Prototype measures of n crops, split by the body share of each.

    Foreground crops have ratio >= `rich_ratio`, background crops ratio <= `background_ratio`; the rest are in neither group.

    - `prototype_entropy`: mean_i H(p_i) / ln K, share of ln K in [0, 1]; `_foreground`, `_background`: over that group.
    - `marginal_entropy`: H(mean_i p_i) / ln K over all crops, in [0, 1]; near 0 means one prototype for everything.
    - `mutual_information` of all crops and `foreground_`, `background_mutual_information` of a group: nats, in [0, ln min(K, n)].
    - `foreground_information_share`: the foreground's over ln min(K, n), the most it could be; in [0, 1].
    - `prototype_usage`: distinct argmax_k p_i / min(K, n), in (0, 1].
    - `prototype_perplexity`: exp H(mean_i p_i), the effective number of prototypes, in [1, K].
    - `marginal_spread`: H(mean_i p_i) / ln min(K, n), at most 1: few crops cannot fill many prototypes; needs two crops.

    A group without crops leaves its entropy out; mutual information needs two crops.

    Args:
        probs: Rows sum to 1. K >= 2.
        ratio: Body share of each crop, in [0, 1].

    Source: EVIDENCE section 3; entropies of the marginal and the conditional as in Assran et al. 2022, arXiv 2204.07141.

    Raises:
        ValueError: No crop, one prototype, ratios that do not match, or rows that are no distributions.
    """
    _check(probs, ratio)
    n, prototypes = probs.shape
    ln_k = float(np.log(prototypes))
    each = entropy(probs)
    marginal = float(entropy(probs.mean(axis=0, dtype=np.float64)))
    found = {
        "prototype_entropy": float(each.mean() / ln_k),
        "marginal_entropy": marginal / ln_k,
        "prototype_usage": len(np.unique(probs.argmax(axis=1))) / min(prototypes, n),
        "prototype_perplexity": float(np.exp(marginal)),
    }
    if n > 1:
        found["mutual_information"] = mutual_information(probs)
        found["marginal_spread"] = min(marginal / float(np.log(min(prototypes, n))), 1.0)
    for name, group in (("foreground", ratio >= rich_ratio), ("background", ratio <= background_ratio)):
        size = int(group.sum())
        if size:
            found[f"prototype_entropy_{name}"] = float(each[group].mean() / ln_k)
        if size > 1:
            found[f"{name}_mutual_information"] = mutual_information(probs[group])
    rich = int((ratio >= rich_ratio).sum())
    if rich > 1:
        found["foreground_information_share"] = found["foreground_mutual_information"] / float(np.log(min(prototypes, rich)))
    return found


def _check(probs: Num[np.ndarray, "n prototypes"], ratio: Num[np.ndarray, " n"]) -> None:
    if probs.ndim != 2 or probs.shape[0] < 1 or probs.shape[1] < 2:
        raise ValueError(f"probs: expected at least one crop and two prototypes but got shape {probs.shape}. Pass one row for each crop.")
    if ratio.shape != probs.shape[:1]:
        raise ValueError(f"ratio: expected {probs.shape[0]} body shares but got shape {ratio.shape}. Pass one for each row of probs.")
    totals = probs.sum(axis=1, dtype=np.float64)
    if not np.all(np.abs(totals - 1) < 1e-3) or probs.min() < 0:
        raise ValueError(
            f"probs: expected non-negative rows that sum to 1 but got sums from {totals.min():.4g} to {totals.max():.4g}. "
            "Pass probabilities, not logits (see softmax)."
        )
