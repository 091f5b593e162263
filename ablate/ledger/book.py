"""The study's record itself."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Row, Update, bindparam, delete, func, insert, select, update
from sqlalchemy.dialects.sqlite import insert as upsert

from ablate.errors import LedgerError, StudyChanged
from ablate.ledger import tables
from ablate.ledger.connection import explained, open_engine
from ablate.ledger.records import AttemptRecord, Event, Frozen, TrialRecord, Use, Used
from ablate.study import STEERING, Arm, steered
from ablate.trial import Cause, TrialSpec, TrialState, flatten, sync

LOST_LIMIT = 10
"""Lost attempts before a trial has failed for good: its machine's doing, so more than `Study.attempts`, but not for ever."""


class Ledger:
    """The study's record.

    Each call is one transaction; `transaction()` groups several into one.

    Args:
        path: The SQLite file.
        read_only: For everybody but the controller: creates nothing, waits for a writer, never blocks one for long.

    Raises:
        LedgerError: By any method: the file is missing (read only), unreadable, full, or of another version.
    """

    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        self.path = path
        self._connection: Connection | None = None
        if read_only:
            if not path.exists():
                raise LedgerError(f"{path}: no such ledger. Has the study run under this `--runs` folder? Start it with `ablate run`.")
            self._engine = open_engine(path, read_only=True)
        else:
            with explained(path):
                path.parent.mkdir(parents=True, exist_ok=True)
                if not path.exists():
                    # Made beside and linked: a reader sees no ledger or a whole one.
                    beside = path.with_name(f".{path.name}.{os.getpid()}")
                    self._open(beside)
                    self.close()
                    with contextlib.suppress(FileExistsError):
                        os.link(beside, path)
                    beside.unlink()
                    sync(path.parent)
                self._open(path)
        self._check_version()

    def _open(self, path: Path) -> None:
        self._engine = open_engine(path, read_only=False)
        with self.transaction() as connection:
            tables.schema.create_all(connection)
            version = connection.exec_driver_sql("PRAGMA user_version").scalar_one()
            if version == 0:
                connection.exec_driver_sql(f"PRAGMA user_version = {tables.SCHEMA_VERSION}")

    def _check_version(self) -> None:
        with self._reading() as connection:
            version = connection.exec_driver_sql("PRAGMA user_version").scalar_one()
        if version != tables.SCHEMA_VERSION:
            raise LedgerError(
                f"{self.path}: expected a ledger of version {tables.SCHEMA_VERSION} but got version {version}. "
                "Use the ablate that wrote it, or move its folder away to start the study anew."
            )

    def close(self) -> None:
        """Let go of the file."""
        self._engine.dispose()

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """All calls inside commit together or not at all; inside another one it is part of that."""
        if self._connection is not None:
            yield self._connection
            return
        with explained(self.path), self._engine.begin() as connection:
            self._connection = connection
            try:
                yield connection
            finally:
                self._connection = None

    @contextmanager
    def _reading(self) -> Iterator[Connection]:
        if self._connection is not None:
            yield self._connection
            return
        with explained(self.path), self._engine.connect() as connection:
            yield connection

    # the plan

    def freeze(self, document: Mapping[str, object], code_version: str, data_hash: str) -> None:
        """Store what the study is at its first run; later runs must be the same.

        Raises:
            StudyChanged: Every difference, as `path: was -> is`.
        """
        now = json.loads(json.dumps(document))
        was = self.frozen()
        if was is not None:
            was = self._resteered(was, now)
        if was is None:
            values = {"id": 1, "document": json.dumps(now), "code_version": code_version, "data_hash": data_hash, "created": time.time()}
            with self.transaction() as connection:
                connection.execute(insert(tables.frozen).values(values))
            return
        problems = _differences(was.document, now)
        if was.code_version != code_version:
            problems.append(f"the trainer's code: {was.code_version} -> {code_version}.")
        if was.data_hash != data_hash:
            problems.append(f"the data: {was.data_hash or 'none'} -> {data_hash or 'none'}.")
        if problems:
            mend = f"give the study another name (`study:`), or move {self.path.parent} away"
            raise StudyChanged(f"{self.path.parent.name} (changed since its first run, so its results would not compare: {mend})", problems)

    def _resteered(self, was: Frozen, now: dict[str, Any]) -> Frozen:
        """The record with this run's way of running in it, which may change from run to run; what changed is an event."""
        old, new = was.document.get("study", {}), now.get("study", {})
        document = {**was.document, "study": {**{k: v for k, v in old.items() if k not in STEERING}, **steered(new)}}
        changes = _differences(steered(old), steered(new))
        if document != was.document:
            with self.transaction() as connection:
                connection.execute(update(tables.frozen).values(document=json.dumps(document)))
            if changes:
                self.event("steered", " ".join(changes))
        return replace(was, document=document)

    def frozen(self) -> Frozen | None:
        """What the first run fixed; None before it."""
        with self._reading() as connection:
            row = connection.execute(select(tables.frozen)).first()
        return None if row is None else Frozen(json.loads(row.document), row.code_version, row.data_hash, row.created)

    def add_arms(self, phase: str, arms: Sequence[Arm]) -> None:
        """Note arms of a phase, in order; those already there stay.

        Raises:
            LedgerError: One of that name has other levels.
        """
        with self.transaction() as connection:
            known = {arm.name: arm for arm in self.arms(phase)}
            for arm in arms:
                if arm.name not in known:
                    known[arm.name] = arm
                    connection.execute(insert(tables.arms).values(phase=phase, name=arm.name, levels=json.dumps(arm.levels)))
                elif known[arm.name].levels != arm.levels:
                    raise LedgerError(
                        f"{self.path}: arm {arm.name!r} of phase {phase!r} is recorded with other levels than it has now. "
                        f"Move {self.path.parent} away to start the study anew."
                    )

    def arms(self, phase: str) -> list[Arm]:
        """A phase's arms in their order."""
        with self._reading() as connection:
            rows = connection.execute(select(tables.arms).where(tables.arms.c.phase == phase).order_by(tables.arms.c.id)).all()
        return [Arm(name=row.name, levels=json.loads(row.levels)) for row in rows]

    def phases(self) -> list[str]:
        """Phases that have arms, in the order in which they got them."""
        with self._reading() as connection:
            return list(connection.scalars(select(tables.arms.c.phase).group_by(tables.arms.c.phase).order_by(func.min(tables.arms.c.id))))

    def add_trials(self, phase: str, arm: str, trials: Sequence[TrialSpec]) -> None:
        """Note which trials an arm uses; those already there stay.

        Raises:
            LedgerError: A replicate of the arm is recorded with another trial.
        """
        with self.transaction() as connection:
            self.know(trials)
            rows = connection.execute(select(tables.uses).where(tables.uses.c.phase == phase, tables.uses.c.arm == arm)).all()
            known = {row.replicate: row.signature for row in rows}
            for trial in trials:
                if trial.replicate not in known:
                    known[trial.replicate] = trial.signature
                    values = {"phase": phase, "arm": arm, "replicate": trial.replicate, "signature": trial.signature}
                    connection.execute(insert(tables.uses).values(values))
                elif known[trial.replicate] != trial.signature:
                    raise LedgerError(
                        f"{self.path}: replicate {trial.replicate} of arm {arm!r} in phase {phase!r} is recorded as trial "
                        f"{known[trial.replicate]} but is {trial.signature} now. Move {self.path.parent} away to start the study anew."
                    )

    def know(self, trials: Sequence[TrialSpec]) -> None:
        """Make sure that these trials have a record."""
        if trials:
            rows = [{"signature": t.signature, "replicate": t.replicate, "state": TrialState.QUEUED, "message": ""} for t in trials]
            with self.transaction() as connection:
                connection.execute(upsert(tables.trials).on_conflict_do_nothing(), rows)

    def uses(self, phase: str | None = None, signature: str | None = None) -> list[Use]:
        """Which trial serves which arm and replicate, in the order in which they were planned; of one phase or trial, or all."""
        query = select(tables.uses).order_by(tables.uses.c.id)
        if signature is not None:
            query = query.where(tables.uses.c.signature == signature)
        if phase is not None:
            query = query.where(tables.uses.c.phase == phase)
        with self._reading() as connection:
            return [Use(row.phase, row.arm, row.replicate, row.signature) for row in connection.execute(query)]

    # trials and attempts

    def trial(self, signature: str) -> TrialRecord:
        """One trial.

        Raises:
            LedgerError: The study has no such trial.
        """
        with self._reading() as connection:
            row = connection.execute(_ONE_RECORD, {"signature": signature}).first()
        if row is None:
            raise LedgerError(f"{self.path}: no trial {signature}. `ablate status {self.path.parent.name}` lists them.")
        return _record(row)

    def trials(self, states: Collection[TrialState] | None = None, *, signatures: Collection[str] | None = None) -> list[TrialRecord]:
        """All trials in the order in which they were planned, or those in the given states or of the given signatures."""
        query = _records().order_by(tables.trials.c.id)
        if states is not None:
            query = query.where(tables.trials.c.state.in_([state.value for state in states]))
        if signatures is not None:
            query = query.where(tables.trials.c.signature.in_(list(signatures)))
        with self._reading() as connection:
            return [_record(row) for row in connection.execute(query)]

    def attempts(self, signature: str) -> list[AttemptRecord]:
        """All attempts at a trial, by number."""
        query = select(tables.attempts).where(tables.attempts.c.signature == signature).order_by(tables.attempts.c.number)
        with self._reading() as connection:
            return [_attempt(row) for row in connection.execute(query)]

    def attempts_of(self, signatures: Sequence[str]) -> dict[str, list[AttemptRecord]]:
        """The same of several trials at once."""
        found: dict[str, list[AttemptRecord]] = {signature: [] for signature in signatures}
        query = select(tables.attempts).where(tables.attempts.c.signature.in_(signatures)).order_by(tables.attempts.c.number)
        with self._reading() as connection:
            for row in connection.execute(query):
                found[row.signature].append(_attempt(row))
        return found

    def start_attempt(self, signature: str, worker: str, number: int | None = None, *, gpus: float = 0.0) -> int:
        """Begin the next attempt, which from now on is the only one accepted.

        Raises:
            LedgerError: The trial does not wait: it runs, is done, or failed for good.

        Args:
            gpus: What the worker holds of GPUs, for the budget.
            number: Its number, above all earlier ones; none: the next. Studies that share a trial share its numbering.
        """
        with self.transaction() as connection:
            state = self.trial(signature).state
            if state is not TrialState.QUEUED:
                raise LedgerError(f"{self.path}: expected a trial that waits but {signature} is {state}. Run the same command again.")
            if number is None:
                highest = connection.scalar(select(func.max(tables.attempts.c.number)).where(tables.attempts.c.signature == signature))
                number = (highest or 0) + 1
            values = {"signature": signature, "number": number, "worker": worker, "started": time.time(), "message": ""}
            connection.execute(insert(tables.attempts).values(values))
            if gpus:
                connection.execute(upsert(tables.devices).values(worker=worker, gpus=gpus).on_conflict_do_nothing())
            running = {"state": TrialState.RUNNING, "attempt": number}
            connection.execute(_OF_TRIAL, {"of": signature, **running})
        return number

    def finish_attempt(
        self, signature: str, number: int, *, cause: Cause | None, message: str, seconds: float, attempts: int = 3
    ) -> TrialRecord:
        """End an attempt: done, tried again, or failed for good. One that is not the current attempt changes nothing.

        Args:
            cause: None: it has a result.
            seconds: How long it ran.
            attempts: Failed tries after which the trial has failed for good. Stopped ones never count, lost ones have `LOST_LIMIT`.
        """
        with self.transaction() as connection:
            current = self.trial(signature)
            if current.state is not TrialState.RUNNING or current.attempt != number:
                return current
            ended = {"ended": time.time(), "cause": cause, "message": message, "seconds": seconds}
            connection.execute(_END_OF_ATTEMPT, {"of": signature, "nth": number, **ended})
            state = TrialState.DONE if cause is None else self._after_failure(signature, cause, attempts)
            connection.execute(_END_OF_TRIAL, {"of": signature, "state": state, "cause": cause, "message": message, "seconds": seconds})
            return replace(current, state=state, cause=cause, message=message, seconds=seconds)

    def _after_failure(self, signature: str, cause: Cause, attempts: int) -> TrialState:
        with self._reading() as connection:
            above = connection.scalar(select(tables.retries.c.above).where(tables.retries.c.signature == signature)) or 0
        causes = [attempt.cause for attempt in self.attempts(signature) if attempt.number > above]
        tries = sum(cause not in (None, Cause.STOPPED, Cause.LOST) for cause in causes)
        over = not cause.retryable or tries >= attempts or causes.count(Cause.LOST) >= LOST_LIMIT
        return TrialState.FAILED if over else TrialState.QUEUED

    def reuse(self, signature: str, attempt: int, seconds: float) -> None:
        """A result found under `runs/` makes a trial that waits done, without an attempt of this study."""
        values = {"state": TrialState.DONE, "attempt": attempt, "cause": None, "message": "", "seconds": seconds}
        with self.transaction() as connection:
            connection.execute(_in_state(signature, TrialState.QUEUED).values(values))

    def requeue(self, signature: str) -> None:
        """Let a trial that is done run again: its result is no longer under `runs/`."""
        with self.transaction() as connection:
            connection.execute(_in_state(signature, TrialState.DONE).values(state=TrialState.QUEUED))

    def retry(self, signature: str) -> bool:
        """Give a trial that failed for good a fresh row of attempts; whether it had failed."""
        with self.transaction() as connection:
            if self.trial(signature).state is not TrialState.FAILED:
                return False
            highest = connection.scalar(select(func.max(tables.attempts.c.number)).where(tables.attempts.c.signature == signature)) or 0
            row = upsert(tables.retries).values(signature=signature, above=highest)
            connection.execute(row.on_conflict_do_update(index_elements=["signature"], set_={"above": highest}))
            queued = {"state": TrialState.QUEUED, "cause": None, "message": ""}
            connection.execute(update(tables.trials).where(tables.trials.c.signature == signature).values(queued))
            return True

    # decisions, events, budget

    def reopen(self, phases: Collection[str]) -> None:
        """Take back the decisions of phases with their arms, which may become others; trials and attempts stay on record."""
        with self.transaction() as connection:
            for table in (tables.conclusions, tables.arms, tables.uses):
                connection.execute(delete(table).where(table.c.phase.in_(list(phases))))

    def conclude(self, phase: str, conclusion: Mapping[str, object]) -> None:
        """Store a phase's decision, once: a later call changes nothing."""
        with self.transaction() as connection:
            statement = upsert(tables.conclusions).values(phase=phase, document=json.dumps(conclusion)).on_conflict_do_nothing()
            connection.execute(statement)

    def conclusions(self) -> dict[str, dict[str, Any]]:
        """Decisions by phase, in the order in which they were taken."""
        with self._reading() as connection:
            rows = connection.execute(select(tables.conclusions).order_by(tables.conclusions.c.id)).all()
        return {row.phase: json.loads(row.document) for row in rows}

    def event(self, kind: str, text: str) -> None:
        """Note something that happened."""
        with self.transaction() as connection:
            connection.execute(insert(tables.events).values(at=time.time(), kind=kind, text=text))

    def events(self) -> list[Event]:
        """All that was noted, in order."""
        with self._reading() as connection:
            return [Event(row.at, row.kind, row.text) for row in connection.execute(select(tables.events).order_by(tables.events.c.id))]

    def begin_session(self) -> int:
        """A controller starts; its time counts against the budget."""
        with self.transaction() as connection:
            result = connection.execute(insert(tables.sessions).values(started=time.time(), seconds=0.0))
            key = result.inserted_primary_key
        return int(key[0]) if key is not None else 0

    def touch_session(self, session: int, seconds: float) -> None:
        """How long the session has lasted by now."""
        with self.transaction() as connection:
            connection.execute(update(tables.sessions).where(tables.sessions.c.id == session).values(seconds=seconds))

    def used(self) -> Used:
        """What was used of the budget, over all sessions."""
        with self._reading() as connection:
            started = frozenset(connection.scalars(select(tables.attempts.c.signature).distinct()))
            seconds = connection.scalar(select(func.sum(tables.sessions.c.seconds))) or 0.0
            gpu_seconds = 0.0
            if connection.dialect.has_table(connection, "devices"):  # a ledger from before has none
                held = tables.attempts.join(tables.devices, tables.attempts.c.worker == tables.devices.c.worker)
                query = select(func.sum(tables.attempts.c.seconds * tables.devices.c.gpus)).select_from(held)
                gpu_seconds = connection.scalar(query) or 0.0
        return Used(len(started), float(seconds), started, float(gpu_seconds))


def _differences(was: Mapping[str, object], now: Mapping[str, object]) -> list[str]:
    old, new = dict(flatten(was)), dict(flatten(now))
    absent = object()
    return [
        f"{path}: {_shown(old.get(path, absent), absent)} -> {_shown(new.get(path, absent), absent)}."
        for path in sorted(old.keys() | new.keys())
        if old.get(path, absent) != new.get(path, absent)
    ]


def _shown(value: object, absent: object) -> str:
    return "absent" if value is absent else json.dumps(value)


def _in_state(signature: str, state: TrialState) -> Update:
    return update(tables.trials).where(tables.trials.c.signature == signature, tables.trials.c.state == state)


def _records() -> Any:
    count = select(func.count()).where(tables.attempts.c.signature == tables.trials.c.signature).scalar_subquery()
    return select(tables.trials, count.label("attempts"))


# What every trial needs is built once: building a statement takes longer than running it.
_ONE_RECORD = _records().where(tables.trials.c.signature == bindparam("signature"))
_trial, _attempts = tables.trials.c, tables.attempts.c
_OF_TRIAL = update(tables.trials).where(_trial.signature == bindparam("of")).values(state=bindparam("state"), attempt=bindparam("attempt"))
_END_OF_TRIAL = (
    update(tables.trials)
    .where(_trial.signature == bindparam("of"))
    .values({name: bindparam(name) for name in ("state", "cause", "message", "seconds")})
)
_END_OF_ATTEMPT = (
    update(tables.attempts)
    .where(_attempts.signature == bindparam("of"), _attempts.number == bindparam("nth"))
    .values({name: bindparam(name) for name in ("ended", "cause", "message", "seconds")})
)


def _record(row: Row[Any]) -> TrialRecord:
    cause = None if row.cause is None else Cause(row.cause)
    return TrialRecord(row.signature, row.replicate, TrialState(row.state), row.attempt, cause, row.message, row.seconds, row.attempts)


def _attempt(row: Row[Any]) -> AttemptRecord:
    cause = None if row.cause is None else Cause(row.cause)
    return AttemptRecord(row.signature, row.number, row.worker, row.started, row.ended, cause, row.message, row.seconds)
