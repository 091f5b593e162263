"""How the ledger's file is opened, and its errors as ours.

Rollback journal, not WAL: WAL needs every reader on one host.
"""

from __future__ import annotations

import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.parse import quote

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.exc import DatabaseError
from sqlalchemy.pool import NullPool, StaticPool

from ablate.errors import LedgerError, LedgerFull


def open_engine(path: Path, *, read_only: bool) -> Engine:
    """The file as an engine.

    The controller keeps one connection; a reader opens one for each call, so that it never holds a lock between two.
    """
    if read_only:
        engine = create_engine("sqlite://", creator=lambda: _connect_for_reading(path), poolclass=NullPool)
    else:
        engine = create_engine("sqlite://", creator=lambda: _connect(path, "rwc"), poolclass=StaticPool)

    def configure(connection: sqlite3.Connection, _record: object) -> None:
        connection.isolation_level = None
        if not read_only:
            connection.execute("PRAGMA journal_mode=DELETE")
            connection.execute("PRAGMA synchronous=FULL")

    def begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN" if read_only else "BEGIN IMMEDIATE")

    event.listen(engine, "connect", configure)
    event.listen(engine, "begin", begin)
    return engine


def _connect(path: Path, mode: str) -> sqlite3.Connection:
    return sqlite3.connect(f"file:{quote(str(path.resolve()))}?mode={mode}", uri=True, timeout=60, check_same_thread=False)


def _connect_for_reading(path: Path) -> sqlite3.Connection:
    connection = _connect(path, "ro")
    try:
        connection.execute("SELECT count(*) FROM sqlite_master")
    except sqlite3.OperationalError:
        connection.close()
        if not Path(f"{path}-journal").exists():
            raise
        return _rolled_back(path)
    return connection


def _rolled_back(path: Path) -> sqlite3.Connection:
    """A copy in memory: a controller killed inside a commit leaves a journal that only a writer may roll back."""
    memory = sqlite3.connect(":memory:", check_same_thread=False)
    with tempfile.TemporaryDirectory(prefix="ablate-ledger-") as folder:
        copy = Path(folder) / path.name
        shutil.copyfile(path, copy)
        shutil.copyfile(f"{path}-journal", f"{copy}-journal")
        with closing(_connect(copy, "rw")) as whole:
            whole.backup(memory)
    return memory


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """SQLite's errors as ours, each with its mend."""
    try:
        yield
    except (DatabaseError, sqlite3.Error, OSError) as error:
        text = str(error.orig if isinstance(error, DatabaseError) else error)
        if isinstance(error, OSError):
            text = error.strerror or text
        kind = LedgerError
        if "disk is full" in text or "No space left" in text or "disk I/O" in text:
            kind = LedgerFull
            mend = "The disk is full or failing: free some space and run the same command again. Nothing that was recorded is lost."
        elif "locked" in text:
            mend = "Another process keeps it open for writing; end that one and run the same command again."
        elif "readonly" in text or "Permission" in text or "unable to open" in text:
            mend = "Make its folder writable for this user, then run the same command again."
        elif "not a database" in text or "malformed" in text:
            mend = "It is damaged. Move it away and run the same command: finished trials are found again under `trials/`."
        else:
            mend = "Run `ablate doctor`."
        raise kind(f"{path}: expected a ledger that can be read and written but got: {text}. {mend}") from error
