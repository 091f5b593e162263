"""A study's truth, its ledger and trials, as entries for a tracker."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from ablate.command import DIRECTORY
from ablate.conclusion import ArmVerdict, Conclusion
from ablate.ledger import Ledger, TrialRecord, Use
from ablate.loading.reading import dump_yaml
from ablate.study import BASELINE, REFERENCES, Levels, Study
from ablate.thresholds import thresholds
from ablate.tracking.base import Artifact, DataSet, Entry, Points, Status
from ablate.tracking.notes import arm_note, run_note, study_note
from ablate.tracking.summaries import curves_of, data_sets, whole_data_set
from ablate.tracking.views import KIND_TAG, NOTE_TAG, view_tags
from ablate.trial import AttemptFiles, TrialFiles, TrialResult, TrialSpec, TrialState, flatten, read_metrics, result_of

SHOWN = ("*.png", "*.parquet", "*.csv", "summary.json", "log.txt")
"""Files of an attempt that people look at."""

REPORTS = ("report.html", "report.pdf", "report.md")
"""Forms of the report, beside the study's ledger."""

LARGEST_BYTES = 32 * 2**20
"""A larger file stays where it is: the tracker is for looking, not for keeping."""

ENDED = (TrialState.DONE, TrialState.FAILED)

STATUS: dict[TrialState, Status] = {
    TrialState.QUEUED: "SCHEDULED",
    TrialState.RUNNING: "RUNNING",
    TrialState.DONE: "FINISHED",
    TrialState.FAILED: "FAILED",
}


Told = dict[str, object]
"""What entries were made from when they were told, by key; entries that ended and were made from equal things are not made again."""


class StudyEntries:
    """The entries of one study as its ledger stands now.

    Args:
        root: The `runs` folder.
        study: The study's name.

    Raises:
        LedgerError: The study has not run here, or its ledger cannot be read.
    """

    def __init__(self, root: Path, study: str) -> None:
        self.root, self.name = root, study
        ledger = Ledger(root / study / "ledger.db", read_only=True)
        try:
            self.frozen = ledger.frozen()
            self.records = ledger.trials()
            self.uses: dict[str, list[Use]] = {}
            for use in ledger.uses():
                self.uses.setdefault(use.signature, []).append(use)
            self.conclusions = [Conclusion.model_validate(found) for found in ledger.conclusions().values()]
            self.levels = {(phase, arm.name): arm.levels for phase in ledger.phases() for arm in ledger.arms(phase)}
            self.seconds = ledger.used().seconds
            self.ended = any(event.kind == "done" for event in ledger.events()[-1:])
        finally:
            ledger.close()
        self.study = None if self.frozen is None else Study.model_validate(self.frozen.document["study"])
        self.verdicts = {(c.phase, arm.name): arm.verdict for c in self.conclusions for arm in c.arms}

    def all(self, told: Told | None = None) -> Iterator[Entry]:
        """Trials that began, then the arms of concluded phases, then the study; nothing before the study is frozen.

        Args:
            told: What it holds unchanged is left out, and what the caller has done with (asked for the next one) is added. So a look at
                trials that ended reads the ledger alone, not their files.
        """
        if self.study is None or self.frozen is None:
            return
        told = {} if told is None else told
        for record in self.records:
            uses = self.uses.get(record.signature, [])
            source = (record, uses, self._verdict_tags(uses))
            if told.get(record.signature) != source:
                entry = self._trial(self.study, record)
                if entry is not None:
                    yield entry
                    if record.state in ENDED:
                        told[record.signature] = source
        arms = [(conclusion, arm) for conclusion in self.conclusions for arm in conclusion.arms]
        for position, (conclusion, arm) in enumerate(arms):
            key = f"{conclusion.phase}/{arm.name}"
            if told.get(key) != (position, conclusion):
                # MLflow's table shows the newest first: so the arms stand there in the study's order.
                yield self._arm(self.study, conclusion, arm, started=self.frozen.created - position / 1000)
                told[key] = (position, conclusion)
        yield self._study(self.study, self.frozen.document, self.frozen.created)

    def about(self, experiment: str) -> dict[str, str]:
        """What is said of the study as a whole: its description and its views, as tags of the experiment."""
        if self.study is None or self.frozen is None:
            return {}
        reported = (self.root / self.name / REPORTS[0]).exists()
        said = study_note(self.study, self.conclusions, experiment, reported=reported)
        return {KIND_TAG: "custom_model_development", NOTE_TAG: said, **view_tags(self.study, self.frozen.created)}

    def _trial(self, study: Study, record: TrialRecord) -> Entry | None:
        files = TrialFiles(self.root, record.signature)
        result = result_of(self.root, record.signature)
        number = result.attempt if result is not None else record.attempt
        if number is None or not files.spec.exists():
            return None
        attempt = files.attempt(number)
        uses = self.uses.get(record.signature, [])
        spec = TrialSpec.from_json(files.spec.read_text(encoding="utf-8"))
        state = TrialState.DONE if result is not None else record.state
        ended = state in ENDED
        names = _listed(use.arm for use in uses)
        return Entry(
            key=f"trial:{record.signature}",
            name=f"{uses[0].arm if uses else record.signature} r{record.replicate}",
            tags={
                "kind": "trial",
                "study": study.study,
                "signature": record.signature,
                "replicate": str(record.replicate),
                "arm": names,
                **{f"phase.{phase}": _listed(u.arm for u in uses if u.phase == phase) for phase in dict.fromkeys(u.phase for u in uses)},
                **self._verdict_tags(uses),
                "state": state.value,
                **_outcome_tags(record, result),
            },
            params=self._params(study, spec),
            status=STATUS[state],
            version=f"{state.value}:{number}" if ended else None,
            points=lambda: _stream(attempt, result),
            artifacts=lambda: [Artifact("config.json", json.dumps(spec.config, indent=1, sort_keys=True)), *_shown(attempt)],
            started=_began(files, attempt),
            seconds=(result.seconds if result is not None else record.seconds) if ended else None,
            data=lambda: data_sets(spec.data_hash, result),
        )

    def _verdict_tags(self, uses: Sequence[Use]) -> dict[str, str]:
        """Each phase's verdict on the arms that the trial serves; `verdict` is one on an arm other than a baseline, if there is any."""
        said = {(u.phase, u.arm): self.verdicts[u.phase, u.arm] for u in uses if (u.phase, u.arm) in self.verdicts}
        phases = dict.fromkeys(phase for phase, _ in said)
        tags = {f"verdict.{phase}": _listed(v for (p, _), v in said.items() if p == phase) for phase in phases}
        words = [word for word in said.values() if word != BASELINE] or list(said.values())
        if words:
            tags["verdict"] = words[0]
        elif uses and all(use.phase == REFERENCES for use in uses):
            tags["verdict"] = "reference"
        return tags

    def _params(self, study: Study, spec: TrialSpec) -> dict[str, str]:
        """The settings that any arm of the study changes, and those that the study sets for all."""
        paths = {path for levels in self.levels.values() for path in levels} | study.trainer.set.keys() | {study.trainer.seed_key}
        config = dict(flatten(spec.config))
        return {path: _text(config[path]) for path in sorted(paths) if path in config}

    def _arm(self, study: Study, conclusion: Conclusion, arm: ArmVerdict, *, started: float) -> Entry:
        document = arm.model_dump_json(indent=1)
        effects: dict[str, float] = {}
        for name, interval in (("effect", arm.effect), ("total_effect", arm.total_effect)):
            if interval is not None:
                bounds = {"mean": interval.mean, "low": interval.low, "high": interval.high}
                effects |= {f"{name}/{end}": value for end, value in bounds.items() if value is not None}
        if arm.p_adjusted is not None:
            effects["effect/p_adjusted"] = arm.p_adjusted
        winner = arm.name == conclusion.winner
        return Entry(
            key=f"arm:{conclusion.phase}/{arm.name}",
            name=f"{conclusion.phase}: {arm.name}",
            tags={
                "kind": "arm",
                "study": study.study,
                "phase": conclusion.phase,
                f"phase.{conclusion.phase}": arm.name,
                "arm": arm.name,
                "verdict": arm.verdict,
                "reason": arm.reason,
                "winner": str(winner).lower(),
                "collapse": arm.collapse or "not classified",
                "guards": "; ".join(f"{g.guard} {'holds' if g.holds else 'BROKEN'}" for g in arm.guards) or "none",
                NOTE_TAG: arm_note(study, arm, carried_on=winner),
            },
            params={"replicates": str(arm.replicates), **_level_params(arm.levels)},
            status="FINISHED",
            version=_digest(document, "mean curves"),
            points=lambda: curves_of(self._streams(conclusion.phase, arm.name), arm.metrics, effects),
            artifacts=lambda: [Artifact("arm.json", document), *self._gallery(conclusion.phase, arm.name)],
            started=started,
            seconds=sum(result.seconds for result in self.results_of(conclusion.phase, arm.name)),
            data=self._whole_data,
        )

    def results_of(self, phase: str, arm: str) -> list[TrialResult]:
        """The accepted results of an arm, by replicate."""
        places = sorted(
            (use.replicate, signature) for signature, uses in self.uses.items() for use in uses if (use.phase, use.arm) == (phase, arm)
        )
        found = (result_of(self.root, signature) for _, signature in places)
        return [result for result in found if result is not None]

    def attempt_of(self, result: TrialResult) -> AttemptFiles:
        """Where a result's files are."""
        return TrialFiles(self.root, result.signature).attempt(result.attempt)

    def _streams(self, phase: str, arm: str) -> list[Points]:
        return [_stream(self.attempt_of(result), result) for result in self.results_of(phase, arm)]

    def _whole_data(self) -> list[DataSet]:
        data_hash = "" if self.frozen is None else self.frozen.data_hash
        for record in self.records:
            found = data_sets(data_hash, result_of(self.root, record.signature))
            if found:
                return whole_data_set(found, data_hash)
        return []

    def _gallery(self, phase: str, arm: str, folder: str = "") -> list[Artifact]:
        for result in self.results_of(phase, arm):
            shown = _shown(self.attempt_of(result))
            return [Artifact(f"{folder}{found.name}", found.source) for found in shown if found.name.endswith(".png")]
        return []

    def _galleries(self) -> list[Artifact]:
        """Of each phase the baseline's pictures, and the winner's beside them."""
        found = []
        for conclusion in self.conclusions:
            for arm in dict.fromkeys([BASELINE, conclusion.winner]):
                who = "baseline" if arm == BASELINE else "winner"
                found += self._gallery(conclusion.phase, arm, f"galleries/{conclusion.phase}/{who} ")
        return found

    def _study(self, study: Study, document: Mapping[str, object], created: float) -> Entry:
        base = document.get("base")
        tuned = thresholds(study, self.conclusions, base if isinstance(base, Mapping) else {})
        found = {path: one.model_dump(mode="json") for path, one in tuned.items()}
        reports = [path for name in REPORTS if (path := self.root / study.study / name).exists()]
        concluded = [conclusion.model_dump(mode="json") for conclusion in self.conclusions]
        texts = {
            "study.json": json.dumps(document, indent=1, sort_keys=True),
            "study.yaml": dump_yaml(_plain(document.get("study"))),
            "thresholds.json": json.dumps(found, indent=1),
            "conclusions.json": json.dumps(concluded, indent=1),
        }
        written = b"\0".join(path.read_bytes() for path in reports)
        return Entry(
            key="study",
            name=f"study {study.study}",
            tags={
                "kind": "study",
                "study": study.study,
                **{f"winner.{conclusion.phase}": conclusion.winner for conclusion in self.conclusions},
                **{f"threshold.{path}": _text(one["recommended"]) for path, one in found.items()},
                NOTE_TAG: run_note(study, self.conclusions, reported=bool(reports)),
            },
            params={"objective": study.objective.metric, "smallest_effect": _text(study.objective.smallest_effect)},
            status="FINISHED" if self.ended else "RUNNING",
            version=_digest(*texts.values()) + hashlib.sha256(written).hexdigest()[:12],
            points=lambda: [],
            artifacts=lambda: [
                *(Artifact(path.name, path) for path in reports),
                *(Artifact(name, text) for name, text in texts.items()),
                *self._galleries(),
            ],
            started=created,
            seconds=self.seconds if self.ended else None,
            data=self._whole_data,
        )


def _plain(values: object) -> dict[str, object]:
    return {str(key): value for key, value in values.items()} if isinstance(values, Mapping) else {}


def _stream(attempt: AttemptFiles, result: TrialResult | None) -> Points:
    """The curve, its last step completed by what the trainer returned."""
    rows = read_metrics(attempt)
    if result is None:
        return rows
    step, last = rows[-1] if rows else (0, {})
    return [*rows[:-1], (step, {**last, **result.metrics})]


def _shown(attempt: AttemptFiles) -> list[Artifact]:
    folders = (attempt.directory, attempt.directory / DIRECTORY)
    found = sorted({path.name: path for folder in folders for pattern in SHOWN for path in folder.glob(pattern)}.values())
    return [Artifact(path.name, path) for path in found if path.is_file() and path.stat().st_size <= LARGEST_BYTES]


def _outcome_tags(record: TrialRecord, result: TrialResult | None) -> dict[str, str]:
    tags = {"attempts": str(record.attempts)}
    if result is not None:
        tags |= {key: _text(value) for key, value in result.summary.items() if key in ("collapse", "stopped") and value is not None}
    elif record.cause is not None:
        tags |= {"cause": record.cause.value, "message": record.message}
    return tags


def _began(files: TrialFiles, attempt: AttemptFiles) -> float:
    for path in (attempt.began, attempt.directory, files.spec):
        try:
            return path.stat().st_mtime
        except OSError:
            continue
    return 0.0


def _level_params(levels: Levels) -> dict[str, str]:
    return {path: _text(value) for path, value in sorted(levels.items())}


def _listed(names: Iterator[str] | Sequence[str]) -> str:
    return "; ".join(dict.fromkeys(names))


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _digest(*texts: str) -> str:
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:20]
