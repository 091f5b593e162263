"""What an answer does not cover, and what would tell more. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from ablate.conclusion import ArmVerdict, Conclusion, unconfirmed
from ablate.study import BASELINE, CONFIRMATION, Study
from ablate.words import counted, listed


def caveats(study: Study, conclusions: Sequence[Conclusion], winner: ArmVerdict | None) -> list[str]:
    """Sentences to keep in mind.

    Args:
        winner: The last phase's, where anything is adopted.
    """
    said = []
    if winner is not None:
        said += _flattered(conclusions)
        said += [f"The winner breaks a guard: {guard.guard}." for guard in winner.guards if guard.value is not None and not guard.holds]
        said += [
            f"No replicate of the winner has a finite {guard.metric}: whether {guard.guard} holds is not known."
            for guard in winner.guards
            if guard.value is None
        ]
        said += [
            f"The winner of the last phase is not shown there to beat {reference.name}: learning not shown."
            for reference in winner.references
            if not reference.beaten and winner.name != BASELINE
        ]
    said += [*_undecided(study, conclusions), *_uneven(conclusions), *(note for one in conclusions for note in one.notes)]
    missing = [phase.name for phase in study.phases if phase.name not in {conclusion.phase for conclusion in conclusions}]
    if unconfirmed(study, conclusions):
        said.append("The winner has not met the study's baseline on fresh replicates yet: run the same command again.")
    said += _checks(conclusions)
    if missing and conclusions[-1].next is not None:
        said.append(f"The study has not ended: {listed(missing)} {'is' if len(missing) == 1 else 'are'} not concluded.")
    elif missing:
        said.append(f"Not run, because a gate led elsewhere: {listed(missing)}.")
    planned = (study.replicates.start, study.replicates.at_most)
    looks = dict.fromkeys(conclusion.looks or planned for conclusion in conclusions)
    spans = listed([f"from {first} to {last}" if first < last else f"at {last}" for first, last in looks])
    said.append(
        "Intervals cover what the replicate's seed varies (start, order, and split of the data where it rotates), not other data, "
        "longer training or larger models. They assume about normal differences, and hold for all arms of a phase together, not for all "
        f"phases, at every look ({spans} replicates)."
    )
    if study.questions:
        rivals = sum(arm.name != BASELINE for conclusion in conclusions for arm in conclusion.arms)
        picked = bool(_flattered(conclusions)) if winner is not None else rivals > 1
        chosen = "; the arm was chosen by the same replicates" if picked else ""
        said.append(f"Each question is answered by an interval of its own, corrected neither for their number nor for the looks{chosen}.")
    return said


def _flattered(conclusions: Sequence[Conclusion]) -> list[str]:
    """That the replicates which chose the winner also measure it: not so on the fresh ones of a confirmation or of a tuning phase."""
    last = conclusions[-1]
    if last.phase == CONFIRMATION or last.points:
        return []
    chosen = [
        f"the best of {counted(max(len(one.arms) - 1, len(one.points)), 'point' if one.points else 'arm')} in {one.phase}"
        for one in conclusions
        if one.winner != BASELINE and (len(one.arms) > 2 or one.points)
    ]
    if not chosen:
        return []
    return [f"The winner is {listed(chosen)} by the same replicates that measure it: its mean effect is flattered."]


def _undecided(study: Study, conclusions: Sequence[Conclusion]) -> list[str]:
    """What would tell of the arms that are neither adopted nor rejected."""
    open_ = [
        (f"{arm.name} ({conclusion.phase})", arm) for conclusion in conclusions for arm in conclusion.arms if arm.verdict == "undecided"
    ]
    idle = [name for name, arm in open_ if arm.idle]
    early = [f"{arm} ({conclusion.phase})" for conclusion in conclusions for arm in conclusion.short]
    cut = [name for name, _ in open_ if name in early]
    lost = [name for name, arm in open_ if arm.effect is None and name not in early]
    unguarded = [name for name, arm in open_ if arm.effect is not None and any(guard.value is None for guard in arm.guards)]
    alone = [
        name
        for name, arm in open_
        if arm.p_adjusted is not None and arm.p_adjusted < study.alpha and any(not reference.compared for reference in arm.references)
    ]
    survivors = [
        name for name, arm in open_ if arm.broken_down and arm.p_adjusted is not None and arm.p_adjusted < study.alpha and name not in alone
    ]
    undecided = [name for name, _ in open_ if name not in {*idle, *lost, *unguarded, *alone, *survivors}]
    said = []
    if undecided:
        said.append(
            f"Undecided is not refuted: {listed(undecided)} may help; more replicates would tell: ablate more {study.study} PHASE/ARM."
        )
    if cut:
        steps = sorted({step for conclusion in conclusions for step in conclusion.short.values()})
        after = f"What {listed(cut)} would show after step {listed([str(step) for step in steps])} is not known"
        said.append(f"{after}: an arm that starts slowly may be among them.")
    if lost:
        said.append(
            f"Nothing is known of {listed(lost)}: no replicate pairs with the baseline's. Mend what is missing above and run again."
        )
    if unguarded:
        said.append(f"Not judged for want of a guard's metric: {listed(unguarded)}. Let the trainer return it, or name the one it returns.")
    if alone:
        said.append(f"Better than the baseline, but not compared with every reference: {listed(alone)}. Mend what is missing above.")
    if survivors:
        said.append(
            f"Better only where training did not break down: {listed(survivors)}. Find what stops the breakdown before more replicates."
        )
    if idle:
        said.append(f"Equal to their baseline in every replicate, so without effect under these settings: {listed(idle)}.")
    return said


def _uneven(conclusions: Sequence[Conclusion]) -> list[str]:
    """Phases whose arms do not all rest on the replicates that the baseline has, so that plain means do not compare."""
    uneven = []
    for one in conclusions:
        pairs = [arm.effect.pairs for arm in one.arms if arm.effect is not None and arm.effect.pairs is not None]
        if any(count < one.arm(BASELINE).replicates for count in pairs):
            uneven.append(one.phase)
    if not uneven:
        return []
    return [
        f"The arms of {listed(uneven)} have not all the same replicates: compare them by their effects, which pair, and not by their means."
    ]


def _checks(conclusions: Sequence[Conclusion]) -> list[str]:
    """How often giving up an arm early was right, where that was looked at."""
    checks = [check for conclusion in conclusions for check in conclusion.checks]
    if not checks:
        return []
    wrong = [check.arm for check in checks if not check.confirmed]
    given_up = sum(text.startswith("Stopped") for conclusion in conclusions for text in conclusion.stopped.values())
    said = f"{counted(given_up, 'arm')} stopped early; {counted(len(checks), 'other')} that would have run on to check the rules: "
    return [said + ("each bears them out." if not wrong else f"{listed(wrong)} did not, so that rule stopped no arm of its phase.")]
