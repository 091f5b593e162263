"""What a trial costs in a study of 100, 1,000 and 10,000 of them, each with 50 metric points; and what the record costs afterwards.

    PYTHONPATH=. python benchmarks/scale.py [TRIALS ...]

Each size in a process and a folder of its own, so that its memory is its own. Small sizes take seconds, in which a machine may be faster or
slower than in the minutes of a large one, so they are measured several times, spread around it: medians. Trials run on two warm local
workers up to the committed ledger; then MLflow's default store is told of all, and the commands of one who looks on are timed as whole
processes.
"""

from __future__ import annotations

import itertools
import json
import math
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from ablate.execution.pool import Queue
from ablate.study import Arm
from benchmarks.nothing import open_ledger, specs, study
from benchmarks.side import machine

SIZES = (100, 1_000, 10_000)
POINTS = 50
WARM = 20
ARM = 4
"""Replicates an arm."""


def filled(trials: int, root: Path, name: str) -> dict[str, float]:
    """Run so many trials of a study and look at what they cost; all of them are in the ledger as done."""
    found = study(name)
    wanted = specs(0, trials, POINTS)
    ledger = open_ledger(root, name)
    try:
        ledger.freeze({"study": found.model_dump(mode="json", by_alias=True), "base": {}}, "code", "")
        arms = [wanted[first : first + ARM] for first in range(0, trials, ARM)]
        began = time.perf_counter()
        with ledger.transaction():
            ledger.add_arms("p", [Arm(name=f"arm {number}", levels={"x": number}) for number in range(len(arms))])
            for number, some in enumerate(arms):
                ledger.add_trials("p", f"arm {number}", some)
        planned = time.perf_counter() - began
        with Queue(ledger, root, found, on_event=lambda event: None) as queue:
            queue.complete(specs(trials, WARM, POINTS))
            cpu, began = time.process_time(), time.perf_counter()
            queue.complete(wanted)
            wall, cpu = time.perf_counter() - began, time.process_time() - cpu
        done = sum(record.state.value == "done" for record in ledger.trials())
        if done != WARM + trials:
            raise RuntimeError(f"expected {WARM + trials} trials done in the ledger but got {done}.")
    finally:
        ledger.close()
    return {
        "planned_ms": 1000 * planned / trials,
        "wall_ms": 1000 * wall / trials,
        "cpu_ms": 1000 * cpu / trials,
        "rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "ledger_kib": (root / name / "ledger.db").stat().st_size / 1024 / trials,
        "idle_ms": 1000 * statistics.median(_idle_s(root, name)),
    }


def _idle_s(root: Path, name: str) -> list[float]:
    """For each worker the time between the end of an attempt and the beginning of its next, from the attempts' own files."""
    ledger = open_ledger(root, name)
    try:
        workers: dict[str, list[tuple[float, float]]] = {}
        for record in ledger.trials():
            for attempt in ledger.attempts(record.signature):
                files = root / "trials" / record.signature / "attempts" / f"{attempt.number:04d}"
                began = json.loads((files / "began.json").read_text())["at"]
                workers.setdefault(attempt.worker, []).append((began, (files / "outcome.json").stat().st_mtime))
    finally:
        ledger.close()
    spans = [sorted(found) for found in workers.values()]
    return [after[0] - before[1] for found in spans for before, after in itertools.pairwise(found)]


def told_ms(trials: int, root: Path, name: str) -> float:
    """Milliseconds a trial to bring an empty MLflow store up to date, start-up of the process not counted."""
    script = (
        "import sys, time; from pathlib import Path; import mlflow; from ablate.tracking.mlflow import connected, sync; "
        "root = Path(sys.argv[1]); connected(root); began = time.perf_counter(); said = sync(root, sys.argv[2]); "
        "assert 'not up to date' not in said, said; print(time.perf_counter() - began)"
    )
    done = subprocess.run([sys.executable, "-c", script, str(root), name], capture_output=True, encoding="utf-8", check=True)
    return 1000 * float(done.stdout.split()[-1]) / trials


def looked_s(root: Path, name: str) -> float:
    """Seconds of `ablate status STUDY --json` as a whole process: the median of three."""
    command = [sys.executable, "-m", "ablate", "status", name, "--json", "--runs", str(root)]
    seconds = []
    for _ in range(3):
        began = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds)


def measured(trials: int) -> dict[str, float]:
    """Everything of one size, from a process of its own."""
    with tempfile.TemporaryDirectory(prefix="scale-") as folder:
        root = Path(folder) / "runs"
        script = "import json, sys; from pathlib import Path; from benchmarks.scale import filled; "
        script += "print(json.dumps(filled(int(sys.argv[1]), Path(sys.argv[2]), 'scale')))"
        done = subprocess.run([sys.executable, "-c", script, str(trials), str(root)], stdout=subprocess.PIPE, encoding="utf-8", check=True)
        found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
        return found | {"status_s": looked_s(root, "scale"), "mlflow_ms": told_ms(trials, root, "scale")}


ROWS = {
    "planning, ms a trial": "planned_ms",
    "wall ms a trial up to the ledger": "wall_ms",
    "CPU ms a trial, controller": "cpu_ms",
    "a worker's idle time between two trials, ms, median": "idle_ms",
    "controller's memory at most, MiB": "rss_mib",
    "ledger, KiB a trial": "ledger_kib",
    "`ablate status --json`, s": "status_s",
    "MLflow told, ms a trial": "mlflow_ms",
}


def order(sizes: Sequence[int]) -> list[int]:
    """Which size is measured when: the largest once, others up to five times, evenly over the whole."""
    times = {size: min(5, 2 * round(math.log10(max(sizes) / size)) + 1) for size in sizes}
    return [size for _, size in sorted(((turn + 0.5) / count, size) for size, count in times.items() for turn in range(count))]


def main() -> None:
    sizes = [int(size) for size in sys.argv[1:]] or list(SIZES)
    runs: dict[int, list[dict[str, float]]] = {size: [] for size in sizes}
    for size in order(sizes):
        runs[size].append(measured(size))
    found = {size: {key: statistics.median(run[key] for run in runs[size]) for key in ROWS.values()} for size in sizes}
    print(f"{POINTS} metric points a trial; {', '.join(f'{len(runs[size])} x {size:,}' for size in sizes)}. {machine()}\n")
    print(f"| trials | {' | '.join(f'{size:,}' for size in sizes)} |\n| --- |{' --- |' * len(sizes)}")
    for name, key in ROWS.items():
        print(f"| {name} | {' | '.join(f'{found[size][key]:.3g}' for size in sizes)} |")


if __name__ == "__main__":
    main()
