"""The trainer's index of a folder, two readers; then each scan mapped once."""

from __future__ import annotations

from typing import Any

from benchmarks.side import Answer, serve, settings, timed_with_children
from trainer.config import from_mapping
from trainer.data import load_scans

asked = settings()
CONFIG = from_mapping(
    {
        "data.source": asked["folder"],
        "data.cache_dir": asked["kept"],
        "data.spacing_mm": asked["spacing_mm"],
        "crops.global_size_voxels": 16,
    }
)


def opened() -> int:
    """Every scan, its shape known and its voxels mapped."""
    return sum(int(scan.voxels[0, 0, 0]) is not None for scan in load_scans(CONFIG))


def answer(question: dict[str, Any]) -> Answer:
    return {} if "ready" in question else timed_with_children(opened)


if __name__ == "__main__":
    serve(answer)
