"""A controller in the background: who it is from its start on, before it holds the study's lock."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from ablate.execution.base import Identity
from ablate.execution.lock import holder, last_holder


@dataclass(frozen=True)
class Detached:
    """`runs/<study>/`, seen as the place of a controller in the background."""

    directory: Path

    @property
    def log(self) -> Path:
        """What it prints."""
        return self.directory / "controller.log"

    @property
    def identity(self) -> Path:
        """Which process was started; it may have ended since."""
        return self.directory / "controller.json"

    def start(self, arguments: Sequence[str]) -> int:
        """Start `ablate ARGUMENTS` in a session of its own, its output in the log.

        Returns:
            The number of its process.
        """
        self.directory.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            log.write(f"\n$ ablate {' '.join(arguments)}\n".encode())
            log.flush()
            process = subprocess.Popen(
                [sys.executable, "-m", "ablate", *arguments], stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        process.returncode = 0  # not waited for: it outlives this process
        Identity.of(process.pid).write(self.identity)
        return process.pid

    def starting(self) -> bool:
        """Whether it was started, lives, and did not hold the study yet; after it has, its report may still be on the way."""
        return self._before_it_began() is not None

    def end_before_it_began(self) -> bool:
        """End it while it only reads and checks; whether there was one."""
        process = self._before_it_began()
        if process is None:
            return False
        try:
            os.kill(process.pid, signal.SIGTERM)
            process.wait(10)
        except (OSError, psutil.Error):
            return False
        return True

    def _before_it_began(self) -> psutil.Process | None:
        identity = Identity.read(self.identity)
        process = identity.process() if identity is not None and identity.here else None
        if process is None or holder(self.directory.parent, self.directory.name) is not None:
            return None
        return None if last_holder(self.directory)["pid"] == process.pid else process
