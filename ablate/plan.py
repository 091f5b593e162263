"""What will run: a study as ordered trials with seeds and signatures, and what it costs."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from ablate import design
from ablate.offers import Config, Offers
from ablate.study import BASELINE, CONFIRMATION, Arm, Levels, Phase, Study, Tune
from ablate.trial import TrialSpec, signature_of

FRESH_REPLICATE = 1000
"""The first replicate kept for a tuned point's competition: no point was chosen by it."""

CONFIRM_REPLICATE = 2000
"""The first replicate of the confirmation: nothing was chosen by it."""


def first_replicate(study: Study, phase: Phase) -> int:
    """The number of the first replicate on which a phase's arms are compared: a fresh one for a tuned point and for the confirmation.

    Each call of `ablate tune` that adds points gets replicates of its own: a user asks for more points because of what the last
    competition said, and on the same replicates that would be one look too many.
    """
    if phase.name == CONFIRMATION:
        return CONFIRM_REPLICATE + study.replicates.first
    counts = study.replicates_of(phase)
    if isinstance(phase.design, Tune):
        return FRESH_REPLICATE + counts.first + len(phase.design.more) * counts.at_most
    return counts.first


@dataclass(frozen=True)
class Planned:
    """One trial of an arm, ready to be queued."""

    arm: Arm
    replicate: int
    spec: TrialSpec


@dataclass(frozen=True)
class PlannedPhase:
    """What a phase runs."""

    name: str
    design: str
    arms: int
    """With the baseline; of a tuning phase its points, the baseline and the tuned arm."""
    trials: int
    """New ones, were every arm open to the last: an upper bound. Arms that are decided early get fewer."""


@dataclass(frozen=True)
class Plan:
    """What a study runs and what it costs, nothing started."""

    study: str
    phases: tuple[PlannedPhase, ...]
    trial_s: float | None
    source: str
    """Where `trial_s` comes from."""
    workers: int
    budget_trials: int | None
    references: tuple[str, ...]

    @property
    def trials_at_most(self) -> int:
        return sum(phase.trials for phase in self.phases)

    def document(self) -> dict[str, object]:
        """The JSON of `ablate plan STUDY --json`. References run with the first phase and count there."""
        hours = None if self.trial_s is None else self.trials_at_most * self.trial_s / self.workers / 3600
        return {
            "study": self.study,
            "phases": [{"name": p.name, "design": p.design, "arms": p.arms, "trials": p.trials} for p in self.phases],
            "trials_at_most": self.trials_at_most,
            "references": list(self.references),
            "budget_trials": self.budget_trials,
            "cost": {
                "trial_s": self.trial_s,
                "source": self.source,
                "workers": self.workers,
                "hours": hours,
                "arithmetic": self._arithmetic(hours),
            },
        }

    def _arithmetic(self, hours: float | None) -> str:
        if hours is None:
            return f"{self.trials_at_most} trials; the trainer states no time for one"
        length = f"{hours * 60:.0f} min" if hours < 3 else f"{hours:.1f} h"
        return f"{self.trials_at_most} trials x {self.trial_s:g} s / {self.workers} worker{'s' if self.workers != 1 else ''} = {length}"


def trials(arm: Arm, replicates: Sequence[int], offers: Offers, origin: Config | None) -> list[Planned]:
    """The trials of an arm, one a replicate.

    Args:
        origin: The config of the study's baseline, whose data most trials read; none: signatures of no result, where none is sought.
    """
    planned = []
    for replicate in replicates:
        config = offers.config(arm.levels, replicate)
        data_hash = "" if origin is None else offers.data_hash(config, like=origin)
        signature = signature_of(config, offers.neutral(config), offers.code_version(), data_hash)
        spec = TrialSpec(signature, replicate, config, offers.trainer.name, offers.code_version(), data_hash, offers.command())
        planned.append(Planned(arm, replicate, spec))
    return planned


def inert_factors(phase: Phase, carried: Levels, offers: Offers) -> list[str]:
    """Paths (and component names) that the phase varies without any effect on top of what is carried."""
    return [key.partition(".")[2] for key in design.inert_switches(phase, carried, offers.identity)]


def plan(study: Study, offers: Offers, seconds_per_trial: float | None = None, finished: Collection[str] = ()) -> Plan:
    """What the study would run.

    Args:
        seconds_per_trial: Measured; none: what the trainer states.
        finished: Signatures that need not run again.
    """
    own = offers.config(study.baseline, 0) if finished else None
    origin = Arm(name=BASELINE, levels=dict(study.baseline))
    references = [Arm(name=name, levels={**study.baseline, **levels}) for name, levels in study.references.items()]
    known = set(finished)
    phases = []
    for index, phase in enumerate(study.phases):
        counts = study.replicates_of(phase)
        most = counts.at_most
        first = first_replicate(study, phase)
        replicates = range(first, first + most)
        arms = design.expand(phase, study.baseline) if index == 0 and not isinstance(phase.design, Tune) else []
        told_later = isinstance(phase.design, Tune) and study.confirm  # as the runner has it
        certain = {
            p.spec.signature
            for arm in [*([] if told_later else [origin]), *references, *arms]
            for p in trials(arm, replicates, offers, own)
        }
        new = len(certain - known)
        known |= certain
        if isinstance(phase.design, Tune):
            # Each point, then the tuned arm and the carried winner on fresh replicates.
            count, open_trials = phase.design.points + 2, phase.design.trials(len(study.replicates_of_points(phase))) + 2 * most
        elif index == 0:
            count, open_trials = len(arms), 0
        else:
            carries, _ = design.possible_carries(study, index)
            count = max(len(design.expand(phase, carried)) for carried in carries)
            # The carried winner already ran, on as many replicates as the phases before this one had.
            before = min(study.replicates_of(p).start for p in study.phases[:index])
            open_trials = (count - 1) * most + max(0, most - before)
        phases.append(PlannedPhase(phase.name, _design_name(phase), count, new + open_trials))
    if study.confirm:
        most = study.replicates.at_most
        phases.append(PlannedPhase(CONFIRMATION, "winner against baseline", 2, (2 + len(references)) * most))
    measured = seconds_per_trial is not None
    trial_s = seconds_per_trial if measured else offers.expected_seconds(offers.config(study.baseline, 0))
    source = "measured in this study" if measured else "stated by the trainer" if trial_s is not None else "unknown"
    workers = 1 if study.executor == "inline" else study.workers
    return Plan(study.study, tuple(phases), trial_s, source, workers, study.budget.trials, tuple(study.references))


def _design_name(phase: Phase) -> str:
    return f"tune {phase.design.points}" if isinstance(phase.design, Tune) else phase.design
