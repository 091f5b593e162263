"""The record of what was decided and what happened: one SQLite file a study, one writer, many readers.

Rollback journal, not WAL: WAL needs every reader on one host.
"""

from __future__ import annotations

import json
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import (
    Column,
    Connection,
    Engine,
    Float,
    Integer,
    MetaData,
    PrimaryKeyConstraint,
    Row,
    String,
    Table,
    create_engine,
    event,
    func,
    insert,
    select,
    update,
)
from sqlalchemy.dialects.sqlite import insert as upsert
from sqlalchemy.exc import DatabaseError
from sqlalchemy.pool import NullPool, StaticPool

from ablate.errors import LedgerError, StudyChanged
from ablate.study import Arm
from ablate.trial import Cause, TrialSpec, TrialState, flatten

LOST_LIMIT = 10
"""Lost attempts before a trial has failed for good: its machine's doing, so more than `Study.attempts`, but not for ever."""

SCHEMA_VERSION = 1

_schema = MetaData()
_frozen = Table(
    "frozen",
    _schema,
    Column("id", Integer, primary_key=True),
    Column("document", String, nullable=False),
    Column("code_version", String, nullable=False),
    Column("data_hash", String, nullable=False),
    Column("created", Float, nullable=False),
)
_arms = Table(
    "arms",
    _schema,
    Column("id", Integer, primary_key=True),
    Column("phase", String, nullable=False, index=True),
    Column("name", String, nullable=False),
    Column("levels", String, nullable=False),
)
_uses = Table(
    "uses",
    _schema,
    Column("id", Integer, primary_key=True),
    Column("phase", String, nullable=False, index=True),
    Column("arm", String, nullable=False),
    Column("replicate", Integer, nullable=False),
    Column("signature", String, nullable=False, index=True),
)
_trials = Table(
    "trials",
    _schema,
    Column("id", Integer, primary_key=True),
    Column("signature", String, nullable=False, unique=True),
    Column("replicate", Integer, nullable=False),
    Column("state", String, nullable=False, index=True),
    Column("attempt", Integer),
    Column("cause", String),
    Column("message", String, nullable=False, default=""),
    Column("seconds", Float),
)
_attempts = Table(
    "attempts",
    _schema,
    Column("signature", String, nullable=False),
    Column("number", Integer, nullable=False),
    Column("worker", String, nullable=False),
    Column("started", Float, nullable=False),
    Column("ended", Float),
    Column("cause", String),
    Column("message", String, nullable=False, default=""),
    Column("seconds", Float),
    PrimaryKeyConstraint("signature", "number"),
)
_conclusions = Table(
    "conclusions",
    _schema,
    Column("id", Integer, primary_key=True),
    Column("phase", String, nullable=False, unique=True),
    Column("document", String, nullable=False),
)
_events = Table(
    "events",
    _schema,
    Column("id", Integer, primary_key=True),
    Column("at", Float, nullable=False),
    Column("kind", String, nullable=False),
    Column("text", String, nullable=False),
)
_sessions = Table(
    "sessions",
    _schema,
    Column("id", Integer, primary_key=True),
    Column("started", Float, nullable=False),
    Column("seconds", Float, nullable=False),
)


@dataclass(frozen=True)
class Frozen:
    """What the study's first run fixed."""

    document: dict[str, Any]
    code_version: str
    data_hash: str
    created: float
    """Seconds since the epoch."""


@dataclass(frozen=True)
class Use:
    """A place in the study that a trial serves; one trial may serve several."""

    phase: str
    arm: str
    replicate: int
    signature: str


@dataclass(frozen=True)
class TrialRecord:
    """A trial as the ledger has it."""

    signature: str
    replicate: int
    state: TrialState
    attempt: int | None
    """The accepted attempt of a trial that is done, else the latest."""
    cause: Cause | None
    """Why the latest attempt gave no result."""
    message: str
    seconds: float | None
    attempts: int
    """Attempts started in this study; 0 for a result found under `runs/`."""


@dataclass(frozen=True)
class AttemptRecord:
    """One try at a trial as the ledger has it."""

    signature: str
    number: int
    worker: str
    started: float
    ended: float | None
    cause: Cause | None
    message: str
    seconds: float | None


@dataclass(frozen=True)
class Event:
    """Something that happened, for people."""

    at: float
    kind: str
    text: str


@dataclass(frozen=True)
class Used:
    """What the study used of its budget, over restarts."""

    trials: int
    """Trials of which at least one attempt was started."""
    seconds: float
    """Controller time."""
    started: frozenset[str]
    """Signatures behind `trials`."""


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
        self._snapshot: tempfile.TemporaryDirectory[str] | None = None
        self._connection: Connection | None = None
        if read_only:
            if not path.exists():
                raise LedgerError(f"{path}: no such ledger. Has the study run under this `--runs` folder? Start it with `ablate run`.")
            self._engine = self._readable_engine()
        else:
            with _explained(path):
                path.parent.mkdir(parents=True, exist_ok=True)
                self._engine = _engine(path, "rwc")
                with self.transaction() as connection:
                    _schema.create_all(connection)
                    version = connection.exec_driver_sql("PRAGMA user_version").scalar_one()
                    if version == 0:
                        connection.exec_driver_sql(f"PRAGMA user_version = {SCHEMA_VERSION}")
        self._check_version()

    def _readable_engine(self) -> Engine:
        engine = _engine(self.path, "ro")
        try:
            with _explained(self.path), engine.connect() as connection:
                connection.exec_driver_sql("SELECT count(*) FROM sqlite_master")
        except LedgerError as error:
            if not self.path.with_name(f"{self.path.name}-journal").exists():
                raise
            engine.dispose()
            return self._rolled_back_copy(error)
        return engine

    def _rolled_back_copy(self, cause: LedgerError) -> Engine:
        # A controller killed inside a commit leaves a journal that only a writer may roll back: a reader does it in a copy.
        self._snapshot = tempfile.TemporaryDirectory(prefix="ablate-ledger-", ignore_cleanup_errors=True)
        copy = Path(self._snapshot.name) / self.path.name
        try:
            shutil.copyfile(self.path, copy)
            shutil.copyfile(f"{self.path}-journal", f"{copy}-journal")
        except OSError:
            raise cause from None
        return _engine(copy, "rw")

    def _check_version(self) -> None:
        with self._reading() as connection:
            version = connection.exec_driver_sql("PRAGMA user_version").scalar_one()
        if version != SCHEMA_VERSION:
            raise LedgerError(
                f"{self.path}: expected a ledger of version {SCHEMA_VERSION} but got version {version}. "
                "Use the ablate that wrote it, or move its folder away to start the study anew."
            )

    def close(self) -> None:
        """Let go of the file."""
        self._engine.dispose()
        if self._snapshot is not None:
            self._snapshot.cleanup()

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """All calls inside commit together or not at all; inside another one it is part of that."""
        if self._connection is not None:
            yield self._connection
            return
        with _explained(self.path), self._engine.begin() as connection:
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
        with _explained(self.path), self._engine.connect() as connection:
            yield connection

    # the plan

    def freeze(self, document: Mapping[str, object], code_version: str, data_hash: str) -> None:
        """Store what the study is at its first run; later runs must be the same.

        Raises:
            StudyChanged: Every difference, as `path: was -> is`.
        """
        now = json.loads(json.dumps(document))
        was = self.frozen()
        if was is None:
            values = {"id": 1, "document": json.dumps(now), "code_version": code_version, "data_hash": data_hash, "created": time.time()}
            with self.transaction() as connection:
                connection.execute(insert(_frozen).values(values))
            return
        problems = _differences(was.document, now)
        if was.code_version != code_version:
            problems.append(f"the trainer's code: {was.code_version} -> {code_version}.")
        if was.data_hash != data_hash:
            problems.append(f"the data: {was.data_hash or 'none'} -> {data_hash or 'none'}.")
        if problems:
            mend = f"give the study another name (`study:`), or move {self.path.parent} away"
            raise StudyChanged(f"{self.path.parent.name} (changed since its first run, so its results would not compare: {mend})", problems)

    def frozen(self) -> Frozen | None:
        """What the first run fixed; None before it."""
        with self._reading() as connection:
            row = connection.execute(select(_frozen)).first()
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
                    connection.execute(insert(_arms).values(phase=phase, name=arm.name, levels=json.dumps(arm.levels)))
                elif known[arm.name].levels != arm.levels:
                    raise LedgerError(
                        f"{self.path}: arm {arm.name!r} of phase {phase!r} is recorded with other levels than it has now. "
                        f"Move {self.path.parent} away to start the study anew."
                    )

    def arms(self, phase: str) -> list[Arm]:
        """A phase's arms in their order."""
        with self._reading() as connection:
            rows = connection.execute(select(_arms).where(_arms.c.phase == phase).order_by(_arms.c.id)).all()
        return [Arm(name=row.name, levels=json.loads(row.levels)) for row in rows]

    def phases(self) -> list[str]:
        """Phases that have arms, in the order in which they got them."""
        with self._reading() as connection:
            return list(connection.scalars(select(_arms.c.phase).group_by(_arms.c.phase).order_by(func.min(_arms.c.id))))

    def add_trials(self, phase: str, arm: str, trials: Sequence[TrialSpec]) -> None:
        """Note which trials an arm uses; those already there stay.

        Raises:
            LedgerError: A replicate of the arm is recorded with another trial.
        """
        with self.transaction() as connection:
            self.know(trials)
            rows = connection.execute(select(_uses).where(_uses.c.phase == phase, _uses.c.arm == arm)).all()
            known = {row.replicate: row.signature for row in rows}
            for trial in trials:
                if trial.replicate not in known:
                    known[trial.replicate] = trial.signature
                    values = {"phase": phase, "arm": arm, "replicate": trial.replicate, "signature": trial.signature}
                    connection.execute(insert(_uses).values(values))
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
                connection.execute(upsert(_trials).on_conflict_do_nothing(), rows)

    def uses(self, phase: str | None = None, signature: str | None = None) -> list[Use]:
        """Which trial serves which arm and replicate, in the order in which they were planned; of one phase or trial, or all."""
        query = select(_uses).order_by(_uses.c.id)
        if signature is not None:
            query = query.where(_uses.c.signature == signature)
        if phase is not None:
            query = query.where(_uses.c.phase == phase)
        with self._reading() as connection:
            return [Use(row.phase, row.arm, row.replicate, row.signature) for row in connection.execute(query)]

    # trials and attempts

    def trial(self, signature: str) -> TrialRecord:
        """One trial.

        Raises:
            LedgerError: The study has no such trial.
        """
        with self._reading() as connection:
            row = connection.execute(_records().where(_trials.c.signature == signature)).first()
        if row is None:
            raise LedgerError(f"{self.path}: no trial {signature}. `ablate status {self.path.parent.name}` lists them.")
        return _record(row)

    def trials(self, states: Collection[TrialState] | None = None) -> list[TrialRecord]:
        """All trials in the order in which they were planned, or those in the given states."""
        query = _records().order_by(_trials.c.id)
        if states is not None:
            query = query.where(_trials.c.state.in_([state.value for state in states]))
        with self._reading() as connection:
            return [_record(row) for row in connection.execute(query)]

    def attempts(self, signature: str) -> list[AttemptRecord]:
        """All attempts at a trial, by number."""
        query = select(_attempts).where(_attempts.c.signature == signature).order_by(_attempts.c.number)
        with self._reading() as connection:
            return [_attempt(row) for row in connection.execute(query)]

    def start_attempt(self, signature: str, worker: str, number: int | None = None) -> int:
        """Begin the next attempt, which from now on is the only one accepted.

        Args:
            number: Its number, above all earlier ones; none: the next. Studies that share a trial share its numbering.
        """
        with self.transaction() as connection:
            highest = connection.scalar(select(func.max(_attempts.c.number)).where(_attempts.c.signature == signature)) or 0
            number = highest + 1 if number is None else number
            values = {"signature": signature, "number": number, "worker": worker, "started": time.time(), "message": ""}
            connection.execute(insert(_attempts).values(values))
            running = {"state": TrialState.RUNNING, "attempt": number}
            connection.execute(update(_trials).where(_trials.c.signature == signature).values(running))
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
            connection.execute(update(_attempts).where(_attempts.c.signature == signature, _attempts.c.number == number).values(ended))
            state = TrialState.DONE if cause is None else self._after_failure(signature, cause, attempts)
            values = {"state": state, "cause": cause, "message": message, "seconds": seconds}
            connection.execute(update(_trials).where(_trials.c.signature == signature).values(values))
            return self.trial(signature)

    def _after_failure(self, signature: str, cause: Cause, attempts: int) -> TrialState:
        causes = [attempt.cause for attempt in self.attempts(signature)]
        tries = sum(cause not in (None, Cause.STOPPED, Cause.LOST) for cause in causes)
        over = not cause.retryable or tries >= attempts or causes.count(Cause.LOST) >= LOST_LIMIT
        return TrialState.FAILED if over else TrialState.QUEUED

    def reuse(self, signature: str, attempt: int, seconds: float) -> None:
        """A result found under `runs/` makes the trial done, without an attempt of this study."""
        values = {"state": TrialState.DONE, "attempt": attempt, "cause": None, "message": "", "seconds": seconds}
        with self.transaction() as connection:
            connection.execute(update(_trials).where(_trials.c.signature == signature).values(values))

    def requeue(self, signature: str) -> None:
        """Let a trial run again: its result is no longer under `runs/`."""
        with self.transaction() as connection:
            connection.execute(update(_trials).where(_trials.c.signature == signature).values(state=TrialState.QUEUED))

    # decisions, events, budget

    def conclude(self, phase: str, conclusion: Mapping[str, object]) -> None:
        """Store a phase's decision, once: a later call changes nothing."""
        with self.transaction() as connection:
            statement = upsert(_conclusions).values(phase=phase, document=json.dumps(conclusion)).on_conflict_do_nothing()
            connection.execute(statement)

    def conclusions(self) -> dict[str, dict[str, Any]]:
        """Decisions by phase, in the order in which they were taken."""
        with self._reading() as connection:
            rows = connection.execute(select(_conclusions).order_by(_conclusions.c.id)).all()
        return {row.phase: json.loads(row.document) for row in rows}

    def event(self, kind: str, text: str) -> None:
        """Note something that happened."""
        with self.transaction() as connection:
            connection.execute(insert(_events).values(at=time.time(), kind=kind, text=text))

    def events(self) -> list[Event]:
        """All that was noted, in order."""
        with self._reading() as connection:
            return [Event(row.at, row.kind, row.text) for row in connection.execute(select(_events).order_by(_events.c.id))]

    def begin_session(self) -> int:
        """A controller starts; its time counts against the budget."""
        with self.transaction() as connection:
            result = connection.execute(insert(_sessions).values(started=time.time(), seconds=0.0))
            key = result.inserted_primary_key
        return int(key[0]) if key is not None else 0

    def touch_session(self, session: int, seconds: float) -> None:
        """How long the session has lasted by now."""
        with self.transaction() as connection:
            connection.execute(update(_sessions).where(_sessions.c.id == session).values(seconds=seconds))

    def used(self) -> Used:
        """What was used of the budget, over all sessions."""
        with self._reading() as connection:
            started = frozenset(connection.scalars(select(_attempts.c.signature).distinct()))
            seconds = connection.scalar(select(func.sum(_sessions.c.seconds))) or 0.0
        return Used(len(started), float(seconds), started)


def _engine(path: Path, mode: str) -> Engine:
    # The controller keeps one connection; a reader opens one for each call, so that it never holds a lock between two.
    uri = f"file:{path.resolve().as_posix().replace('%', '%25').replace('?', '%3f').replace('#', '%23')}?mode={mode}"
    pool = NullPool if mode == "ro" else StaticPool
    engine = create_engine("sqlite://", creator=lambda: sqlite3.connect(uri, uri=True, timeout=60, check_same_thread=False), poolclass=pool)

    def configure(connection: sqlite3.Connection, _record: object) -> None:
        connection.isolation_level = None
        if mode != "ro":
            connection.execute("PRAGMA journal_mode=DELETE")
            connection.execute("PRAGMA synchronous=FULL")

    def begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN" if mode == "ro" else "BEGIN IMMEDIATE")

    event.listen(engine, "connect", configure)
    event.listen(engine, "begin", begin)
    return engine


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """SQLite's errors as ours, each with its mend."""
    try:
        yield
    except (DatabaseError, sqlite3.Error, OSError) as error:
        text = str(error.orig if isinstance(error, DatabaseError) else error)
        if isinstance(error, OSError):
            text = error.strerror or text
        if "disk is full" in text or "No space left" in text or "disk I/O" in text:
            mend = "The disk is full or failing: free some space and run the same command again. Nothing that was recorded is lost."
        elif "locked" in text:
            mend = "Another process keeps it open for writing; end that one and run the same command again."
        elif "readonly" in text or "Permission" in text or "unable to open" in text:
            mend = "Make its folder writable for this user, then run the same command again."
        elif "not a database" in text or "malformed" in text:
            mend = "It is damaged. Move it away and run the same command: finished trials are found again under `trials/`."
        else:
            mend = "Run `ablate doctor`."
        raise LedgerError(f"{path}: expected a ledger that can be read and written but got: {text}. {mend}") from error


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


def _records() -> Any:
    count = select(func.count()).where(_attempts.c.signature == _trials.c.signature).scalar_subquery()
    return select(_trials, count.label("attempts"))


def _record(row: Row[Any]) -> TrialRecord:
    cause = None if row.cause is None else Cause(row.cause)
    return TrialRecord(row.signature, row.replicate, TrialState(row.state), row.attempt, cause, row.message, row.seconds, row.attempts)


def _attempt(row: Row[Any]) -> AttemptRecord:
    cause = None if row.cause is None else Cause(row.cause)
    return AttemptRecord(row.signature, row.number, row.worker, row.started, row.ended, cause, row.message, row.seconds)
