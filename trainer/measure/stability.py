"""How steadily a loss falls. Both measures read the smoothed curve: single steps are noise.

Smoothing: the mean of `window` successive losses, window = max(1, n // 10), whole windows only, so a curve of n losses has
n - window + 1 smoothed points. Steadiness is not learning: a collapsed run is a flat line at ln K and scores high.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

ROUNDING_NATS = 1e-9
"""Smaller changes of the smoothed curve are rounding and count as no change."""


def smoothed(losses: Sequence[float]) -> Float[np.ndarray, " points"]:
    """Means of every run of max(1, n // 10) successive losses.

    Raises:
        ValueError: Fewer than two losses, or one that is not finite.
    """
    values = np.asarray(losses, np.float64)
    if values.ndim != 1 or len(values) < 2 or not np.isfinite(values).all():
        raise ValueError(
            f"losses: expected at least two finite values but got {values.tolist()[:5]}. Measure stability after two good steps."
        )
    window = max(1, len(values) // 10)
    sums = np.concatenate([[0.0], np.cumsum(values)])
    return np.asarray((sums[window:] - sums[:-window]) / window)


def loss_stability(losses: Sequence[float]) -> float:
    """Share of the smoothed loss's path that is descent, in [0, 1]; 1: it never rises.

    stability = sum_t max(s_t - s_{t+1}, 0) / sum_t |s_{t+1} - s_t|, s the smoothed curve.
    A flat curve has no path and never rises: 1. A rising one: 0. Pure noise: about one half.

    Source: this project (share of total variation that is negative variation, Jordan decomposition).

    Raises:
        ValueError: Fewer than two losses, or one that is not finite.
    """
    change = np.diff(smoothed(losses))
    change = change[np.abs(change) > ROUNDING_NATS]
    path = np.abs(change).sum()
    return float(-change[change < 0].sum() / path) if path > 0 else 1.0


def loss_largest_rise(losses: Sequence[float]) -> float:
    """Largest rise of the smoothed loss above its running minimum, in nats, >= 0; 0: it never rises.

    rise = max_t (s_t - min_{u <= t} s_u), s the smoothed curve.

    Source: this project (the drawdown of finance, upside down).

    Raises:
        ValueError: Fewer than two losses, or one that is not finite.
    """
    curve = smoothed(losses)
    rise = float((curve - np.minimum.accumulate(curve)).max())
    return rise if rise > ROUNDING_NATS else 0.0
