"""What a step of `phantom_cpu` cannot do without: its products and its other heavy kernels, each alone, beside whole steps.

    PYTHONPATH=. python benchmarks/step_floor.py [--before COMMIT] [--repetitions N] [--steps N]

Every matrix product, activation, softmax and normalisation of one real step, forward and backward, is called again and again with the
tensors that it had there, so from a warm cache, and its median time counts. Their sum is a floor: everything between them (copies, the
optimizer, losses, Python, data, measures) taken as free. "Within a step" is what torch's profiler sees of the same kernels over 20 steps,
where their tensors come from memory. Whole steps, before and now, alternate with it in the same run. Figures are kept in
benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.alone import ACTIVATIONS, PRODUCTS, one_step
from benchmarks.side import ROOT, machine
from benchmarks.step import TAKEN_UP, measured
from trainer.config import from_mapping
from trainer.speed import step_flops

KINDS = {"products": PRODUCTS, "activations, softmax, norms": ACTIVATIONS}


def floor(threads: int) -> dict[str, float]:
    """Milliseconds of each kind of kernel in one step, and gigaflops of the products; for a process of its own."""
    settings = from_mapping({"loop.steps": 1000})
    alone, within = one_step(settings, threads)
    found = {f"{kind} alone": 1e3 * alone.of(names) for kind, names in KINDS.items()}
    found |= {f"{kind} within a step": 1e3 * within(names) for kind, names in KINDS.items()}
    return found | {"gflop_per_s": step_flops(settings) / alone.of(PRODUCTS) / 1e9}


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
