"""Our optimizer step: `Learner.step` on prepared batches, and what this machine's products and this step's arithmetic are."""

from __future__ import annotations

import resource
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.side import Answer, serve, settings, timed
from trainer.config import from_mapping
from trainer.data import Batch, batches, load_scans, split_scans
from trainer.numerics import device_of
from trainer.speed import keep_freed_memory, product_rate, step_flops
from trainer.step import Learner

BATCHES = 4
asked = settings()
torch.set_num_threads(asked["threads"])
keep_freed_memory()  # as `train` does
CONFIG = from_mapping(asked["config"] | {"data.prefetch_batches": 0})
SCANS = load_scans(CONFIG)
FEED = batches(SCANS, split_scans(CONFIG, len(SCANS)).train, CONFIG, 0)
DRAWN: list[Batch] = [next(FEED) for _ in range(BATCHES)]
LEARNER = Learner(CONFIG, device_of(CONFIG))


def save(folder: Path) -> None:
    """The same crops and numbers of augmentation for the other side."""
    stacked = {name: np.stack([getattr(batch, name) for batch in DRAWN]) for name in ("globals", "locals")} | {
        f"{kind}_changes": np.stack([getattr(batch, f"{kind}_changes").intensity for batch in DRAWN]) for kind in ("global", "local")
    }
    np.savez(folder / "crops.npz", **stacked)


def answer(question: dict[str, Any]) -> Answer:
    if "ready" in question:
        save(Path(asked["folder"]))
        for _ in range(3):  # memory is asked for, torch imports its compiler
            LEARNER.step(DRAWN[0], 0)
        return {}
    product_rate.cache_clear()
    rate = product_rate(torch.device("cpu"), "float32")
    at = iter(range(1, 1 + question["steps"]))
    found = timed(lambda: LEARNER.step(DRAWN[(step := next(at)) % BATCHES], step), question["steps"])
    parameters = float(sum(p.numel() for p in LEARNER.student.parameters()))
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return found | {"rate": rate, "flops": step_flops(CONFIG), "memory_mib": memory, "parameters": parameters}


if __name__ == "__main__":
    serve(answer)
