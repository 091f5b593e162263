"""The index of a folder: every scan read once, several at a time, and what is known of it kept; a second start reads no volume."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

from trainer.config import Data
from trainer.data.cache import Journal, cache_of
from trainer.data.finding import Found, Source, found
from trainer.data.reading import VERSION, Record, opened
from trainer.data.volumes import Scan
from trainer.data.workers import Answer, Workers

_LOG = logging.getLogger("trainer.data")
Progress = Callable[[int, int, int], None]
"""Told after each scan: how many are done, of how many, and how many of them cannot be used."""

FEW = 8
"""Fewer scans than this are read here: other processes take longer to start."""


@dataclass(frozen=True)
class Entry:
    """A scan that can be used."""

    source: Source
    record: Record


@dataclass(frozen=True)
class Index:
    """What a folder holds, in the order of names."""

    entries: tuple[Entry, ...]
    problems: tuple[str, ...]
    """A sentence with its mend for each scan that cannot be used."""
    notes: tuple[str, ...]
    """What is strange but harms nobody."""
    read: int
    """Scans that were not known before."""


def build(data: Data, workers: int | None = None, progress: Progress | None = None) -> Index:
    """Index `data.source`: read what is new or changed there, remember the rest.

    Stopped at any time, it goes on where it was. One process at a time works on an index: others wait for it and find all done.

    Args:
        data: Source, labels, spacing and cache.
        workers: Processes that read; none: one a CPU, at most 8.
        progress: Told how far it is.

    Raises:
        DataError: No scan there; CacheError: the cache cannot be written.
    """
    there, cache = found(data), cache_of(data)
    place = hashlib.sha256(json.dumps([VERSION, str(Path(data.source).expanduser().resolve()), data.spacing_mm]).encode()).hexdigest()[:16]
    name = f"index-{place}"
    journal = cache.journal(name)
    journal.refresh()
    facts = [_facts(source) for source in there.sources]
    if any(journal.get(fact) is None for fact in facts):
        with cache.alone(name):
            journal.refresh()
            new = [at for at, fact in enumerate(facts) if journal.get(fact) is None]
            answers = _read(there.sources, facts, new, data, workers, journal, progress)
    else:
        new, answers = [], {}
    return _index(there, facts, journal, answers, len(new))


def _facts(source: Source) -> str:
    try:
        return source.facts()
    except OSError:
        return f"out of reach: {source.name}"


def _read(
    sources: Sequence[Source],
    facts: Sequence[str],
    new: Sequence[int],
    data: Data,
    workers: int | None,
    journal: Journal,
    progress: Progress | None,
) -> dict[int, Answer]:
    """Answers that the journal does not hold: a file out of reach may be within it tomorrow."""
    count = min(workers or min(len(os.sched_getaffinity(0)), 8), max(len(new), 1))
    if workers is None and len(new) < FEW:
        count = 1
    passing: dict[int, Answer] = {}
    bad = 0
    with Workers(data, inside=count == 1) as pool, ThreadPoolExecutor(count) as threads:
        asked = {threads.submit(pool.read, sources[at]): at for at in new}
        try:
            for done, answered in enumerate(as_completed(asked), start=1):
                at, answer = asked[answered], answered.result()
                bad += answer.record is None
                if answer.lasting:
                    journal.put(facts[at], {"record": answer.record and answer.record.as_json(), "problems": answer.problems})
                else:
                    passing[at] = answer
                if progress is not None:
                    progress(done, len(new), bad)
        except BaseException:
            threads.shutdown(wait=False, cancel_futures=True)
            raise
    return passing


def _index(there: Found, facts: Sequence[str], journal: Journal, passing: dict[int, Answer], read: int) -> Index:
    entries, problems, copies = [], list(there.problems), dict[str, str]()
    notes = list(there.notes)
    for at, source in enumerate(there.sources):
        known: dict[str, Any] = journal.get(facts[at]) or {"record": None, "problems": passing[at].problems}
        if known["record"] is None:
            problems += known["problems"]
            continue
        record = Record.from_json(known["record"])
        entries.append(Entry(source, record))
        if record.warning is not None:
            notes.append(record.warning)
        if record.contents in copies:
            both = f"{source.name} and {copies[record.contents]}: expected different scans but their files are equal"
            notes.append(f"{both}, so one may be trained on and the other held out. Remove one.")
        copies[record.contents] = source.name
    return Index(tuple(entries), tuple(problems), tuple(notes), read)


class StoredScans(Sequence[Scan]):
    """The scans of an index, each mapped when it is asked for: opening many costs no more memory than opening one."""

    def __init__(self, entries: Sequence[Entry], data: Data) -> None:
        self._entries, self._data = tuple(entries), data

    def __len__(self) -> int:
        return len(self._entries)

    @overload
    def __getitem__(self, at: int) -> Scan: ...
    @overload
    def __getitem__(self, at: slice) -> Sequence[Scan]: ...
    def __getitem__(self, at: int | slice) -> Scan | Sequence[Scan]:
        if isinstance(at, slice):
            return StoredScans(self._entries[at], self._data)
        entry = self._entries[at]
        return opened(entry.source, entry.record, self._data)

    def __iter__(self) -> Iterator[Scan]:
        return (self[at] for at in range(len(self)))
