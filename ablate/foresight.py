"""What a study can show, before it runs: from the noise of the baseline's trials that are under `runs/` already."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from ablate.offers import Offers
from ablate.plan import Plan, trials
from ablate.study import BASELINE, Arm, Study
from ablate.trial import result_of
from ablate.words import counted, number, share

LOOKED_AT = 64
"""Replicates of the baseline that are looked for."""


def foresight(study: Study, offers: Offers, planned: Plan, root: Path) -> dict[str, Any]:
    """For each phase the replicates that the smallest effect needs, and what can be detected with those planned.

    The noise is the A/A spread of a difference: sqrt(2) times that of the baseline over its replicates, as if pairing removed nothing.

    Returns:
        `noise` (None: unknown), `phases` and the `sentences` that tell it.
    """
    values = _baseline(study, offers, root)
    metric, smallest = study.objective.metric, study.objective.smallest_effect
    floor = None
    if len(values) > 1:  # scipy takes half a second, which a plan of a study that never ran need not pay
        from ablate.stats.looks import Looks
        from ablate.stats.power import POWER, detectable, noise_floor, replicates_needed

        floor = noise_floor(values.values())
    if floor is None:
        told = f"only {counted(len(values), 'replicate')} of the baseline" if values else "no trial of the baseline"
        return {
            "noise": None,
            "phases": [],
            "sentences": [
                f"What the study can show is not known: {told} under {root} tells how far {metric} spreads. The first phase will; "
                f"until then take replicates.at_most={study.replicates.at_most} as a guess."
            ],
        }
    phases, sentences = [], []
    for phase in planned.phases:
        counts = next((study.replicates_of(one) for one in study.phases if one.name == phase.name), study.replicates)
        arms = 1 if "tune" in phase.design else max(1, phase.arms - 1)
        least = detectable(Looks(counts.start, counts.at_most), floor.deviation, study.alpha, arms)
        needed = replicates_needed(smallest, floor.deviation, study.alpha, arms)
        phases.append({"name": phase.name, "arms": arms, "at_most": counts.at_most, "detectable": least, "needed": needed})
        enough = needed is not None and needed <= counts.at_most
        sentences.append(
            f"{phase.name}: with at most {counts.at_most} replicates of {counted(arms, 'arm')} an effect of {number(least)} is shown in "
            f"{share(POWER)} of studies; the smallest effect {number(smallest)} needs "
            f"{'more than 10,000' if needed is None else f'about {needed}'}{'' if enough else ', which are not planned'}."
        )
    return {
        "noise": {"deviation": floor.deviation, "low": floor.low, "high": floor.high, "replicates": floor.replicates},
        "phases": phases,
        "sentences": [
            f"A difference of {metric} between two baselines spreads by {number(floor.deviation)} ({number(floor.low)} to "
            f"{number(floor.high)}, from {counted(floor.replicates, 'replicate')} under {root}), if pairing removes nothing of it.",
            *sentences,
        ],
    }


def _baseline(study: Study, offers: Offers, root: Path) -> dict[int, float]:
    """Replicate to objective of the study's baseline, whichever study ran it."""
    if not (root / "trials").is_dir():
        return {}
    first, origin = study.replicates.first, offers.config(study.baseline, 0)
    found = {}
    for one in trials(Arm(name=BASELINE, levels=dict(study.baseline)), range(first, first + LOOKED_AT), offers, origin):
        result = result_of(root, one.spec.signature)
        value = math.nan if result is None else result.metrics.get(study.objective.metric, math.nan)
        if math.isfinite(value):
            found[one.replicate] = value
    return found
