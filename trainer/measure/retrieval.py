"""Local-to-global retrieval: does a network know which larger crop a smaller one comes from."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Num

from trainer.measure.features import normalised

TIE = 1e-6
"""Cosine similarities this close are equal: differences of rounding between two batches are no knowledge."""


def reciprocal_ranks(locals_: Num[np.ndarray, "crops dim"], parents: Num[np.ndarray, "crops dim"]) -> Float[np.ndarray, " crops"]:
    """Reciprocal rank of each local crop's own parent among the global crops of its scan, by cosine similarity; in (0, 1].

    Row i of `parents` contains the local crop of row i. With a parents more similar than the own one and b as similar as it
    (itself included), the rank is one of a + 1 .. a + b, each as likely as the others, and the value is the expectation
    of 1 / rank: (1/b) sum_{r=a+1}^{a+b} 1/r. A constant network thus scores chance, (1/n) sum_{r=1}^{n} 1/r (.127 at n = 32), never 1.

    Source: mean reciprocal rank (Voorhees 1999, TREC-8); expectation under ties, McSherry & Najork 2008, ECIR.

    Raises:
        ValueError: No crop, or rows that do not pair up.
    """
    if locals_.shape != parents.shape or len(parents) < 1:
        raise ValueError(
            f"parents: expected one for each of {len(locals_)} local crops, of equal width, but got shape {parents.shape} against "
            f"{locals_.shape}. Pass the globals in the order of their locals."
        )
    similarity = normalised(locals_) @ normalised(parents).T
    ahead = similarity - np.diagonal(similarity)[:, None]
    better = (ahead > TIE).sum(axis=1)
    equal = (np.abs(ahead) <= TIE).sum(axis=1)
    harmonic = np.concatenate([[0.0], np.cumsum(1.0 / np.arange(1, len(parents) + 1))])
    return np.asarray((harmonic[better + equal] - harmonic[better]) / equal)
