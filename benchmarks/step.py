"""Steps a second of `phantom_cpu` now and at an earlier commit of this repository, alternating, in one run.

    PYTHONPATH=. python benchmarks/step.py [--before COMMIT] [--repetitions N] [--steps N]

Each repetition trains the preset (default arm, and the healthy one) for some steps in processes of their own: two of one thread each,
which is how `ablate run` uses two cores (their rates add up), one of two threads, one of one. The rate is by the process's clock, from the
first report (of step 5) to that of the last step: data, update and training measures. CPU time over the same steps is that of all its
threads, and hardly depends on what else runs; with two threads it holds their waiting for each other too. The earlier code is checked out
into a temporary folder. Results with date and machine are kept in benchmarks/README.md.
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

from benchmarks.side import ROOT, machine

TAKEN_UP = "1eab204"
"""The last commit before the trainer was rewritten for the full recipe."""
ARMS = {
    "baseline": {},
    "healthy": {"crops.min_global_overlap": 0.3, "crops.localcrops_subset_of_globalcrops": True},
}

CHILD = """
import json, sys, time
from pathlib import Path
import torch
from trainer.train import train
class Run:
    def __init__(self, directory): self.directory, self.last, self.seen = Path(directory), {}, []
    def report(self, step, metrics): self.last = metrics; self.seen.append((step, time.process_time(), time.perf_counter())); return True
asked = json.loads(sys.argv[1])
torch.set_num_threads(asked["threads"])
run = Run(asked["directory"])
found = train({**asked["config"], "measure.rungs": [], "loop.checkpoint_every_steps": 0, "measure.record_crops": False}, run)
(first, *began), (last, *ended) = run.seen[0], run.seen[-2]  # the last report is that after the probes
cpu_s, wall_s = ((after - before) / (last - first) for before, after in zip(began, ended))
found |= {"loop/cpu_ms_per_step": 1e3 * cpu_s, "loop/steps_per_second": 1 / wall_s}
print(json.dumps({name: value for name, value in {**run.last, **found}.items() if name.startswith("loop/")}))
"""


def measured(code: Path, config: dict[str, object], threads: int, processes: int = 1) -> dict[str, float]:
    """`loop/` measures of trainings side by side by the code in a folder: steps a second of all of them, else means."""
    environment = os.environ | {"PYTHONPATH": str(code), "OMP_NUM_THREADS": str(threads)}
    with tempfile.TemporaryDirectory() as directory:
        children = []
        for number in range(processes):
            asked = json.dumps({"directory": f"{directory}/{number}", "config": config, "threads": threads})
            Path(directory, str(number)).mkdir()
            command = [sys.executable, "-c", CHILD, asked]
            children.append(subprocess.Popen(command, cwd=code, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
        said = [child.communicate() for child in children]
    for child, (_, errors) in zip(children, said, strict=True):
        if child.returncode:
            raise RuntimeError(f"{code}: a training ended with {child.returncode}.\n{errors}")
    runs: list[dict[str, float]] = [json.loads(out.splitlines()[-1]) for out, _ in said]
    means = {name: statistics.mean(run[name] for run in runs) for name in runs[0]}
    return means | {"loop/steps_per_second": sum(run["loop/steps_per_second"] for run in runs)}


def main() -> None:
    """Print a table: medians and ranges of both, and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--before", default=TAKEN_UP)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--sides", nargs="*", default=["2x1", "1x2", "1x1"], help="processes x threads of each")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as earlier:
        subprocess.run(["git", "worktree", "add", "--detach", earlier, asked.before], cwd=ROOT, check=True, capture_output=True)
        try:
            table(asked, {"before": Path(earlier), "now": ROOT})
        finally:
            subprocess.run(["git", "worktree", "remove", "--force", earlier], cwd=ROOT, check=True, capture_output=True)


def table(asked: argparse.Namespace, codes: dict[str, Path]) -> None:
    """Alternate over the codes within each repetition."""
    print(f"{asked.steps} steps each. {machine(asked.repetitions)}\n")
    rates = "before: steps/s (range) | now: steps/s (range) | ratio | CPU ms a step, before | now | ratio"
    print(f"| processes x threads | arm | {rates} | data, before | data, now | peak GiB, now |")
    print("| --- " * 11 + "|")
    for side in asked.sides:
        processes, threads = map(int, side.split("x"))
        for arm, config in ARMS.items():
            runs: dict[str, list[dict[str, float]]] = {name: [] for name in codes}
            for _ in range(asked.repetitions):
                for name, code in codes.items():
                    runs[name].append(measured(code, {**config, "loop.steps": asked.steps}, threads, processes))
            rates = {name: [run["loop/steps_per_second"] for run in found] for name, found in runs.items()}
            middle = {name: statistics.median(found) for name, found in rates.items()}
            said = {name: f"{middle[name]:.1f} ({min(found):.1f} to {max(found):.1f})" for name, found in rates.items()}
            data = {name: statistics.median(run["loop/data_fraction"] for run in found) for name, found in runs.items()}
            cpu = {name: statistics.median(run["loop/cpu_ms_per_step"] for run in found) for name, found in runs.items()}
            peak = statistics.median(run.get("loop/peak_memory_gib", float("nan")) for run in runs["now"])
            print(
                f"| {processes} x {threads} | {arm} | {said['before']} | {said['now']} | {middle['now'] / middle['before']:.2f} "
                f"| {cpu['before']:.1f} | {cpu['now']:.1f} | {cpu['before'] / cpu['now']:.2f} "
                f"| {data['before']:.0%} | {data['now']:.0%} | {peak:.2f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
