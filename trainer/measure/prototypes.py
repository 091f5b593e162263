"""Prototype measures: entropies, mutual information and usage of the distributions over prototypes.

Notation: p_i is the distribution of crop i over K prototypes, n the number of crops, H(p) = -sum_k p_k ln p_k in nats.
Mean entropy alone misleads: a network that ignores its input may have H high (uniform) or low (one prototype), and crops of air
pull the mean wherever they go. Hence the split by foreground, the marginal and the mutual information.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from jaxtyping import Bool, Float, Num

from trainer.measure.features import normalised

NEAR_DUPLICATE = 0.975
"""Cosine from which two prototypes count as one."""
PROTOTYPES_LOOKED_AT = 4096
"""Of more prototypes, as many at equal distances are compared: all pairs of 65536 would take longer than the step."""


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

    Foreground crops have ratio >= `rich_ratio`, background crops ratio <= `background_ratio`, mixed ones lie between.

    - `prototype_entropy`: mean_i H(p_i) / ln K, share of ln K in [0, 1].
    - `marginal_entropy`: H(mean_i p_i) / ln K over all crops, in [0, 1]; near 0 means one prototype for everything.
    - `mutual_information` of all crops: nats, in [0, ln min(K, n)].
    - `prototype_usage`: distinct argmax_k p_i / min(K, n), in (0, 1].
    - `prototype_perplexity`: exp H(mean_i p_i), the effective number of prototypes, in [1, K].
    - `marginal_spread`: H(mean_i p_i) / ln min(K, n), at most 1: few crops cannot fill many prototypes; needs two crops.
    - the keys of `group_measures` for `foreground`, `mixed` and `background`.

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
    marginal = float(entropy(probs.mean(axis=0, dtype=np.float64)))
    found = {
        "prototype_entropy": float(entropy(probs).mean() / ln_k),
        "marginal_entropy": marginal / ln_k,
        "prototype_usage": len(np.unique(probs.argmax(axis=1))) / min(prototypes, n),
        "prototype_perplexity": float(np.exp(marginal)),
    }
    if n > 1:
        found["mutual_information"] = mutual_information(probs)
        found["marginal_spread"] = min(marginal / float(np.log(min(prototypes, n))), 1.0)
    rich, bare = ratio >= rich_ratio, ratio <= background_ratio
    return found | group_measures(probs, {"foreground": rich, "mixed": ~rich & ~bare, "background": bare})


def group_measures(probs: Num[np.ndarray, "n prototypes"], groups: Mapping[str, Bool[np.ndarray, " n"]]) -> dict[str, float]:
    """The conditional entropy and the mutual information within each group of crops.

    - `prototype_entropy_<group>`: mean H(p_i) / ln K, in [0, 1]; left out where the group is empty.
    - `<group>_mutual_information`: nats, in [0, ln min(K, n)]; `<group>_information_share`: the same over ln min(K, n), the most it
      could be, in [0, 1], by which groups of different size compare. Left out where the group has fewer than two crops.
    """
    ln_k = float(np.log(probs.shape[1]))
    found = {}
    for name, group in groups.items():
        size = int(group.sum())
        if size:
            found[f"prototype_entropy_{name}"] = float(entropy(probs[group]).mean() / ln_k)
        if size > 1:
            information = mutual_information(probs[group])
            found[f"{name}_mutual_information"] = information
            found[f"{name}_information_share"] = information / float(np.log(min(probs.shape[1], size)))
    return found


def uniformity(conditional_nats: float, prototypes: int, columns: float) -> float | None:
    """How far outputs are on the way from the sharpest that Sinkhorn-Knopp allows (0) to uniform (1).

    u = (H - f) / (ln K - f), f = ln max(1, K / B): with B columns no target can have less than f nats. Below 0 where outputs are
    sharper than any target. None where B = 1: then nothing but uniform targets is possible.

    Args:
        conditional_nats: H, the mean entropy of the crops' distributions.
        prototypes: K.
        columns: B, the crops that are balanced together; infinite without Sinkhorn-Knopp.

    Source: EVIDENCE sections 1 and 3 (each column of the transport plan has mass 1/B, each row 1/K).
    """
    floor = float(np.log(max(1.0, prototypes / columns)))
    room = float(np.log(prototypes)) - floor
    return (conditional_nats - floor) / room if room > 0 else None


def kl_divergence(teacher: Num[np.ndarray, "n prototypes"], student: Num[np.ndarray, "n prototypes"]) -> Float[np.ndarray, " n"]:
    """KL(teacher || student) = sum_k t_k (ln t_k - ln s_k) of each row, in nats, >= 0 (Kullback & Leibler 1951); 0 ln 0 = 0.

    Args:
        student: Positive wherever the teacher is; a softmax is, but for underflow, where 1e-300 stands in.
    """
    t, s = teacher.astype(np.float64), np.maximum(student.astype(np.float64), 1e-300)
    logs = np.log(t, out=np.zeros_like(t), where=t > 0)
    return np.asarray(np.maximum((t * (logs - np.log(s))).sum(axis=1), 0.0))


def distinct_prototypes(prototypes: Num[np.ndarray, "prototypes dim"]) -> int:
    """How many prototypes there are when near-duplicates (cosine >= .975) count once; in [1, min(K, 4096)].

    One after the other, a prototype counts where no counted one is near. Of more than 4096 as many at equal distances are looked at.

    Source: Govindarajan et al. 2024, arXiv 2410.14060 (partial prototype collapse; unique prototypes at a cosine distance of .025).
    """
    count = len(prototypes)
    looked_at = prototypes if count <= PROTOTYPES_LOOKED_AT else prototypes[np.arange(PROTOTYPES_LOOKED_AT) * count // PROTOTYPES_LOOKED_AT]
    unit = normalised(looked_at).astype(np.float32)
    near = unit @ unit.T >= NEAR_DUPLICATE
    counted = np.zeros(len(unit), dtype=bool)
    for n, row in enumerate(near):
        counted[n] = not (row & counted).any()
    return int(counted.sum())


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
