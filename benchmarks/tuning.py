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

from ablate.conclusion import Point
from ablate.proposals import Told, Tuner
from ablate.stats.operating_range import Measured, Threshold, operating_range
from ablate.study import Levels, Phase, Tune
from ablate.verdict import better_half, levelled
from benchmarks.early import study
from benchmarks.side import machine

SMALLEST, NOISE, LEVEL = 0.02, 0.016, 0.025


@dataclass(frozen=True)
class Design:
    """How points are measured."""

    points: int
    replicates: int
    """Of each. A study allows no fewer than two."""
    halve: bool = False
    rung: float | None = None
    """Share of the training at which the worse half of a batch is told; none: its end."""
    grown: float = 0.5
    """Share of a setting's final distance from the others that shows at the rung; the noise there goes with that of the end by .6."""

    def __str__(self) -> str:
        said = f"{self.points} x {self.replicates}" + (", halved" if self.halve else "")
        return said if self.rung is None else f"{said} at {self.rung:g} of the training, where {self.grown:.0%} of an effect shows"

    @property
    def trials(self) -> float:
        """Of full length."""
        tune = Tune(tune=self.points, replicates=None, halve=self.halve)
        worse = sum(size // 2 for size in tune.batches) if self.halve else 0
        return tune.trials(self.replicates) - worse * (1 - (self.rung or 1.0))


DESIGNS = (
    Design(6, 4),
    Design(16, 1),
    Design(12, 2),
    Design(16, 2),
    Design(24, 2),
    Design(12, 4),
    Design(12, 6),
    Design(12, 2, halve=True),
    Design(12, 2, halve=True, rung=0.3),
    Design(12, 2, halve=True, rung=0.3, grown=0.25),
    Design(12, 2, halve=True, rung=0.3, grown=0.0),
    Design(16, 2, halve=True, rung=0.3),
)

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


def tuned(surface: Surface, design: Design, seed: int) -> Found | None:
    """One tuning phase; none: it gives no operating range."""
    points, replicates = design.points, design.replicates
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
        batch, early = [], {}
        for levels in tuner.propose(told, min(4, points - len(told))):
            name = f"point {len(told) + len(batch):02d}"
            noise = NOISE * draw.standard_normal(replicates)
            truth = surface(*_at(levels).values())
            values = dict(enumerate((truth + level + noise).tolist()))
            if design.rung is not None:
                apart = 0.6 * noise[0] + 0.8 * NOISE * float(draw.standard_normal())
                early[name] = 0.4 + design.grown * (truth - 0.4) + float(level[0]) + apart
            batch.append(
                Point(name=name, levels=levels, objective=float(np.mean(list(values.values()))), guards=[], feasible=True, values=values)
            )
        found = _halved(batch, early, design) if design.halve else batch
        told += [Told(point.levels, point.objective, True) for point in found]
        measured += [Measured(_at(point.levels), point.values, True, guessed=point.guessed) for point in found]
    range_ = operating_range([Threshold("hu", -700, 300), Threshold("ratio", 0.2, 0.9)], measured, SMALLEST)
    if range_.recommended is None or range_.predicted is None or range_.deviation is None:
        return None
    truth = surface(range_.recommended["hu"], range_.recommended["ratio"])
    off = (range_.predicted - float(level.mean()) - truth) / range_.deviation
    return Found((float(whole(surface).max()) - truth) / SMALLEST, range_.share, off)


def _at(levels: Levels) -> dict[str, float]:
    return {name: float(levels[name]) for name in ("hu", "ratio")}  # type: ignore[arg-type]  # a range gives numbers


def _halved(batch: list[Point], early: dict[str, float], design: Design) -> list[Point]:
    """The batch as the runner has it: of the worse half the first replicate alone, or the rung's value."""
    first = {point.name: early.get(point.name, point.values[0]) for point in batch}
    rung = None if design.rung is None else 30
    short = [point.model_copy(update={"objective": first[point.name], "values": {0: first[point.name]}, "rung": rung}) for point in batch]
    going = better_half(study(), short)
    kept = [whole if whole.name in going else one for whole, one in zip(batch, short, strict=True)]
    return levelled(kept, range(design.replicates), early or None)


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
        for design in DESIGNS:
            tried = [tuned(surface, design, seed) for seed in range(studies)]
            found = [one for one in tried if one is not None]
            lacking = np.array([one.lacking for one in found])
            off = math.sqrt(sum(one.off**2 for one in found) / len(found))
            print(
                f"| {name} | {design} | {design.trials:g} | {lacking.mean():.2f} | {np.quantile(lacking, 0.9):.2f} "
                f"| {sum(one.share for one in found) / len(found):.0%} ({good:.0%}) | {off:.1f} | {1 - len(found) / studies:.0%} |",
                flush=True,
            )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 100)
