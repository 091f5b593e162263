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
