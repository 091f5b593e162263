"""One controller a study: a lock that the kernel lets go when its holder dies, and who holds it."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import sys
import time
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TypedDict

from ablate.errors import AblateError, StudyBusy


class Holder(TypedDict):
    """The controller that runs a study."""

    pid: int
    host: str
    since: str
    command: str


@dataclass
class ControllerLock:
    """The right to write a study's ledger, held for the life of the process."""

    directory: Path
    patience_s: float = 0.5
    """Readers hold the lock for an instant when they look whether it is free."""
    _handle: int | None = None

    def acquire(self) -> None:
        """Take the lock.

        Raises:
            StudyBusy: Another controller has it; says which and what to do.
            AblateError: The folder cannot be written.
        """
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            handle = os.open(_path(self.directory), os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            mend = "Make it writable for this user, or name another folder with --runs"
            raise AblateError(f"{self.directory}: expected a folder that can be written but got: {error.strerror}. {mend}.") from error
        until = time.monotonic() + self.patience_s
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > until:
                    os.close(handle)
                    raise StudyBusy(_busy(self.directory)) from None
                time.sleep(0.02)
        now = datetime.now().astimezone().isoformat(timespec="seconds")
        holder = Holder(pid=os.getpid(), host=socket.gethostname(), since=now, command=" ".join(sys.argv))
        os.ftruncate(handle, 0)
        os.pwrite(handle, json.dumps(holder).encode(), 0)
        self._handle = handle

    def release(self) -> None:
        """Let the next controller in."""
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None


def holder(root: Path, study: str) -> Holder | None:
    """Who runs a study now; None: nobody. Creates nothing."""
    try:
        handle = os.open(_path(root / study), os.O_RDONLY)
    except OSError:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _read(root / study)
    finally:
        os.close(handle)
    return None


def _path(directory: Path) -> Path:
    return directory / "controller.lock"


def last_holder(directory: Path) -> Holder:
    """Who runs a study's folder now, or did last; process 0 where nobody ever did."""
    return _read(directory)


def _read(directory: Path) -> Holder:
    try:
        values = json.loads(_path(directory).read_text())
        return Holder(pid=values["pid"], host=values["host"], since=values["since"], command=values["command"])
    except (OSError, ValueError, KeyError):
        return Holder(pid=0, host="unknown", since="unknown", command="unknown")


def _busy(directory: Path) -> str:
    found, name = _read(directory), directory.name
    return (
        f"{name}: expected no other controller but process {found['pid']} on {found['host']} runs it since {found['since']} "
        f"({found['command']}). Watch it with `ablate watch {name}`, end it with `ablate stop {name}`, "
        "or give this study another name (`study:`)."
    )
