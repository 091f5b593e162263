"""What a tracker is told, whichever tracker: plain entries, each complete in itself, so that any of them can be told again."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from ablate.errors import AblateError

Status = Literal["SCHEDULED", "RUNNING", "FINISHED", "FAILED"]
"""Where an entry stands, in the words that MLflow has for runs."""

Points = Sequence[tuple[int, Mapping[str, float]]]
"""Step and metrics, by rising step."""


class TrackerDown(AblateError):
    """The tracker cannot be reached or refuses; the truth under `runs/` is whole without it."""


@dataclass(frozen=True)
class Artifact:
    """A file of an entry: one on disk, or a text."""

    name: str
    """Its path among the entry's files; `/` sets folders apart."""
    source: Path | str


@dataclass(frozen=True)
class DataSet:
    """A set of data, or one split of it, that a trial read."""

    name: str
    digest: str
    """At most 36 characters; equal for equal data."""
    source: str
    """Where it lies, as the trainer says; empty where it does not say."""
    context: str
    """What it was for: `train`, `select`, `test`, or `all`."""
    items: int | None = None
    """Scans (or whatever the trainer lists) in it."""


@dataclass(frozen=True)
class Entry:
    """One row of the tracker: a trial, the summary of an arm, or the study itself.

    What costs time to read (`points`, `artifacts`) is read only where the tracker does not have it yet.
    """

    key: str
    """Unique in the study; found again by it."""
    name: str
    tags: Mapping[str, str]
    """May change from one telling to the next."""
    params: Mapping[str, str]
    """Never change once told; more may come."""
    status: Status
    version: str | None
    """Names what points and artifacts were made from; told once a version. None: they still grow, only points are told."""
    points: Callable[[], Points]
    artifacts: Callable[[], Sequence[Artifact]]
    started: float
    """Seconds since the epoch."""
    seconds: float | None = None
    """How long it took, once it ended."""
    data: Callable[[], Sequence[DataSet]] = tuple
    """What it read; told once a version, like the artifacts."""


@dataclass(frozen=True)
class Synced:
    """What a telling did."""

    entries: int
    """Entries that the tracker now has of the study."""
    made: int
    """Of these, made by this telling."""
    points: int
    """Metric values sent."""
    where: str
    """The tracker, for people; no secret in it."""
    experiment: str
    """The tracker's own name for the study."""


class Tracker(Protocol):
    """Where people look at trials side by side.

    Telling is idempotent: the same entries twice leave what they left once, and a telling that was killed half-way is
    completed by the next.
    """

    def tell(self, entries: Iterable[Entry], about: Callable[[str], Mapping[str, str]]) -> Synced:
        """Bring the tracker up to date with these entries of one study.

        Args:
            about: What is said of the study as a whole, by tag, given the tracker's own name for it: its description and its views.

        Raises:
            TrackerDown: It cannot be reached or refuses.
        """
