"""Label volumes: how they are told from scans, and which scan each belongs to."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

LABEL_FOLDERS = frozenset({"labels", "labelstr", "labelsts", "label", "segmentations", "segmentation", "seg", "masks"})
_LABEL_NAME = re.compile(r"_(labels?|seg|segmentations?|masks?)$", re.IGNORECASE)


class Place(NamedTuple):
    """Where a scan lies among the others."""

    name: str
    """Unlike any other scan's."""
    own: str
    """Its file's or folder's name."""
    folder: Path


class Given(NamedTuple):
    """The label files of a scan."""

    files: tuple[Path, ...]
    organs: bool
    """Masks of one organ each, instead of one volume of numbers."""


def is_label_name(bare: str) -> bool:
    """A file name, without its suffix, that says labels: `<scan>_labels`, `<scan>_seg`, `<scan>_mask`."""
    return _LABEL_NAME.search(bare) is not None


def in_label_folder(file: Path, top: Path) -> bool:
    """Below `top` in a folder named as those of labels are."""
    return any(_names_labels(part) for part in _relative(file.parent, top).parts)


def owners(scans: Sequence[Place], labels: Mapping[Path, str], top: Path, labels_at: Path | None) -> dict[int, Given]:
    """Label files of each scan, by its position.

    A label file belongs to the scan whose name it has or begins with (`<scan>_...`; the longest such name wins), first among the
    scans of the same folder (a label folder counts as the one it lies in, `labels_at` as `top`), then among all. Where no name
    fits, the files in a folder named after a scan, or in the label folder beside a single scan, are its organs: so
    TotalSegmentator writes them (`s0001/ct.nii.gz` and `s0001/segmentations/liver.nii.gz`).

    Args:
        scans: Where each lies.
        labels: Files, each with its name without suffix.
        top: The folder that holds the scans.
        labels_at: `data.labels`.
    """
    places = [_relative(scan.folder, top) for scan in scans]
    crowd, owns = Counter(places), Counter(scan.own for scan in scans)
    alone = {place: at for at, place in enumerate(places) if crowd[place] == 1}
    here = {(place, name): at for at, place in enumerate(places) for name in (scans[at].own, scans[at].name)}
    anywhere = {scan.own: at for at, scan in enumerate(scans) if owns[scan.own] == 1}
    anywhere |= {scan.name: at for at, scan in enumerate(scans)}
    volumes: dict[int, list[Path]] = {}
    organs: dict[int, list[Path]] = {}
    for file, bare in labels.items():
        mirrored = labels_at is not None and file.is_relative_to(labels_at)
        inside = _relative(file.parent, labels_at if mirrored and labels_at is not None else top)
        place = Path(*(part for part in inside.parts if not _names_labels(part)))
        heads = list(_heads(bare))
        by_name = [here[place, head] for head in heads if (place, head) in here] + [anywhere[head] for head in heads if head in anywhere]
        if by_name:
            volumes.setdefault(by_name[0], []).append(file)
        elif place.name in anywhere:
            organs.setdefault(anywhere[place.name], []).append(file)
        elif place in alone and (mirrored or place != inside):
            organs.setdefault(alone[place], []).append(file)
    of_organs = {at: Given(tuple(files), len(files) > 1) for at, files in organs.items()}
    return of_organs | {at: Given(tuple(files), False) for at, files in volumes.items()}


def _heads(bare: str) -> Iterable[str]:
    """The name, then what stands before each of its underscores, the longest first."""
    yield bare
    for at in range(len(bare) - 1, 0, -1):
        if bare[at] == "_":
            yield bare[:at]


def _names_labels(part: str) -> bool:
    return part.lower() in LABEL_FOLDERS


def _relative(path: Path, top: Path) -> Path:
    return path.relative_to(top) if path.is_relative_to(top) else path
