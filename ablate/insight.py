"""What mattered, beyond each arm's verdict: effects of a factorial, what the winner needs, what pairing saved, what was equal. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ablate import design
from ablate.conclusion import Conclusion, Evidence, Metrics, guard_states, series
from ablate.stats import factorial, pairing
from ablate.stats.attribution import Attribution, Components, Guarded, attribute, losses, losses_in_words
from ablate.stats.effects import mean
from ablate.stats.looks import Looks
from ablate.stats.power import POWER, detectable, noise_floor, replicates_needed
from ablate.study import BASELINE, CONFIRMATION, Arm, Level, Levels, Phase, Study, Tune
from ablate.words import counted, listed, number, share

Placed = Mapping[str, Mapping[str, Levels]]
"""Phase to arm to levels."""

FIRST_LEVELS = "all first levels"
"""What the cell without any component is called where it is not known to be the baseline's: that says nothing of a factorial's setting."""

MOST_COMPONENTS = 8
"""More components have more cells than any study measures."""


def of_phase(study: Study, conclusion: Conclusion, evidence: Evidence, at_rung: Evidence | None = None) -> dict[str, Any]:
    """What a concluded phase tells beside its verdicts, as plain values.

    Args:
        at_rung: What was measured at the rung at which arms were given up; none: no arm was. A factorial needs all its cells, so it is
            told of the longest training that all of them have.

    Returns:
        `factorial`, `left_out` (in such phases), `pairing` and `noise`; None for what these results cannot tell.
    """
    phase = study.phase(conclusion.phase)
    return {
        "factorial": _factorial(study, phase, conclusion, evidence if at_rung is None else at_rung),
        "left_out": _left_out(study, phase, conclusion, evidence if at_rung is None else at_rung),
        "pairing": _pairing(study, conclusion, evidence),
        "noise": _noise(study, phase, conclusion, evidence),
    }


def _factorial(study: Study, phase: Phase, conclusion: Conclusion, evidence: Evidence) -> dict[str, Any] | None:
    if phase.design != "factorial":
        return None
    factors, cells = design.factorial_cells(phase, conclusion.arm(BASELINE).levels)
    values = {cell: series(evidence.get(arm, {}), study.objective.metric) for cell, arm in cells.items()}
    found = factorial.analyse([factorial.Factor(*factor) for factor in factors], values, study.alpha, study.objective.sign)
    document = asdict(found)
    document["dropped"] = [{"arm": cells[cell], "replicate": replicate} for cell, replicate in found.dropped]
    document["factors"] = [{"name": name, "levels": list(levels)} for name, levels in factors]
    document["cells"] = [{"cell": list(cell), "arm": arm} for cell, arm in cells.items()]
    document["sentences"] = [*_gains(study), *_so_far(conclusion.short.values()), *found.sentences]
    return document


def _so_far(steps: Iterable[int]) -> list[str]:
    """Of which training a comparison speaks that needs arms which a rung gave up."""
    step = min(steps, default=None)
    return [] if step is None else [f"What follows is as it stood at step {step}, where arms were given up: all that it needs came so far."]


def _left_out(study: Study, phase: Phase, conclusion: Conclusion, evidence: Evidence) -> dict[str, Any] | None:
    """What the arm with everything on loses without each component; of a winner with everything on `attribution` tells it."""
    if phase.design != "leave_one_out" or conclusion.winner == design.ALL_ON:
        return None
    found = {arm.name: series(evidence.get(arm.name, {}), study.objective.metric) for arm in conclusion.arms}
    without = {name: found[arm] for name in design.switches(phase) if (arm := design.without(name)) in found}
    if design.ALL_ON not in found or not without:
        return None
    guards = {arm: _guards(study, evidence.get(arm, {})) for arm in found}
    guarded = Guarded(guards[design.ALL_ON], {name: guards[design.without(name)] for name in without})
    shares, needs = losses(found[design.ALL_ON], without, study.alpha, study.objective.smallest_effect, study.objective.sign, guarded)
    return {
        "without": [asdict(share) for share in shares],
        "needs": needs,
        "sentences": [
            *_gains(study),
            *_so_far(conclusion.short.values()),
            *losses_in_words(shares, needs, f"the arm {design.ALL_ON}", guarded),
        ],
    }


def _guards(study: Study, found: Mapping[int, Metrics]) -> dict[str, bool]:
    """Guard to whether it holds, by the same trials, as far as they came, that the objective beside it is from."""
    return {guard.guard: guard.holds for guard in guard_states(study.guards, found) if guard.value is not None}


def _gains(study: Study) -> list[str]:
    """What the sign of a gain means, where it is not that of the metric."""
    return [] if study.objective.sign > 0 else [f"What is gained stands above 0: that is less {study.objective.metric}, which is better."]


def _pairing(study: Study, conclusion: Conclusion, evidence: Evidence) -> dict[str, Any] | None:
    """Of the arms that vary; the sentence is of the median."""
    metric = study.objective.metric
    other = series(evidence.get(BASELINE, {}), metric)
    known = {}
    for arm in conclusion.arms:
        one = pairing.removed(series(evidence.get(arm.name, {}), metric), other)
        if one is not None and arm.name != BASELINE and not arm.same_trials_as_baseline:
            known[arm.name] = one
    if not known:
        return None
    middle = _median(one.removed for one in known.values())
    among = f"(median of {counted(len(known), 'arm')})"
    told = f"Pairing by replicate took away no variance of a difference {among}."
    if middle >= 1 - 1e-9:
        told = f"Pairing by replicate took away all variance of a difference {among}."
    elif middle > 0:
        worth = f"one pair is worth about {1 / (1 - middle):.2g} unpaired ones"
        told = f"Pairing by replicate took away {share(middle)} of the variance of a difference {among}: {worth}."
    return {"arms": {name: {"removed": one.removed, "pairs": one.pairs} for name, one in known.items()}, "sentence": told}


def _median(values: Iterable[float]) -> float:
    ordered = sorted(values)
    return ordered[len(ordered) // 2]


def _noise(study: Study, phase: Phase, conclusion: Conclusion, evidence: Evidence) -> dict[str, Any] | None:
    """The A/A spread of a difference, and what these looks can show."""
    metric, plan = study.objective.metric, study.replicates_of(phase)
    floor = noise_floor(series(evidence.get(BASELINE, {}), metric).values())
    if floor is None:
        return None
    found = _pairing(study, conclusion, evidence)
    correlation = min(max(_median([one["removed"] for one in found["arms"].values()]), -0.9), 0.99) if found else 0.0
    deviation = floor.deviation * math.sqrt(1 - correlation)
    arms = max(1, len(conclusion.arms) - 1)
    least = detectable(Looks(plan.start, plan.at_most), deviation, study.alpha, arms)
    needed = replicates_needed(study.objective.smallest_effect, deviation, study.alpha, arms)
    smallest = number(study.objective.smallest_effect)
    return {
        "deviation": deviation,
        "replicates": floor.replicates,
        "correlation": correlation,
        "detectable": least,
        "needed": needed,
        "sentence": (
            f"A difference of the baseline against itself spreads by {number(deviation)} (from {counted(floor.replicates, 'replicate')}). "
            f"With {plan.at_most} replicates and {counted(arms, 'arm')}, an effect of {number(least)} is shown in {share(POWER)} of "
            f"studies; to show one of {smallest}, the smallest effect, takes {'more than 10,000' if needed is None else f'about {needed}'}."
        ),
    }


@dataclass(frozen=True)
class _Component:
    name: str
    off: Levels
    on: Levels

    def state(self, levels: Mapping[str, Level]) -> bool | None:
        """Whether it is on in an arm; None: neither on nor off."""
        if all(design.same(levels.get(path), value) for path, value in self.on.items()):
            return True
        return False if all(design.same(levels.get(path), value) for path, value in self.off.items()) else None


def attribution(
    study: Study, conclusions: Sequence[Conclusion], evidence: Mapping[str, Evidence], step: int | None = None
) -> dict[str, Any] | None:
    """Which components of the winner did it, from the study's baseline on: from every trial of any phase that measures one of their cells.

    A component is a factor or a named component that a phase's winner changed; what such a phase sets beside goes with the first of them,
    or is one of its own where the phase measured it alone. None where nothing was adopted or one component did it all.

    Args:
        step: Of the training that the evidence is from; none: the end.
    """
    phases = [one for one in conclusions if one.phase != CONFIRMATION]
    components, ignored = _components(study, phases)
    if not 2 <= len(components) <= MOST_COMPONENTS:
        return None
    cells: dict[Components, dict[int, Metrics]] = {}
    origin = {path: level for conclusion in reversed(phases) for path, level in study.phase(conclusion.phase).off.items()} | study.baseline
    unsaid, is_baseline = _unsaid(study, phases)
    start = BASELINE if is_baseline else FIRST_LEVELS
    for conclusion in phases:
        for arm in conclusion.arms:
            on = _cell(origin, {**unsaid, **arm.levels}, components, ignored)
            if on is not None:
                known = evidence.get(conclusion.phase, {}).get(arm.name, {})
                better = {r for r, v in series(known, study.objective.metric).items() if math.isfinite(v)}
                cell = cells.setdefault(on, {})
                cell |= {r: metrics for r, metrics in known.items() if r in better or r not in cell}
    names = [component.name for component in components]
    values = {on: {r: v for r, v in series(known, study.objective.metric).items() if math.isfinite(v)} for on, known in cells.items()}
    guards = {on: _guards(study, known) for on, known in cells.items()}
    found = attribute(
        names, values, study.alpha, study.objective.smallest_effect, study.objective.sign, guards, "the baseline" if is_baseline else start
    )
    at = values.get(frozenset(), {}).values()
    return {
        **{key: value for key, value in asdict(found).items() if key != "missing"},
        "sentences": [*_gains(study), *_so_far([] if step is None else [step]), *found.sentences],
        "components": {component.name: component.on for component in components},
        "start": {"name": start, "mean": mean(at)},
        "missing": [sorted(cell) for cell in found.missing],
        "ends": _ends(found, names),
    }


def _ends(found: Attribution, names: Sequence[str]) -> bool:
    return len(found.path) == len(names)


def _unsaid(study: Study, phases: Sequence[Conclusion]) -> tuple[Levels, bool]:
    """First levels that factorials add to what was carried and that change nothing: their "all off" is the baseline's own trials.

    Returns:
        These levels, by which arms without them are completed, and whether they are all: no factorial adds others.
    """
    found: dict[str, Level] = {}
    others = False
    for conclusion in phases:
        carried = conclusion.arm(BASELINE).levels
        added = {path: level for path, level in study.phase(conclusion.phase).off.items() if path not in {**found, **carried}}
        if any(arm.name == design.ALL_OFF and arm.same_trials_as_baseline for arm in conclusion.arms):
            found |= added
        else:
            others |= bool(added)
    return found, not others


def _components(study: Study, phases: Sequence[Conclusion]) -> tuple[list[_Component], set[str]]:
    """What the winners changed, in the order of the phases, and the paths that make no difference where they stand."""
    components: list[_Component] = []
    ignored: set[str] = set()
    held = dict(study.baseline)
    for conclusion in phases:
        phase, levels = study.phase(conclusion.phase), dict(conclusion.winner_levels)
        held = {**phase.off, **held}
        if conclusion.winner == BASELINE:
            continue
        changed = [path for path in Arm(name="", levels=levels).changes(Arm(name="", levels=held)) if path in levels]
        switches = {name: [p for p in on if p in changed] for name, on in design.switches(phase).items()}
        parts = {name: paths for name, paths in switches.items() if paths}
        beside = [path for path in changed if not any(path in paths for paths in parts.values())]
        alone = phase.design == "factorial" and not any(a.same_trials_as_baseline and a.name == design.ALL_OFF for a in conclusion.arms)
        if isinstance(phase.design, Tune):
            parts, beside = {f"thresholds of {phase.name}": changed}, []
        elif beside and (alone or not parts):
            parts = {f"settings of {phase.name}": beside, **parts}
        else:
            ignored |= set(beside)
        for name, paths in parts.items():
            components.append(_Component(name, {p: held.get(p) for p in paths}, {p: levels[p] for p in paths}))
        held = levels
    return components, ignored


def _cell(origin: Levels, levels: Levels, components: Sequence[_Component], ignored: set[str]) -> Components | None:
    """The components that are on in an arm; None where it differs from the study's baseline in anything else.

    Args:
        origin: The baseline, with a factorial's first levels where it says nothing of a setting.
    """
    states = {component.name: component.state(levels) for component in components}
    if any(state is None for state in states.values()):
        return None
    covered = ignored.union(*(component.on for component in components))
    other = Arm(name="", levels=levels).changes(Arm(name="", levels=origin))
    if any(path not in covered for path in other):
        return None
    return frozenset(name for name, on in states.items() if on)


def fairness(
    study: Study,
    conclusions: Sequence[Conclusion],
    placed: Placed,
    base: Levels,
    failed: Mapping[str, int],
    trials: Mapping[str, int],
) -> dict[str, Any]:
    """What was equal in all arms, what was tuned and for whom, and over how many trials.

    Args:
        base: The trainer's settings, by path.
        failed: Arm (`phase/arm`) to trials of it that failed for good.
        trials: Arm or point (`phase/arm`) to all trials of it.
    """
    arms = [levels for found in placed.values() for levels in found.values()] or [study.baseline]
    varied = sorted({path for one in arms for path in Arm(name="", levels=one).changes(Arm(name="", levels=study.baseline))})
    tuned: list[tuple[str, list[str], int, int]] = []
    for conclusion in conclusions:
        phase = study.phase(conclusion.phase)
        if isinstance(phase.design, Tune):
            used = sum(trials.get(f"{phase.name}/{point.name}", 0) for point in conclusion.points)
            tuned.append((phase.name, sorted(phase.factors), len(conclusion.points), used))
    counts = {f"{c.phase}/{a.name}": a.replicates for c in conclusions for a in c.arms}
    equal = len([path for path in base if path not in varied])
    known = f"{counted(equal, 'setting')}, all" if equal else "everything"
    what = f"{known} but {listed(varied)}" if varied else "everything"
    sentence = f"Equal in all arms: {what}; and, replicate by replicate, the seed (weights, order and crops as far as the trainer uses it)."
    for name, settings, points, used in tuned:
        who = f"for the arm `tuned` of {name} alone, over {points} points and {used} trials"
        sentence += f" Tuned: {listed(settings)}, {who}; the baseline keeps its own values of these."
    if not tuned:
        sentence += " Nothing was tuned for any arm."
    lost = {where: count for where, count in failed.items() if count}
    if lost:
        places = [f"{counted(count, 'trial')} of {where}" for where, count in lost.items()]
        sentence += f" Failed for good, so that pairs are missing: {listed(places)}."
    told = [dict(zip(("phase", "settings", "points", "trials"), one, strict=True)) for one in tuned]
    return {"equal": equal, "varied": varied, "tuned": told, "replicates": counts, "failed": lost, "sentence": sentence}
