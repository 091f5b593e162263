"""Adopt, reject or undecided: the decision of a phase, with a sentence of reason for each arm. Pure: no files, no clock."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from ablate.conclusion import (
    NO_STOPS,
    ArmVerdict,
    Check,
    Conclusion,
    Evidence,
    GuardState,
    Interval,
    Metrics,
    Point,
    ReferenceState,
    Stops,
    VerdictWord,
    guard_states,
    mean_metrics,
    series,
)
from ablate.stats.effects import LEAST_PAIRS, Paired, mean, paired
from ablate.stats.family import Estimate, better_than_all, estimates
from ablate.stats.looks import Looks
from ablate.stats.sequential import Course, course
from ablate.stats.stopping import cost_to_decide
from ablate.study import BASELINE, CONFIRMATION, Arm, Phase, Study
from ablate.words import apart, between, counted, listed, number, probability


def conclude(
    study: Study,
    phase: Phase,
    arms: Sequence[Arm],
    evidence: Evidence,
    *,
    origin: Mapping[int, Metrics],
    references: Evidence,
    collapse: Mapping[str, Mapping[int, str]],
    same: Collection[str] = (),
    points: Sequence[Point] = (),
    stops: Stops = NO_STOPS,
    asked: Mapping[str, Collection[int]] | None = None,
    diverged: Mapping[str, Collection[int]] | None = None,
) -> Conclusion:
    """Decide a phase from its finished trials.

    Args:
        arms: The one named `baseline` is what the others pair with.
        origin: The study's own baseline by replicate.
        references: The study's references.
        collapse: Arm to replicate to kind of collapse, as the trainer says.
        same: Arms whose trials are the baseline's trials.
        points: What a tuning phase measured before its competition.
        stops: Arms that were given up stay members of the family, as if their p were 1: what gave them up may go with their objective.
        asked: Arm to the replicates that it was given; none: all that the others have. One that was not given is not missing.
        diverged: Arm to the replicates without a result because its numbers went wrong.

    Returns:
        The conclusion before its gate (`gates.pass_through`).

    Raises:
        ValueError: No arm is named `baseline`.
    """
    baseline = next((arm for arm in arms if arm.name == BASELINE), None)
    if baseline is None:
        raise ValueError(f"conclude: expected an arm named {BASELINE!r} but got {[arm.name for arm in arms]}. Put the reference arm first.")
    sign, metric = study.objective.sign, study.objective.metric
    values = {arm.name: series(evidence.get(arm.name, {}), metric) for arm in arms}
    rivals = [arm.name for arm in arms if arm.name != BASELINE]

    def against(name: str, other: Mapping[int, Metrics]) -> Paired:
        given = None if asked is None else asked.get(name, ())
        return paired(values[name], {r: v for r, v in series(other, metric).items() if given is None or r in given}, sign)

    benefits = {name: against(name, evidence.get(BASELINE, {})) for name in rivals if name not in same}
    sound = [replicate for replicate, value in values[BASELINE].items() if math.isfinite(value)]
    broken = {name: _broken_down(evidence.get(name, {}), metric, (diverged or {}).get(name, ()), sound) for name in rivals}
    total = {arm.name: against(arm.name, origin) for arm in arms}
    over = {reference: {name: against(name, found) for name in rivals} for reference, found in references.items()}
    plan, given_up = study.replicates_of(phase), {*stops.condemned, *stops.hopeless, *stops.bleak}
    looks, untested = Looks(plan.start, plan.at_most), len(given_up)
    tested = {name: pairs for name, pairs in benefits.items() if name not in given_up}
    family = _Family(
        effects=estimates(tested, study.alpha, looks, untested),
        totals=estimates({name: pairs for name, pairs in total.items() if name not in given_up}, study.alpha, looks, untested),
        adopted_p=better_than_all(tested, over, looks, untested),
        single_p={
            reference: better_than_all({name: pairs for name, pairs in found.items() if name in tested}, {}, looks, untested)
            for reference, found in over.items()
        },
        looks=looks,
        members=untested + sum(pairs.testable for pairs in tested.values()),
    )
    judged = [
        _judge(
            study,
            phase,
            arm,
            found=evidence.get(arm.name, {}),
            family=family,
            benefit=benefits.get(arm.name),
            total=total[arm.name],
            over={reference: pairs[arm.name] for reference, pairs in over.items() if arm.name in pairs},
            collapse=collapse.get(arm.name, {}),
            stopped=stops.said.get(arm.name, ""),
            hopeless=arm.name in stops.hopeless,
            bleak=arm.name in stops.bleak,
            at_rung=stops.seen.get(arm.name, {}),
            broken_down=broken.get(arm.name, []),
        )
        for arm in sorted(arms, key=lambda arm: arm.name != BASELINE)
    ]
    plain = Arm(name=BASELINE, levels={**phase.off, **baseline.levels})
    winner = _winner(study, judged, {arm.name: len(arm.changes(plain)) for arm in arms}, values)
    return Conclusion(
        phase=phase.name,
        winner=winner.name,
        winner_levels=winner.levels,
        arms=judged,
        reason=_phase_reason(study, winner, judged),
        points=list(points),
        looks=(plan.start, plan.at_most),
        stopped=dict(stops.said),
        short=dict(stops.hopeless),
        checks=[
            Check(arm=one.name, replicates=one.replicates, confirmed=stops.checked[one.name]) for one in judged if one.name in stops.checked
        ],
    )


def point(
    study: Study, arm: Arm, metrics: Mapping[int, Metrics], *, replicates: int, also: Sequence[str] = (), rung: int | None = None
) -> Point:
    """A tuning point from its replicates.

    Args:
        replicates: How many were run. Points are compared over the same replicates, so one that lost some has no objective.
        also: Metrics of the design's further objectives.
        rung: The step at which it was given up, that the metrics are from; guards that are not reported by then are not held against it.
    """
    values = series(metrics, study.objective.metric)
    complete = len(values) >= replicates and all(math.isfinite(v) for v in values.values())
    guards = _guards(study, metrics, early=rung is not None)
    objective = mean(values.values()) if complete else None
    feasible = objective is not None and all(guard.holds for guard in guards)
    finite = {replicate: value for replicate, value in values.items() if math.isfinite(value)}
    others = [mean(series(metrics, metric).values()) for metric in also]
    return Point(
        name=arm.name, levels=arm.levels, objective=objective, guards=guards, feasible=feasible, values=finite, others=others, rung=rung
    )


def best_point(study: Study, points: Sequence[Point]) -> Point | None:
    """The feasible point with the best mean objective, the earlier one of equals; none where no point is feasible.

    One that was given up is it only where no feasible point ran whole: its objective is partly guessed.
    """
    found = [point for point in points if point.feasible and point.objective is not None]
    most = max((len(point.values) for point in found), default=0)
    whole = [point for point in found if point.rung is None and len(point.values) == most]
    return max(whole or found, key=lambda point: study.objective.sign * (point.objective or 0.0), default=None)


def _guards(study: Study, found: Mapping[int, Metrics], *, early: bool) -> list[GuardState]:
    """All of the study's guards; at a rung those alone that are reported by then."""
    return [guard for guard in guard_states(study.guards, found) if not early or guard.value is not None]


def better_half(study: Study, points: Sequence[Point]) -> list[str]:
    """Names of the better half (of an odd number, of one more) of some points: feasible ones first, then by objective."""
    sign = study.objective.sign
    known = [point for point in points if point.objective is not None]
    order = sorted(known, key=lambda point: (not point.feasible, -sign * (point.objective or 0.0)))
    return [point.name for point in order[: math.ceil(len(points) / 2)]]


def levelled(points: Sequence[Point], replicates: Sequence[int], at_rung: Mapping[str, float] | None = None) -> list[Point]:
    """Points of one batch, so that their objectives compare, by what those show that were measured on all replicates.

    To one that was given up at a rung is added half of what those gained since: a worse point may gain nothing, or as much. And of one with
    fewer replicates their own level is taken out. Where no point has all, they stay as they are.

    Args:
        at_rung: Point to the objective of its first replicate at the rung.
    """
    full = [point for point in points if point.rung is None and all(replicate in point.values for replicate in replicates)]
    first = replicates[0]
    gains = [point.values[first] - (at_rung or {})[point.name] for point in full if point.name in (at_rung or {})]
    gain = mean(gains) or 0.0

    def one(point: Point) -> Point:
        values, guessed = point.values, 0.0
        if point.rung is not None:
            values, guessed = {replicate: value + gain / 2 for replicate, value in values.items()}, abs(gain) / math.sqrt(12)
        held = [replicate for replicate in replicates if replicate in values]
        if point.objective is None or not full or len(held) == len(replicates):
            return point
        shift = mean([(other.objective or 0.0) - sum(other.values[r] for r in held) / len(held) for other in full]) or 0.0
        return point.model_copy(update={"objective": (mean(values.values()) or 0.0) + shift, "values": values, "guessed": guessed})

    return [one(point) for point in points]


@dataclass(frozen=True)
class _Family:
    """The estimates of all arms of a phase, by arm."""

    effects: Mapping[str, Estimate]
    totals: Mapping[str, Estimate]
    adopted_p: Mapping[str, float]
    """Adjusted p of "better than the baseline and than every reference"."""
    single_p: Mapping[str, Mapping[str, float]]
    """Reference to the adjusted p of "better than that reference", whatever the baseline."""
    looks: Looks
    members: int
    """Arms that the correction is for."""


def _judge(
    study: Study,
    phase: Phase,
    arm: Arm,
    *,
    found: Mapping[int, Metrics],
    family: _Family,
    benefit: Paired | None,
    total: Paired,
    over: Mapping[str, Paired],
    collapse: Mapping[int, str],
    stopped: str,
    hopeless: bool,
    bleak: bool,
    at_rung: Mapping[int, Metrics],
    broken_down: list[int],
) -> ArmVerdict:
    same = arm.name != BASELINE and benefit is None
    guards = _guards(study, at_rung if hopeless else found, early=hopeless)
    references = [_reference(study, name, pairs, family.single_p[name].get(arm.name)) for name, pairs in over.items()]
    estimate = family.effects.get(arm.name)
    zero = Interval(mean=0.0, low=0.0, high=0.0)
    cost = None
    verdict: VerdictWord
    if arm.name == BASELINE:
        effect: Interval | None = zero if found else None
        verdict, reason = "baseline", "What the arms of this phase are compared with."
    elif benefit is None:
        effect = zero
        verdict, reason = "reject", "It is the same trials as the baseline: its changes have no effect under these settings."
    elif hopeless and not bleak:
        effect, verdict, reason = None, "reject", "Given up at a rung."
    elif bleak and (hopeless or not any(guard.value is not None and not guard.holds for guard in guards)):
        effect = _interval(study, benefit, None)
        verdict, reason = "undecided", _bleak(study, effect, benefit)
        cost = _cost(study, course(benefit, family.looks), family.members) if benefit.testable else None
    else:
        effect = _interval(study, benefit, estimate)
        verdict, reason = _decide(study, benefit, estimate, guards, references, family.adopted_p.get(arm.name), len(found))
        if verdict == "adopt" and broken_down:
            verdict, reason = "undecided", _survivors(study, benefit, estimate, broken_down)
        shown = estimate is not None and estimate.p_adjusted < study.alpha and estimate.mean >= study.objective.smallest_effect
        if verdict == "undecided" and estimate is not None and not shown:  # else it is not pairs with the baseline that are missing
            cost = _cost(study, course(benefit, family.looks), family.members)
    if verdict not in ("adopt", "baseline"):
        reason = " ".join(part for part in (reason, stopped if stopped.startswith("Stopped") else "", cost) if part)
    return ArmVerdict(
        name=arm.name,
        levels=arm.levels,
        carried=arm.name == BASELINE and phase.name not in (study.phases[0].name, CONFIRMATION),
        replicates=len(found),
        effect=effect,
        total_effect=_total(study, total, family.totals.get(arm.name), exact=same or arm.name == BASELINE),
        p_adjusted=None if estimate is None else estimate.p_adjusted,
        metrics=mean_metrics(found),
        collapse=_collapse(collapse),
        guards=guards,
        references=references,
        verdict=verdict,
        reason=reason,
        same_trials_as_baseline=same,
        cost_to_decide=cost,
        broken_down=broken_down,
    )


def _broken_down(found: Mapping[int, Metrics], metric: str, diverged: Collection[int], sound: Collection[int]) -> list[int]:
    """Replicates in which the arm's numbers went wrong and the baseline's did not."""
    reported = {replicate for replicate, metrics in found.items() if metric in metrics and not math.isfinite(metrics[metric])}
    return sorted(reported.union(diverged).intersection(sound))


def _survivors(study: Study, benefit: Paired, estimate: Estimate | None, broken_down: Sequence[int]) -> str:
    """Why a gain is no reason to adopt where the arm broke down: it is that of the replicates which did not, so of the better part."""
    which = f"replicate{'s' if len(broken_down) > 1 else ''} {listed([str(replicate) for replicate in broken_down])}"
    said = "" if estimate is None else f": {_said(study, estimate, benefit.pairs)}"
    return (
        f"Better in the replicates that it came through{said}. But it broke down in {which} and the baseline did not, so what is left is "
        f"the better part of it.{_left_out(benefit)}"
    )


def _decide(
    study: Study,
    benefit: Paired,
    estimate: Estimate | None,
    guards: Sequence[GuardState],
    references: Sequence[ReferenceState],
    adopted_p: float | None,
    results: int,
) -> tuple[VerdictWord, str]:
    """The verdict of an arm that competes, and why."""
    sign, smallest = study.objective.sign, study.objective.smallest_effect
    left_out = _left_out(benefit) + _unguarded(guards, results)
    broken = [guard for guard in guards if not guard.holds and guard.value is not None]
    if results == 0:
        return "undecided", "No replicate has a result."
    if broken:
        bounds = {str(one): [bound for bound in (one.at_least, one.at_most) if bound is not None] for one in study.guards}
        told = [f"{guard.guard} but is {apart(guard.value or 0.0, bounds[guard.guard])}" for guard in broken]
        return "reject", f"Guard broken: {'; '.join(told)}.{left_out}"
    if benefit.pairs < LEAST_PAIRS:
        return "undecided", f"Only {benefit.pairs} of the at least {LEAST_PAIRS} paired replicates that an interval needs.{left_out}"
    if estimate is None:
        differences = f"all {benefit.pairs} paired differences are {number(sign * (benefit.mean or 0.0))}"
        if benefit.mean == 0:
            return "undecided", f"Zero variance: {differences}, so the change seems to do nothing under these settings.{left_out}"
        return "undecided", f"Zero variance: {differences}, so no test can say how sure that is.{left_out}"
    unmeasured = [guard for guard in guards if guard.value is None]
    said = _said(study, estimate, benefit.pairs)
    if estimate.high < smallest:
        what = "Worse than the baseline" if estimate.high < 0 else "Too small to matter"
        return "reject", f"{what}: {said}; the interval lies below the smallest effect {number(smallest)}.{left_out}"
    if estimate.p_adjusted >= study.alpha:
        return "undecided", f"Not told apart from the baseline: {said}; the interval includes 0.{left_out}"
    if unmeasured:
        names = listed([guard.metric for guard in unmeasured])
        return "undecided", f"Better, but no replicate has a finite {names}, which a guard needs: {said}.{left_out}"
    if estimate.mean < smallest:
        return "undecided", f"Better, but the mean gain is below the smallest effect {number(smallest)}: {said}.{left_out}"
    if adopted_p is None or adopted_p >= study.alpha:
        untold = [reference.name for reference in references if reference.individual is None]
        if untold:
            why = f"fewer than {LEAST_PAIRS} replicates pair with it, or their differences do not vary"
            return "undecided", f"Better than the baseline ({said}), but whether it beats {listed(untold)} is not known: {why}.{left_out}"
        missing = [reference for reference in references if not reference.beaten] or list(references)
        shown = "; ".join(f"{one.name} (difference {_difference(one)})" for one in missing)
        return "undecided", f"Better than the baseline ({said}), but not shown to beat the reference {shown}: learning not shown.{left_out}"
    held = f"; {'the guard holds' if len(guards) == 1 else f'all {len(guards)} guards hold'}" if guards else ""
    beats = f"; better than {listed([r.name for r in references])}" if references else ""
    return "adopt", f"Better than the baseline: {said}{held}{beats}.{left_out}"


def _bleak(study: Study, effect: Interval | None, benefit: Paired) -> str:
    """What an arm showed that was given up before its first look."""
    if effect is None:
        return "Not tested."
    alone = "" if effect.individual is None else f", by itself{between(*effect.individual)}"
    mean = number(effect.mean, signed=True)
    return f"Not tested: {study.objective.metric} {mean} over {counted(benefit.pairs, 'pair')}{alone}.{_left_out(benefit)}"


def _cost(study: Study, seen: Course, members: int) -> str | None:
    """What deciding would take, in words."""
    found = cost_to_decide(seen.values, study.objective.smallest_effect, study.alpha, members)
    if found is None:
        return None
    claim = "is better" if found.claim == "better" else f"gains less than {number(study.objective.smallest_effect)}"
    if found.pairs is None:
        return f"More than 10,000 pairs would be needed to show that it {claim}: its mean lies on the border."
    span = f" ({found.least} to {found.most or 'more than 10,000'} by the noise seen)" if found.least else ""
    return f"To show that it {claim}, were its mean the truth: about {found.pairs} pairs{span}."


def _winner(
    study: Study, judged: Sequence[ArmVerdict], changes: Mapping[str, int], values: Mapping[str, Mapping[int, float]]
) -> ArmVerdict:
    """The adopted arm with the largest effect; of those not told apart from it by what matters the one with the fewest changes."""
    sign = study.objective.sign
    adopted = [arm for arm in judged if arm.verdict == "adopt" and arm.effect is not None]
    if not adopted:
        return next(arm for arm in judged if arm.name == BASELINE)

    def benefit(arm: ArmVerdict) -> float:
        return sign * arm.effect.mean if arm.effect is not None else -math.inf

    best = max(adopted, key=benefit)

    def unresolved(arm: ArmVerdict) -> bool:
        pairs = paired(values[best.name], values[arm.name], sign)
        p = pairs.p_different()
        if p is None:
            return pairs.mean is None or abs(pairs.mean) < study.objective.smallest_effect
        interval = pairs.interval(1 - study.alpha)
        return p >= study.alpha or (interval is not None and interval[1] < study.objective.smallest_effect)

    ties = [arm for arm in adopted if arm.name == best.name or unresolved(arm)]
    return min(ties, key=lambda arm: (changes[arm.name], -benefit(arm)))


def _phase_reason(study: Study, winner: ArmVerdict, judged: Sequence[ArmVerdict]) -> str:
    adopted = [arm for arm in judged if arm.verdict == "adopt"]
    if not adopted:
        return "No arm is adopted: the baseline is carried on."
    assert winner.effect is not None
    by = f"{study.objective.metric} {number(winner.effect.mean, signed=True)}{between(winner.effect.low, winner.effect.high)}"
    best = max(adopted, key=lambda arm: study.objective.sign * (arm.effect.mean if arm.effect is not None else 0.0))
    if best.name == winner.name:
        return f"{winner.name} is carried on: {by}{', the largest effect' if len(adopted) > 1 else ''}."
    other = f"{best.name} has a larger mean effect, but the two are not told apart by what matters and it changes more."
    return f"{winner.name} is carried on: {by}. {other}"


def _reference(study: Study, name: str, pairs: Paired, p: float | None) -> ReferenceState:
    return ReferenceState(
        name=name,
        difference=None if pairs.mean is None else study.objective.sign * pairs.mean,
        individual=_mirrored(study, pairs.interval(1 - study.alpha)),
        beaten=p is not None and p < study.alpha,
    )


def _mirrored(study: Study, bounds: tuple[float, float] | None) -> tuple[float, float] | None:
    """Benefits as differences of the metric: where less is better, both ends change sign and places."""
    if bounds is None or study.objective.sign > 0:
        return bounds
    return -bounds[1], -bounds[0]


def _interval(study: Study, benefit: Paired, estimate: Estimate | None) -> Interval | None:
    if benefit.mean is None:
        return None
    mean = study.objective.sign * benefit.mean
    if estimate is None:
        individual = _mirrored(study, benefit.interval(1 - study.alpha))
        return Interval(mean=mean, low=None, high=None, individual=individual, pairs=benefit.pairs)
    low, high = _mirrored(study, (estimate.low, estimate.high)) or (None, None)
    return Interval(mean=mean, low=low, high=high, individual=_mirrored(study, estimate.individual), pairs=benefit.pairs)


def _total(study: Study, pairs: Paired, estimate: Estimate | None, *, exact: bool) -> Interval | None:
    """The effect against the study's baseline; exactly 0 where that is the arm itself, and not merely an arm that measured the same."""
    if exact and pairs.pairs and all(difference == 0 for difference in pairs.differences.values()):
        return Interval(mean=0.0, low=0.0, high=0.0, pairs=pairs.pairs)
    return _interval(study, pairs, estimate)


def _collapse(kinds: Mapping[int, str]) -> str | None:
    """The kind that all replicates agree on, else each with its count."""
    counts = Counter(kinds.values())
    if len(counts) <= 1:
        return next(iter(counts), None)
    return ", ".join(f"{kind} ({count} of {len(kinds)})" for kind, count in sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def _left_out(benefit: Paired) -> str:
    if not benefit.dropped:
        return ""
    names = ", ".join(map(str, benefit.dropped))
    return f" Left out for a missing or not finite value: replicate{'s' if len(benefit.dropped) > 1 else ''} {names}."


def _said(study: Study, estimate: Estimate, pairs: int) -> str:
    low, high = _mirrored(study, (estimate.low, estimate.high)) or (None, None)
    mean = number(study.objective.sign * estimate.mean, signed=True)
    return f"{study.objective.metric} {mean}{between(low, high)}, adjusted p {probability(estimate.p_adjusted)}, {pairs} pairs"


def _difference(reference: ReferenceState) -> str:
    return number(reference.difference, signed=True) + between(*(reference.individual or (None, None)))


def _unguarded(guards: Sequence[GuardState], results: int) -> str:
    """Which guards rest on fewer replicates than there are."""
    partial = [g for g in guards if g.value is not None and g.replicates is not None and g.replicates < results]
    told = "; ".join(f"{g.metric} in {results - (g.replicates or 0)} of {results}" for g in partial)
    return f" A guard's metric is missing or not finite: {told}; the mean of the others is held against it." if partial else ""
