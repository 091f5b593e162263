"""Which arm gets how many replicates: more only where the answer is open. Pure: the same results give the same allocation.

Where the study names rungs, the `start` replicates of every arm run to the first rung and pause, then those of the arms that are left to
the next. Then every arm gets `condemn` replicates at full length, then `start`, then one more at a time up to `at_most`. No more are given
to an arm that

- is **hopeless**: at a rung its benefit is shown to be below 0 (one-sided t-test at `HOPELESS`, not corrected: it adopts nobody). A share
  of these (`check`) runs to `start` all the same; where one of them then gains the smallest effect, the rule was wrong and all run on;
- is **condemned**: it breaks the same guard in each of its first `condemn` replicates. A share of the condemned arms (`check`) runs to
  `start` all the same; where one of these keeps the guard then, the rule was wrong here and every condemned arm runs to `start`;
- breaks a guard on its mean after `start` replicates, or never reports the metric of a guard;
- is **decided** or **futile** by `stats.stopping.judge`, whose error rate holds under these looks.

The baseline and the references get as many as the arm with the most, so that every replicate pairs.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from ablate.conclusion import Evidence, Metrics, Stops, guard_states, series
from ablate.stats.effects import paired
from ablate.stats.looks import Looks
from ablate.stats.stopping import judge
from ablate.study import BASELINE, Guard, Phase, Replicates, Study
from ablate.words import counted, listed, number, share

HOPELESS = 0.05
"""Chance of stopping an arm at a rung that is no worse than the baseline there."""

AtRungs = Mapping[int, Mapping[str, Mapping[int, float]]]
"""Rung to arm to replicate to the objective there; rungs that were run alone."""


@dataclass(frozen=True)
class Allocation:
    """What comes next in a phase."""

    replicates: Mapping[str, int]
    """Arm to the replicates that it should have in all; the baseline's are also those of the references."""
    stops: Stops
    until: int | None = None
    """The rung to which the replicates run now; none: to their end."""

    def more(self, given: Mapping[str, int]) -> bool:
        """Whether any arm should have more than it was given."""
        return self.until is not None or any(count > given.get(arm, 0) for arm, count in self.replicates.items())


def allocate(
    study: Study,
    phase: Phase,
    arms: Sequence[str],
    given: Mapping[str, int],
    evidence: Evidence,
    references: Evidence,
    same: Collection[str] = (),
    at_rungs: AtRungs | None = None,
) -> Allocation:
    """Who gets how many replicates in all, from the results so far.

    Args:
        arms: Names, the baseline among them.
        given: Arm to replicates that were run to their end, failed ones included; empty before the first.
        same: Arms whose trials are the baseline's trials.
        at_rungs: What is known of the rungs that were run.
    """
    plan = study.replicates_of(phase)
    rivals = [arm for arm in arms if arm != BASELINE]
    first = plan.start if plan.condemn is None or not study.guards else min(plan.condemn, plan.start)
    slow = _hopeless(study, at_rungs or {}, [arm for arm in rivals if arm not in same])
    spared = {arm: given.get(arm, 0) < plan.start or not _gains(study, evidence, arm) for arm in _chosen(study, phase, list(slow), plan)}
    if not all(spared.values()):
        slow = {}
    hopeless = [arm for arm in slow if arm not in spared]
    left = [arm for arm in arms if arm not in hopeless]
    rung = next((step for step in sorted(study.rungs) if step not in (at_rungs or {})), None)
    if not given and rung is not None:
        return Allocation(dict.fromkeys(left, plan.start), Stops(slow, (), hopeless, spared), rung)
    if not given:
        return Allocation(dict.fromkeys(left, first), Stops(slow, (), hopeless, spared))
    open_ = [arm for arm in rivals if arm not in same and arm not in hopeless]
    broken = {arm: found for arm in open_ if (found := _broken_throughout(study.guards, evidence.get(arm, {}), plan, first)) is not None}
    checked = {
        arm: given.get(arm, 0) < plan.start or not _keeps_guards(study, evidence.get(arm, {}))
        for arm in _chosen(study, phase, list(broken), plan)
    }
    if not all(checked.values()):
        broken = {}
    condemned = [arm for arm in broken if arm not in checked]
    wanted = {arm: given.get(arm, 0) for arm in rivals}
    stopped = {arm: f"Stopped after {counted(wanted[arm], 'replicate')}: {broken[arm]} in each of them." for arm in condemned}
    stopped |= {arm: slow[arm] for arm in hopeless}
    going = [arm for arm in open_ if arm not in condemned]
    short = [arm for arm in going if wanted[arm] < plan.start]
    if short:
        # One that was given up by mistake begins where all began.
        wanted |= {arm: plan.start if wanted[arm] else first for arm in short}
    else:
        more, why = _after_start(study, plan, going, wanted, evidence, references, len(condemned) + len(hopeless))
        wanted |= {arm: wanted[arm] + 1 for arm in more}
        stopped |= why
    return Allocation({BASELINE: max([first, *wanted.values()]), **wanted}, Stops(stopped, condemned, hopeless, checked | spared))


def _hopeless(study: Study, at_rungs: AtRungs, rivals: Sequence[str]) -> dict[str, str]:
    """Arm to why it is hopeless, for those that a rung shows to be worse than the baseline."""
    found: dict[str, str] = {}
    for step in sorted(at_rungs):
        values = at_rungs[step]
        for arm in rivals:
            pairs = paired(values.get(arm, {}), values.get(BASELINE, {}), study.objective.sign)
            p = pairs.p_greater()
            if arm not in found and p is not None and pairs.mean is not None and 1 - p < HOPELESS:
                effect = number(study.objective.sign * pairs.mean, signed=True)
                found[arm] = (
                    f"Stopped at step {step}: {study.objective.metric} {effect} there, worse than the baseline ({pairs.pairs} pairs)."
                )
    return found


def _gains(study: Study, evidence: Evidence, arm: str) -> bool:
    """Whether an arm's mean benefit at full length reaches the smallest effect."""
    own, other = (series(evidence.get(name, {}), study.objective.metric) for name in (arm, BASELINE))
    mean = paired(own, other, study.objective.sign).mean
    return mean is not None and mean >= study.objective.smallest_effect


def _after_start(
    study: Study,
    plan: Replicates,
    arms: Sequence[str],
    given: Mapping[str, int],
    evidence: Evidence,
    references: Evidence,
    given_up: int,
) -> tuple[list[str], dict[str, str]]:
    """Arms that get one more, and why the others do not."""
    metric, sign = study.objective.metric, study.objective.sign
    values = {arm: series(evidence.get(arm, {}), metric) for arm in [*arms, BASELINE]}
    benefits = {arm: paired(values[arm], values[BASELINE], sign) for arm in arms}
    over = {name: {arm: paired(values[arm], series(found, metric), sign) for arm in arms} for name, found in references.items()}
    judged = judge(benefits, Looks(plan.start, plan.at_most), study.alpha, study.objective.smallest_effect, over, given_up)
    more, why = [], {}
    for arm in arms:
        if given[arm] >= plan.at_most:
            continue
        guards = guard_states(study.guards, evidence.get(arm, {}))
        decision = judged[arm].decision
        after = f"Stopped after {counted(given[arm], 'replicate')}"
        if any(guard.value is not None and not guard.holds for guard in guards):
            why[arm] = f"Decided after {counted(given[arm], 'replicate')}."
        elif evidence.get(arm) and any(guard.value is None for guard in guards):
            why[arm] = f"{after}: no replicate has a finite {listed([guard.metric for guard in guards if guard.value is None])}."
        elif decision == "futile":
            chance = judged[arm].chance
            likely = "it changes nothing" if chance is None else f"the predicted chance of adoption by {plan.at_most} is {share(chance)}"
            why[arm] = f"{after}: {likely}."
        elif decision == "go on":
            more.append(arm)
        else:
            why[arm] = f"Decided after {counted(given[arm], 'replicate')}."
    return more, why


def _broken_throughout(guards: Sequence[Guard], found: Mapping[int, Metrics], plan: Replicates, first: int) -> str | None:
    """The guard that each of the first `condemn` replicates breaks, with their worst case in its favour; none: there is no such guard."""
    seen = [found[replicate] for replicate in sorted(found)][:first]
    if plan.condemn is None or len(seen) < plan.condemn:
        return None
    for guard in guards:
        values = [metrics.get(guard.metric, math.nan) for metrics in seen]
        if all(math.isfinite(value) and not guard.holds(value) for value in values):
            return f"{guard} is broken ({', '.join(number(value) for value in values)})"
    return None


def _chosen(study: Study, phase: Phase, given_up: Sequence[str], plan: Replicates) -> list[str]:
    """Which arms that were given up run on: chosen by their names, so that no result has a say."""
    count = min(len(given_up), math.ceil(plan.check * len(given_up)))
    order = sorted(given_up, key=lambda arm: hashlib.sha256(f"{study.study}/{phase.name}/{arm}".encode()).hexdigest())
    return order[:count]


def _keeps_guards(study: Study, found: Mapping[int, Metrics]) -> bool:
    return bool(found) and all(guard.holds for guard in guard_states(study.guards, found))
