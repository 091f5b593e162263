"""The kernels of one real step of ours, each called again alone with the tensors that it had there, and the same kernels within steps.

What floors are made of (step_floor.py, peer_floor.py): alone a kernel's tensors are in the cache and nothing stands before or behind it.
"""

from __future__ import annotations

import statistics
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from trainer.config import TrainerConfig
from trainer.data import batches, load_scans, split_scans
from trainer.numerics import device_of
from trainer.speed import keep_freed_memory
from trainer.step import Learner

PRODUCTS = frozenset({"mm", "addmm", "bmm", "baddbmm_", "_linear_pointwise", "_scaled_dot_product_flash_attention_for_cpu"})
ACTIVATIONS = frozenset(
    {
        *("gelu", "gelu_backward", "_softmax", "_softmax_backward_data", "_log_softmax", "_log_softmax_backward_data"),
        *("native_layer_norm", "native_layer_norm_backward"),
    }
)
TRIES, WARM_UP, PROFILED = 9, 4, 20


def median_s(call: Callable[[], object], tries: int = TRIES) -> float:
    """Seconds of one call; with one thread those of the CPU, as other work on the machine then hardly matters."""
    clock, times = time.thread_time if torch.get_num_threads() == 1 else time.perf_counter, []
    for _ in range(tries):
        began = clock()
        call()
        times.append(clock() - began)
    return statistics.median(times)


class Alone(TorchDispatchMode):
    """Adds up over the operations of a step, by name: seconds, bytes read and written, calls. Views and empty tensors cost nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds: Counter[str] = Counter()
        self.least_products_s = 0.0
        """Products by whichever library is faster for their shapes."""
        self.bytes: Counter[str] = Counter()
        self.calls = 0

    def __torch_dispatch__(self, func: Any, types: Sequence[Any], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None) -> Any:
        kwargs, name = dict(kwargs or {}), func.overloadpacket.__name__
        # What is written into is a copy, or the next call would read what this one wrote.
        own, own_kwargs = tree_map_only(Tensor, _copy, (args, kwargs)) if func._schema.is_mutable else (args, kwargs)
        seconds = median_s(lambda: func(*own, **own_kwargs))
        found = func(*args, **kwargs)
        self.calls += 1
        if func._schema.is_mutable or not (name.startswith(("empty", "new_empty")) or _is_view(args, found)):
            self.seconds[name] += seconds
            self.bytes[name] += sum(t.numel() * t.element_size() for t in tree_leaves((args, kwargs, found)) if isinstance(t, Tensor))
        if name in PRODUCTS:
            self.least_products_s += min([seconds, *_by_either_library(name, args)])
        return found

    def of(self, names: frozenset[str]) -> float:
        """Seconds of these operations."""
        return sum(self.seconds[name] for name in names)


def _is_view(args: Sequence[Any], found: Any) -> bool:
    """Whether nothing was computed."""
    held = {t.untyped_storage().data_ptr() for t in tree_leaves(args) if isinstance(t, Tensor)}
    return any(t.untyped_storage().data_ptr() in held for t in tree_leaves(found) if isinstance(t, Tensor))


def _copy(tensor: Tensor) -> Tensor:
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype).copy_(tensor)


def _by_either_library(name: str, args: Sequence[Any]) -> list[float]:
    """Seconds of a linear layer's product by MKL and by oneDNN; nothing where there is but one way (batches of products)."""
    if name not in ("mm", "addmm", "_linear_pointwise"):
        return []
    a, b = (args[0], args[1].t()) if name == "_linear_pointwise" else args[-2:]
    a = a.reshape(-1, a.shape[-1])
    ways = [lambda: torch.mm(a, b)]
    if torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        ways.append(lambda: torch.ops.mkldnn._linear_pointwise(a, b.t(), None, "none", [], ""))
    return [median_s(way) for way in ways]


def one_step(settings: TrainerConfig, threads: int) -> tuple[Alone, Callable[[frozenset[str]], float]]:
    """The kernels of a step alone; and seconds that operations of given names take within a step, by torch's profiler."""
    torch.set_num_threads(threads)
    keep_freed_memory()
    scans = load_scans(settings)
    feed = batches(scans, split_scans(settings, len(scans)).train, settings, 0)
    batch = next(feed)
    feed.close()
    learner = Learner(settings, device_of(settings))
    for step in range(WARM_UP):
        learner.step(batch, step)
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        for step in range(PROFILED):
            learner.step(batch, WARM_UP + step)
    within = Counter({event.key.rpartition("::")[2]: event.self_cpu_time_total / 1e6 / PROFILED for event in seen.key_averages()})
    with torch.autograd.set_multithreading_enabled(False), Alone() as alone:
        learner.step(batch, WARM_UP + PROFILED)
    return alone, lambda names: sum(within[name] for name in names)
