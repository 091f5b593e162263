"""Which files are scans, which are their labels, and what lies there that is neither whole nor clear."""

from __future__ import annotations

import glob
import hashlib
import itertools
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from trainer.config import Data
from trainer.data.cache import cache_of
from trainer.data.errors import DataError
from trainer.data.images import series_in
from trainer.data.labels import Place, in_label_folder, is_label_name, owners

SUFFIXES = (".nii.gz", ".nii", ".nrrd", ".nhdr", ".mha", ".mhd")
SLICE_SUFFIXES = (".dcm", ".ima")


@dataclass(frozen=True)
class Source:
    """One scan on disk: a file, or the files of a DICOM series."""

    name: str
    files: tuple[Path, ...]
    series: bool = False
    labels: tuple[Path, ...] = ()
    """One label volume, or a mask for each organ."""
    organs: bool = False
    """`labels` are masks, each named after its organ."""

    def facts(self) -> str:
        """Digest that changes with any file's place, size or time of change: what was read before need not be read again.

        Raises:
            OSError: A file is gone or out of reach.
        """
        whole = hashlib.sha256()
        for file in (*self.files, *self.labels, *name_tables(self)):
            facts = file.stat()
            whole.update(f"{file.resolve()}\0{facts.st_size}\0{facts.st_mtime_ns}\n".encode())
        whole.update(f"{self.series}{self.organs}{len(self.files)}".encode())
        return whole.hexdigest()


@dataclass(frozen=True)
class Found:
    """What lies below a folder or glob."""

    sources: tuple[Source, ...]
    problems: tuple[str, ...] = ()
    """What looks like a scan but cannot be one, each with its mend."""
    notes: tuple[str, ...] = field(default=())
    """What is strange and harms nobody, such as labels without a scan."""


def found(data: Data) -> Found:
    """The scans below a folder (links followed), or those that a glob or a single path names, by name, with their labels.

    Files named like labels, folders named like those of labels, and the folder `data.labels` hold no scans. Scans of one name get
    that of their folder in front.

    Raises:
        DataError: Nothing there that looks like a scan, or `data.labels` holds no label for any.
    """
    top, files, problems = _files(data.source)
    labels_at = None if data.labels is None else Path(data.labels).expanduser()
    apart = labels_at is not None and labels_at.resolve() != top.resolve()
    scans, labels = list[Path](), list[Path]()
    for file in files:
        inside = apart and labels_at is not None and labels_at.resolve() in file.resolve().parents
        label = inside or in_label_folder(file, top) or is_label_name(_bare(file))
        (labels if label else scans).append(file)
    volumes = [Source(_bare(file), (file,)) for file in scans if file.name.lower().endswith(SUFFIXES)]
    series, unclear = _all_series([file for file in scans if not file.name.lower().endswith(SUFFIXES)], data)
    told = sorted(_told_apart([*volumes, *series]), key=lambda one: (one.name, one.files))
    problems += unclear
    if not told and not problems:
        kinds = f"{', '.join(SUFFIXES)} or DICOM series"
        raise DataError([f"data.source: expected scans ({kinds}) in {data.source} but found none. Point it at the folder that holds them."])
    return _labelled(told, labels, top, labels_at, problems)


def name_tables(source: Source) -> list[Path]:
    """Tables of label names beside the labels: `<scan>*.csv`, and the labels' own name with `.csv`."""
    if not source.labels or source.organs:
        return []
    first = source.labels[0]
    tables = {first.with_name(f"{_bare(first)}.csv"), *first.parent.glob(f"{glob.escape(source.name)}_*.csv")}
    return sorted(table for table in tables if table.is_file())


def _labelled(scans: Sequence[Source], labels: Sequence[Path], top: Path, labels_at: Path | None, problems: Sequence[str]) -> Found:
    if labels_at is not None and labels_at.resolve() != top.resolve():
        labels = sorted(file for file in _walked(labels_at, []) if file.is_file())
    volumes = [file for file in labels if file.name.lower().endswith(SUFFIXES)]
    given = owners([_place(scan) for scan in scans], {file: _bare(file) for file in volumes}, top, labels_at)
    if labels_at is not None and scans and not given:
        wanted = f"label volumes named `<scan>_*.nii.gz` or as the scans in {labels_at}"
        raise DataError([f"data.labels: expected {wanted} but found none for any scan. Check the path and names."])
    taken = {file for one in given.values() for file in one.files}
    notes = [f"{file}: labels, but of no scan here. Name them after their scan." for file in volumes if file not in taken]
    named = [replace(scan, labels=given[at].files, organs=given[at].organs) if at in given else scan for at, scan in enumerate(scans)]
    return Found(tuple(named), tuple(problems), tuple(notes))


def _place(scan: Source) -> Place:
    folder = scan.files[0].parent
    return Place(scan.name, folder.name, folder.parent) if scan.series else Place(scan.name, _bare(scan.files[0]), folder)


def _files(source: str) -> tuple[Path, list[Path], list[str]]:
    """The folder above everything, the files in it, and what could not be followed.

    Raises:
        DataError: No such path, or none that may be read.
    """
    path, problems = Path(source).expanduser(), list[str]()
    try:
        path.stat()
    except PermissionError as error:
        raise DataError(
            [f"data.source: expected a place that can be read but {source}: {error.strerror}. Ask for the right to read it."]
        ) from error
    except OSError:
        pass  # a glob, or nothing: said below
    if path.is_dir():
        top, places = path, list(_walked(path, problems))
    elif path.is_file():
        top, places = path.parent, [path]
    else:
        top = _fixed_part(path)
        named = [Path(one) for one in glob.glob(str(path), recursive=True)]
        if path.is_symlink():
            named = [path]
        elif not named and not glob.has_magic(source):
            raise DataError([f"data.source: expected `phantom`, a folder or a glob of scans but {source} does not exist. Check the path."])
        # A recursive glob names a folder and what lies in it: each file counts once.
        places = list(dict.fromkeys(file for one in named for file in (_walked(one, problems) if one.is_dir() else [one])))
    files = []
    for place in sorted(places):
        if place.name.startswith("."):
            continue
        if place.is_file():
            files.append(place)
        elif place.is_symlink() and place.name.lower().endswith((*SUFFIXES, *SLICE_SUFFIXES)):
            problems.append(f"{place}: expected a file but the link leads to {os.readlink(place)}, which is not there. Mend the link.")
    return top, files, list(dict.fromkeys(problems))


def _walked(top: Path, problems: list[str]) -> Iterator[Path]:
    """Every file below a folder, through links, each folder once however many ways lead to it."""
    seen: set[tuple[int, int]] = set()

    def unreadable(error: OSError) -> None:
        problems.append(f"{error.filename}: expected a folder that can be read but got: {error.strerror}. Ask for the right to read it.")

    for folder, below, names in os.walk(top, followlinks=True, onerror=unreadable):
        below.sort()
        facts = os.stat(folder)
        if (facts.st_dev, facts.st_ino) in seen:
            below.clear()
            continue
        seen.add((facts.st_dev, facts.st_ino))
        yield from (Path(folder, name) for name in names)


def _all_series(files: Iterable[Path], data: Data) -> tuple[list[Source], list[str]]:
    """DICOM series, one a folder, and what is wrong with the folders; what a folder holds is remembered while no file changes."""
    journal = cache_of(data).journal("series")
    named, problems = [], []
    for folder, group in itertools.groupby(files, key=lambda file: file.parent):
        slices = [file for file in group if _may_be_dicom(file)]
        if not slices:
            continue
        facts = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in slices]
        key = hashlib.sha256(json.dumps([str(folder.resolve()), facts]).encode()).hexdigest()
        known = journal.get(key)
        if known is None:
            known = series_in(folder, slices)
            journal.put(key, known)
        series = {uid: tuple(folder / name for name in names) for uid, names in known.items()}
        if len(series) > 1:
            said = "; ".join(f"{uid}: {len(some)} files, such as {some[0].name}" for uid, some in list(series.items())[:4])
            problems.append(
                f"{folder}: expected one DICOM series in a folder but got {len(series)} ({said}). Move each into a folder of its own."
            )
        elif series:
            named.append(Source(folder.name, next(iter(series.values())), series=True))
        placed = {file for some in series.values() for file in some}
        # A slice that no series takes is damaged: as a scan of its own it is named when it is read.
        named += [Source(file.name, (file,)) for file in slices if file.suffix.lower() in SLICE_SUFFIXES and file not in placed]
    return named, problems


def _may_be_dicom(file: Path) -> bool:
    """By its suffix, or by the mark that DICOM files carry at byte 128 (scanners name slices `CT.1.2.840.113`)."""
    if file.suffix.lower() in ("", *SLICE_SUFFIXES):
        return True
    try:
        with file.open("rb") as handle:
            return handle.read(132)[128:] == b"DICM"
    except OSError:
        return False


def _bare(file: Path) -> str:
    """File name without its volume suffix."""
    suffix = next((s for s in SUFFIXES if file.name.lower().endswith(s)), "")
    return file.name[: len(file.name) - len(suffix)]


def _fixed_part(pattern: Path) -> Path:
    """The folders of a glob before its first wildcard."""
    parts = list(itertools.takewhile(lambda part: not glob.has_magic(part), pattern.parts))
    return Path(*parts) if parts else Path()


def _told_apart(scans: Sequence[Source]) -> list[Source]:
    """Scans of one name get their folders' names in front, as many as it takes."""
    named, deepest = list(scans), max((len(scan.files[0].parts) for scan in scans), default=0)
    for depth in range(1, deepest):
        times = Counter(scan.name for scan in named)
        if max(times.values()) == 1:
            break
        for at, scan in enumerate(named):
            above = scan.files[0].parent.parts[:-1] if scan.series else scan.files[0].parent.parts
            if times[scan.name] > 1 and depth <= len(above):
                named[at] = replace(scan, name=f"{above[-depth].strip('/')}_{scan.name}")
    return named
