"""What a tuning phase finds for the same training steps: few points with many replicates, or more points with few.

    PYTHONPATH=. python benchmarks/tuning.py [STUDIES]

Thresholds of two planted surfaces are tuned as `ablate` does it: points proposed by the sampler from what was measured before, a surrogate,
the recommended point. The noise of a trial is the one that `studies/collapse.yaml` showed (docs/LOG.md): .016 about the level of its
replicate, with a smallest effect of .02. Replicates share a level (.025), as paired ones do. Seeds are fixed.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import numpy as np

from ablate.proposals import Told, Tuner
from ablate.stats.operating_range import Measured, Threshold, operating_range
from ablate.study import Phase
from benchmarks.side import machine

SMALLEST, NOISE, LEVEL = 0.02, 0.016, 0.025
DESIGNS = ((6, 4), (12, 1), (12, 2), (12, 4), (16, 1), (24, 1), (24, 2), (48, 1))
"""Points, and replicates of each."""

Surface = Callable[[float, float], float]


def plateau(hu: float, ratio: float) -> float:
    """As good as the best over half of each range, then a slope: what `collapse.yaml` looks like."""
    away = max(0.0, abs(hu + 450) - 250) / 1000 + max(0.0, abs(ratio - 0.42) - 0.18)
    return 0.48 - 0.25 * away


def cliff(hu: float, ratio: float) -> float:
    """A ridge along the ratio that ends in a cliff above .6: collapse."""
    return 0.30 if ratio > 0.6 else 0.48 - 0.12 * ((hu + 300) / 500) ** 2 - 0.2 * max(0.0, 0.4 - ratio)


SURFACES: dict[str, Surface] = {"plateau": plateau, "cliff": cliff}


def best(surface: Surface) -> float:
    """Of the whole range, on a fine grid."""
    return max(surface(float(hu), float(ratio)) for hu in np.linspace(-700, 300, 101) for ratio in np.linspace(0.2, 0.9, 71))


def tuned(surface: Surface, points: int, replicates: int, seed: int) -> tuple[float, float] | None:
    """One tuning phase: how much the recommended point lacks to the best, and the share of the stated spans' corners that lack more than
    the smallest effect; none: there is no operating range."""
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
            at = {name: float(levels[name]) for name in ("hu", "ratio")}  # type: ignore[arg-type]
            values = surface(at["hu"], at["ratio"]) + level + NOISE * draw.standard_normal(replicates)
            told.append(Told(levels, float(values.mean()), True))
            measured.append(Measured(at, dict(enumerate(values.tolist())), True))
    found = operating_range([Threshold("hu", -700, 300), Threshold("ratio", 0.2, 0.9)], measured, SMALLEST)
    if found.recommended is None:
        return None
    top = best(surface)
    hu, ratio = found.spans
    at_ends = [(hu.low, found.recommended["ratio"]), (hu.high, found.recommended["ratio"])]
    at_ends += [(found.recommended["hu"], ratio.low), (found.recommended["hu"], ratio.high)]
    outside = sum(top - surface(*place) > 1.5 * SMALLEST for place in at_ends) / len(at_ends)
    return top - surface(found.recommended["hu"], found.recommended["ratio"]), outside


def main(studies: int) -> None:
    """Print the table."""
    print(f"{studies} phases each. {machine()}")
    print("Lacking: true objective of the best setting minus that of the recommended one, in smallest effects.\n")
    print(
        "| surface | points x replicates | trials | lacking: mean | in 90 % at most | more than 1 | ends lacking more than 1.5 | no range |"
    )
    print("|" + " --- |" * 8)
    for name, surface in SURFACES.items():
        for points, replicates in DESIGNS:
            found = [tuned(surface, points, replicates, seed) for seed in range(studies)]
            lacks = np.array([one[0] for one in found if one is not None]) / SMALLEST
            ends = np.mean([one[1] for one in found if one is not None])
            print(
                f"| {name} | {points} x {replicates} | {points * replicates} | {lacks.mean():.2f} | {np.quantile(lacks, 0.9):.2f} "
                f"| {(lacks > 1).mean():.0%} | {ends:.0%} | {sum(one is None for one in found) / studies:.0%} |",
                flush=True,
            )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 150)
