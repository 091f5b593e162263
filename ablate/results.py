"""What a study found: its ledger and trials as one document, tidy frames and an answer in words. Reads only."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ablate import gaps, history, insight, preflight
from ablate.answer import Answer, answer
from ablate.conclusion import Conclusion, Evidence, ended, mean_metrics
from ablate.errors import LedgerError
from ablate.ledger import Ledger, TrialRecord, Use
from ablate.study import BASELINE, CONFIRMATION, REFERENCES, Study
from ablate.thresholds import Threshold, thresholds
from ablate.trial import TrialFiles, TrialResult, TrialState, at_rung, flatten, read_metrics, result_of
from ablate.words import counted

if TYPE_CHECKING:
    import pandas as pd

DIGITS = 12
"""Significant digits of a document's numbers: sums in another order differ after the fifteenth."""

TIMES = ("_s", "_per_second", "data_fraction", "seconds")
"""Endings of the names whose values are times, or come from them."""


class Results:
    """A study's results as they stand when this is made.

    Args:
        root: The `runs` folder.
        study: The study's name.

    Raises:
        LedgerError: The study has not run here, or its ledger cannot be read.
    """

    def __init__(self, root: Path, study: str) -> None:
        self.root = root
        ledger = Ledger(root / study / "ledger.db", read_only=True)
        try:
            frozen = ledger.frozen()
            if frozen is None:
                raise LedgerError(f"{ledger.path}: expected a study but it is empty. Run `ablate run` to its first trial, then look again.")
            self.study = Study.model_validate(frozen.document["study"])
            self.base: dict[str, Any] = dict(flatten(frozen.document.get("base", {})))
            self.code_version, self.data_hash = frozen.code_version, frozen.data_hash
            self.conclusions = [Conclusion.model_validate(found) for found in ledger.conclusions().values()]
            self.used = ledger.used()
            self._uses = ledger.uses()
            self._records = {record.signature: record for record in ledger.trials()}
        finally:
            ledger.close()

    @cached_property
    def thresholds(self) -> dict[str, Threshold]:
        """Tuned settings by path."""
        return thresholds(self.study, self.conclusions, self.base)

    @cached_property
    def insights(self) -> dict[str, dict[str, Any]]:
        """Phase to what it tells beside its verdicts (`insight.of_phase`)."""
        return {
            one.phase: insight.of_phase(
                self.study, one, self._evidence(one.phase), self._at_rung(one.phase, min(one.short.values())) if one.short else None
            )
            for one in self.conclusions
        }

    @cached_property
    def attribution(self) -> dict[str, Any] | None:
        """Which components of the winner did it (`insight.attribution`): at the rung that all reached, where one gave arms up.

        The confirmation measures none of its cells, so that its rungs do not count.
        """
        phases = [one for one in self.conclusions if one.phase != CONFIRMATION]
        step = min((step for one in phases for step in one.short.values()), default=None)
        found = {one.phase: self._evidence(one.phase) if step is None else self._at_rung(one.phase, step) for one in phases}
        return insight.attribution(self.study, phases, found, step)

    @cached_property
    def fairness(self) -> dict[str, Any]:
        """What was equal in all arms (`insight.fairness`)."""
        placed = {one.phase: {arm.name: arm.levels for arm in one.arms} for one in self.conclusions}
        failed = Counter(f"{one['phase']}/{one['arm']}" for one in self._failed())
        trials = Counter(f"{use.phase}/{use.arm}" for use in self._uses)
        return insight.fairness(self.study, self.conclusions, placed, self.base, failed, trials)

    @cached_property
    def problems(self) -> list[dict[str, Any]]:
        """What the results lack for a decision, phase by phase, then of the references (`gaps.problems`)."""
        concluded = {one.phase: one.stopped for one in self.conclusions}
        found = []
        for place in dict.fromkeys([*concluded, *(use.phase for use in self._uses if use.phase != REFERENCES), REFERENCES]):
            uses = [use for use in self._uses if use.phase == place and not (place == REFERENCES and use.arm == BASELINE)]
            arms = {use.arm for use in uses}
            evidence = {arm: results for arm, results in self._evidence(place).items() if arm in arms}
            failed = Counter(use.arm for use in uses if self._records[use.signature].state is TrialState.FAILED)
            stopped, whole = concluded.get(place, {}), place in concluded or (place == REFERENCES and bool(concluded))
            found += gaps.problems(self.study, place, evidence, failed=failed, stopped=stopped, concluded=whole)
        return found

    @cached_property
    def history(self) -> list[dict[str, Any]]:
        """Earlier runs of the study and what changed since (`history.earlier`); empty before its last phase is concluded."""
        if not ended(self.study, self.conclusions):
            return []
        return history.earlier(self.root, history.entry(self.study, self.conclusions, self.code_version, self.data_hash))

    def answer(self) -> Answer:
        """The answer in plain words."""
        return answer(
            self.study,
            self.conclusions,
            base=self.base,
            origin=self._evidence(REFERENCES).get(BASELINE, {}),
            evidence={conclusion.phase: self._evidence(conclusion.phase) for conclusion in self.conclusions},
            failures=self._failures(),
            mattered=self._mattered(),
            lacking=[one["sentence"] for one in self.problems],
            fairness=self.fairness["sentence"],
        )

    def document(self) -> dict[str, Any]:
        """The whole as plain values: valid JSON, without NaN, the same for the same trials; times stand only under names that say so."""
        study = self.study
        said = self.answer()
        document = {
            "study": study.study,
            "question": study.question,
            "objective": study.objective.model_dump(mode="json"),
            "alpha": study.alpha,
            "guards": [str(guard) for guard in study.guards],
            "columns": study.columns,
            "floors": [floor.model_dump(mode="json") for floor in study.floors],
            "baseline": study.baseline,
            "references": self._references(),
            "phases": [self._phase(conclusion) for conclusion in self.conclusions],
            "attribution": self.attribution,
            "fairness": self.fairness,
            "problems": self.problems,
            "winner_levels": self.conclusions[-1].winner_levels if self.conclusions else study.baseline,
            "thresholds": {path: found.model_dump(mode="json") for path, found in self.thresholds.items()},
            "answer": said.model_dump(mode="json"),
            "preflight": preflight.kept(self.root, study, self.code_version) or [],
            "history": self.history,
            "failed_trials": self._failed(),
            "code_version": self.code_version,
            "data_hash": self.data_hash,
            "budget": {
                "trials_used": self.used.trials,
                "trials_at_most": study.budget.trials,
                "hours_used": self.used.seconds / 3600,
                "hours_at_most": study.budget.hours,
                "gpu_hours_used": self.used.gpu_seconds / 3600,
                "gpu_hours_at_most": study.budget.gpu_hours,
            },
        }
        rounded = _rounded(document)
        assert isinstance(rounded, dict)
        return rounded

    def arms(self) -> pd.DataFrame:
        """A row for each arm of each concluded phase, then the references: verdict, effect, and the mean of every metric by its name."""
        import pandas as pd

        rows = [
            {
                "phase": conclusion.phase,
                "arm": arm.name,
                "verdict": arm.verdict,
                "winner": arm.name == conclusion.winner,
                "replicates": arm.replicates,
                "effect": arm.effect.mean if arm.effect else None,
                "low": arm.effect.low if arm.effect else None,
                "high": arm.effect.high if arm.effect else None,
                "total_effect": arm.total_effect.mean if arm.total_effect else None,
                "p_adjusted": arm.p_adjusted,
                "collapse": arm.collapse,
                "reason": arm.reason,
                **arm.metrics,
            }
            for conclusion in self.conclusions
            for arm in conclusion.arms
        ]
        for name, found in self._references().items():
            rows.append({"phase": REFERENCES, "arm": name, "verdict": "reference", "replicates": found["replicates"], **found["metrics"]})
        return pd.DataFrame(rows)

    def trials(self) -> pd.DataFrame:
        """A row for each place that a trial serves (phase, arm, replicate), with its state, cause, seconds and final metrics by name."""
        import pandas as pd

        return pd.DataFrame([self._trial_row(use, self._records[use.signature], self._result(use.signature)) for use in self._uses])

    def curves(self, metrics: Sequence[str]) -> pd.DataFrame:
        """The streams of these metrics, tidy: phase, arm, replicate, step, metric, value. Accepted attempts only."""
        import pandas as pd

        rows = []
        for use in self._uses:
            result = self._result(use.signature)
            if result is None:
                continue
            for step, values in read_metrics(TrialFiles(self.root, use.signature).attempt(result.attempt)):
                rows += [(use.phase, use.arm, use.replicate, step, metric, values[metric]) for metric in metrics if metric in values]
        return pd.DataFrame(rows, columns=["phase", "arm", "replicate", "step", "metric", "value"])

    def pictures(self, phase: str, arm: str) -> list[Path]:
        """What the trainer drew beside an arm's accepted result, of its first replicate that has any (`AttemptFiles.pictures`)."""
        for use in self._uses:
            result = self._result(use.signature) if (use.phase, use.arm) == (phase, arm) else None
            if result is not None and (found := TrialFiles(self.root, use.signature).attempt(result.attempt).pictures):
                return found
        return []

    def machines(self) -> str:
        """What the accepted trials ran on, as they said themselves, in words; more than one where they differ. Empty where none is."""
        seen: Counter[str] = Counter()
        for signature in {use.signature for use in self._uses}:
            result = self._result(signature)
            if result is not None:
                has = result.environment
                said = [
                    has.get("cpu"),
                    has.get("gpu"),
                    has.get("platform"),
                    *(f"{name} {has[name]}" for name in ("python", "torch") if name in has),
                ]
                seen[", ".join(part for part in said if part)] += 1
        return "; ".join(f"{what} ({counted(count, 'trial')})" if len(seen) > 1 else what for what, count in seen.most_common())

    def _phase(self, conclusion: Conclusion) -> dict[str, Any]:
        design = self.study.phase(conclusion.phase).design
        return {
            "name": conclusion.phase,
            "design": design if isinstance(design, str) else f"tune {design.points}",
            **conclusion.model_dump(mode="json", exclude={"phase"}),
            "alarms": self._alarms(conclusion.phase),
            "insight": self.insights[conclusion.phase],
        }

    def _mattered(self) -> list[str]:
        """What factorials say, and what the winner needs."""
        said: list[str] = []
        for conclusion in self.conclusions:
            found = self.insights[conclusion.phase]
            if found["factorial"] is not None:
                said += found["factorial"]["sentences"]
            if found["left_out"] is not None:
                said += found["left_out"]["sentences"]
            told = (conclusion.operating or {}).get("sentences")
            said += [f"{conclusion.phase}: {sentence}" for sentence in told] if isinstance(told, list) else []
        return list(dict.fromkeys([*said, *(self.attribution["sentences"] if self.attribution else [])]))

    def _alarms(self, phase: str) -> list[dict[str, Any]]:
        """What the trainer's alarm said at the end of each trial of a phase, where it names the step since when."""
        found = []
        for use in self._uses:
            result = self._result(use.signature) if use.phase == phase else None
            alarm = None if result is None else result.summary.get("alarm")
            if isinstance(alarm, Mapping) and isinstance(alarm.get("since_step"), int):
                said = {"kind": str(alarm.get("kind", "")), "since_step": alarm["since_step"], "text": str(alarm.get("text", ""))}
                found.append({"arm": use.arm, "replicate": use.replicate, **said})
        return found

    def _references(self) -> dict[str, dict[str, Any]]:
        """Means of the references over the replicates of the first phase: a tuning phase's fresh ones belong to its own comparison."""
        evidence = self._evidence(REFERENCES)
        first = {use.replicate for use in self._uses if use.phase == self.study.phases[0].name and use.arm == BASELINE}
        found = {}
        for name in sorted(self.study.references):
            results = {r: metrics for r, metrics in evidence.get(name, {}).items() if r in first or not first}
            found[name] = {"metrics": mean_metrics(results), "replicates": len(results), "levels": self.study.references[name]}
        return found

    def _evidence(self, phase: str) -> Evidence:
        return self._evidences.get(phase, {})

    @cached_property
    def _evidences(self) -> Mapping[str, Evidence]:
        """Phase to its evidence, read once: each trial costs a look at its folder."""
        found: dict[str, dict[str, dict[int, Mapping[str, float]]]] = {}
        for use in self._uses:
            result = self._result(use.signature)
            if result is not None:
                found.setdefault(use.phase, {}).setdefault(use.arm, {})[use.replicate] = result.final
        return found

    def _at_rung(self, phase: str, step: int) -> Evidence:
        """A phase's objective and guards at a step, of every trial that came so far with an objective, whether it went on or not."""
        metric = self.study.objective.metric
        names = [metric, *(guard.metric for guard in self.study.guards)]
        found: dict[str, dict[int, Mapping[str, float]]] = {}
        for use in self._uses:
            number = self._records[use.signature].attempt
            if use.phase == phase and number is not None:
                known = at_rung(TrialFiles(self.root, use.signature).attempt(number), names, step)
                if metric in known:
                    found.setdefault(use.arm, {})[use.replicate] = known
        return found

    def _result(self, signature: str) -> TrialResult | None:
        return result_of(self.root, signature)

    def _failed(self) -> list[dict[str, Any]]:
        """Trials that failed for good, each at the first place that it serves."""
        failed: dict[str, dict[str, Any]] = {}
        for use in self._uses:
            record = self._records[use.signature]
            if record.state is TrialState.FAILED and use.signature not in failed:
                cause = None if record.cause is None else record.cause.value
                where = {"phase": use.phase, "arm": use.arm, "replicate": use.replicate}
                failed[use.signature] = {**where, "signature": use.signature, "cause": cause, "message": record.message}
        return list(failed.values())

    def _failures(self) -> list[str]:
        return [
            f"Failed for good: {one['phase']}/{one['arm']} replicate {one['replicate']} ({one['cause']}): "
            f"{(one['message'].strip() or 'no message').splitlines()[0]}"
            for one in self._failed()
        ]

    @staticmethod
    def _trial_row(use: Use, record: TrialRecord, result: TrialResult | None) -> dict[str, Any]:
        return {
            "phase": use.phase,
            "arm": use.arm,
            "replicate": use.replicate,
            "signature": use.signature,
            "state": record.state.value,
            "attempt": record.attempt,
            "cause": None if record.cause is None else record.cause.value,
            "message": record.message,
            "seconds": result.seconds if result else record.seconds,
            "collapse": None if result is None else result.summary.get("collapse"),
            **(result.metrics if result else {}),
        }


def timeless(document: Mapping[str, Any]) -> dict[str, Any]:
    """A document without its budget and times: equal for two runs of the same study, however often they were interrupted."""

    def without(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: without(inner) for key, inner in value.items() if key != "budget" and not key.endswith(TIMES)}
        return [without(inner) for inner in value] if isinstance(value, list) else value

    return {key: without(value) for key, value in document.items() if key != "budget"}


def _rounded(value: object) -> object:
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}")
    if isinstance(value, Mapping):
        return {str(key): _rounded(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(inner) for inner in value]
    return value
