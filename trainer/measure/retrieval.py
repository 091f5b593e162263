"""Local-to-global retrieval: does a network know which larger crop a smaller one comes from."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Float32, Num

from trainer.measure.features import normalised

TIE = 1e-6
"""Cosine similarities this close are equal: differences of rounding between two batches are no knowledge."""
SCALE, SHIFT, NOISE = 0.1, 0.02, 0.03
"""Standard deviations by which both views of retrieval are changed, in the window's unit; no setting, so that no arm can move them."""


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


def fresh_views(images: Float32[np.ndarray, "n 1 d h w"], rng: np.random.Generator) -> Float32[np.ndarray, "n 1 d h w"]:
    """x * (1 + scale) + shift + noise, each crop on its own: the scanner's noise inside a local crop is also inside its parent, so
    without new noise a network could match noise instead of anatomy.

    Args:
        images: Windowed; left as they are.
        rng: One named stream a call.
    """
    count = len(images)
    scale = 1 + SCALE * rng.standard_normal((count, 1, 1, 1, 1))
    shift = SHIFT * rng.standard_normal((count, 1, 1, 1, 1))
    rng.random((count, 3))  # mirrors, drawn and never used: what earlier studies measured stays comparable
    changed = images * scale.astype(np.float32)
    changed += shift.astype(np.float32)
    changed += np.float32(NOISE) * rng.standard_normal(images.shape, dtype=np.float32)
    return np.asarray(changed)
