"""What a phase concluded, as types: read by all that comes after a verdict. Also how evidence is read, and when a study has ended."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from pydantic import BaseModel, ConfigDict

from ablate.stats.effects import LEAST_PAIRS, mean
from ablate.study import BASELINE, CONFIRMATION, Guard, Levels, Study

Metrics = Mapping[str, float]
Evidence = Mapping[str, Mapping[int, Metrics]]
"""Arm (or reference) to replicate to final metrics; a replicate without a result is absent."""

VerdictWord = Literal["adopt", "reject", "undecided", "baseline"]


class _Frozen(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Interval(_Frozen):
    """A paired mean difference, sign as the metric has it; simultaneous over the phase's arms."""

    mean: float
    low: float | None
    """None: no interval is defined (too few pairs, or no variance)."""
    high: float | None
    individual: tuple[float, float] | None = None
    """The interval of this arm alone, without correction: for looking, never for deciding."""
    pairs: int | None = None
    """Paired replicates that it rests on; None: the baseline's own, or an older record."""


class GuardState(_Frozen):
    """A guard and the arm's mean over replicates that it was held against."""

    guard: str
    metric: str
    value: float | None
    """None: no replicate has a finite value of the metric."""
    holds: bool
    replicates: int | None = None
    """Those that reported a finite value; None: an older record."""


class ReferenceState(_Frozen):
    """An arm beside a reference of the study."""

    name: str
    difference: float | None
    """Paired mean difference (arm - reference), sign as the metric has it."""
    individual: tuple[float, float] | None
    beaten: bool
    """Shown to be better, with the error rate of the phase over all arms."""

    @property
    def compared(self) -> bool:
        """Whether an interval of the difference is defined: enough pairs, and some spread."""
        return self.individual is not None


class ArmVerdict(_Frozen):
    """What a phase says of one arm."""

    name: str
    levels: Levels
    carried: bool
    """Whether this arm is the winner carried in from the phase before (the baseline of every phase but the first)."""
    replicates: int
    """Replicates with a result."""
    effect: Interval | None
    total_effect: Interval | None
    """Against the study's own baseline."""
    p_adjusted: float | None
    """Twice the Holm-adjusted one-sided p of "better than the phase's baseline"; below alpha exactly where the interval excludes 0 on the
    good side. None: no test is defined."""
    metrics: dict[str, float]
    """Mean over the replicates that reported it."""
    collapse: str | None
    guards: list[GuardState]
    references: list[ReferenceState] = []
    verdict: VerdictWord
    reason: str
    same_trials_as_baseline: bool = False
    cost_to_decide: str | None = None
    """What deciding would take, for an undecided arm with a spread."""
    broken_down: list[int] = []
    """Replicates in which its objective was NaN or infinite, or its training ended by that, and the baseline's was not: never adopted."""

    @property
    def healthy(self) -> bool:
        """Whether all guards are known to hold."""
        return all(guard.holds for guard in self.guards)

    @property
    def idle(self) -> bool:
        """Whether every paired difference is exactly 0, in as many as an interval needs."""
        enough = self.effect is not None and (self.effect.pairs is None or self.effect.pairs >= LEAST_PAIRS)
        return self.effect is not None and enough and self.effect.mean == 0 and self.effect.low is None


class Check(_Frozen):
    """An arm that a stopping rule had given up and that ran on all the same, to see whether the rule was right."""

    arm: str
    replicates: int
    confirmed: bool
    """Whether its `start` replicates at full length bear that out."""


class Point(_Frozen):
    """A tuning point and what came of it."""

    name: str
    levels: Levels
    objective: float | None
    """Mean over replicates; None: a replicate failed or did not report it."""
    guards: list[GuardState]
    feasible: bool
    """Has an objective and respects the guards, so that it can be recommended."""
    values: dict[int, float] = {}
    """Replicate to objective, finite ones."""
    others: list[float | None] = []
    """Means of the design's further objectives."""
    rung: int | None = None
    """Step at which it was given up; its values are then those of the rung and half of what the better points of its batch gained since."""
    guessed: float = 0.0
    """Standard deviation of that half: it may have been none of it, or all."""


class Conclusion(_Frozen):
    """The decision of a phase."""

    phase: str
    winner: str
    winner_levels: Levels
    arms: list[ArmVerdict]
    """The baseline first, then in the order of the design."""
    advance: bool = True
    next: str | None = None
    """The phase that comes next; `gates.pass_through` sets it."""
    reason: str
    inert: list[str] = []
    """Settings without effect under the winner's others, as the trainer says: no advice to change them makes sense."""
    points: list[Point] = []
    looks: tuple[int, int] | None = None
    """Replicates at the first and at the last planned look, for which the error rate is stated; None: decided before there were any."""
    stopped: dict[str, str] = {}
    """Arm to the reason why it got fewer replicates than it might have."""
    short: dict[str, int] = {}
    """Arm that was given up at a rung to its step."""
    notes: list[str] = []
    """What went otherwise than planned while it ran, a sentence each."""
    checks: list[Check] = []
    operating: dict[str, object] | None = None
    """Of a tuning phase: `operating.operating`."""

    def arm(self, name: str) -> ArmVerdict:
        """The arm of that name.

        Raises:
            KeyError: None has it.
        """
        for arm in self.arms:
            if arm.name == name:
                return arm
        raise KeyError(name)


@dataclass(frozen=True)
class Stops:
    """Which arms got fewer replicates than they might have, and why."""

    said: Mapping[str, str] = field(default_factory=dict)
    """Arm to the sentence that says why it gets no more."""
    condemned: Collection[str] = ()
    """Arms given up for a broken guard, without the checked ones. They count as members of the family that no test was made for."""
    hopeless: Mapping[str, int] = field(default_factory=dict)
    """Arms given up at a rung, without the checked ones, with its step. The same holds for them."""
    checked: Mapping[str, bool] = field(default_factory=dict)
    """Arms that were given up and run on, to check the rules; whether what they show then agrees, as far as they are."""
    bleak: Collection[str] = ()
    """Arms given up before their first look, for want of any prospect. No test is made for them; they count all the same."""
    seen: Evidence = field(default_factory=dict)
    """What the arms given up at a rung showed there."""


NO_STOPS = Stops()


def unconfirmed(study: Study, conclusions: Sequence[Conclusion]) -> bool:
    """Whether the phases are over and what they adopted has yet to meet the study's baseline on fresh replicates."""
    if not study.confirm or not conclusions or conclusions[-1].phase == CONFIRMATION or conclusions[-1].next is not None:
        return False
    return any(one.winner != BASELINE for one in conclusions)


def ended(study: Study, conclusions: Sequence[Conclusion]) -> bool:
    """Whether nothing is left to conclude."""
    return bool(conclusions) and conclusions[-1].next is None and not unconfirmed(study, conclusions)


def series(found: Mapping[int, Metrics], metric: str) -> dict[int, float]:
    """Replicate to value; a result without the metric counts as NaN, so that its dropped pair is said."""
    return {replicate: float(metrics.get(metric, math.nan)) for replicate, metrics in sorted(found.items())}


def mean_metrics(found: Mapping[int, Metrics]) -> dict[str, float]:
    """Mean of each metric over the replicates that reported a finite value."""
    names = sorted({name for metrics in found.values() for name in metrics})
    means = {name: mean(metrics[name] for metrics in found.values() if name in metrics) for name in names}
    return {name: value for name, value in means.items() if value is not None}


def guard_states(guards: Sequence[Guard], found: Mapping[int, Metrics]) -> list[GuardState]:
    means = mean_metrics(found)
    counts = Counter(metric for metrics in found.values() for metric, value in metrics.items() if math.isfinite(value))
    return [
        GuardState(
            guard=str(guard),
            metric=guard.metric,
            value=(value := means.get(guard.metric)),
            holds=value is not None and guard.holds(value),
            replicates=counts[guard.metric],
        )
        for guard in guards
    ]
