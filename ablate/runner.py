"""The loop: phases become trials, trials become verdicts, the winner is carried into the next phase."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from ablate import design, gaps, gates, history, operating, plan, preflight, trial, verdict
from ablate.allocation import allocate
from ablate.conclusion import Conclusion, Evidence, Metrics, Point, unconfirmed
from ablate.errors import BaselineFailed, BudgetSpent, Reopened
from ablate.execution.pool import Queue, QueueEvent
from ablate.ledger import Ledger
from ablate.offers import Config, Offers
from ablate.proposals import Told, Tuner
from ablate.study import BASELINE, CONFIRMATION, REFERENCES, Arm, Levels, Phase, Study, Tune
from ablate.words import listed


class Signed(Protocol):
    """A trial as planned, or the place that one has on record."""

    @property
    def signature(self) -> str: ...
    @property
    def replicate(self) -> int: ...


class Observer(Protocol):
    """Who watches a run; it never changes it."""

    def foretold(self, findings: Sequence[Mapping[str, object]]) -> None:
        """What the trainer said of the arms before any training, each finding once; before the first phase."""

    def phase(self, name: str) -> None:
        """A phase begins."""

    def trials(self, phase: str, arms: Mapping[str, Sequence[Signed]]) -> None:
        """These arms' trials are about to be completed."""

    def event(self, event: QueueEvent) -> None:
        """Something happened to a trial or a worker."""

    def concluded(self, conclusion: Conclusion) -> None:
        """A phase was decided, now or in an earlier run."""


def run(study: Study, root: Path, observer: Observer) -> list[Conclusion]:
    """Run a study to its end, or go on where it stopped.

    Args:
        root: The `runs` folder.

    Returns:
        The conclusion of each phase that the gates let run, in order.

    Raises:
        StudyError: Levels that cannot work, found before training; or the study, its code or data changed since its first run.
        StudyBusy: Another controller runs it.
        BudgetSpent: The budget ended first; the same command goes on with a larger one.
        Interrupted: The user stopped it; the same command goes on.
    """
    offers = Offers(study.trainer)
    arms = preflight.asked(study)
    origin = offers.config(study.baseline, 0)
    ledger = Ledger(root / study.study / "ledger.db")
    with Queue(ledger, root, study, on_event=observer.event) as queue:
        if ledger.frozen() is None:
            queue.prepare(len(arms))
        with offers.kept_ready():
            findings = preflight.summary(arms, preflight.check(study, arms, offers, root))
            data_hash = offers.data_hash(origin)
        document = {"study": study.model_dump(mode="json", by_alias=True), "base": offers.base()}
        ledger.freeze(document, offers.code_version(), data_hash)
        preflight.keep(root, study, offers.code_version(), findings)
        observer.foretold(findings)
        stage = Stage(study, offers, origin, root, ledger, queue, observer)
        concluded = None
        while concluded is None:
            with contextlib.suppress(Reopened):  # what is decided already is found on record the second time
                concluded = _phases(stage, observer)
        ledger.event("done", f"{study.study}: {len(concluded)} phases concluded")
        history.record(root, history.entry(study, concluded, offers.code_version(), data_hash))
        return concluded


def _phases(stage: Stage, observer: Observer) -> list[Conclusion]:
    """Each phase that the gates let run, in order."""
    carried, concluded = dict(stage.study.baseline), []
    name: str | None = stage.study.phases[0].name
    while name is not None:
        observer.phase(name)
        conclusion = stage.recorded(name) or stage.conclude(stage.study.phase(name), carried)
        observer.concluded(conclusion)
        concluded.append(conclusion)
        carried, name = dict(conclusion.winner_levels), conclusion.next
        if unconfirmed(stage.study, concluded):
            name = CONFIRMATION
    return concluded


class Stage:
    """What a phase needs to run: the frozen study, its trainer, its record and its queue."""

    def __init__(self, study: Study, offers: Offers, origin: Config, root: Path, ledger: Ledger, queue: Queue, observer: Observer) -> None:
        self.study, self.offers, self.origin = study, offers, origin
        self.root, self.ledger, self.queue, self.observer = root, ledger, queue, observer

    def recorded(self, phase: str) -> Conclusion | None:
        """The decision of a phase, where an earlier run of this study took it; trials that a user lets run again run, and it stays."""
        found = self.ledger.conclusions().get(phase)
        if found is None:
            return None
        again = self._retried(phase)
        if again:
            self.observer.trials(phase, again)
            self.queue.complete([spec for specs in again.values() for spec in specs])
        return Conclusion.model_validate(found)

    def _retried(self, phase: str) -> dict[str, list[trial.TrialSpec]]:
        """Arms of a concluded phase with trials that wait all the same: a user asked for them again."""
        records = self.ledger.trials({trial.TrialState.QUEUED, trial.TrialState.RUNNING})
        waiting = {record.signature for record in records if not record.message.startswith(trial.PAUSED)}
        found: dict[str, list[trial.TrialSpec]] = {}
        own = self.ledger.uses(phase)
        replicates = {use.replicate for use in own}
        for use in [*own, *(use for use in self.ledger.uses(REFERENCES) if use.replicate in replicates)]:
            file = trial.TrialFiles(self.root, use.signature).spec
            if use.signature in waiting and file.exists():
                found.setdefault(use.arm, []).append(trial.TrialSpec.from_json(file.read_text()))
        return found

    def conclude(self, phase: Phase, carried: Levels) -> Conclusion:
        """Run a phase's trials, decide, and record the decision."""
        self.ledger.event("phase", f"{phase.name} begins")
        for path in plan.inert_factors(phase, carried, self.offers):
            # Known only now: it depends on the winner. Its arms are then the baseline's own trials, and the verdict says so.
            self.ledger.event("inert", f"{phase.name}: {path} has no effect on top of what is carried")
        if isinstance(phase.design, Tune):
            conclusion = self._tuned(phase, phase.design, carried)
        elif phase.name == CONFIRMATION:
            arms = [Arm(name=BASELINE, levels=dict(self.study.baseline)), Arm(name="winner", levels=dict(carried))]
            conclusion = self._decide(phase, arms, over=self.study.trainer.confirm)
        else:
            self._look_again(phase, carried)
            conclusion = self._decide(phase, design.expand(phase, carried))
        inert = self.offers.inert(self.offers.config(conclusion.winner_levels, 0))
        conclusion = conclusion.model_copy(update={"inert": [path for path in inert if path in conclusion.winner_levels]})
        if phase.name != CONFIRMATION:
            conclusion = gates.pass_through(self.study, phase, conclusion)
        self.ledger.conclude(phase.name, conclusion.model_dump(mode="json"))
        self.ledger.event("phase", f"{phase.name}: {conclusion.reason}")
        return conclusion

    def _look_again(self, phase: Phase, carried: Levels) -> None:
        """An arm that the real winner turns out not to permit is on record before its trials show it."""
        arms = [arm for arm in design.expand(phase, carried) if arm.name != BASELINE]
        found = self.offers.preflight([self.offers.config(arm.levels, 0) for arm in arms], self.root)
        for arm, findings in zip(arms, found, strict=True):
            for finding in findings:
                if finding.level == "error":
                    self.ledger.event("preflight", f"{phase.name}: {arm.name}: {finding.path}: {finding.what} {finding.mend}")

    def _decide(self, phase: Phase, arms: Sequence[Arm], points: Sequence[Point] = (), over: Levels | None = None) -> Conclusion:
        """Give replicates until nothing is open, and decide.

        Args:
            over: Settings of these trials over all others.
        """
        first = plan.first_replicate(self.study, phase)
        kept: dict[tuple[str, str], list[trial.TrialSpec]] = {}

        def specs_of(place: str, arm: Arm, count: int) -> list[trial.TrialSpec]:
            specs = kept.setdefault((place, arm.name), [])
            if count > len(specs):
                specs += self._specs(place, arm, range(first + len(specs), first + count), over)
            return specs[:count]

        beside = [Arm(name=n, levels={**self.study.baseline, **levels}) for n, levels in self.study.references.items()]
        origin = Arm(name=BASELINE, levels=dict(self.study.baseline))
        # On a tuning phase's fresh replicates the total effect would cost trials of its own; the confirmation tells it from unbiased ones.
        told_later = isinstance(phase.design, Tune) and self.study.confirm
        given: dict[str, int] = {}
        at_rungs: dict[int, Evidence] = {}
        notes: list[str] = []
        while True:
            specs = {arm.name: specs_of(phase.name, arm, given.get(arm.name, 0)) for arm in arms}
            evidence = {name: self._metrics(found) for name, found in specs.items()}
            references = {arm.name: specs_of(REFERENCES, arm, given.get(BASELINE, 0)) for arm in beside}
            origins = [] if told_later else specs_of(REFERENCES, origin, given.get(BASELINE, 0))
            if given and not any(self.study.objective.metric in metrics for metrics in evidence[BASELINE].values()):
                raise BaselineFailed(self._why_failed(phase, specs[BASELINE], evidence[BASELINE]))
            of_references = {name: self._metrics(found) for name, found in references.items()}
            same = _equal({arm.name: kept.get((phase.name, arm.name), []) for arm in arms}) if kept else []
            decided = allocate(self.study, phase, [arm.name for arm in arms], given, evidence, of_references, same, at_rungs)
            if not decided.more(given):
                break
            if decided.until is not None:
                with self.ledger.transaction():
                    racing = {arm.name: specs_of(phase.name, arm, decided.replicates.get(arm.name, 0)) for arm in arms}
                self._complete(phase.name, racing, decided.until)
                at_rungs[decided.until] = {name: self._at_rung(found, decided.until) for name, found in racing.items()}
                notes += self._unheard(phase, decided.until, at_rungs[decided.until])
                continue
            given = {arm: max(count, given.get(arm, 0)) for arm, count in decided.replicates.items()}
            with self.ledger.transaction():
                wanted = {} if told_later else {"study baseline": specs_of(REFERENCES, origin, given[BASELINE])}
                wanted |= {arm.name: specs_of(REFERENCES, arm, given[BASELINE]) for arm in beside}
                wanted |= {arm.name: specs_of(phase.name, arm, given.get(arm.name, 0)) for arm in arms}
            self._complete(phase.name, wanted)
        concluded = verdict.conclude(
            self.study,
            phase,
            arms,
            evidence,
            origin=self._metrics(origins),
            references=of_references,
            collapse={name: self._collapse(found) for name, found in specs.items()},
            same=same,
            points=points,
            stops=decided.stops,
            asked={arm: range(first, first + count) for arm, count in given.items()},
            diverged={name: self._diverged(found) for name, found in specs.items()},
        )
        return concluded.model_copy(update={"notes": notes})

    def _tuned(self, phase: Phase, tune: Tune, carried: Levels) -> Conclusion:
        """Measure points, find the operating range, and let its middle meet what is carried on fresh replicates."""
        tuner = Tuner(phase, carried, self.offers.setting_types(), self.study.objective.direction)
        replicates = self.study.replicates_of_points(phase)
        points: list[Point] = []
        also = [goal.metric for goal in tune.also]
        refused: list[operating.Refused] = []
        notes: list[str] = []
        for size in tune.batches:
            told = [Told(point.levels, point.objective, point.feasible, tuple(point.others)) for point in points]
            with self.offers.kept_ready():
                proposed = tuner.propose(told, size, lambda levels: self._infeasible(levels, refused))
            arms = [Arm(name=f"point {len(points) + i:02d}", levels=levels) for i, levels in enumerate(proposed)]
            points += self._batch(phase, arms, replicates, also, notes, halve=tune.halve)
            if len(proposed) < size:
                break
        found = operating.operating(self.study, phase, tuner, points, refused)
        levels, how = operating.recommended(self.study, found, points, {**carried, **phase.set})
        if levels is not None and self._infeasible([levels], [])[0]:
            best = verdict.best_point(self.study, points)
            levels, how = None, "the middle of the operating range, which cannot be trained, and no point is feasible"
            if best is not None:
                named = operating.described(self.study, best, points)
                levels, how = best.levels, f"{named}; the middle of the operating range cannot be trained"
        arms = [Arm(name=BASELINE, levels=dict(carried)), *([Arm(name="tuned", levels=levels)] if levels is not None else [])]
        concluded = self._decide(phase, arms, points)
        nowhere = f"{found['sentences'][0]} " if not points else ""
        which = f"The tuned point is {how}." if levels is not None else "No point can be recommended, so none met the baseline."
        reason = f"{concluded.reason} {nowhere}{which}"
        noted = list(dict.fromkeys([*notes, *concluded.notes]))
        return concluded.model_copy(update={"operating": found | {"how": how}, "reason": reason, "notes": noted})

    def _batch(
        self, phase: Phase, arms: Sequence[Arm], replicates: Sequence[int], also: Sequence[str], notes: list[str], *, halve: bool
    ) -> list[Point]:
        """A batch of points on these replicates; where it is halved, the worse half on the first of them alone, and to the first rung.

        A point that came to the rung and has no value there is in no half: it goes on, and a note is added.
        """
        rung = min(self.study.rungs, default=None) if halve else None
        specs = {arm.name: self._specs(phase.name, arm, replicates[:1] if halve else replicates) for arm in arms}
        self._complete(phase.name, specs, rung)
        at_rung: dict[str, Mapping[int, Metrics]] = {}
        going = [arm.name for arm in arms]
        if halve:
            at_rung = {name: self._metrics(found) if rung is None else self._at_rung(found, rung) for name, found in specs.items()}
            first = [verdict.point(self.study, arm, at_rung[arm.name], replicates=1, rung=rung) for arm in arms]
            came = {name: at_rung[name] for name, found in specs.items() if rung is not None and self._came(found, rung)}
            silent = self._silent(came)
            going = [*verdict.better_half(self.study, [point for point in first if point.name not in silent]), *silent]
            notes += [] if rung is None else self._unheard(phase, rung, came)
            specs |= {arm.name: self._specs(phase.name, arm, replicates) for arm in arms if arm.name in going}
            self._complete(phase.name, {name: specs[name] for name in going})
        points = []
        for arm in arms:
            short = None if arm.name in going else rung
            found = self._metrics(specs[arm.name]) if short is None else at_rung[arm.name]
            points.append(verdict.point(self.study, arm, found, replicates=len(specs[arm.name]), also=also, rung=short))
        metric = self.study.objective.metric
        shown = {name: found[replicates[0]][metric] for name, found in at_rung.items() if metric in found.get(replicates[0], {})}
        return verdict.levelled(points, replicates, shown if rung is not None else None)

    def _infeasible(self, levels: list[Levels], refused: list[operating.Refused]) -> list[bool]:
        """Which of these points the trainer's preflight refuses; each is noted, with the reason."""
        findings = self.offers.preflight([self.offers.config(one, 0) for one in levels], self.root)
        errors = [next((finding for finding in found if finding.level == "error"), None) for found in findings]
        for one, error in zip(levels, errors, strict=True):
            if error is not None:
                refused.append(operating.Refused(one, f"{error.path}: {error.what} {error.mend}".strip()))
        return [error is not None for error in errors]

    def _specs(self, phase: str, arm: Arm, replicates: Sequence[int], over: Levels | None = None) -> list[trial.TrialSpec]:
        trained = arm.model_copy(update={"levels": {**arm.levels, **(over or {})}})
        specs = [planned.spec for planned in plan.trials(trained, replicates, self.offers, self.origin)]
        self.ledger.add_arms(phase, [arm])
        self.ledger.add_trials(phase, arm.name, specs)
        return specs

    def _why_failed(self, phase: Phase, specs: Sequence[trial.TrialSpec], results: Mapping[int, Metrics]) -> str:
        name = self.study.study
        if results:
            missing = [one["sentence"] for one in gaps.problems(self.study, phase.name, {BASELINE: results}, failed={}, concluded=False)]
            why = f"reports {self.study.objective.metric}. {' '.join(missing)}"
        else:
            message = next((record.message for spec in specs if (record := self.ledger.trial(spec.signature)).message), "no cause is known")
            why = f"has a result. {message}."
        return (
            f"{name}: phase {phase.name} cannot be decided, since no replicate of its baseline {why} "
            f"Mend the cause; then `ablate retry --failed {name}` if study and code stay as they were, else move {self.root / name} away; "
            "and run again. Trials that are done are found again."
        )

    def _complete(self, phase: str, arms: Mapping[str, Sequence[trial.TrialSpec]], until: int | None = None) -> None:
        specs = list({spec.signature: spec for found in arms.values() for spec in found}.values())
        self._check_budget(specs)
        self.observer.trials(phase, arms)
        self.queue.complete(specs, until)

    def _check_budget(self, specs: Sequence[trial.TrialSpec]) -> None:
        budget, used = self.study.budget, self.ledger.used()
        new = {s.signature for s in specs if s.signature not in used.started and trial.result_of(self.root, s.signature) is None}
        if budget.trials is not None and used.trials + len(new) > budget.trials:
            raise BudgetSpent(
                f"budget.trials: {used.trials} of {budget.trials} trials are used and the next {len(new)} do not fit. "
                "Nothing is lost: raise budget.trials in the study file and run the same command again."
            )
        spent = used.spent(budget)
        if spent:
            open_ = {record.signature for record in self.ledger.trials({trial.TrialState.QUEUED, trial.TrialState.RUNNING})}
            if any(s.signature in open_ and trial.result_of(self.root, s.signature) is None for s in specs):
                raise BudgetSpent(spent)

    def _metrics(self, specs: Sequence[trial.TrialSpec]) -> Mapping[int, Mapping[str, float]]:
        found = {spec.replicate: trial.result_of(self.root, spec.signature) for spec in specs}
        return {replicate: result.final for replicate, result in found.items() if result is not None}

    def _diverged(self, specs: Sequence[trial.TrialSpec]) -> list[int]:
        """Replicates that failed for good because their numbers went wrong."""
        records = ((spec.replicate, self.ledger.trial(spec.signature)) for spec in specs)
        return [replicate for replicate, one in records if one.state is trial.TrialState.FAILED and one.cause is trial.Cause.NAN]

    def _at_rung(self, specs: Sequence[trial.TrialSpec], step: int) -> dict[int, Metrics]:
        """Objective and guards of these trials at a rung, whether they paused there or went on; of those that report something by then."""
        names = [self.study.objective.metric, *(guard.metric for guard in self.study.guards)]
        found: dict[int, Metrics] = {}
        for spec in specs:
            number = self.ledger.trial(spec.signature).attempt
            files = trial.TrialFiles(self.root, spec.signature)
            known = {} if number is None else trial.at_rung(files.attempt(number), names, step)
            if known:
                found[spec.replicate] = known
        return found

    def _came(self, specs: Sequence[trial.TrialSpec], step: int) -> bool:
        """Whether any of these trials came to a rung: one that failed later did so too."""
        for spec in specs:
            record = self.ledger.trial(spec.signature)
            if record.state is not trial.TrialState.FAILED:
                return True
            rows = [] if record.attempt is None else trial.read_metrics(trial.TrialFiles(self.root, spec.signature).attempt(record.attempt))
            if rows and rows[-1][0] >= step:
                return True
        return False

    def _silent(self, values: Evidence) -> list[str]:
        """Arms without a value of the objective at a rung."""
        metric = self.study.objective.metric
        return [arm for arm, found in values.items() if not any(metric in known for known in found.values())]

    def _unheard(self, phase: Phase, step: int, values: Evidence) -> list[str]:
        """A note of the arms of which a rung says nothing, on record from then on; none where all have a value there."""
        silent = self._silent(values)
        if not silent:
            return []
        who, nobody = ("no trial", "no arm is") if len(silent) == len(values) else (f"no trial of {listed(silent)}", "they are not")
        told = f"{phase.name}: {who} reports {self.study.objective.metric} by step {step}; {nobody} compared there."
        note = f"{told} Let the trainer report it by then, or take that rung out."
        self.ledger.event("rung", note)
        return [note]

    def _collapse(self, specs: Sequence[trial.TrialSpec]) -> Mapping[int, str]:
        found = {spec.replicate: trial.result_of(self.root, spec.signature) for spec in specs}
        return {r: str(result.summary["collapse"]) for r, result in found.items() if result is not None and "collapse" in result.summary}


def _equal(specs: Mapping[str, Sequence[trial.TrialSpec]]) -> list[str]:
    """Arms whose trials are the baseline's."""
    baseline = {spec.replicate: spec.signature for spec in specs[BASELINE]}
    return [
        name
        for name, found in specs.items()
        if name != BASELINE and found and all(baseline.get(spec.replicate) == spec.signature for spec in found)
    ]
