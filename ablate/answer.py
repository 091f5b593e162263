"""What a study found, in plain words: what to change, what it brought, and what the answer does not cover."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict

from ablate import transfer
from ablate.caveats import caveats
from ablate.conclusion import ArmVerdict, Conclusion, Evidence, Metrics
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
            said += [f"  {change.path}: {level(change.becomes)}   (was {level(change.was)})" for change in self.changes]
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
        warnings=[*failures, *caveats(study, conclusions, subject if adopted else None)],
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
    open_ = [arm for arm in arms if arm.verdict == "undecided" and not arm.idle]
    measured = [arm for arm in open_ if arm.effect is not None and arm.healthy]
    cut = [arm for conclusion in conclusions for arm in conclusion.arms if arm.name in conclusion.short and arm in open_]
    blind = [arm for arm in open_ if arm not in measured and arm not in cut]
    untold = f" {counted(len(blind), 'arm')} could not be judged: {listed([arm.name for arm in blind])}." if blind else ""
    if cut:
        untold += f" {counted(len(cut), 'arm')} stopped at a rung for want of promise there: {listed([arm.name for arm in cut])}."
    kept = " with all guards kept" if study.guards else ""
    better = [arm for arm in arms if arm.p_adjusted is not None and arm.p_adjusted < study.alpha and arm.healthy]
    of_better = f"{counted(len(better), 'arm')} of {len(arms)} better than the baseline{kept}"
    unbeaten = sorted({reference.name for arm in better for reference in arm.references if reference.compared and not reference.beaten})
    unknown = sorted({reference.name for arm in better for reference in arm.references if not reference.compared})
    if better and unbeaten:
        first = f"{'Undecided' if blind else 'No'}: {_not_learned(conclusions, better)}."
        return [f"{first} {of_better}, but none is shown to beat {listed(unbeaten)} on {metric}.{untold}"]
    if better and unknown:
        why = f"{listed(unknown)} has too few results on {metric} to be beaten"
        return [f"Undecided: {of_better}, but {why}.{untold} Until more is known, the baseline stays."]
    none = f"none of {counted(len(arms), 'arm')} is adopted{_beside_references(study, arms)}."
    if measured:
        best = max(measured, key=lambda arm: study.objective.sign * (arm.effect.mean if arm.effect else 0.0))
        assert best.effect is not None
        effect = f"{metric} {number(best.effect.mean, signed=True)}{between(best.effect.low, best.effect.high)}"
        help_ = f"{counted(len(measured), 'arm')}{kept} may yet help; the largest effect is {effect} of {best.name}."
        return [f"Undecided: {none} {help_}{untold} Until more is known, the baseline stays."]
    if blind or cut:
        return [f"Undecided: {none}{untold} Until more is known, the baseline stays."]
    return [f"No: {none} The baseline stays."]


def _not_learned(conclusions: Sequence[Conclusion], better: Sequence[ArmVerdict]) -> str:
    """That learning is not shown; and that a collapse was prevented, where the trainer says that the baseline had one and these not."""
    before = conclusions[0].arm(BASELINE).collapse
    prevented = before not in (None, NO_COLLAPSE) and all(arm.collapse == NO_COLLAPSE for arm in better)
    return NOT_LEARNED if prevented else "learning not shown"


def _beside_references(study: Study, arms: Sequence[ArmVerdict]) -> str:
    """Which references none of these is shown to beat, and which could be compared with none."""
    compared = {reference.name for arm in arms for reference in arm.references if reference.compared}
    beaten = {reference.name for arm in arms for reference in arm.references if reference.beaten}
    known = study.references.keys()
    above, unknown = (listed(sorted(names)) for names in ((known & compared) - beaten, known - compared))
    said = f" and none is shown to beat {above}: learning not shown" if above else ""
    return said + (f"; {unknown} could be compared with none" if unknown else "")


def _otherwise(study: Study, last: Conclusion, adopted: bool) -> list[str]:
    if study.otherwise is None or adopted or last.next is not None:
        return []
    return [f"The study for this case, beside this one's file: ablate run {study.otherwise}"]


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
    return max(rivals, key=lambda pair: (pair[1].healthy, study.objective.sign * (pair[1].effect.mean if pair[1].effect else 0.0)))


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


def level(value: Level) -> str:
    return {True: "true", False: "false", None: "null"}[value] if value is None or isinstance(value, bool) else str(value)
