"""One scan from its files into the cache: decoded once, held once, judged, turned, resampled plane by plane."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int16, Int64, Shaped

from trainer.config import Data
from trainer.data.cache import Cache, Kept, cache_of
from trainer.data.errors import AccessError, CacheError, DataError
from trainer.data.finding import Source, name_tables
from trainer.data.grid import Turn, resampled, resampled_size
from trainer.data.images import Image, image
from trainer.data.masks import Masks, read_masks
from trainer.data.units import judge, value_counts
from trainer.data.volumes import Scan

VERSION = 2
"""Goes into the cache's keys and the data hash: raise it whenever a voxel changes."""

LOWEST_HU, HIGHEST_HU = -1024, 3071
LEAST_SPACING_MM, MOST_SPACING_MM = 0.02, 20.0
"""Beyond what CT scanners write, micro-CT of specimens included."""
_COUNTED_VOXELS = 1 << 19
"""Voxels counted at once: far more than there are values, as each count begins with a row of zeros for all values."""


@dataclass(frozen=True)
class Record:
    """What is known of a scan without opening it."""

    key: str
    """Digest of its contents and of how they are read: its arrays' name in the cache."""
    contents: str
    """Digest of its files alone: equal for copies."""
    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    stored_shape: tuple[int, int, int]
    stored_spacing_mm: tuple[float, float, float]
    """Before resampling."""
    hu: tuple[int, int]
    """Least and greatest value in the file."""
    air_share: float
    """Share of its voxels below -500 HU, padding and lung among them."""
    labels: dict[int, str] | None
    """Names of the labels that occur; none: it has no labels."""
    warning: str | None = None

    def as_json(self) -> dict[str, Any]:
        """For JSON, whose keys are texts."""
        return asdict(self)

    @classmethod
    def from_json(cls, known: dict[str, Any]) -> Record:
        """The reverse.

        Raises:
            KeyError, TypeError, ValueError: It is none.
        """
        labels = None if known["labels"] is None else {int(number): name for number, name in known["labels"].items()}
        tuples = {name: tuple(known[name]) for name in ("shape", "spacing_mm", "stored_shape", "stored_spacing_mm", "hu")}
        return cls(**(known | tuples | {"labels": labels}))


def contents_of(files: Sequence[Path], cache: Cache) -> str:
    """SHA-256 over the contents of files; remembered by path, size and time of change.

    Raises:
        AccessError: One cannot be read.
    """
    if not files:
        return ""
    try:
        facts = [(str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
        key = hashlib.sha256(json.dumps(facts).encode()).hexdigest()
        known = cache.journal("contents").get(key)
        if known is None:
            whole = hashlib.sha256()
            for file in files:
                with file.open("rb") as handle:
                    while block := handle.read(1 << 22):
                        whole.update(block)
            known = whole.hexdigest()
            cache.journal("contents").put(key, known)
    except OSError as error:
        raise AccessError(
            [f"{error.filename}: expected a file that can be read but got: {error.strerror}. Ask for the right to read it."]
        ) from error
    return str(known)


def read(source: Source, data: Data) -> Record:
    """Read a scan into the cache, unless it is there; HU clamped to [-1024, 3071].

    Raises:
        DataError: Unreadable, not 3-D, not scalar, not finite, not in HU, or labels that do not fit; names the file and the mend.
        CacheError: The cache cannot be written.
    """
    cache = cache_of(data)
    contents, labels = contents_of(source.files, cache), contents_of(source.labels, cache)
    tables = [[table.name, table.read_text(encoding="utf-8", errors="replace")] for table in name_tables(source)]
    organs = [file.name for file in source.labels] if source.organs else []
    key = hashlib.sha256(json.dumps([VERSION, data.spacing_mm, contents, labels, tables, organs]).encode()).hexdigest()[:24]
    return known_as(key, cache) or _read_into(cache, key, contents, source, data)


def known_as(key: str, cache: Cache) -> Record | None:
    """The record of a scan that was read before, whether or not its voxels are still kept."""
    try:
        return Record.from_json(json.loads(cache.text(f"{key}.json") or "null"))
    except (KeyError, TypeError, ValueError):
        return None


def opened(source: Source, record: Record, data: Data) -> Scan:
    """The scan of a record, mapped from the cache; read again where it was swept from there.

    Raises:
        DataError: It was swept, and its files cannot be read any more.
    """
    cache = cache_of(data)
    voxels, masks = cache.array(f"{record.key}.npy"), cache.array(f"{record.key}.labels.npy")
    if voxels is None or voxels.shape != record.shape or (record.labels is not None and masks is None):
        _read_into(cache, record.key, record.contents, source, data)
        voxels, masks = cache.array(f"{record.key}.npy"), cache.array(f"{record.key}.labels.npy")
    if voxels is None or (record.labels is not None and masks is None):
        raise CacheError(
            [f"data.cache_dir: expected what was written to {cache.folder} to be read back but it was not. Set another folder."]
        )
    labels = masks if record.labels is not None else None
    return Scan(source.name, voxels, record.spacing_mm, labels, record.labels or {}, Kept(cache, record.key))


def _read_into(cache: Cache, key: str, contents: str, source: Source, data: Data) -> Record:
    found = image(source.files, source.series)
    turn = Turn.of(found.grid)
    native, shape = turn.spacing_mm(found.grid), turn.shape(found.grid)
    counts = _counts(found, source)
    verdict = judge(counts)
    if verdict.problem is not None:
        raise DataError([f"{source.files[0]}: {verdict.problem}"])
    spacing = native if data.spacing_mm is None else (data.spacing_mm,) * 3
    d, h, w = (resampled_size(n, old, new) for n, old, new in zip(shape, native, spacing, strict=True))
    values, grid = np.flatnonzero(counts) - 32768, found.grid
    # Counts are of rounded values: they say that nothing needs clamping only where values are whole.
    whole = found.values.dtype.kind in "iu" and (found.slope, found.intercept) == (1.0, 0.0)
    clamps = not (whole and values[0] >= LOWEST_HU and values[-1] <= HIGHEST_HU)
    cache.keep_array(f"{key}.npy", (d, h, w), np.int16, _planes(found, turn, data.spacing_mm, clamps))
    del found  # the labels have the room of the scan
    masks = read_masks(source, grid, data.spacing_mm) if source.labels else None
    if masks is not None:
        cache.keep_array(f"{key}.labels.npy", masks.numbers.shape, masks.numbers.dtype.type, masks.numbers)
    record = Record(
        key=key,
        contents=contents,
        shape=(d, h, w),
        spacing_mm=spacing,
        stored_shape=shape,
        stored_spacing_mm=native,
        hu=(int(values[0]), int(values[-1])),
        air_share=float(counts[: 32768 - 500].sum() / counts.sum()),
        labels=None if masks is None else masks.names,
        warning="; ".join(_doubts(source, native, masks, verdict.warning)) or None,
    )
    cache.keep_text(f"{key}.json", json.dumps(record.as_json()))
    return record


def _doubts(source: Source, spacing_mm: tuple[float, float, float], masks: Masks | None, said: str | None) -> Iterator[str]:
    """What can be read but is hardly meant."""
    if said is not None:
        yield f"{source.files[0]}: {said}"
    if min(spacing_mm) < LEAST_SPACING_MM or max(spacing_mm) > MOST_SPACING_MM:
        got = " x ".join(f"{one:g}" for one in spacing_mm)
        yield (
            f"{source.files[0]}: expected voxels of {LEAST_SPACING_MM:g} to {MOST_SPACING_MM:g} mm but got {got}: written in another unit? "
            "Write the spacing in mm."
        )
    if masks is not None and not masks.names:
        yield f"{source.labels[0]}: expected organs in the labels but every voxel is 0. Leave the file out, or export it again."


def _counts(found: Image, source: Source) -> Int64[np.ndarray, "65536"]:
    thick = max(1, _COUNTED_VOXELS // max(1, found.values[0].size))
    counts = value_counts(_hu(found, found.values[at : at + thick]) for at in range(0, len(found.values), thick))
    if counts is None:
        raise DataError([f"{source.files[0]}: expected finite values but got NaN or infinity. Export the volume again."])
    return counts


def _hu(found: Image, plane: Shaped[np.ndarray, "*shape"]) -> Shaped[np.ndarray, "*shape"]:
    """HU of planes, nothing computed where the file stores them."""
    if (found.slope, found.intercept) != (1.0, 0.0):
        return np.asarray(plane.astype(np.float32) * np.float32(found.slope) + np.float32(found.intercept))
    return plane if plane.dtype.isnative else plane.astype(plane.dtype.newbyteorder("="))


def _planes(found: Image, turn: Turn, spacing_mm: float | None, clamps: bool) -> Iterator[Int16[np.ndarray, "height width"]]:
    """Planes of the turned and resampled volume; `clamps`: some value lies beyond the limits."""
    view, native = turn.view(found.values), turn.spacing_mm(found.grid)

    def clamped(values: Shaped[np.ndarray, "a b"]) -> Shaped[np.ndarray, "a b"]:
        return np.clip(values, LOWEST_HU, HIGHEST_HU) if clamps else values

    if spacing_mm is not None and any(abs(old / spacing_mm - 1) > 1e-6 for old in native):
        for plane in resampled(
            lambda z: np.asarray(clamped(_hu(found, view[z])), dtype=np.float32), turn.shape(found.grid), native, spacing_mm
        ):
            yield clamped(np.rint(plane)).astype(np.int16)
        return
    for plane in view:
        values = clamped(_hu(found, plane))
        yield (values if values.dtype.kind in "iu" else np.rint(values)).astype(np.int16, copy=False)
