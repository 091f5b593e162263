"""A command as a process that cannot outlive its worker."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from ablate.execution import keeper


@dataclass(frozen=True)
class End:
    """How a command ended."""

    status: int | None
    """Exit code, or minus the signal that ended it; none: it never started, or its keeper was killed."""
    problem: str = ""
    """Why it could not be started."""


class Process:
    """A running command; as a context, nothing of it is left afterwards.

    Args:
        output: Where all that it prints is appended.
    """

    def __init__(self, arguments: Sequence[str], cwd: Path, environment: Mapping[str, str], output: Path) -> None:
        self._lifeline, theirs = socket.socketpair()
        self._said = b""
        self.end: End | None = None
        command = [sys.executable, "-I", "-S", keeper.__file__, str(theirs.fileno()), *arguments]
        try:
            with output.open("ab") as log:
                self._keeper = subprocess.Popen(
                    command,
                    cwd=cwd,
                    env=dict(environment),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    pass_fds=[theirs.fileno()],
                    start_new_session=True,
                )
        except BaseException:
            self._lifeline.close()
            raise
        finally:
            theirs.close()

    def wait(self, seconds: float) -> End | None:
        """How it ended; none where it still runs after so long."""
        until = time.monotonic() + seconds
        while self.end is None:
            self._lifeline.settimeout(max(until - time.monotonic(), 0.001))
            try:
                said = self._lifeline.recv(4096)
            except TimeoutError:
                break
            except ConnectionError:
                said = b""
            self._said += said
            if not said:
                self.end = self._last_word()
        return self.end

    def send(self, number: signal.Signals, *, to_all: bool = False) -> None:
        """A signal to the command, or also to all that it started."""
        with contextlib.suppress(OSError):  # it has just ended
            self._lifeline.send(bytes([number | (keeper.TO_ALL if to_all else 0)]))

    def kill(self) -> None:
        """End it and all that it started, now."""
        self.send(signal.SIGKILL)

    def __enter__(self) -> Process:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._lifeline.close()  # a keeper that still runs ends all there is
        with contextlib.suppress(subprocess.TimeoutExpired):
            if self.end != End(None):
                self._keeper.wait(timeout=10)
                return
        with contextlib.suppress(OSError):  # the keeper itself was killed, or hangs; not waited for yet, so the number is still its own
            os.killpg(self._keeper.pid, signal.SIGKILL)
        self._keeper.wait()

    def _last_word(self) -> End:
        try:
            values = json.loads(self._said)
        except ValueError:
            return End(None)
        return End(values.get("status"), values.get("problem", ""))
