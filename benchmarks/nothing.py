"""Trials that do nothing but report, for measuring what the platform itself costs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ablate.ledger import Ledger
from ablate.study import Objective, Phase, Study, Trainer
from ablate.trial import TrialSpec, signature_of

TRAINER = "benchmarks.nothing:train"


def train(config: Mapping[str, Any], run: Any) -> dict[str, float]:
    """Report `points` metrics (0 by default) and end."""
    for step in range(int(config.get("points", 0))):
        run.report(step, {"train/loss": 1.0 / (step + 1)})
    return {"probe/total": float(config["seed"])}


def study(name: str, workers: int = 2) -> Study:
    """A study whose trials are these."""
    return Study(
        study=name,
        question="What does a trial cost?",
        trainer=Trainer(callable=TRAINER),
        baseline={},
        objective=Objective(metric="probe/total", smallest_effect=0.1),
        phases=[Phase(name="p", design="path")],
        executor="local",
        workers=workers,
    )


def specs(first: int, count: int, points: int = 0) -> list[TrialSpec]:
    """Trials of the seeds `first` to `first + count - 1`."""
    configs = [{"seed": seed, "points": points} for seed in range(first, first + count)]
    return [TrialSpec(signature_of(c, {}, "code", ""), c["seed"], c, TRAINER, "code", "") for c in configs]


def open_ledger(root: Path, name: str) -> Ledger:
    """The ledger of the study in this `runs` folder."""
    return Ledger(root / name / "ledger.db")


def noisy(config: Mapping[str, Any], run: Any) -> dict[str, float]:
    """Report 50 points of two curves and a score that grows with `x`, with noise of the seed and of the arm."""
    noise = np.random.default_rng([int(config["seed"]), int(config["x"])]).normal(size=51)
    for step in range(50):
        run.report(step, {"train/loss": 1.0 / (step + 1) + 0.01 * noise[step], "train/score": 0.1 * noise[step]})
    return {"probe/total": float(config["seed"] % 3) + 0.02 * config["x"] + 0.1 * noise[-1]}


CURVES = (
    "train/loss_total",
    "train/prototype_entropy_foreground",
    "train/prototype_entropy_background",
    "train/foreground_mutual_information",
    "train/foreground_ratio_global",
    "train/foreground_ratio_local",
    "train/global_iou",
    "train/local_containment",
)


def looked_at(config: Mapping[str, Any], run: Any) -> dict[str, float]:
    """Report 100 points of each of eight curves, leave two pictures, and score by `x`, `t` and five flags, with noise."""
    from PIL import Image

    flags = sum(float(config[name]) for name in "abcde")
    worth = 0.05 * flags + 0.001 * float(config["x"]) - abs(float(config["t"]) - 0.6)
    dice = np.random.default_rng([int(config["seed"]), *np.float64([flags, config["x"], config["t"]]).view(np.uint32)])
    noise = dice.normal(0, 0.02, (100, len(CURVES)))
    for step in range(100):
        run.report(step, {name: float(np.exp(-step / 40) + worth + noise[step, n]) for n, name in enumerate(CURVES)})
    if int(config["seed"]) % 1000 == 0:
        for name in ("gallery.png", "prototypes.png"):
            Image.fromarray(dice.integers(0, 255, (700, 1100, 3), dtype=np.uint8)).save(run.directory / name)
    return {"probe/total": worth + 0.005 * float(dice.normal())}
