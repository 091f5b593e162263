"""How much noise common random numbers removed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from ablate.stats.effects import CONSTANT, LEAST_PAIRS


@dataclass(frozen=True)
class Pairing:
    """The spread of (arm - baseline) with pairs, beside the one that two independent groups would have."""

    paired_variance: float
    """Of one paired difference."""
    unpaired_variance: float
    """Sum of the two arms' variances."""
    correlation: float
    """2 x covariance over that sum: what `power.noise_floor` takes."""
    pairs: int

    @property
    def removed(self) -> float:
        """Share of the variance that pairing took away; below 0 where it added some."""
        return self.correlation

    @property
    def replicates_saved(self) -> float:
        """Unpaired replicates that one paired replicate is worth."""
        return math.inf if self.paired_variance == 0 else self.unpaired_variance / self.paired_variance


def removed(arm: Mapping[int, float], other: Mapping[int, float]) -> Pairing | None:
    """Over the common replicates with finite values.

    Returns:
        None with fewer than 3 pairs, or where neither arm varies. With few pairs the figure is rough: it describes, it decides nothing.

    Source: var(x - y) = var(x) + var(y) - 2 cov(x, y); Law 2015, Simulation Modeling and Analysis, section 11.2 (common random numbers).
    """
    common = sorted(r for r in arm.keys() & other.keys() if math.isfinite(arm[r]) and math.isfinite(other[r]))
    if len(common) < LEAST_PAIRS:
        return None
    unpaired = _variance([arm[r] for r in common]) + _variance([other[r] for r in common])
    scale = max(max(abs(arm[r]), abs(other[r])) for r in common)
    if unpaired <= (CONSTANT * scale) ** 2:  # rounding only
        return None
    paired = _variance([arm[r] - other[r] for r in common])
    return Pairing(paired, unpaired, 1 - paired / unpaired, len(common))


def _variance(values: list[float]) -> float:
    mean = math.fsum(values) / len(values)
    return math.fsum((v - mean) ** 2 for v in values) / (len(values) - 1)
