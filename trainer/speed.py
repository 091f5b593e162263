"""How much arithmetic a step is, how fast this machine could do it, and what would slow it down."""

from __future__ import annotations

import ctypes
import functools
import itertools
import os
import resource
import sys
import time
from collections.abc import Sequence

import torch

from trainer.config import Model, TrainerConfig
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
    backward, but for crops, which take no gradient) and teacher (forward). What is computed again to save memory is not counted; of
    iBOT's masks the expected number is.

    Source: as counted by Chowdhery et al. 2022 (PaLM), arXiv 2204.02311, appendix B.
    """
    c = config.crops
    globals_, locals_ = (2, c.global_size_voxels), (c.local_crops, c.local_size_voxels)
    seen = [globals_, locals_] if config.loss.matching == "hierarchical" else [globals_]
    student = _network(config, [globals_, locals_], patches=config.loss.gram_weight > 0)
    cutting = sum(count * _patch_embedding(config, size) for count, size in (globals_, locals_))
    return config.loop.batch_size * (3 * student - cutting + _network(config, seen, patches=False))


def _network(config: TrainerConfig, groups: Sequence[tuple[int, int]], *, patches: bool) -> float:
    """Forward, for numbers of crops of a size each, of which global ones come first."""
    m, loss = config.model, config.loss
    masked = loss.ibot_mask_prob * (loss.ibot_mask_ratio_min + loss.ibot_mask_ratio_max) / 2 if loss.ibot_weight else 0.0
    every = patches or m.pooling != "cls"
    backbone = sum(count * _backbone(config, size, None if every else 0.0 if at else masked) for at, (count, size) in enumerate(groups))
    return backbone + sum(count for count, _ in groups) * _head(config, m.prototypes)


def _backbone(config: TrainerConfig, size: int, picked: float | None) -> float:
    """Of one crop, of whose patches all are read (none) or a share, beside CLS."""
    m = config.model
    patches = (size // m.patch_size_voxels) ** 3
    tokens = patches + m.registers + (m.pooling != "mean")
    read = tokens if picked is None else 1 + picked * patches
    with_queries = tokens if picked is None or picked else 1
    blocks = (m.depth - 1) * _block(m, tokens, tokens, tokens) + _block(m, tokens, with_queries, read)
    return _patch_embedding(config, size) + blocks


def _patch_embedding(config: TrainerConfig, size: int) -> float:
    return 2.0 * size**3 * config.model.dim


def _block(m: Model, tokens: float, asked: float, read: float) -> float:
    return (4 * tokens + 2 * asked) * m.dim**2 + 4 * asked * tokens * m.dim + read * (2 * m.dim**2 + 4 * m.dim * int(m.dim * m.mlp_ratio))


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
