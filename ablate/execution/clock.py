"""The clock of a controller, so that a test can let hours pass in a second."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """Time that only moves forward; no wall clock, which may jump."""

    def now_s(self) -> float:
        """Seconds since some moment."""

    def wait(self, seconds: float) -> None:
        """Let so much time pass."""


class SystemClock:
    """This machine's time."""

    def now_s(self) -> float:
        """Seconds since some moment."""
        return time.monotonic()

    def wait(self, seconds: float) -> None:
        """Let so much time pass."""
        time.sleep(seconds)


SYSTEM = SystemClock()
