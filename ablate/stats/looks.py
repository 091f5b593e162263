"""The exact error rate of a t-test that is looked at after every replicate."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from ablate.stats.effects import LEAST_PAIRS

GROWTH = 3.0
"""How fast the weight of a look grows with its pairs. 0 stops a little earlier and loses power (.43 against .58 for an effect of 1.5
standard deviations, 8 arms, looks 3 to 8); more than 3 costs runs and gains little (`python benchmarks/sequential.py growth`)."""

_LEAST, _MOST, _KNOTS = 1e-8, 0.5, 49
_RADII, _NODES, _CROWDED = 241, 24, 3


@dataclass(frozen=True)
class Looks:
    """Looks at the paired t-test of an arm with `start`, `start` + 1, ... `at_most` pairs, stated before the first.

    A look with n pairs may reject where its p is at most x * weight(n); `level(x)` is the exact chance that any look does so although there
    is no benefit. The larger x, the larger every look's share: so an arm that is rejected at one level is rejected at every larger one,
    which lets Holm be applied to `level(min over looks of p / weight)`, the sequential p. A look that is left out costs nothing but power.

    Assumption: differences are independent over replicates and normal with one unknown spread. Then the process of t has no unknown in it:
    with R_n = sum / sqrt(sum of squares) of n differences, R_(n+1) = R_n cos(u) + sin(u), with u independent of R_n and of density in
    proportion to cos(u)^(n - 1). It is integrated backwards over R, without simulation.

    Source: Jennison & Turnbull 1991, Biometrika 78, 133-141 (exact sequential t-tests); Liu & Anderson 2008, JASA 103, 1621-1630
    (sequential p). Departs: weights on p in place of a spending function, so that the family of boundaries is nested by construction.
    """

    start: int
    at_most: int

    def __post_init__(self) -> None:
        if not LEAST_PAIRS <= self.start <= self.at_most:
            raise ValueError(
                f"looks: expected {LEAST_PAIRS} <= start <= at_most but got start {self.start}, at_most {self.at_most}. "
                f"A t-test on fewer than {LEAST_PAIRS} pairs says nothing."
            )

    @property
    def pairs(self) -> Float[np.ndarray, " looks"]:
        """Pairs at each look."""
        return np.arange(self.start, self.at_most + 1, dtype=float)

    @property
    def weights(self) -> Float[np.ndarray, " looks"]:
        """Of each look; the last has 1."""
        return np.asarray((self.pairs / self.at_most) ** GROWTH)

    def level(self, scale: Float[np.ndarray, "..."] | float) -> Float[np.ndarray, "..."]:
        """Chance that any look has p <= scale * weight without benefit; 1 for a scale of 1 and more."""
        scales, levels = _table(self.start, self.at_most)
        inside = np.clip(np.asarray(scale, dtype=float), _LEAST, 1.0)
        found = np.exp(np.interp(np.log(inside), scales, levels)) * np.minimum(1.0, np.asarray(scale) / inside)
        return np.where(np.asarray(scale) >= 1, 1.0, np.minimum(1.0, found))

    def nominal(self, level: Float[np.ndarray, "..."] | float) -> Float[np.ndarray, "... looks"]:
        """One-sided p at or below which each look rejects, so that all looks together err with this chance at most."""
        scales, levels = _table(self.start, self.at_most)
        inside = np.clip(np.asarray(level, dtype=float), np.exp(levels[0]), np.exp(levels[-2]))
        scale = np.exp(np.interp(np.log(inside), levels, scales)) * np.minimum(1.0, np.asarray(level) / inside)
        return np.asarray(scale[..., None] * self.weights)

    def critical(self, level: Float[np.ndarray, "..."] | float) -> Float[np.ndarray, "... looks"]:
        """The same as t values: a look rejects where mean / standard error is at or above."""
        from scipy.special import stdtrit

        return np.asarray(-stdtrit(self.pairs - 1, self.nominal(level)))

    def spent(self, level: float) -> Float[np.ndarray, " looks"]:
        """Chance of a wrong rejection up to and with each look, at this level in all."""
        nominal = self.nominal(level)
        return np.array([_any_crossing(self.start, tuple(nominal[: k + 1])) for k in range(len(nominal))])


@functools.lru_cache(maxsize=32)
def _table(start: int, at_most: int) -> tuple[Float[np.ndarray, " knots"], Float[np.ndarray, " knots"]]:
    """Logarithms of scales, and of the levels that belong to them, both rising; the last of each is 0.

    The curve is nearly straight, so that a straight line between two knots errs less than the integral itself does (its grid makes levels
    too large, which is the safe side: by .3 % at .01, at most 3 % at 1e-8). SciPy's splines would cost whoever plans a study a quarter of
    a second of import.
    """
    weights = Looks(start, at_most).weights
    scales = np.geomspace(_LEAST, _MOST, _KNOTS)
    levels = [_any_crossing(start, tuple(scale * weights)) for scale in scales]
    return np.append(np.log(scales), 0.0), np.append(np.log(levels), 0.0)


def _any_crossing(start: int, nominal: tuple[float, ...]) -> float:
    """Chance that the p of any look is at or below its nominal one, without benefit."""
    from scipy.special import stdtrit

    looks = [(start + k, p, float(-stdtrit(start + k - 1, p))) for k, p in enumerate(nominal)]
    bounds = [t * np.sqrt(n / (n - 1 + t * t)) for n, _, t in looks]
    tops = [float(np.arcsin(min(1.0, bound / np.sqrt(n)))) for (n, _, _), bound in zip(looks, bounds, strict=True)]
    # Who is to cross at a later look stands just below the bound of this one: there the grid is dense.
    crowded = np.linspace(1.0, 0.0, _RADII) ** _CROWDED
    later: Callable[[Float[np.ndarray, "..."]], Float[np.ndarray, "..."]] = np.zeros_like
    for (n, _, _), top, bound in zip(reversed(looks[:-1]), reversed(tops[:-1]), reversed(bounds[1:]), strict=True):
        radii = np.sqrt(n) * np.sin(top - (top + np.pi / 2) * crowded)
        later = _interpolated(radii, _crossing_next(n, radii, bound, later))
    n, p, _ = looks[0]
    reach = tops[0] + np.pi / 2
    nodes, weights = _on_interval(np.zeros(1), np.ones(1), 4 * _NODES)
    angles = tops[0] - reach * nodes**_CROWDED
    density = np.cos(angles) ** (n - 2) / _mass(n - 2) * reach * _CROWDED * nodes ** (_CROWDED - 1)
    return float(p + np.sum(weights * density * later(np.sqrt(n) * np.sin(angles))))


def _crossing_next(
    n: int, radii: Float[np.ndarray, " radii"], bound: float, later: Callable[[Float[np.ndarray, "..."]], Float[np.ndarray, "..."]]
) -> Float[np.ndarray, " radii"]:
    """Chance of a crossing at the look with n + 1 pairs or after it, from each R at n pairs."""
    from scipy.special import stdtr

    def below(angle: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
        return np.asarray(stdtr(n, np.sqrt(n) * np.tan(np.clip(angle, -np.pi / 2 + 1e-12, np.pi / 2 - 1e-12))))

    reach, turn = np.sqrt(1 + radii**2), np.arctan(radii)
    rise = np.arcsin(np.clip(bound / reach, -1, 1))
    enter, leave = (np.clip(edge, -np.pi / 2, np.pi / 2) for edge in (rise - turn, np.pi - rise - turn))
    found = np.maximum(0.0, below(leave) - below(enter))
    for low, high in ((np.full_like(enter, -np.pi / 2), enter), (leave, np.full_like(leave, np.pi / 2))):
        nodes, weights = _on_interval(low, high, _NODES)
        density = np.cos(nodes) ** (n - 1) / _mass(n - 1)
        found = found + np.sum(weights * density * later(reach[:, None] * np.sin(nodes + turn[:, None])), axis=-1)
    return np.asarray(found)


def _interpolated(
    at: Float[np.ndarray, " n"], values: Float[np.ndarray, " n"]
) -> Callable[[Float[np.ndarray, "..."]], Float[np.ndarray, "..."]]:
    return lambda where: np.asarray(np.interp(where, at, values))


def _on_interval(
    low: Float[np.ndarray, " n"], high: Float[np.ndarray, " n"], count: int
) -> tuple[Float[np.ndarray, "n nodes"], Float[np.ndarray, "n nodes"]]:
    """Gauss-Legendre nodes and weights on intervals."""
    nodes, weights = _legendre(count)
    half = (high - low)[:, None] / 2
    return (low + high)[:, None] / 2 + half * nodes, half * weights


_legendre = functools.lru_cache(maxsize=4)(np.polynomial.legendre.leggauss)


def _mass(power: int) -> float:
    """Integral of cos^power over half a turn."""
    from scipy.special import beta

    return float(beta((power + 1) / 2, 0.5))
