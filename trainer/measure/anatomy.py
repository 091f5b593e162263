"""Do features and prototypes follow anatomy: against the majority tissue of each crop, among labelled voxels."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int, Num, UInt8

from trainer.measure.features import normalised
from trainer.measure.prototypes import entropy

NEIGHBOURS = 5
"""Votes of the nearest-neighbour classifier."""


def majority_label(labels: UInt8[np.ndarray, "d h w"]) -> int:
    """The label that most labelled voxels of a crop carry; equal counts go to the lowest; 0 where none is labelled."""
    counts = np.bincount(labels.ravel(), minlength=2)
    counts[0] = 0
    return int(counts.argmax()) if counts.any() else 0


def knn_accuracy(features: Num[np.ndarray, "n dim"], tissue: Int[np.ndarray, " n"], scan: Int[np.ndarray, " n"]) -> float | None:
    """Share of crops whose tissue the 5 most similar crops (cosine) of *other scans* vote for, in [0, 1].

    With one scan only, of other crops. Equal votes go to the tissue with the greater sum of similarities, then to the lowest label.
    None with fewer than two crops or tissues: then there is nothing to tell apart. Chance is the share of the commonest tissue.

    Source: the k-NN probe of Wu et al. 2018, arXiv 1805.01978, with plain votes.
    """
    if len(np.unique(tissue)) < 2:
        return None
    unit = normalised(features)
    similarity = unit @ unit.T
    barred = scan[:, None] == scan[None, :] if len(np.unique(scan)) > 1 else np.eye(len(scan), dtype=bool)
    similarity[barred] = -np.inf
    hits = 0
    for own, row in zip(tissue, similarity, strict=True):
        nearest = np.argsort(-row, kind="stable")[:NEIGHBOURS]
        nearest = nearest[np.isfinite(row[nearest])]
        votes: dict[int, tuple[int, float]] = {}
        for i in nearest:
            count, total = votes.get(int(tissue[i]), (0, 0.0))
            votes[int(tissue[i])] = (count + 1, total + float(row[i]))
        hits += int(min(votes, key=lambda label: (-votes[label][0], -votes[label][1], label)) == own)
    return hits / len(tissue)


def anatomy_nmi(prototype: Int[np.ndarray, " n"], tissue: Int[np.ndarray, " n"]) -> float | None:
    """Normalised mutual information of each crop's first-choice prototype and its tissue, in [0, 1].

    NMI = 2 I(k; t) / (H(k) + H(t)), from counts, natural logarithms; 0 where all crops choose one prototype. None with fewer than
    two tissues. Biased upwards where prototypes are many and crops few, and blind to how sure the choice is: read it
    against the untrained network and beside `anatomy_information`.

    Source: Strehl & Ghosh 2002, JMLR 3, with the arithmetic mean.
    """
    if len(np.unique(tissue)) < 2:
        return None
    joint = _joint(np.eye(int(prototype.max()) + 1)[prototype], tissue)
    h_prototype, h_tissue = float(entropy(joint.sum(axis=0))), float(entropy(joint.sum(axis=1)))
    information = max(h_prototype + h_tissue - float(entropy(joint.ravel())), 0.0)
    return 2 * information / (h_prototype + h_tissue)


def anatomy_information(probs: Num[np.ndarray, "n prototypes"], tissue: Int[np.ndarray, " n"]) -> float | None:
    """What a prototype drawn from a crop's distribution says about its tissue, in nats, in [0, min(H(tissue), ln K)].

    I(k; t) = H(mean_i p_i) - sum_t (n_t / n) H(mean of p_i over crops of tissue t). Unlike the NMI of first choices it is 0 for
    uniform outputs. None with fewer than two tissues.

    Source: this project (mutual information of soft assignments and labels).
    """
    if len(np.unique(tissue)) < 2:
        return None
    joint = _joint(probs.astype(np.float64), tissue)
    share = joint.sum(axis=1)
    within = (share * entropy(joint / share[:, None])).sum()
    return float(max(entropy(joint.sum(axis=0)) - within, 0.0))


def _joint(assignment: Float[np.ndarray, "n prototypes"], tissue: Int[np.ndarray, " n"]) -> Float[np.ndarray, "tissues prototypes"]:
    return np.stack([assignment[tissue == t].sum(axis=0) for t in np.unique(tissue)]) / len(tissue)
