"""Features as three numbers a patch, what these numbers go with, and how they become colours."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, Float64, UInt8

FAINTEST = 0.1
"""A component whose spread is less than this share of the features' length is drawn fainter: a flat network gives a grey map, not noise."""
SPREAD = 98
"""Percentile of a component's magnitude that takes the full range of its colour."""
UNRELATED = 0.1
_COMPONENTS = 3


def principal(features: Float64[np.ndarray, "n dim"]) -> tuple[Float64[np.ndarray, "n 3"], tuple[float, float, float]]:
    """Scores on the first three principal components and their shares of the variance, in [0, 1]; 0 where nothing varies.

    Source: Pearson 1901; Hotelling 1933.
    """
    centred = features - features.mean(axis=0)
    variances, directions = np.linalg.eigh(centred.T @ centred / len(centred))
    variances = np.maximum(variances[::-1], 0.0)
    total = float(variances.sum())
    scores, shares = np.zeros((len(features), _COMPONENTS)), np.zeros(_COMPONENTS)
    if total > 0:
        known = min(_COMPONENTS, features.shape[1])
        scores[:, :known] = centred @ directions[:, ::-1][:, :known]
        shares[:known] = variances[:known] / total
    return scores, (float(shares[0]), float(shares[1]), float(shares[2]))


def explained_by(features: Float64[np.ndarray, "n dim"], one: Float64[np.ndarray, " n"]) -> float:
    """Share of the features' variance that a straight line of one value explains, in [0, 1]; 0 where nothing varies."""
    centred, one = features - features.mean(axis=0), one - one.mean()
    total, own = float(np.square(centred).sum()), float(one @ one)
    return float(np.square(one @ centred).sum()) / (own * total) if own * total > 0 else 0.0


def turned(
    scores: Float64[np.ndarray, "n 3"], references: dict[str, Float64[np.ndarray, " n"]]
) -> tuple[Float64[np.ndarray, "n 3"], tuple[str, str, str]]:
    """Scores with their signs fixed, and what each rises with: the reference that it is correlated with most strongly.

    A component's sign is arbitrary; so fixed it is the same in two runs that found the same direction.
    """
    names = list(references)
    said, found = [], scores.copy()
    for n in range(scores.shape[1]):
        r = [_correlation(scores[:, n], reference) for reference in references.values()]
        best = int(np.argmax(np.abs(r)))
        found[:, n] *= -1 if r[best] < 0 else 1
        said.append(f"rises {names[best]}, r {abs(r[best]):.2f}" if abs(r[best]) >= UNRELATED else "neither brightness nor place")
    return found, (said[0], said[1], said[2])


def _correlation(one: Float64[np.ndarray, " n"], other: Float64[np.ndarray, " n"]) -> float:
    one, other = one - one.mean(), other - other.mean()
    norm = float(np.sqrt((one @ one) * (other @ other)))
    return float(one @ other) / norm if norm > 0 else 0.0


def told_apart(score: Float64[np.ndarray, " n"], body: Bool[np.ndarray, " n"], background: Bool[np.ndarray, " n"]) -> float | None:
    """Area under the ROC curve of a score for body against background, turned to be at least one half; none where one is missing.

    Source: Mann & Whitney 1947; ties count one half.
    """
    if not body.any() or not background.any():
        return None
    others = np.sort(score[background])
    below, not_above = (np.searchsorted(others, score[body], side=side) for side in ("left", "right"))
    area = float((below + not_above).mean()) / (2 * len(others))
    return max(area, 1 - area)


def shaded(scores: Float64[np.ndarray, "n 3"], length: float) -> UInt8[np.ndarray, "n 3"]:
    """Scores as sRGB: lightness, blue to yellow, green to magenta, in a space where equal steps look equal.

    Args:
        length: Root mean square length of the features, by which faint components stay faint.

    Source: Ottosson 2020 (OKLab), bottosson.github.io/posts/oklab.
    """
    least, middle = max(FAINTEST * length, 1e-12), np.zeros(_COMPONENTS)
    low, high = np.percentile(scores[:, 0], (100 - SPREAD, SPREAD))
    reach = np.percentile(np.abs(scores), SPREAD, axis=0)
    middle[0], reach[0] = (low + high) / 2, (high - low) / 2  # most patches may be background, far from the middle
    unit = np.clip((scores - middle) / np.maximum(reach, least), -1, 1)
    lightness, yellow, magenta = 0.6 + 0.34 * unit[:, 0], 0.13 * unit[:, 1], 0.13 * unit[:, 2]
    cone = np.stack([np.ones_like(lightness) * lightness, magenta, yellow], axis=1) @ _OK_TO_CONE.T
    linear: Float[np.ndarray, "n 3"] = np.clip((cone**3) @ _CONE_TO_RGB.T, 0, 1)
    gamma = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return np.asarray((gamma * 255).round().astype(np.uint8))


_OK_TO_CONE = np.array([[1, 0.3963377774, 0.2158037573], [1, -0.1055613458, -0.0638541728], [1, -0.0894841775, -1.2914855480]])
_CONE_TO_RGB = np.array(
    [
        [4.0767416621, -3.3077115913, 0.2309699292],
        [-1.2684380046, 2.6097574011, -0.3413193965],
        [-0.0041960863, -0.7034186147, 1.7076147010],
    ]
)
