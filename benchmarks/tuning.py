"""What a tuning phase finds for the same training steps: few points with many replicates, or more points with few.

    PYTHONPATH=. python benchmarks/tuning.py [STUDIES]

Thresholds of two planted surfaces are tuned as `ablate` does it: points proposed by the sampler from what was measured before, a surrogate,
the recommended point. The noise of a trial is the one that `studies/collapse.yaml` showed (docs/LOG.md): .016 about the level of its
replicate, with a smallest effect of .02. Replicates share a level (.025), as paired ones do. Seeds are fixed.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from ablate.proposals import Told, Tuner
from ablate.stats.operating_range import Measured, Threshold, operating_range
from ablate.study import Phase
from benchmarks.side import machine

SMALLEST, NOISE, LEVEL = 0.02, 0.016, 0.025
DESIGNS = ((6, 4), (16, 1), (12, 2), (16, 2), (24, 2), (12, 4))
"""Points, and replicates of each. A study allows no fewer than two."""

Surface = Callable[[float, float], float]


def flat(hu: float, ratio: float) -> float:
    """Two smallest effects from end to end: what `collapse.yaml` looks like."""
    return 0.48 - 0.1 * max(0.0, ratio - 0.5) - 0.01 * abs(hu + 300) / 400


def plateau(hu: float, ratio: float) -> float:
    """As good as the best over half of each range, then a slope of several smallest effects."""
    away = max(0.0, abs(hu + 450) - 250) / 1000 + max(0.0, abs(ratio - 0.42) - 0.18)
    return 0.48 - 0.25 * away


def cliff(hu: float, ratio: float) -> float:
    """A ridge along the ratio that ends in a cliff above .6: collapse."""
    return 0.30 if ratio > 0.6 else 0.48 - 0.12 * ((hu + 300) / 500) ** 2 - 0.2 * max(0.0, 0.4 - ratio)


SURFACES: dict[str, Surface] = {"flat": flat, "plateau": plateau, "cliff": cliff}


def whole(surface: Surface) -> Float[np.ndarray, " settings"]:
    """Of the whole range, on a fine grid."""
    return np.array([surface(float(hu), float(ratio)) for hu in np.linspace(-700, 300, 101) for ratio in np.linspace(0.2, 0.9, 71)])


@dataclass(frozen=True)
class Found:
    """What one tuning phase said, beside the truth; in smallest effects."""

    lacking: float
    """True objective of the best setting minus that of the recommended one."""
    share: float
    """Of the ranges that it calls as good as the best."""
    off: float
    """Predicted minus true objective of the recommended setting, in the deviations that it states: about 1, or it is too sure of itself."""


def tuned(surface: Surface, points: int, replicates: int, seed: int) -> Found | None:
    """One tuning phase; none: it gives no operating range."""
    document = {
        "name": "thresholds",
        "design": {"tune": points, "sampler": "tpe", "seed": seed},
        "factors": {"hu": {"low": -700, "high": 300}, "ratio": {"low": 0.2, "high": 0.9}},
    }
    tuner = Tuner(Phase.model_validate(document), {}, None, "maximize")
    draw = np.random.default_rng([seed, points, replicates])
    level = LEVEL * draw.standard_normal(replicates)
    told: list[Told] = []
    measured: list[Measured] = []
    while len(told) < points:
        for levels in tuner.propose(told, min(4, points - len(told))):
            at = {name: float(levels[name]) for name in ("hu", "ratio")}  # type: ignore[arg-type]  # a range gives numbers
            values = surface(at["hu"], at["ratio"]) + level + NOISE * draw.standard_normal(replicates)
            told.append(Told(levels, float(values.mean()), True))
            measured.append(Measured(at, dict(enumerate(values.tolist())), True))
    found = operating_range([Threshold("hu", -700, 300), Threshold("ratio", 0.2, 0.9)], measured, SMALLEST)
    if found.recommended is None or found.predicted is None or found.deviation is None:
        return None
    truth = surface(found.recommended["hu"], found.recommended["ratio"])
    off = (found.predicted - float(level.mean()) - truth) / found.deviation
    return Found((float(whole(surface).max()) - truth) / SMALLEST, found.share, off)


def main(studies: int) -> None:
    """Print the table."""
    print(f"{studies} phases each. {machine()}")
    print("Lacking: true objective of the best setting minus that of the recommended one, in smallest effects. Off: root mean square of")
    print("(predicted - true) at the recommended setting, in the deviations that are stated.\n")
    print(
        "| surface | points x replicates | trials | lacking: mean | in 90 % at most | as good as the best, said (true) | off | no range |"
    )
    print("|" + " --- |" * 8)
    for name, surface in SURFACES.items():
        every = whole(surface)
        good = float((every >= every.max() - SMALLEST).mean())
        for points, replicates in DESIGNS:
            tried = [tuned(surface, points, replicates, seed) for seed in range(studies)]
            found = [one for one in tried if one is not None]
            lacking = np.array([one.lacking for one in found])
            off = math.sqrt(sum(one.off**2 for one in found) / len(found))
            print(
                f"| {name} | {points} x {replicates} | {points * replicates} | {lacking.mean():.2f} | {np.quantile(lacking, 0.9):.2f} "
                f"| {sum(one.share for one in found) / len(found):.0%} ({good:.0%}) | {off:.1f} | {1 - len(found) / studies:.0%} |",
                flush=True,
            )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 100)
