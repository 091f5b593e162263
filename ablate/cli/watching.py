"""`ablate watch`: the view of a run from another shell. Reads the record and the trials' files, and disturbs nothing."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from pathlib import Path

from rich.console import Console

from ablate.cli.finding import opened
from ablate.cli.progress import Progress, view
from ablate.cli.status import status_of
from ablate.conclusion import Conclusion
from ablate.errors import LedgerError
from ablate.execution.base import QueueEvent
from ablate.execution.detached import STARTING, Detached
from ablate.execution.evidence import latest_metrics
from ablate.execution.lock import holder
from ablate.ledger import Ledger, TrialRecord
from ablate.runner import Observer, Signed
from ablate.study import BASELINE, REFERENCES, Study
from ablate.trial import TrialFiles, TrialState, write_atomic

LOOK_S = 0.25
"""Pause between two looks at the record."""

LAST_LINES = 12
"""Of the controller's own output, where it ended before the study did."""


def note_plan(runs: Path, study: str, trials_at_most: int) -> None:
    """Leave for whoever watches what a run knows of its length."""
    (runs / study).mkdir(parents=True, exist_ok=True)
    write_atomic(runs / study / "plan.json", json.dumps({"trials_at_most": trials_at_most}), durable=False)


def watch(runs: Path, study: str, *, as_json: bool = False, console: Console | None = None) -> int:
    """Show a study until it ends.

    Returns:
        0 done, 1 done with trials that failed for good, 2 it could not begin, 3 stopped and resumable; 0 where the user leaves first.
    """
    console = console or Console()
    background = Detached(runs / study)
    try:
        frozen = _begun(runs, study, lambda text: None if as_json else console.print(text, markup=False, highlight=False))
        if frozen is None and background.log.exists():
            console.print(_end_of(background.log), markup=False, highlight=False, soft_wrap=True)
            return 2
        if frozen is not None and _at_work(runs, study):
            _follow(runs, frozen, as_json, console)
    except KeyboardInterrupt:
        console.print(
            f"\n{study} goes on. To look again: ablate watch {study}. To end it: ablate stop {study}.", markup=False, highlight=False
        )
        return 0
    return _said(runs, study, as_json, console)


def _begun(runs: Path, study: str, tell: Callable[[str], None]) -> Study | None:
    """The study, once its controller has fixed what it is; None where no controller is at work."""
    background, told = Detached(runs / study), STARTING
    while True:
        starting = background.starting()
        if starting not in (None, told):
            tell(f"{study}: {starting}")
            told = starting or told
        at_work = starting or holder(runs, study) is not None
        if not at_work and background.log.exists() and not (runs / study / "ledger.db").exists():
            return None
        if not starting and ((runs / study / "ledger.db").exists() or not at_work):
            frozen = opened(runs, study).frozen()
            if frozen is not None:
                return Study.model_validate(frozen.document["study"])
            if not at_work:
                return None
        time.sleep(LOOK_S)


def _at_work(runs: Path, study: str) -> bool:
    """Whether a controller runs it, or waits in a queue to go on with it."""
    # In this order: a controller that begins between the two looks is seen by the second.
    return Detached(runs / study).starting() is not None or holder(runs, study) is not None


def _follow(runs: Path, study: Study, as_json: bool, console: Console) -> None:
    try:
        trials_at_most = int(json.loads((runs / study.study / "plan.json").read_text())["trials_at_most"])
    except (OSError, ValueError, KeyError, TypeError):
        trials_at_most = 0
    progress = Progress(study, runs, trials_at_most)
    controller = holder(runs, study.study)
    if controller is not None:
        lasted_s = time.time() - datetime.fromisoformat(controller["since"]).timestamp()
        progress.started -= max(0.0, lasted_s)
    if as_json:
        _until_it_ends(runs, study, JsonLines(progress, console), progress)
        return
    with view(progress, console) as shown:
        _until_it_ends(runs, study, shown, progress)


def _until_it_ends(runs: Path, study: Study, observer: Observer, progress: Progress) -> None:
    follower = Follower(runs, study.study, observer, quietly=progress.event)
    while True:
        at_work = _at_work(runs, study.study)
        follower.look()
        if not at_work:
            return
        time.sleep(LOOK_S)


class Follower:
    """Tells an observer what a runner would tell it, from what is on record.

    Args:
        quietly: Told of what had happened before the first look.
    """

    def __init__(self, runs: Path, study: str, observer: Observer, quietly: Callable[[QueueEvent], None]) -> None:
        self.runs, self.study, self.observer, self._tell = runs, study, observer, quietly
        self._ledger = Ledger(runs / study / "ledger.db", read_only=True)
        self._records: dict[str, TrialRecord] = {}
        self._known: dict[str, dict[str, list[Signed]]] = {}
        self._concluded: set[str] = set()
        self._stream_bytes: dict[str, int] = {}
        self._events = len(self._ledger.events())

    def look(self) -> None:
        """Tell what is new."""
        try:
            uses, records, conclusions = self._ledger.uses(), self._ledger.trials(), self._ledger.conclusions()
            events = self._ledger.events()
        except LedgerError:
            return  # the controller writes; the next look sees it
        references = {f"study {BASELINE}" if use.arm == BASELINE else use.arm for use in uses if use.phase == REFERENCES}
        for phase in dict.fromkeys(use.phase for use in uses if use.phase != REFERENCES):
            arms: dict[str, list[Signed]] = {name: [] for name in sorted(references)}
            for use in uses:
                if use.phase == phase:
                    arms.setdefault(use.arm, []).append(use)
                elif use.phase == REFERENCES:
                    arms[f"study {BASELINE}" if use.arm == BASELINE else use.arm].append(use)
            if arms != self._known.get(phase):
                if phase not in self._known:
                    self.observer.phase(phase)
                self._known[phase] = arms
                if phase not in conclusions or phase not in self._concluded:
                    self.observer.trials(phase, arms)
        for record in records:
            self._compare(self._records.get(record.signature), record)
        self._records = {record.signature: record for record in records}
        for event in events[self._events :]:
            if event.kind == "request":
                self._tell(QueueEvent("request", text=event.text.partition(": ")[2]))
        self._events = len(events)
        self._concluded &= conclusions.keys()
        for name in conclusions.keys() - self._concluded:
            self.observer.concluded(Conclusion.model_validate(conclusions[name]))
            self._concluded.add(name)
        self._tell = self.observer.event

    def _compare(self, was: TrialRecord | None, now: TrialRecord) -> None:
        began = was is None or (was.state, was.attempt) != (now.state, now.attempt)
        files = TrialFiles(self.runs, now.signature)
        if began and now.state is TrialState.DONE:
            kind, text = ("reused", "") if now.attempts == 0 else ("done", f"{now.seconds or 0.0:.1f} s")
            self._tell(QueueEvent(kind, now.signature, attempt=now.attempt, text=text))  # type: ignore[arg-type]
        elif began and now.state is TrialState.FAILED:
            self._tell(QueueEvent("failed", now.signature, attempt=now.attempt, text=now.message))
        elif began and now.state is TrialState.QUEUED and was is not None:
            self._tell(QueueEvent("retry", now.signature, attempt=now.attempt, text=now.message))
        elif now.state is TrialState.RUNNING and now.attempt is not None:
            attempt = files.attempt(now.attempt)
            key = f"{now.signature}.{now.attempt}"
            if key not in self._stream_bytes and attempt.began.exists():
                self._stream_bytes[key] = 0
                self._tell(QueueEvent("started", now.signature, attempt=now.attempt))
            latest = latest_metrics(attempt, self._stream_bytes.get(key, 0))
            if latest is not None:
                self._stream_bytes[key], step, metrics = latest
                self._tell(QueueEvent("progress", now.signature, attempt=now.attempt, step=step, metrics=metrics))


class JsonLines:
    """A line of JSON for each event, for scripts."""

    def __init__(self, progress: Progress, console: Console) -> None:
        self.progress, self.console = progress, console

    def foretold(self, findings: Sequence[Mapping[str, object]]) -> None:
        """What was said before any training."""

    def phase(self, name: str) -> None:
        """A phase begins."""
        self.progress.phase(name)
        self._line(event="phase", phase=name)

    def trials(self, phase: str, arms: Mapping[str, Sequence[Signed]]) -> None:
        """These arms' trials are about to be completed."""
        self.progress.trials(phase, arms)
        self._line(event="trials", phase=phase, arms=len(arms), trials=len({one.signature for found in arms.values() for one in found}))

    def event(self, event: QueueEvent) -> None:
        """Something happened to a trial or to the run."""
        self.progress.event(event)
        told = {key: value for key, value in asdict(event).items() if key != "kind" and value not in (None, "", {})}
        where = {"arm": self.progress.arm_of(event.signature)} if event.signature else {}
        self._line(event=event.kind, **where, **told)

    def concluded(self, conclusion: Conclusion) -> None:
        """A phase was decided."""
        self._line(event="concluded", phase=conclusion.phase, winner=conclusion.winner, reason=conclusion.reason)

    def _line(self, **values: object) -> None:
        self.console.file.write(json.dumps({"at": round(time.time(), 3), **values}) + "\n")
        self.console.file.flush()


def _said(runs: Path, study: str, as_json: bool, console: Console) -> int:
    """How it ended, and what its controller said last where it ended early."""
    status = status_of(runs, study)
    done, failures = status.state == "done", status.failures
    if as_json:
        console.file.write(json.dumps({"at": round(time.time(), 3), "event": "end", "state": status.state, "failed": len(failures)}) + "\n")
    else:
        console.print(f"{study}: {status.said}", markup=False, highlight=False, style="bold")
        for failure in failures:
            console.print(f"failed: {failure.message}", markup=False, highlight=False, soft_wrap=True)
        log = Detached(runs / study).log
        if done:
            console.print(f"What came of it: ablate report {study}", markup=False, highlight=False)
        elif log.exists():
            lines = log.read_text(encoding="utf-8", errors="replace").rstrip().splitlines()[-LAST_LINES:]
            console.print(
                "\n".join([f"The end of {log}:", *(f"  {line}" for line in lines)]), markup=False, highlight=False, soft_wrap=True
            )
    return 3 if not done else 1 if failures else 0


def _end_of(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").rstrip().splitlines()[-LAST_LINES:]
    return "\n".join([f"The end of {log}:", *(f"  {line}" for line in lines)])
