"""Which arm gets how many replicates: more only where the answer is open. Pure: the same results give the same allocation.

Every arm gets `condemn` replicates, then `start`, then one more at a time up to `at_most`. No more are given to an arm that

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

from ablate.stats.effects import paired
from ablate.stats.looks import Looks
from ablate.stats.stopping import judge
from ablate.study import BASELINE, Guard, Phase, Replicates, Study
from ablate.verdict import Evidence, Metrics, guard_states, series
from ablate.words import counted, listed, number, share


@dataclass(frozen=True)
class Allocation:
    """What comes next in a phase."""

    replicates: Mapping[str, int]
    """Arm to the replicates that it should have in all; the baseline's are also those of the references."""
    stopped: Mapping[str, str]
    """Arm to the sentence that says why it gets no more, where it has fewer than `at_most`."""
    condemned: Sequence[str]
    checked: Sequence[str]
    """Condemned arms that run on, to check the rule."""

    def more(self, given: Mapping[str, int]) -> bool:
        """Whether any arm should have more than it was given."""
        return any(count > given.get(arm, 0) for arm, count in self.replicates.items())


def allocate(
    study: Study,
    phase: Phase,
    arms: Sequence[str],
    given: Mapping[str, int],
    evidence: Evidence,
    references: Evidence,
    same: Collection[str] = (),
) -> Allocation:
    """Who gets how many replicates in all, from the results so far.

    Args:
        arms: Names, the baseline among them.
        given: Arm to replicates that were run, failed ones included; empty before the first.
        same: Arms whose trials are the baseline's trials.
    """
    plan = study.replicates_of(phase)
    rivals = [arm for arm in arms if arm != BASELINE]
    first = plan.start if plan.condemn is None or not study.guards else min(plan.condemn, plan.start)
    if not given:
        return Allocation(dict.fromkeys(arms, first), {}, (), ())
    open_ = [arm for arm in rivals if arm not in same]
    broken = {arm: found for arm in open_ if (found := _broken_throughout(study.guards, evidence.get(arm, {}), plan, first)) is not None}
    checked = _checked(study, phase, list(broken), plan)
    wrong = [arm for arm in checked if given[arm] >= plan.start and _keeps_guards(study, evidence.get(arm, {}))]
    condemned = [] if wrong else [arm for arm in broken if arm not in checked]
    wanted = {arm: given[arm] for arm in rivals}
    stopped = {arm: f"Stopped after {counted(given[arm], 'replicate')}: {broken[arm]} in each of them." for arm in condemned}
    short = [arm for arm in open_ if arm not in condemned and given[arm] < plan.start]
    if short:
        wanted |= dict.fromkeys(short, plan.start)
    else:
        more, why = _after_start(study, plan, [arm for arm in open_ if arm not in condemned], given, evidence, references, len(condemned))
        wanted |= {arm: given[arm] + 1 for arm in more}
        stopped |= why
    return Allocation({BASELINE: max([first, *wanted.values()]), **wanted}, stopped, condemned, checked)


def _after_start(
    study: Study,
    plan: Replicates,
    arms: Sequence[str],
    given: Mapping[str, int],
    evidence: Evidence,
    references: Evidence,
    condemned: int,
) -> tuple[list[str], dict[str, str]]:
    """Arms that get one more, and why the others do not."""
    metric, sign = study.objective.metric, study.objective.sign
    values = {arm: series(evidence.get(arm, {}), metric) for arm in [*arms, BASELINE]}
    benefits = {arm: paired(values[arm], values[BASELINE], sign) for arm in arms}
    over = {name: {arm: paired(values[arm], series(found, metric), sign) for arm in arms} for name, found in references.items()}
    judged = judge(benefits, Looks(plan.start, plan.at_most), study.alpha, study.objective.smallest_effect, over, condemned)
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
            why[arm] = f"{after}: no replicate reports {listed([guard.metric for guard in guards if guard.value is None])}."
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


def _checked(study: Study, phase: Phase, condemned: Sequence[str], plan: Replicates) -> list[str]:
    """Which condemned arms run on: chosen by their names, so that no result has a say."""
    count = min(len(condemned), math.ceil(plan.check * len(condemned)))
    order = sorted(condemned, key=lambda arm: hashlib.sha256(f"{study.study}/{phase.name}/{arm}".encode()).hexdigest())
    return order[:count]


def _keeps_guards(study: Study, found: Mapping[int, Metrics]) -> bool:
    return bool(found) and all(guard.holds for guard in guard_states(study.guards, found))
