"""The arithmetic of a step against torch's own count of a real step."""

from __future__ import annotations

import math
import platform
import resource
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from trainer import products
from trainer.config import TrainerConfig
from trainer.speed import keep_freed_memory, peak_memory_gib, product_rate, step_flops
from trainer.step import Learner

sys.path.insert(0, str(Path(__file__).parent / "step"))
from small import batch_of, tiny

CPU = torch.device("cpu")


def counted(config: TrainerConfig) -> float:
    learner, batch = Learner(config, CPU), batch_of(0)
    with FlopCounterMode(display=False) as counter:
        learner.step(batch, 0)
    return float(counter.get_total_flops())


@pytest.mark.parametrize(
    "shape",
    [
        {},
        {"depth": 3, "dim": 24},
        {"pooling": "both", "registers": 2},
        {"pooling": "cls", "mlp_ratio": 2.0},
        {"pooling": "cls", "depth": 1, "dim": 48, "registers": 1},
    ],
)
def test_the_step_is_about_what_torch_counts(shape: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Not to the last: torch does not count products in place, which attention has."""
    monkeypatch.setattr(products, "least_for_onednn", lambda: math.inf)  # torch counts its own products only
    config = tiny()
    for name, value in shape.items():
        setattr(config.model, name, value)
    assert step_flops(config) == pytest.approx(counted(config), rel=0.05)


def test_a_teacher_of_local_crops_and_a_larger_batch_cost_more() -> None:
    plain, local, larger = tiny(), tiny(matching="hierarchical"), tiny()
    larger.loop.batch_size = 12
    assert step_flops(local) > step_flops(plain)
    assert step_flops(larger) == 2 * step_flops(plain)


def test_this_machine_multiplies_and_holds_memory() -> None:
    assert product_rate(CPU, "float32") > 1e8
    assert 0.01 < peak_memory_gib(CPU) < 64


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has the setting")
def test_memory_that_was_freed_is_not_asked_for_anew() -> None:
    """Sixteen buffers of 2 MiB each are 8,192 pages a round."""

    def round_of_a_step() -> None:
        held = [torch.empty(2**19).zero_() for _ in range(16)]
        held.clear()

    keep_freed_memory()
    round_of_a_step()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        round_of_a_step()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before < 8192
