"""What forbids 1.5 x the plain form: the least that our step could take, beside both whole steps in the same run.

    PYTHONPATH=. python benchmarks/peer_floor.py [REPETITIONS] [--threads N ...] [--of CASE ...]

Every kernel of one real step is called again with the tensors that it had there (median of nine calls, warm cache). A product counts
with the faster of MKL and oneDNN for its own shape. Everything else counts twice: as the kernel is, and as if it did nothing but move its
tensors' bytes at the best rate at which this machine copies. `calls` is the number of torch's operations, views too, times what the least
one takes. Two floors: products and other kernels as they are with nothing in between; and products, bytes and calls.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys

import torch

from benchmarks.alone import PRODUCTS, median_s, one_step
from benchmarks.peer_step import CASES, Case, configured, measure
from benchmarks.side import ROOT, have_peers, machine
from trainer.config import from_mapping


def floor(case: Case, threads: int) -> dict[str, float]:
    """Milliseconds of one step; for a process of its own."""
    alone, _ = one_step(from_mapping(configured(case)), threads)
    others = frozenset(alone.seconds) - PRODUCTS
    sizes = [torch.ones(1 << power) for power in range(16, 23)]
    bytes_per_s = max(2 * one.numel() * 4 / median_s(lambda: one.clone(), 50) for one in sizes)  # noqa: B023  # called at once
    smallest = torch.ones(1)
    call_s = median_s(lambda: [smallest.neg() for _ in range(100)]) / 100
    seconds = {"products": alone.least_products_s, "others": alone.of(others), "calls": alone.calls * call_s}
    seconds["bytes"] = sum(alone.bytes[name] for name in others) / bytes_per_s
    return {name: 1e3 * value for name, value in seconds.items()} | {"gb_per_s": bytes_per_s / 1e9, "call_us": 1e6 * call_s}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("repetitions", type=int, nargs="?", default=5)
    parser.add_argument("--threads", type=int, nargs="*", default=[2])
    parser.add_argument("--of", type=int, nargs="*", default=[0, 3, 4, 7, 8], help="numbers of the cases of peer_step.py")
    parser.add_argument("--floor-of", type=int, nargs=2, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.floor_of:
        print(json.dumps(floor(CASES[asked.floor_of[0]], asked.floor_of[1])))
        return
    print(
        "| threads | size | form | batch | locals | ours, ms | plain form | products | other kernels | their bytes | calls | plain / ours ",
        end="",
    )
    print("| plain / (products, other kernels) | plain / (products, bytes, calls) |")
    print("| --- " * 14 + "|")
    rates: list[dict[str, float]] = []
    for threads in asked.threads:
        for number in asked.of:
            rates.append(row(number, threads, asked.repetitions))
    rate, call = (statistics.median(one[name] for one in rates) for name in ("gb_per_s", "call_us"))
    print(f"\nBytes at {rate:.0f} GB/s, a call {call:.1f} us. {machine(asked.repetitions)}")


def row(number: int, threads: int, repetitions: int) -> dict[str, float]:
    """Print a case's row, medians over the repetitions; the medians of its floor."""
    case = CASES[number]
    floors, ours, plain = [], [], []
    for _ in range(repetitions):
        command = [sys.executable, __file__, "--floor-of", str(number), str(threads)]
        environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": str(threads)}
        said = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
        floors.append(json.loads(said.splitlines()[-1]))
        found = measure(case, threads, 2, peers=have_peers())
        ours.append(1e3 * min(one["wall_s"] for one in found["ours"]))
        plain.append(1e3 * min(one["wall_s"] for one in found.get("MONAI", [{"wall_s": float("nan")}])))
    least = {name: statistics.median(one[name] for one in floors) for name in floors[0]}
    own, theirs = statistics.median(ours), statistics.median(plain)
    kernels, bytes_ = least["products"] + least["others"], least["products"] + least["bytes"] + least["calls"]
    parts = [own, theirs, *(least[name] for name in ("products", "others", "bytes", "calls"))]
    cells = [*(f"{value:.1f}" for value in parts), f"{theirs / own:.2f}", f"{theirs / kernels:.2f}", f"{theirs / bytes_:.2f}"]
    print("| " + " | ".join([f"{threads}", case.model, case.form, f"{case.batch}", f"{case.locals}", *cells]) + " |", flush=True)
    return least


if __name__ == "__main__":
    main()
