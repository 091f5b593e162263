"""Which arm gets how many replicates: more only where the answer is open. Pure: the same results give the same allocation.

Where the study names rungs, the first replicates of every arm (`condemn` of them where there are guards, else `start`) run to the first
rung and pause, then those of the arms that are left to the next. Then every arm gets its first replicates at full length, as many as the
first rule below asks for, then `start`, then one more at a time up to `at_most`. No more are given to an arm that

- is **hopeless**: at a rung its benefit is shown to be below 0 (one-sided t-test at `HOPELESS`, not corrected: it adopts nobody); or, with
  `at_rungs: unlikely`, is **unlikely**: were the end as the rung shows it, its chance of adoption would be small. A share of these
  (`check`) goes on to the end all the same; where one of them then gains the smallest effect, the rule was wrong and all run on;
- is **condemned**: it breaks the same guard in each of its first `condemn` replicates, at a rung or at the end. A share of the arms
  condemned at a rung (`check`) goes on to the end with these replicates, and a share of those condemned at the end runs to `start`; where
  one of these keeps the guard then, the rule was wrong here and every arm condemned so runs on, whatever later replicates show;
- has **no prospect**: after `futile` replicates or more, but fewer than `start`, its predicted chance of adoption is small. Such arms, and
  the unlikely ones, stay in the family of tests without one, so that they can be neither adopted nor rejected;
- breaks a guard on its mean after `start` replicates, or never reports the metric of a guard;
- is **decided** or **futile** by `stats.stopping.judge`, whose error rate holds under these looks.

The baseline and the references get as many as the arm with the most, so that every replicate pairs.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from ablate.conclusion import Evidence, Metrics, Stops, guard_states, series
from ablate.plan import first_replicate
from ablate.stats.effects import LEAST_PAIRS, paired
from ablate.stats.looks import Looks
from ablate.stats.stopping import FUTILE, early_chance, judge
from ablate.study import BASELINE, Guard, Phase, Replicates, Study
from ablate.words import counted, listed, number, share

HOPELESS = 0.05
"""Chance of stopping an arm at a rung that is no worse than the baseline there."""

AtRungs = Mapping[int, Evidence]
"""Rung to what was measured there, of rungs that were run alone: arm to replicate to objective and guards, as far as they are known."""


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
    condemn = plan.start if plan.condemn is None or not study.guards else min(plan.condemn, plan.start)
    futile = plan.asked_from
    first = min(condemn, futile)
    sample = min(plan.start, max(condemn, LEAST_PAIRS))
    own = [arm for arm in rivals if arm not in same]
    early = _at_rungs(study, phase, plan, (condemn, sample), given, evidence, at_rungs or {}, own)
    left = [arm for arm in arms if arm not in early.stopped]
    rung = next((step for step in study.rungs_of(phase) if step not in (at_rungs or {})), None)
    if not given:
        alone = Stops(early.why, (), early.stopped, {}, early.unlikely, early.seen)
        if rung is not None:
            return Allocation(dict.fromkeys(left, sample), alone, rung)
        return Allocation(dict.fromkeys(left, first), alone)
    open_ = [arm for arm in rivals if arm not in same and arm not in early.stopped]
    # Whom a rung gave up and who runs on to check that is given up by no other rule before the check has come to its end.
    pending = {arm for arm, right in early.checked.items() if right is None and given.get(arm, 0) < sample}
    throughout = {arm: _broken_throughout(study.guards, evidence.get(arm, {}), plan, condemn) for arm in open_ if arm not in pending}
    broken = {arm: found for arm, found in throughout.items() if found is not None}
    to_check = [arm for arm in broken if arm not in early.checked]
    # Any of them that ran whole tells, also one that was chosen before others were broken: a rule that was wrong stays so.
    borne_out = _borne_out(study, phase, to_check, given, plan.start, evidence, _keeps_guards)
    checked = {arm: borne_out[arm] for arm in _chosen(study, phase, to_check, plan)}
    if False in borne_out.values():
        broken = {}
    condemned = [arm for arm in broken if arm not in checked]
    wanted = {arm: given.get(arm, 0) for arm in rivals}
    stopped = {}
    for arm in condemned:
        beyond = "the first of them" if condemn == 1 else f"each of the first {condemn}"
        where = beyond if wanted[arm] > condemn else "each of them"
        stopped[arm] = f"Stopped after {counted(wanted[arm], 'replicate')}: {broken[arm]} in {where}."
    stopped |= {arm: early.why[arm] for arm in early.stopped}
    going = [arm for arm in open_ if arm not in condemned]
    asked = [arm for arm in going if arm not in checked and arm not in pending]
    bleak = _without_prospect(study, phase, asked, wanted, evidence, len(own))
    stopped |= bleak
    going = [arm for arm in going if arm not in bleak]
    short = [arm for arm in going if wanted[arm] < plan.start]
    if short:
        # One that was given up by mistake begins where all began.
        marks = {condemn, futile, plan.start}
        wanted |= {arm: min(mark for mark in (marks | {sample} if arm in pending else marks) if mark > wanted[arm]) for arm in short}
    else:
        given_up = len(condemned) + len(early.stopped) + len(bleak)
        more, why = _after_start(study, plan, going, wanted, evidence, references, given_up)
        wanted |= {arm: wanted[arm] + 1 for arm in more}
        stopped |= why
    known = {arm: right for arm, right in (checked | early.checked).items() if right is not None}
    stops = Stops(stopped, condemned, early.stopped, known, (*bleak, *early.unlikely), early.seen)
    return Allocation({BASELINE: max([first, *wanted.values()]), **wanted}, stops)


@dataclass(frozen=True)
class _Early:
    """What the rungs say."""

    why: dict[str, str]
    """Arm that a rung gave up to the sentence that says so; the checked ones too."""
    stopped: dict[str, int]
    """Those that go no further, with the step."""
    checked: dict[str, bool | None]
    """Those that run on all the same; whether that bears the rule out, none: it is not known yet."""
    unlikely: list[str]
    """Those of the stopped that nothing is shown of."""
    seen: Evidence
    """What the stopped ones showed at their rung."""


def _at_rungs(
    study: Study,
    phase: Phase,
    plan: Replicates,
    needed: tuple[int, int],
    given: Mapping[str, int],
    evidence: Evidence,
    at_rungs: AtRungs,
    rivals: Sequence[str],
) -> _Early:
    """Who is given up at a rung, by guards and by the objective, without those whose check shows the rule to be wrong.

    Args:
        needed: Replicates at full length after which a check of the one rule, and of the other, is complete.
    """
    condemn, sample = needed
    ill = _condemned_early(study, plan, condemn, at_rungs, rivals)
    slow = {arm: found for arm, found in _hopeless(study, at_rungs, rivals).items() if arm not in ill}
    unlikely = {} if plan.at_rungs == "worse" else _unlikely(study, plan, at_rungs, rivals)
    unlikely = {arm: found for arm, found in unlikely.items() if arm not in ill and arm not in slow}
    right = _borne_out(study, phase, _chosen(study, phase, list(ill), plan), given, condemn, evidence, _keeps_guards)
    slow |= unlikely
    spared = _borne_out(study, phase, _chosen(study, phase, list(slow), plan), given, sample, evidence, _gains)
    said = {**({} if False in right.values() else ill), **({} if False in spared.values() else slow)}
    stopped = {arm: step for arm, (step, _) in said.items() if arm not in right and arm not in spared}
    why = {arm: sentence for arm, (_, sentence) in said.items()}
    seen = {arm: at_rungs[step].get(arm, {}) for arm, step in stopped.items()}
    return _Early(why, stopped, right | spared, [arm for arm in unlikely if arm in stopped], seen)


def _unlikely(study: Study, plan: Replicates, at_rungs: AtRungs, rivals: Sequence[str]) -> dict[str, tuple[int, str]]:
    """Arm to the rung, and why, for those that would hardly be adopted, were the end as the rung shows it."""
    metric, looks = study.objective.metric, Looks(plan.start, plan.at_most)
    found: dict[str, tuple[int, str]] = {}
    for step in sorted(at_rungs):
        values = {arm: series(known, metric) for arm, known in at_rungs[step].items()}
        pairs = {arm: paired(values.get(arm, {}), values.get(BASELINE, {}), study.objective.sign) for arm in rivals}
        for arm, seen in pairs.items():
            chance = early_chance(pairs, arm, looks, study.alpha / (2 * len(rivals)), study.objective.smallest_effect)
            if arm not in found and chance is not None and chance < FUTILE:
                effect = number(study.objective.sign * (seen.mean or 0.0), signed=True)
                told = f"{metric} {effect} there ({counted(seen.pairs, 'pair')})"
                likely = f"were the end like that, the chance of adoption by {plan.at_most} would be {share(chance)}"
                found[arm] = step, f"Stopped at step {step}: {told}; {likely}."
    return found


def _condemned_early(study: Study, plan: Replicates, condemn: int, at_rungs: AtRungs, rivals: Sequence[str]) -> dict[str, tuple[int, str]]:
    """Arm to the rung, and why, for those that break the same guard in each of their first `condemn` replicates there.

    A guard that no trial keeps there, not even the baseline's, tells nothing yet.
    """
    found: dict[str, tuple[int, str]] = {}
    for step in sorted(at_rungs):
        shown = [metrics for results in at_rungs[step].values() for metrics in results.values()]
        telling = [guard for guard in study.guards if any(guard.holds(metrics.get(guard.metric, math.nan)) for metrics in shown)]
        for arm in rivals:
            broken = _broken_throughout(telling, at_rungs[step].get(arm, {}), plan, condemn)
            if arm not in found and broken is not None:
                found[arm] = step, f"Stopped at step {step}: {broken} in each of {counted(condemn, 'replicate')} there."
    return found


def _without_prospect(
    study: Study, phase: Phase, arms: Sequence[str], given: Mapping[str, int], evidence: Evidence, family: int
) -> dict[str, str]:
    """Arm to why it stops before its first look, for those whose predicted chance of adoption is small.

    Asked with the replicates that an arm was given, of all others too, so that the answer stays when others get more.

    Args:
        family: Arms among which Holm's correction is made.
    """
    plan, metric = study.replicates_of(phase), study.objective.metric
    found = {}
    for arm in arms:
        count = given[arm]
        if not plan.asked_from <= count < plan.start:
            continue
        values = {name: series(shown, metric) for name, shown in _first_replicates(study, phase, evidence, count).items()}
        baseline = values.get(BASELINE, {})
        pairs = {name: paired(own, baseline, study.objective.sign) for name, own in values.items() if name != BASELINE}
        chance = early_chance(pairs, arm, Looks(plan.start, plan.at_most), study.alpha / (2 * family), study.objective.smallest_effect)
        if chance is not None and chance < FUTILE:
            likely = f"the predicted chance of adoption by {plan.at_most} is {share(chance)}"
            found[arm] = f"Stopped after {counted(count, 'replicate')}, before its first look at {plan.start}: {likely}."
    return found


def _hopeless(study: Study, at_rungs: AtRungs, rivals: Sequence[str]) -> dict[str, tuple[int, str]]:
    """Arm to the rung, and why, for those that a rung shows to be worse than the baseline."""
    found: dict[str, tuple[int, str]] = {}
    for step in sorted(at_rungs):
        values = {arm: series(known, study.objective.metric) for arm, known in at_rungs[step].items()}
        for arm in rivals:
            pairs = paired(values.get(arm, {}), values.get(BASELINE, {}), study.objective.sign)
            p = pairs.p_greater()
            if arm not in found and p is not None and pairs.mean is not None and 1 - p < HOPELESS:
                effect = number(study.objective.sign * pairs.mean, signed=True)
                found[arm] = (
                    step,
                    f"Stopped at step {step}: {study.objective.metric} {effect} there, worse than the baseline ({pairs.pairs} pairs).",
                )
    return found


def _borne_out(
    study: Study,
    phase: Phase,
    arms: Sequence[str],
    given: Mapping[str, int],
    needed: int,
    evidence: Evidence,
    mistaken: Callable[[Study, Evidence, str], bool | None],
) -> dict[str, bool | None]:
    """Of arms that a rule gave up: whether what they show bears it out; none: not known, as they have too few replicates or no result.

    The first `needed` replicates alone tell: what was found out then is found out, whatever more replicates show.

    Args:
        mistaken: Whether what was measured of an arm shows that the rule was wrong about it; none: nothing was.
    """
    shown = _first_replicates(study, phase, evidence, needed)
    wrong = {arm: mistaken(study, shown, arm) if given.get(arm, 0) >= needed else None for arm in arms}
    return {arm: None if found is None else not found for arm, found in wrong.items()}


def _first_replicates(study: Study, phase: Phase, evidence: Evidence, count: int) -> dict[str, dict[int, Metrics]]:
    """What the first `count` replicates of every arm showed, those that failed left out."""
    first = first_replicate(study, phase)
    return {arm: {r: metrics for r, metrics in found.items() if r < first + count} for arm, found in evidence.items()}


def _gains(study: Study, evidence: Evidence, arm: str) -> bool | None:
    """Whether an arm's mean benefit at full length reaches the smallest effect; none without a pair."""
    own, other = (series(evidence.get(name, {}), study.objective.metric) for name in (arm, BASELINE))
    mean = paired(own, other, study.objective.sign).mean
    return None if mean is None else mean >= study.objective.smallest_effect


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


def _keeps_guards(study: Study, evidence: Evidence, arm: str) -> bool | None:
    """Whether an arm keeps every guard on its mean; none without a result."""
    found = evidence.get(arm, {})
    return all(guard.holds for guard in guard_states(study.guards, found)) if found else None
