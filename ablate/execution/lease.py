"""A controller's sign of life, and how workers read it."""

from __future__ import annotations

import contextlib
import threading
import time
from pathlib import Path


class Lease:
    """Whether the controller gave a sign of life lately, by this process's own clock: a wall clock may jump."""

    def __init__(self, path: Path, lease_s: float) -> None:
        self._path, self._lease_s = path, lease_s
        self._seen, self._changed = 0, time.monotonic()

    def look(self) -> None:
        """See whether the sign was renewed."""
        try:
            seen = self._path.stat().st_mtime_ns
        except OSError:
            return
        if seen != self._seen:
            self._seen, self._changed = seen, time.monotonic()

    @property
    def over(self) -> bool:
        """The controller is gone."""
        return time.monotonic() - self._changed > self._lease_s


class Renewal:
    """Renews the sign from a thread of its own: the controller may be busy with statistics for longer than a lease."""

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
