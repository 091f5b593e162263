"""Scans: where they are, how they are split, and what identifies them."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass

import numpy as np
from jaxtyping import Int16, UInt8

from trainer.config import TrainerConfig
from trainer.data.anatomy import TISSUES
from trainer.data.errors import DataError
from trainer.data.phantom import GENERATOR_VERSION, phantom_scan, settings_of

_LOG = logging.getLogger("trainer.data")
_SPLIT_SEED = 0


@dataclass(frozen=True)
class Scan:
    """One volume in HU, axes (depth, height, width)."""

    name: str
    voxels: Int16[np.ndarray, "depth height width"]
    """HU; a read-only memory map where it comes from a file."""
    spacing_mm: tuple[float, float, float]
    labels: UInt8[np.ndarray, "depth height width"] | None
    """0 is unlabelled; None: the scan has no labels."""
    label_names: Mapping[int, str]


@dataclass(frozen=True)
class Split:
    """Indices of scans: to train on, for probes that gates and tuning read, and for the final comparison."""

    train: tuple[int, ...]
    select: tuple[int, ...]
    test: tuple[int, ...]


@dataclass(frozen=True)
class Inventory:
    """The scans of a source, and those left out by `data.skip_unreadable` with the reason."""

    scans: tuple[Scan, ...]
    skipped: tuple[str, ...]


def load_scans(config: TrainerConfig) -> list[Scan]:
    """All scans of `data.source`, in the order of their names.

    Raises:
        DataError: Every problem of the data at once: no or unreadable scans, units that are not HU, scans smaller than a global crop.
    """
    inventory = find_scans(config)
    for reason in inventory.skipped:
        _LOG.warning("left out by data.skip_unreadable: %s", reason)
    return list(inventory.scans)


def find_scans(config: TrainerConfig) -> Inventory:
    """The scans of `data.source` and what was left out.

    Raises:
        DataError: As `load_scans`.
    """
    if config.data.source == "phantom":
        return Inventory(tuple(_phantom(config, index) for index in range(config.data.phantom.scans)), ())
    from trainer.data.files import found, read

    scans: list[Scan] = []
    problems: list[str] = []
    for source in found(config.data.source):
        try:
            scan = read(source, config.data)
            _check_size(scan, config.crops.global_size_voxels)
            scans.append(scan)
        except DataError as error:
            problems += error.problems
    if problems and not config.data.skip_unreadable:
        raise DataError([f"{problem} Or leave such scans out with data.skip_unreadable=true." for problem in problems])
    if len(scans) < 3:
        listed = f" Left out: {' '.join(problems)}" if problems else ""
        asked = f"at least 3 readable scans in {config.data.source} (to train, select and test on)"
        raise DataError([f"data.source: expected {asked} but got {len(scans)}.{listed}"])
    return Inventory(tuple(scans), tuple(problems))


def split_scans(config: TrainerConfig, scans: int) -> Split:
    """Which scans train, select and test: a fixed shuffle, so that neighbours in name are not one group.

    With fewer than `data.rotate_split_below` scans it rotates with the replicate, so that over the replicates every scan is held
    out; otherwise it is the same for all. Each part gets at least one scan.

    Raises:
        DataError: Fewer than 3 scans.
    """
    if scans < 3:
        raise DataError([f"data.source: expected at least 3 scans (to train, select and test on) but got {scans}. Add scans."])
    order = np.random.default_rng(_SPLIT_SEED).permutation(scans)
    if scans < config.data.rotate_split_below:
        order = np.roll(order, -config.seed)
    select = min(max(1, round(scans * config.data.select_share)), scans - 2)
    test = min(max(1, round(scans * config.data.test_share)), scans - select - 1)
    parts = order[:select], order[select : select + test], order[select + test :]
    held, kept, train = (tuple(sorted(part.tolist())) for part in parts)
    return Split(train=train, select=held, test=kept)


def data_hash(config: TrainerConfig) -> str:
    """Hex hash of all voxels that a trial may read: the phantom's settings and version, or the files' contents."""
    data = config.data
    if data.source == "phantom":
        identity: object = ["phantom", GENERATOR_VERSION, asdict(data.phantom)]
    else:
        from trainer.data.files import VERSION, content_hash, found, labels_of

        sources = found(data.source)
        hashes = [[s.name, content_hash(s.files, data)] for s in sources]
        labels = [[s.name, content_hash(labels_of(s, data), data)] for s in sources]
        identity = ["files", VERSION, data.spacing_mm, hashes, labels]
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:32]


def _phantom(config: TrainerConfig, index: int) -> Scan:
    phantom = config.data.phantom
    voxels, labels = phantom_scan(*settings_of(phantom), index)
    return Scan(f"{phantom.family}-{index:03d}", voxels, (phantom.spacing_mm,) * 3, labels, {i: t.name for i, t in enumerate(TISSUES)})


def _check_size(scan: Scan, size: int) -> None:
    if min(scan.voxels.shape) < size:
        mm = " x ".join(f"{n * s:.0f}" for n, s in zip(scan.voxels.shape, scan.spacing_mm, strict=True))
        raise DataError(
            [
                f"{scan.name}: expected at least {size} voxels along each axis (crops.global_size_voxels) but got "
                f"{' x '.join(map(str, scan.voxels.shape))} ({mm} mm). Lower data.spacing_mm or crops.global_size_voxels."
            ]
        )
