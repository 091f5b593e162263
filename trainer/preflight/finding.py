"""What a finding is, and the data that findings look at."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from functools import lru_cache

from trainer.config import TrainerConfig, from_mapping
from trainer.data import Scan, load_scans

Finding = dict[str, object]
"""`level` (error: it cannot work; warning: collapse or waste is to be expected; info), `path`, `what`, `value`, `why`, `mend`, and
some have a `map`."""

LOOKED_AT = 16
"""So many scans at most, spread evenly: a look takes seconds, however many there are."""


def finding(level: str, path: str, what: str, value: float | None, why: str, mend: str) -> Finding:
    """One finding, in plain values."""
    return {"level": level, "path": path, "what": what, "value": value, "why": why, "mend": mend}


def data_key(settings: TrainerConfig) -> str:
    """The settings that decide which voxels are read, as a key of the caches."""
    return json.dumps([dataclasses.asdict(settings.data), settings.crops.global_size_voxels, settings.preset])


@lru_cache(maxsize=4)
def scans_of(key: str) -> Sequence[Scan]:
    """Scans behind `data_key`: all, or `LOOKED_AT` of them or somewhat fewer.

    Raises:
        DataError: They cannot be read.
    """
    data, edge, preset = json.loads(key)
    sizes = {"crops.global_size_voxels": edge, "crops.local_size_voxels": edge, "model.patch_size_voxels": 1}
    scans = load_scans(from_mapping({"preset": preset, "data": data, **sizes, "measure.rungs": []}))
    return scans[:: -(-len(scans) // LOOKED_AT)]
