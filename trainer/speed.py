"""How much arithmetic a step is, how fast this machine could do it, and what would slow it down."""

from __future__ import annotations

import ctypes
import functools
import itertools
import os
import resource
import sys
import time

import torch

from trainer.config import TrainerConfig
from trainer.products import linear

_EDGE = {"cpu": 768, "cuda": 4096}
_REPETITIONS = 5
_KEPT_BYTES = 1 << 29
_MAPPED_APART_BYTES = 1 << 25
"""Blocks from this size on are mapped and given back one by one; the most that glibc takes."""
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of malloc.h
_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "float64": torch.float64}


def step_flops(config: TrainerConfig) -> float:
    """Floating-point operations of an optimizer step, two for a multiply-add: matrix products of student (forward, and twice that
    backward) and teacher (forward). What is computed again to save memory is not counted.

    Source: as counted by Chowdhery et al. 2022 (PaLM), arXiv 2204.02311, appendix B.
    """
    c, m = config.crops, config.model
    globals_ = 2 * _backbone(config, c.global_size_voxels)
    locals_ = c.local_crops * _backbone(config, c.local_size_voxels)
    head = _head(config, m.prototypes)
    teacher = globals_ + 2 * head
    if config.loss.matching == "hierarchical":
        teacher += locals_ + c.local_crops * head
    return config.loop.batch_size * (3 * (globals_ + locals_ + (2 + c.local_crops) * head) + teacher)


def _backbone(config: TrainerConfig, size: int) -> float:
    m = config.model
    patches = (size // m.patch_size_voxels) ** 3
    tokens = patches + m.registers + (m.pooling != "mean")
    block = tokens * (8 * m.dim**2 + 4 * m.dim * int(m.dim * m.mlp_ratio)) + 4 * tokens**2 * m.dim
    return 2.0 * patches * m.patch_size_voxels**3 * m.dim + m.depth * block


def _head(config: TrainerConfig, prototypes: int) -> float:
    m = config.model
    widths = [m.dim * (2 if m.pooling == "both" else 1), *[m.head_hidden] * (m.head_layers - 1), m.bottleneck, prototypes]
    return float(sum(2 * a * b for a, b in itertools.pairwise(widths)))


@functools.cache
def product_rate(device: torch.device, precision: str) -> float:
    """Floating-point operations a second of a square matrix product on the threads or the device at hand, by the library that linear
    layers take; best of a few, under .1 s.
    """
    dtype = _DTYPES.get(precision, torch.float32)
    if device.type == "cpu" and precision != "float64":
        dtype = torch.float32
    edge = _EDGE[device.type]
    a = torch.ones(edge, edge, device=device, dtype=dtype)
    best = float("inf")
    for _ in range(_REPETITIONS):
        started = time.perf_counter()
        linear(a, a)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = min(best, time.perf_counter() - started)
    return float(2 * edge**3 / best)


def peak_memory_gib(device: torch.device) -> float:
    """Most memory held so far: allocated on the GPU, resident in this process on CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return held * (1 if sys.platform == "darwin" else 1024) / 2**30


def keep_freed_memory() -> None:
    """Let the C library keep up to half a GiB of freed memory for the next step, instead of giving it back and asking anew, and torch
    ask for huge pages for tensors of 2 MiB and more, where Linux grants them and no tensor was made before (1 to 3 % of a step).

    What it does by itself depends on the order of sizes that it saw: between 200 and 1,600 page faults a step of `phantom_cpu`, which
    take up to 5 ms of its 30. Only glibc has the setting; elsewhere nothing happens.
    """
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another C library, or none that can be asked
        return
    mallopt(_MMAP_THRESHOLD, _MAPPED_APART_BYTES)
    mallopt(_TRIM_THRESHOLD, _KEPT_BYTES)
