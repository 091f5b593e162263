"""Signs of life: how a controller gives its own, and how everybody reads those of others."""

from __future__ import annotations

import contextlib
import threading
from pathlib import Path

from ablate.execution.base import Identity, WorkerFiles
from ablate.execution.clock import SYSTEM, Clock


class Sign:
    """A file that somebody touches while they live, read by this process's own clock: theirs, or the file system's, may jump."""

    def __init__(self, path: Path, clock: Clock = SYSTEM) -> None:
        self._path, self._clock = path, clock
        self._seen, self._changed = 0, clock.now_s()

    def look(self) -> None:
        """See whether it was touched."""
        try:
            seen = self._path.stat().st_mtime_ns
        except OSError:
            return
        if seen != self._seen:
            self._seen, self._changed = seen, self._clock.now_s()

    @property
    def silence_s(self) -> float:
        """Seconds since a look found it touched anew, or since the first look."""
        return self._clock.now_s() - self._changed


class Liveness:
    """Whether workers run: asked of the kernel for those on this host, of their heartbeats for others.

    Args:
        silence_s: Without a heartbeat for so long, a worker of another host counts as dead.
    """

    def __init__(self, silence_s: float, clock: Clock = SYSTEM) -> None:
        self._silence_s, self._clock = silence_s, clock
        self._signs: dict[str, Sign] = {}

    def alive(self, worker: WorkerFiles) -> bool:
        """Whether a worker that reported still runs."""
        identity = Identity.read(worker.identity)
        if identity is None or identity.here:
            return identity is not None and identity.process() is not None
        sign = self._signs.setdefault(worker.id, Sign(worker.heartbeat, self._clock))
        sign.look()
        return sign.silence_s < self._silence_s


class Renewal:
    """Gives the controller's sign from a thread of its own: it may be busy with statistics for longer than a lease."""

    def __init__(self, path: Path, renew_s: float) -> None:
        self._path, self._renew_s = path, renew_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._renew, daemon=True)

    def start(self) -> None:
        """Give the first sign and go on."""
        self._path.touch()
        self._thread.start()

    def stop(self) -> None:
        """Give no more signs."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def _renew(self) -> None:
        while not self._stop.wait(self._renew_s):
            with contextlib.suppress(OSError):
                self._path.touch()
