"""What a study found, in plain words: what to change, what it brought, and what the answer does not cover."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict

from ablate import transfer
from ablate.conclusion import ArmVerdict, Conclusion, Evidence, Metrics, ReferenceState, unconfirmed
from ablate.stats.effects import Paired, mean, paired
from ablate.study import BASELINE, CONFIRMATION, Arm, Level, Levels, Question, Study
from ablate.words import between, counted, listed, number

NOT_LEARNED = "collapse prevented, learning not shown"

NO_COLLAPSE = "none"
"""What a trainer that names collapses says of a run that has none."""


class _Frozen(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Change(_Frozen):
    """A setting of the winner that differs from the study's baseline."""

    path: str
    was: Level
    becomes: Level


class Answered(_Frozen):
    """A question of the study with its figures."""

    ask: str
    metric: str
    direction: Literal["maximize", "minimize"]
    baseline: float | None
    """Mean of the study's baseline."""
    arm: float | None
    """Mean of the arm asked about."""
    difference: float | None
    """Paired mean difference."""
    low: float | None
    high: float | None
    """Its own interval at level 1 - alpha, without correction over the questions."""
    pairs: int
    says: Literal["yes", "no", "not shown"]
    sentence: str


class Answer(_Frozen):
    """The answer of a study."""

    headline: list[str]
    subject: str
    """The arm that `questions` are about: the winner, else the arm with the largest effect, else `baseline`."""
    changes: list[Change]
    """What to change in the config, settings without effect under the winner's left out; empty where nothing is adopted."""
    questions: list[Answered]
    warnings: list[str]
    lacking: list[str] = []
    """What the results lack for a decision: what was expected, what came, and what to do."""
    mattered: list[str] = []
    """What a factorial and the attribution say, beyond each arm's verdict."""
    fairness: str = ""

    def lines(self) -> list[str]:
        """Everything as lines of text."""
        said = list(self.headline)
        if self.changes:
            said += ["", "Change in the config:"]
            said += [f"  {change.path}: {_level(change.becomes)}   (was {_level(change.was)})" for change in self.changes]
        if self.questions:
            said += ["", f"For {self.subject}, against the study's baseline:"]
            said += [f"  {question.sentence}" for question in self.questions]
        if self.lacking:
            said += ["", "What is missing:", *(f"  {sentence}" for sentence in self.lacking)]
        if self.mattered:
            said += ["", "What mattered:", *(f"  {sentence}" for sentence in self.mattered)]
        if self.warnings:
            said += ["", "Keep in mind:", *(f"  {warning}" for warning in self.warnings)]
        if self.fairness:
            said += ["", "Fairness:", f"  {self.fairness}"]
        return said


def answer(
    study: Study,
    conclusions: Sequence[Conclusion],
    *,
    base: Levels,
    origin: Mapping[int, Metrics],
    evidence: Mapping[str, Evidence],
    failures: Sequence[str],
    lacking: Sequence[str] = (),
    mattered: Sequence[str] = (),
    fairness: str = "",
) -> Answer:
    """The answer from what is concluded so far.

    Args:
        base: The trainer's settings before any levels, by dotted path.
        origin: The study's own baseline by replicate.
        evidence: Phase to arm to replicate to final metrics.
        failures: Sentences on trials that failed for good.
        lacking: Sentences of `gaps`.
        mattered: Sentences of `insight`.
        fairness: What was equal in all arms.
    """
    if not conclusions:
        headline = ["No phase is concluded yet."]
        return Answer(headline=headline, subject=BASELINE, changes=[], questions=[], warnings=list(failures), lacking=list(lacking))
    last = conclusions[-1]
    adopted = _adopted(conclusions)
    where, subject = (last, last.arm(last.winner)) if adopted else _closest(study, conclusions)
    found = evidence.get(where.phase, {}).get(subject.name, {})
    return Answer(
        headline=[
            *([held] if (held := transfer.sentence(study, last)) else []),
            *_headline(study, conclusions, adopted),
            *_otherwise(study, last, adopted),
            *(_phase_line(conclusion) for conclusion in conclusions),
        ],
        subject=f"{subject.name} ({where.phase})" if subject.name != BASELINE else "the winner",
        changes=[change for change in _changes(study, last.winner_levels, base) if change.path not in last.inert],
        questions=[] if subject.name == BASELINE and not adopted else [_answered(study, one, found, origin) for one in study.questions],
        warnings=[*failures, *_warnings(study, conclusions, subject if adopted else None)],
        lacking=list(lacking),
        mattered=list(mattered),
        fairness=fairness,
    )


def _adopted(conclusions: Sequence[Conclusion]) -> bool:
    """Whether a change is recommended: what the phases adopted, unless fresh replicates did not confirm it."""
    last = conclusions[-1]
    return last.winner != BASELINE if last.phase == CONFIRMATION else any(one.winner != BASELINE for one in conclusions)


def _headline(study: Study, conclusions: Sequence[Conclusion], adopted: bool) -> list[str]:
    metric = study.objective.metric
    last = conclusions[-1]
    phases = [conclusion for conclusion in conclusions if conclusion.phase != CONFIRMATION]
    names = [f"{conclusion.winner} ({conclusion.phase})" for conclusion in phases if conclusion.winner != BASELINE]
    if last.phase == CONFIRMATION and not adopted:
        arm = last.arms[-1]
        fresh = f"{counted(arm.replicates, 'fresh replicate')} of the winner against the study's baseline say {arm.verdict}"
        fresh = fresh if arm.effect is not None else "no fresh replicate of the winner pairs with the study's baseline"
        return [
            f"Not confirmed: {listed(names)} {'was' if len(names) == 1 else 'were'} adopted by the replicates that chose, but "
            f"{fresh}. {arm.reason} "
            "The baseline stays."
        ]
    if adopted:
        winner = conclusions[-1].arm(conclusions[-1].winner)
        together = ", and together" if len(names) > 1 else " and"  # what fresh replicates confirm is all of it, not each part
        confirmed = f"{together} confirmed on fresh replicates" if last.phase == CONFIRMATION else ""
        said = [f"Yes: {listed(names)} {'is' if len(names) == 1 else 'are'} adopted{confirmed}."]
        if winner.total_effect is not None:
            total = winner.total_effect
            pairs = counted(winner.replicates if total.pairs is None else total.pairs, "fresh replicate" if confirmed else "replicate")
            said[0] += (
                f" Against the study's baseline, {metric} changes by {number(total.mean, signed=True)}{between(total.low, total.high)}"
                f" to {number(winner.metrics.get(metric))}, over {pairs}."
            )
        return said + _collapse_line(conclusions)
    arms = [arm for conclusion in conclusions for arm in conclusion.arms if arm.name != BASELINE]
    if not arms:
        return [f"Undecided: no arm of {listed([one.phase for one in phases])} could be compared with the baseline, which stays."]
    better = [arm for arm in arms if arm.p_adjusted is not None and arm.p_adjusted < study.alpha and _healthy(arm)]
    unbeaten = sorted({reference.name for arm in better for reference in arm.references if _compared(reference) and not reference.beaten})
    unknown = sorted({reference.name for arm in better for reference in arm.references if not _compared(reference)})
    if better and unknown and not unbeaten:
        return [
            f"Undecided: {counted(len(better), 'arm')} of {len(arms)} better than the baseline with all guards kept, but {listed(unknown)} "
            f"has too few results on {metric} to be beaten. Until it has, the baseline stays."
        ]
    if better and unbeaten:
        return [
            f"No: {_not_learned(conclusions, better)}. {counted(len(better), 'arm')} of {len(arms)} better than the baseline "
            f"with all guards kept, but none is shown to beat {listed(unbeaten)} on {metric}."
        ]
    beaten = _beside_references(study, arms)
    open_ = [arm for arm in arms if arm.verdict == "undecided" and not _idle(arm)]
    measured = [arm for arm in open_ if arm.effect is not None and _healthy(arm)]
    blind = [arm for arm in open_ if arm not in measured]
    untold = f" {counted(len(blind), 'arm')} could not be judged: {listed([arm.name for arm in blind])}." if blind else ""
    if measured:
        best = max(measured, key=lambda arm: study.objective.sign * (arm.effect.mean if arm.effect else 0.0))
        assert best.effect is not None
        effect = f"{metric} {number(best.effect.mean, signed=True)}{between(best.effect.low, best.effect.high)}"
        kept = "with all guards kept " if study.guards else ""
        return [
            f"Undecided: none of {counted(len(arms), 'arm')} is adopted{beaten}. {counted(len(measured), 'arm')} {kept}"
            f"may yet help; the largest effect is {effect} of {best.name}.{untold} Until more is known, the baseline stays."
        ]
    if blind:
        return [f"Undecided: none of {counted(len(arms), 'arm')} is adopted{beaten}.{untold} Until more is known, the baseline stays."]
    return [f"No: none of {counted(len(arms), 'arm')} is adopted{beaten}. The baseline stays."]


def _compared(reference: ReferenceState) -> bool:
    """Whether an interval of the difference to it is defined."""
    return reference.individual is not None


def _not_learned(conclusions: Sequence[Conclusion], better: Sequence[ArmVerdict]) -> str:
    """That learning is not shown; and that a collapse was prevented, where the trainer says that the baseline had one and these not."""
    before = conclusions[0].arm(BASELINE).collapse
    prevented = before not in (None, NO_COLLAPSE) and all(arm.collapse == NO_COLLAPSE for arm in better)
    return NOT_LEARNED if prevented else "learning not shown"


def _beside_references(study: Study, arms: Sequence[ArmVerdict]) -> str:
    """That none of these is shown to beat the references, or could not be compared with them."""
    compared = {reference.name for arm in arms for reference in arm.references if _compared(reference)}
    known, unknown = (listed(sorted(names)) for names in (study.references.keys() & compared, study.references.keys() - compared))
    said = f" and none is shown to beat {known}: learning not shown" if known else ""
    return said + (f"; {unknown} could be compared with none" if unknown else "")


def _otherwise(study: Study, last: Conclusion, adopted: bool) -> list[str]:
    if study.otherwise is None or adopted or last.next is not None:
        return []
    return [f"The study for this case, beside this one's file: ablate run {study.otherwise}"]


def _idle(arm: ArmVerdict) -> bool:
    """Whether every paired difference is exactly 0."""
    return arm.effect is not None and arm.effect.mean == 0 and arm.effect.low is None


def _collapse_line(conclusions: Sequence[Conclusion]) -> list[str]:
    before = conclusions[0].arm(BASELINE).collapse
    after = conclusions[-1].arm(conclusions[-1].winner).collapse
    if before is None or after is None:
        return []
    return [f"Collapse: the study's baseline is {before}, the winner {after}."]


def _phase_line(conclusion: Conclusion) -> str:
    counts = {word: sum(arm.verdict == word for arm in conclusion.arms) for word in ("adopt", "reject", "undecided")}
    told = f"{counts['adopt']} adopted, {counts['reject']} rejected, {counts['undecided']} undecided"
    return f"Phase {conclusion.phase}: {told}. {conclusion.reason}"


def _closest(study: Study, conclusions: Sequence[Conclusion]) -> tuple[Conclusion, ArmVerdict]:
    """The arm with the largest effect, adopted or not, healthy ones first."""
    rivals = [(conclusion, arm) for conclusion in conclusions for arm in conclusion.arms if arm.name != BASELINE and arm.effect is not None]
    if not rivals:
        return conclusions[-1], conclusions[-1].arm(BASELINE)
    return max(rivals, key=lambda pair: (_healthy(pair[1]), study.objective.sign * (pair[1].effect.mean if pair[1].effect else 0.0)))


def _changes(study: Study, winner: Levels, base: Levels) -> list[Change]:
    paths = Arm(name="winner", levels=winner).changes(Arm(name=BASELINE, levels=study.baseline))
    settings = base | study.baseline
    changes = [Change(path=path, was=settings.get(path), becomes=winner.get(path, base.get(path))) for path in paths]
    return [change for change in changes if change.was != change.becomes]


def _answered(study: Study, question: Question, found: Mapping[int, Metrics], origin: Mapping[int, Metrics]) -> Answered:
    arm = {r: metrics[question.metric] for r, metrics in found.items() if question.metric in metrics}
    other = {r: metrics[question.metric] for r, metrics in origin.items() if question.metric in metrics}
    pairs = paired(arm, other)
    before, after = mean(other[r] for r in pairs.differences), mean(arm[r] for r in pairs.differences)
    low, high = pairs.interval(1 - study.alpha) or (None, None)
    says = _says(question, low, high)
    return Answered(
        ask=question.ask,
        metric=question.metric,
        direction=question.direction,
        baseline=before,
        arm=after,
        difference=pairs.mean,
        low=low,
        high=high,
        pairs=pairs.pairs,
        says=says,
        sentence=f"{question.ask} {_figures(study, question, pairs, before, after, says)}{_unpaired(found, origin, pairs)}",
    )


def _says(question: Question, low: float | None, high: float | None) -> Literal["yes", "no", "not shown"]:
    if low is None or high is None:
        return "not shown"
    good = low > 0 if question.direction == "maximize" else high < 0
    bad = high < 0 if question.direction == "maximize" else low > 0
    return "yes" if good else "no" if bad else "not shown"


def _figures(study: Study, question: Question, pairs: Paired, before: float | None, after: float | None, says: str) -> str:
    if pairs.mean is None:
        return f"Not known: {question.metric} has no finite value in both arms of any replicate."
    words = {"yes": "Yes", "no": "No, the opposite", "not shown": "Not shown"}[says]
    interval = pairs.interval(1 - study.alpha)
    spread = f", {1 - study.alpha:.0%} interval {number(interval[0])} to {number(interval[1])}" if interval else ", no interval"
    change = f"difference {number(pairs.mean, signed=True)}{spread}, {counted(pairs.pairs, 'pair')}"
    return f"{words}: {question.metric} {number(before)} -> {number(after)} ({change})."


def _unpaired(found: Mapping[int, Metrics], origin: Mapping[int, Metrics], pairs: Paired) -> str:
    """Which replicates both have and yet do not pair."""
    lost = [str(replicate) for replicate in sorted(found.keys() & origin.keys()) if replicate not in pairs.differences]
    if not lost or not pairs.pairs:
        return ""
    return f" Left out for a missing or not finite value: replicate{'s' if len(lost) > 1 else ''} {', '.join(lost)}."


def _warnings(study: Study, conclusions: Sequence[Conclusion], winner: ArmVerdict | None) -> list[str]:
    said = []
    if winner is not None:
        said += _flattered(conclusions)
        said += [f"The winner breaks a guard: {guard.guard}." for guard in winner.guards if guard.value is not None and not guard.holds]
        said += [
            f"No replicate of the winner reported {guard.metric}: whether {guard.guard} holds is not known."
            for guard in winner.guards
            if guard.value is None
        ]
        said += [
            f"The winner of the last phase is not shown there to beat {reference.name}: learning not shown."
            for reference in winner.references
            if not reference.beaten and winner.name != BASELINE
        ]
    said += _undecided(study, conclusions)
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
    idle = [name for name, arm in open_ if _idle(arm)]
    lost = [name for name, arm in open_ if arm.effect is None]
    unguarded = [name for name, arm in open_ if arm.effect is not None and any(guard.value is None for guard in arm.guards)]
    undecided = [name for name, _ in open_ if name not in {*idle, *lost, *unguarded}]
    said = []
    if undecided:
        said.append(f"Undecided is not refuted: {listed(undecided)} may help; more replicates would tell.")
    if lost:
        said.append(
            f"Nothing is known of {listed(lost)}: no replicate pairs with the baseline's. Mend what is missing above and run again."
        )
    if unguarded:
        said.append(f"Not judged for want of a guard's metric: {listed(unguarded)}. Let the trainer return it, or name the one it returns.")
    if idle:
        said.append(f"Equal to their baseline in every replicate, so without effect under these settings: {listed(idle)}.")
    return said


def _checks(conclusions: Sequence[Conclusion]) -> list[str]:
    """How often giving up an arm early was right, where that was looked at."""
    checks = [check for conclusion in conclusions for check in conclusion.checks]
    if not checks:
        return []
    wrong = [check.arm for check in checks if not check.confirmed]
    given_up = sum(text.startswith("Stopped") for conclusion in conclusions for text in conclusion.stopped.values())
    said = f"{counted(given_up, 'arm')} stopped early; {counted(len(checks), 'other')} that would have run on to check the rules: "
    return [said + ("each bears them out." if not wrong else f"{listed(wrong)} did not, so that rule stopped no arm of its phase.")]


def _healthy(arm: ArmVerdict) -> bool:
    return all(guard.holds for guard in arm.guards)


def _level(value: Level) -> str:
    return {True: "true", False: "false", None: "null"}[value] if value is None or isinstance(value, bool) else str(value)
