"""Paired effects: what an arm changes, replicate by replicate."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

LEAST_PAIRS = 3
"""Fewest common replicates from which an interval is drawn; two pairs have one degree of freedom and say nothing."""

CONSTANT = 1e-12
"""Differences that spread less than this share of the values themselves differ by rounding only."""


@dataclass(frozen=True)
class Paired:
    """Differences between two arms over their common replicates, and what had to be left out."""

    differences: Mapping[int, float]
    """Replicate to (arm - other), in the metric's unit."""
    dropped: tuple[int, ...]
    """Replicates that only one of the two has, or whose value is NaN or infinite in one."""
    scale: float
    """Largest absolute value that went into a difference."""

    @property
    def pairs(self) -> int:
        return len(self.differences)

    @property
    def mean(self) -> float | None:
        """Mean difference; none without a pair."""
        return math.fsum(self.differences.values()) / self.pairs if self.pairs else None

    @property
    def deviation(self) -> float:
        """Sample standard deviation of the differences (n - 1); NaN with fewer than two pairs."""
        if self.pairs < 2:
            return math.nan
        mean = math.fsum(self.differences.values()) / self.pairs
        return math.sqrt(math.fsum((d - mean) ** 2 for d in self.differences.values()) / (self.pairs - 1))

    @property
    def constant(self) -> bool:
        """Whether the differences do not vary at all, so that no test can say anything."""
        return self.pairs >= 2 and self.deviation <= CONSTANT * self.scale

    @property
    def testable(self) -> bool:
        """Whether a paired t-test is defined: enough pairs, and some spread."""
        return self.pairs >= LEAST_PAIRS and not self.constant

    @property
    def standard_error(self) -> float:
        """Of the mean difference."""
        return self.deviation / math.sqrt(self.pairs)

    def p_greater(self) -> float | None:
        """One-sided p of the paired t-test that the mean difference is above 0; none where the test is not defined.

        Source: Student 1908. Assumes that differences are independent over replicates and about normal.
        """
        from scipy.special import stdtr

        if not self.testable or self.mean is None:
            return None
        return float(stdtr(self.pairs - 1, -self.mean / self.standard_error))

    def p_different(self) -> float | None:
        """Two-sided p of the same test."""
        p = self.p_greater()
        return None if p is None else 2 * min(p, 1 - p)

    def interval(self, level: float) -> tuple[float, float] | None:
        """Two-sided t interval of the mean difference at this level alone (no correction); none where it is not defined."""
        from scipy.special import stdtrit

        if not self.testable or self.mean is None:
            return None
        half = float(stdtrit(self.pairs - 1, (1 + level) / 2)) * self.standard_error
        return self.mean - half, self.mean + half


def paired(arm: Mapping[int, float], other: Mapping[int, float], sign: int = 1) -> Paired:
    """Pair two arms by replicate.

    Args:
        arm: Replicate to value; NaN and infinite values count as missing.
        other: The same of the arm that it is compared with.
        sign: 1, or -1 to turn differences of a metric where less is better into benefits.
    """
    common = [r for r in sorted(arm.keys() & other.keys()) if math.isfinite(arm[r]) and math.isfinite(other[r])]
    dropped = tuple(sorted((arm.keys() | other.keys()) - set(common)))
    scale = max((max(abs(arm[r]), abs(other[r])) for r in common), default=0.0)
    return Paired({r: sign * (arm[r] - other[r]) for r in common}, dropped, scale)


def mean(values: Iterable[float]) -> float | None:
    """Mean of the finite values; none where there is none."""
    finite = sorted(v for v in values if math.isfinite(v))
    return math.fsum(finite) / len(finite) if finite else None
