"""Scans, crops and batches; numpy only. Start reading at `volumes`, then `crops`, then `batches`."""

from __future__ import annotations

from trainer.data.batches import Batch, batches, cut, places
from trainer.data.changes import Changes, draw_changes
from trainer.data.crops import CropSampler, ScanCrops
from trainer.data.errors import DataError
from trainer.data.foreground import Foreground, foreground_mask, scan_foreground
from trainer.data.streams import stream
from trainer.data.volumes import Inventory, Scan, Split, data_hash, find_scans, load_scans, split_scans
from trainer.data.window import normalise

__all__ = [
    "Batch",
    "Changes",
    "CropSampler",
    "DataError",
    "Foreground",
    "Inventory",
    "Scan",
    "ScanCrops",
    "Split",
    "batches",
    "cut",
    "data_hash",
    "draw_changes",
    "find_scans",
    "foreground_mask",
    "load_scans",
    "normalise",
    "places",
    "scan_foreground",
    "split_scans",
    "stream",
]
