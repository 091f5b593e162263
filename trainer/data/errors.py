"""What is wrong with the data, and what to do about it."""

from __future__ import annotations

from collections.abc import Sequence


class DataError(ValueError):
    """Scans that cannot be trained on; the message names every one with its mend.

    Attributes:
        problems: One sentence or two each: `<where>: expected <what> but got <value>. <What to do.>`
    """

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        head = "" if len(self.problems) == 1 else f"The data have {len(self.problems)} problems:\n  "
        super().__init__(head + "\n  ".join(self.problems))


class AccessError(DataError):
    """A file that cannot be opened now: the file itself may be whole, so the index does not remember it as bad."""


class CacheError(DataError):
    """The cache cannot be written: nothing is wrong with the scan, so leaving it out would not help."""
