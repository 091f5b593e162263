"""Scans: the phantom or volumes on disk, and how they are split."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np
from jaxtyping import Int16, Shaped

from trainer.config import CHECKPOINT, TrainerConfig, from_mapping
from trainer.data.anatomy import TISSUES
from trainer.data.cache import Kept
from trainer.data.errors import DataError
from trainer.data.phantom import GENERATOR_VERSION, phantom_scan, settings_of

_LOG = logging.getLogger("trainer.data")
_SPLIT_SEED = 0x5EED


@dataclass(frozen=True)
class Scan:
    """A CT volume in HU; axes are (depth: toward the head, height: toward the back, width: toward the left)."""

    name: str
    voxels: Int16[np.ndarray, "depth height width"]
    """Read-only; may be a memory map."""
    spacing_mm: tuple[float, float, float]
    labels: Shaped[np.ndarray, "depth height width"] | None
    """uint8 or int16; 0: unlabelled or air; none: this scan has no labels."""
    label_names: Mapping[int, str]
    kept: Kept | None = field(default=None, repr=False, compare=False)
    """Where arrays computed from it may be kept; none: it lives in memory."""


@dataclass(frozen=True)
class Split:
    """Which scans train, which gates and tuning read, which the final comparison reads: indices, disjoint."""

    train: tuple[int, ...]
    select: tuple[int, ...]
    test: tuple[int, ...]


@dataclass(frozen=True)
class Inventory:
    """What `data.source` holds: the scans, and a sentence for each that `data.skip_unreadable` left out."""

    scans: Sequence[Scan]
    """Those on disk are mapped when they are asked for."""
    skipped: tuple[str, ...]


def load_scans(config: TrainerConfig) -> Sequence[Scan]:
    """All scans of the settings in a fixed order, those on disk mapped when they are asked for; those left out are logged as a warning.

    Raises:
        DataError: Every scan that cannot be used, each with its mend.
    """
    inventory = find_scans(config)
    if inventory.skipped:
        _LOG.warning("data.skip_unreadable left out %d scans:\n  %s", len(inventory.skipped), "\n  ".join(inventory.skipped))
    return inventory.scans


def find_scans(config: TrainerConfig) -> Inventory:
    """The same with the list of what was left out.

    Raises:
        DataError: Every scan that cannot be used, each with its mend.
    """
    if config.data.source == "phantom":
        return Inventory(_phantoms(settings_of(config.data.phantom), config.data.phantom.scans, config.data.phantom.spacing_mm), ())
    from trainer.data.folder import scans_on_disk

    return scans_on_disk(config.data, config.crops.global_size_voxels)


@lru_cache(maxsize=2)
def _phantoms(settings: tuple[str, int, float, float, int], count: int, spacing_mm: float) -> tuple[Scan, ...]:
    names = {label: tissue.name for label, tissue in enumerate(TISSUES) if label}
    made = (phantom_scan(*settings, index) for index in range(count))
    spacing = (spacing_mm, spacing_mm, spacing_mm)
    return tuple(Scan(f"{settings[0]}_{index:03d}", voxels, spacing, labels, names) for index, (voxels, labels) in enumerate(made))


def split_scans(config: TrainerConfig, scans: int) -> Split:
    """Split by a fixed permutation; with fewer than `data.rotate_split_below` scans it rotates by one scan a seed.

    A held-out part with a share above 0 gets at least one scan.

    Raises:
        DataError: Nothing is left to train on.
    """
    data = config.data
    select, test = (max(1, round(share * scans)) if share > 0 else 0 for share in (data.select_share, data.test_share))
    if scans - select - test < 1:
        needed = f"at least {select + test + 1} scans (to train, {select} to select, {test} to test)"
        raise DataError([f"data.source: expected {needed} but found {scans} in {data.source}. Add scans or set data.test_share=0."])
    order = np.random.default_rng(_SPLIT_SEED).permutation(scans)
    if scans < data.rotate_split_below:
        order = np.roll(order, config.seed % scans)
    held, tested, trained = order[:select], order[select : select + test], order[select + test :]
    return Split(*(tuple(sorted(part.tolist())) for part in (trained, held, tested)))


def data_hash(config: TrainerConfig | Mapping[str, object]) -> str:
    """Hex digest of what a run reads: the phantom's settings and generator version, or the contents of all files; and the checkpoint that
    it starts from.

    Raises:
        DataError: No scan, or a file that cannot be read.
        trainer.config.ConfigError: Settings, given as a mapping, that are not valid.
    """
    settings = config if isinstance(config, TrainerConfig) else from_mapping(config)
    scans = _scans_hash(settings)
    if settings.loop.start_from is None:
        return scans
    start = Path(settings.loop.start_from)
    try:
        with (start / CHECKPOINT if start.is_dir() else start).open("rb") as file:
            return hashlib.sha256(f"{scans} {hashlib.file_digest(file, 'sha256').hexdigest()}".encode()).hexdigest()
    except OSError as error:
        mend = "Give the path of one, or of the folder of a run."
        raise DataError([f"loop.start_from: expected a checkpoint but {error}. {mend}"]) from error


def _scans_hash(settings: TrainerConfig) -> str:
    if settings.data.source == "phantom":
        phantom = settings.data.phantom
        described = f"phantom {GENERATOR_VERSION} {settings_of(phantom)} {phantom.scans} {phantom.spacing_mm}"
        return hashlib.sha256(described.encode()).hexdigest()
    from trainer.data.folder import digest_on_disk

    return digest_on_disk(settings.data)
