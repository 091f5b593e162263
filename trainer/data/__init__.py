"""Scans and crops: numpy only."""

from trainer.data.augment import augment, normalise
from trainer.data.batches import Batch, batches, cut
from trainer.data.errors import DataError
from trainer.data.volumes import Inventory, Scan, Split, data_hash, find_scans, load_scans, split_scans

__all__ = [
    "Batch",
    "DataError",
    "Inventory",
    "Scan",
    "Split",
    "augment",
    "batches",
    "cut",
    "data_hash",
    "find_scans",
    "load_scans",
    "normalise",
    "split_scans",
]
