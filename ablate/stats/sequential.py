"""What is known after several looks at the replicates, valid at every look."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from ablate.stats.effects import LEAST_PAIRS, Paired
from ablate.stats.intervals import Level, Simultaneous, consistent
from ablate.stats.looks import Looks


def repeated(
    mean: Float[np.ndarray, "*studies arms looks"], standard_error: Float[np.ndarray, "*studies arms looks"], looks: Looks, alpha: float
) -> Simultaneous:
    """Group-sequential Holm, and intervals that contain all true benefits at all looks with probability 1 - alpha or more.

    The sequential p of an arm (`Looks`) is a valid p whatever the time of stopping, so Holm over the arms bounds the chance of ever
    adopting an arm without benefit by alpha / 2, under any dependence between arms. Bounds are those of `intervals.simultaneous` with t
    bounds replaced by repeated ones (the best over the looks so far).

    Args:
        mean: Mean benefit after each look's pairs; NaN where the look did not take place.
        standard_error: Of that mean; NaN or 0 where no test is defined.

    Source: Maurer & Bretz 2013, Stat. Biopharm. Res. 5, 311-320, and Ye et al. 2013, Statist. Med. 32, 1112-1124 (group-sequential Holm);
    Jennison & Turnbull 1989, JRSS B 51, 305-361 (repeated confidence intervals).
    """
    from scipy.special import stdtr

    held = np.isfinite(mean) & np.isfinite(standard_error) & (standard_error > 0)
    error = np.where(held, standard_error, 1.0)
    average = np.where(held, mean, 0.0)
    p = np.where(held, stdtr(looks.pairs - 1, -average / error), 1.0)

    def reach(level: Level) -> Float[np.ndarray, "*studies arms looks"]:
        return np.asarray(looks.critical(np.broadcast_to(np.asarray(level, dtype=float), mean.shape[:-1])) * error)

    return consistent(
        looks.level(np.min(p / looks.weights, axis=-1)),
        lambda level: np.asarray(np.max(np.where(held, average - reach(level), -np.inf), axis=-1)),
        lambda level: np.asarray(np.min(np.where(held, average + reach(level), np.inf), axis=-1)),
        alpha,
    )


@dataclass(frozen=True)
class Course:
    """Paired benefits of one arm as they were looked at, in the order of the replicates."""

    looks: Looks
    values: Float[np.ndarray, " pairs"]
    mean: Float[np.ndarray, " looks"]
    """After each look's pairs; NaN where the look did not take place or no test is defined."""
    error: Float[np.ndarray, " looks"]

    @property
    def tested(self) -> bool:
        """Whether a test is defined at any look."""
        return bool(np.isfinite(self.error).any())

    @property
    def p(self) -> float:
        """The sequential p of "no benefit"; 1 where no test is defined."""
        from scipy.special import stdtr

        if not self.tested:
            return 1.0
        found = np.where(np.isfinite(self.error), stdtr(self.looks.pairs - 1, -self.mean / self.error), 1.0)
        return float(self.looks.level(np.min(found / self.looks.weights)))

    def low(self, level: float) -> float:
        """The repeated lower bound that fails at any look with this chance at most."""
        return float(np.nanmax(self.mean - self.looks.critical(level) * self.error))

    def high(self, level: float) -> float:
        """The same from above."""
        return float(np.nanmin(self.mean + self.looks.critical(level) * self.error))


def course(pairs: Paired, looks: Looks) -> Course:
    """The looks at an arm's pairs so far, at most `looks.at_most` of them.

    An arm that failures left with fewer pairs than the first look needs is looked at once, with what there is: decide on it only when no
    more are to come.
    """
    values = np.array([pairs.differences[r] for r in sorted(pairs.differences)][: looks.at_most], dtype=float)
    if LEAST_PAIRS <= len(values) < looks.start:
        looks = Looks(len(values), len(values))
    mean, error = np.full(len(looks.pairs), math.nan), np.full(len(looks.pairs), math.nan)
    for k, count in enumerate(range(looks.start, min(looks.at_most, len(values)) + 1)):
        seen = Paired(dict(enumerate(values[:count].tolist())), (), pairs.scale)
        if seen.testable and seen.mean is not None:
            mean[k], error[k] = seen.mean, seen.standard_error
    return Course(looks, values, mean, error)
