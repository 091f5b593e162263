"""A step of several ranks as one process would have seen it: what measures are made of."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import numpy as np
import torch

from trainer.data import Batch
from trainer.numerics import of_each_rank, ranks
from trainer.step.learner import StepResult
from trainer.step.window import GLOBALS


def of_all_ranks(batch: Batch, result: StepResult) -> tuple[Batch, StepResult]:
    """The whole batch without its images and changes, and the result of all its rows, on every rank."""
    if ranks() == 1:
        return batch, result
    outputs = ("logits", "features", "targets")
    held: dict[str, Any] = {name: None if (found := getattr(result, name)) is None else found.cpu() for name in outputs}
    bare = replace(batch, globals=batch.globals[:, :0], locals=batch.locals[:, :0])
    shares = of_each_rank((bare, replace(result, **held)))
    arrays = [f.name for f in fields(Batch) if isinstance(getattr(bare, f.name), np.ndarray)]
    whole: dict[str, Any] = {name: np.concatenate([getattr(b, name) for b, _ in shares]) for name in arrays}
    for name in outputs:
        if held[name] is not None:  # view by view, so that a share's rows lie in the middle of the whole's
            held[name] = torch.cat([getattr(r, name).unflatten(0, (GLOBALS, -1)) for _, r in shares], dim=1).flatten(0, 1)
    held["crop_losses"] = np.concatenate([r.crop_losses for _, r in shares])
    held["unmatched_locals"] = sum(r.unmatched_locals for _, r in shares)
    return replace(bare, **whole), replace(result, **held)
