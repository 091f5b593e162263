"""The scans of a folder or glob: those that can be used, and what is wrong with the others."""

from __future__ import annotations

import hashlib
import json

from trainer.config import Data
from trainer.data.cache import content_hash
from trainer.data.errors import CacheError, DataError
from trainer.data.files import VERSION, found, read
from trainer.data.volumes import Inventory, Scan


def scans_on_disk(data: Data, global_size: int) -> Inventory:
    """Every scan of `data.source`, by name.

    Raises:
        DataError: Every scan that cannot be used, each with its mend; with `data.skip_unreadable` only where none is left.
        CacheError: The cache cannot be written.
    """
    scans: list[Scan] = []
    problems: list[str] = []
    for source in found(data):
        try:
            scan = read(source, data)
            _check_size(scan, global_size)
            scans.append(scan)
        except CacheError:
            raise
        except DataError as error:
            problems += error.problems
    if problems and not data.skip_unreadable:
        raise DataError([f"{problem} Or leave such scans out with data.skip_unreadable=true." for problem in problems])
    if not scans:
        raise DataError([f"data.source: expected a usable scan in {data.source} but none is. {problem}" for problem in problems])
    return Inventory(tuple(scans), tuple(problems))


def digest_on_disk(data: Data) -> str:
    """Hex digest of the contents of all scans and labels, their names, and how they are read.

    Raises:
        DataError: No scan, or no cache folder.
    """
    sources = found(data)
    contents = [[source.name, content_hash(source.files, data), content_hash(source.labels, data)] for source in sources]
    return hashlib.sha256(json.dumps([VERSION, data.spacing_mm, contents]).encode()).hexdigest()


def _check_size(scan: Scan, size: int) -> None:
    if min(scan.voxels.shape) < size:
        mm = " x ".join(f"{n * s:.0f}" for n, s in zip(scan.voxels.shape, scan.spacing_mm, strict=True))
        raise DataError(
            [
                f"{scan.name}: expected at least {size} voxels along each axis (crops.global_size_voxels) but got "
                f"{' x '.join(map(str, scan.voxels.shape))} ({mm} mm). Lower data.spacing_mm or crops.global_size_voxels."
            ]
        )
