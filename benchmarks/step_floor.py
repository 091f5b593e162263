"""What a step of `phantom_cpu` cannot do without: its products and its other heavy kernels, each alone, beside whole steps.

    PYTHONPATH=. python benchmarks/step_floor.py [--before COMMIT] [--repetitions N] [--steps N]

Every matrix product, activation, softmax and normalisation of one real step, forward and backward, is called again and again with the
tensors that it had there, so from a warm cache, and its median time counts (CPU time with one thread, as other work on the machine then
hardly matters). Their sum is a floor: everything between them (copies, the optimizer, losses, Python, data,
measures) taken as free. Whole steps, before and now, alternate with it in the same run. Figures are kept in benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.side import ROOT, machine
from benchmarks.step import TAKEN_UP, measured
from trainer.config import from_mapping
from trainer.data import batches, load_scans, split_scans
from trainer.numerics import device_of
from trainer.speed import step_flops
from trainer.step import Learner

KINDS = {
    "products": {"mm", "addmm", "bmm", "baddbmm_", "_linear_pointwise", "_scaled_dot_product_flash_attention_for_cpu"},
    "activations, softmax, norms": {
        *("gelu", "gelu_backward", "_softmax", "_softmax_backward_data", "_log_softmax", "_log_softmax_backward_data"),
        *("native_layer_norm", "native_layer_norm_backward"),
    },
}
TRIES = 15


class Alone(TorchDispatchMode):
    """Calls each kernel of a kind several times where it occurs, and adds up the median times, in seconds."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds = dict.fromkeys(KINDS, 0.0)

    def __torch_dispatch__(self, func: Any, types: Sequence[Any], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None) -> Any:
        for kind, names in KINDS.items():
            if func.overloadpacket.__name__ in names:  # all of them may be called again: none reads what it writes
                times = [timed(lambda: func(*args, **(kwargs or {}))) for _ in range(TRIES)]
                self.seconds[kind] += statistics.median(times)
        return func(*args, **(kwargs or {}))


def timed(call: Callable[[], object]) -> float:
    """Seconds."""
    clock = time.thread_time if torch.get_num_threads() == 1 else time.perf_counter
    started = clock()
    call()
    return clock() - started


def floor(threads: int) -> dict[str, float]:
    """Milliseconds of each kind of kernel in one step, and gigaflops of the products; for a process of its own."""
    torch.set_num_threads(threads)
    settings = from_mapping({})
    scans = load_scans(settings)
    feed = batches(scans, split_scans(settings, len(scans)).train, settings, 0)
    learner = Learner(settings, device_of(settings))
    drawn = [next(feed) for _ in range(5)]
    feed.close()
    for step, batch in enumerate(drawn[:-1]):
        learner.step(batch, step)
    with Alone() as alone:
        learner.step(drawn[-1], len(drawn) - 1)
    found = {kind: 1e3 * seconds for kind, seconds in alone.seconds.items()}
    return found | {"gflop_per_s": step_flops(settings) / alone.seconds["products"] / 1e9}


def main() -> None:
    """Print medians over the repetitions."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--before", default=TAKEN_UP)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--threads", type=int, nargs="*", default=[2, 1])
    parser.add_argument("--floor-of", type=int, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.floor_of:
        print(json.dumps(floor(asked.floor_of)))
        return
    with tempfile.TemporaryDirectory() as earlier:
        subprocess.run(["git", "worktree", "add", "--detach", earlier, asked.before], cwd=ROOT, check=True, capture_output=True)
        try:
            for threads in asked.threads:
                table(asked, threads, {"before": Path(earlier), "now": ROOT})
        finally:
            subprocess.run(["git", "worktree", "remove", "--force", earlier], cwd=ROOT, check=True, capture_output=True)


def table(asked: argparse.Namespace, threads: int, codes: dict[str, Path]) -> None:
    """Alternate over the floor and the codes."""
    rows: dict[str, list[float]] = {}
    rates: list[float] = []
    for _ in range(asked.repetitions):
        command = [sys.executable, __file__, "--floor-of", str(threads)]
        environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": str(threads)}
        said = json.loads(subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.splitlines()[-1])
        rates.append(said.pop("gflop_per_s"))
        for name, value in said.items():
            rows.setdefault(f"{name}, ms", []).append(value)
        for name, code in codes.items():
            found = measured(code, {"loop.steps": asked.steps}, threads)
            rows.setdefault(f"whole step, {name}, ms", []).append(1e3 / found["loop/steps_per_second"])
            rows.setdefault(f"its CPU time, {name}, ms", []).append(found["loop/cpu_ms_per_step"])
    print(f"\n{asked.steps} steps, {threads} threads, products at {statistics.median(rates):.0f} GFLOP/s. {machine(asked.repetitions)}\n")
    print("| | median (range) |\n| --- | --- |")
    for name, values in rows.items():
        print(f"| {name} | {statistics.median(values):.1f} ({min(values):.1f} to {max(values):.1f}) |", flush=True)


if __name__ == "__main__":
    main()
