"""The scans of a folder or glob: those that can be used, and what is wrong with the others."""

from __future__ import annotations

import hashlib
import json
import logging
from concurrent.futures import ThreadPoolExecutor

from trainer.config import Data
from trainer.data.cache import cache_of
from trainer.data.errors import DataError
from trainer.data.finding import found, name_tables
from trainer.data.index import Index, StoredScans, build
from trainer.data.progress import shown
from trainer.data.reading import VERSION, contents_of
from trainer.data.volumes import Inventory

_LOG = logging.getLogger("trainer.data")


def scans_on_disk(data: Data, global_size: int) -> Inventory:
    """Every scan of `data.source`, by name; the index is built where it is not.

    Raises:
        DataError: Every scan that cannot be used, each with its mend; with `data.skip_unreadable` only where none is left.
        CacheError: The cache cannot be written.
    """
    with shown(f"index of {data.source}") as progress:
        index = build(data, progress=progress)
    for note in index.notes:
        _LOG.warning("%s", note)
    small = too_small(index, global_size)
    problems = [*index.problems, *small.values()]
    if problems and not data.skip_unreadable:
        raise DataError([f"{problem} Or leave such scans out with data.skip_unreadable=true." for problem in problems])
    usable = [entry for entry in index.entries if entry.source.name not in small]
    if not usable:
        raise DataError([f"data.source: expected a usable scan in {data.source} but none is. {problem}" for problem in problems])
    return Inventory(StoredScans(usable, data), tuple(problems))


def too_small(index: Index, size: int) -> dict[str, str]:
    """Scans that hold no crop of this edge in voxels, by name, each with its mend."""
    found = {}
    for entry in index.entries:
        shape, spacing = entry.record.shape, entry.record.spacing_mm
        if min(shape) < size:
            mm = " x ".join(f"{n * s:.0f}" for n, s in zip(shape, spacing, strict=True))
            found[entry.source.name] = (
                f"{entry.source.name}: expected at least {size} voxels along each axis (crops.global_size_voxels) but got "
                f"{' x '.join(map(str, shape))} ({mm} mm). Lower data.spacing_mm or crops.global_size_voxels."
            )
    return found


def digest_on_disk(data: Data) -> str:
    """Hex digest of the contents of all scans and labels, their names, and how they are read.

    Raises:
        DataError: No scan, no cache folder, or a file that cannot be read.
    """
    cache, sources = cache_of(data), found(data).sources
    with ThreadPoolExecutor(4) as threads:  # hashing and reading leave the interpreter to others
        contents = list(threads.map(lambda one: [contents_of(files, cache) for files in (one.files, one.labels)], sources))
    described = [
        [source.name, *both, [table.read_text(encoding="utf-8", errors="replace") for table in name_tables(source)]]
        for source, both in zip(sources, contents, strict=True)
    ]
    return hashlib.sha256(json.dumps([VERSION, data.spacing_mm, described]).encode()).hexdigest()
