"""What a finding is, and the data that findings look at."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from functools import lru_cache

from trainer.config import TrainerConfig, from_mapping
from trainer.data import Scan, load_scans

Finding = dict[str, object]
"""`level` (error: it cannot work; warning: collapse or waste is to be expected; info), `path`, `what`, `value`, `why`, `mend`."""


def finding(level: str, path: str, what: str, value: float | None, why: str, mend: str) -> Finding:
    """One finding, in plain values."""
    return {"level": level, "path": path, "what": what, "value": value, "why": why, "mend": mend}


def data_key(settings: TrainerConfig) -> str:
    """The settings that decide which voxels are read, as a key of the caches."""
    return json.dumps([dataclasses.asdict(settings.data), settings.crops.global_size_voxels, settings.preset])


@lru_cache(maxsize=4)
def scans_of(key: str) -> Sequence[Scan]:
    """The scans behind `data_key`.

    Raises:
        DataError: They cannot be read.
    """
    data, edge, preset = json.loads(key)
    sizes = {"crops.global_size_voxels": edge, "crops.local_size_voxels": edge, "model.patch_size_voxels": 1}
    return load_scans(from_mapping({"preset": preset, "data": data, **sizes, "measure.rungs": []}))
