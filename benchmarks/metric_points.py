"""Metric points into MLflow's default store (SQLite): our tracker beside `log_metric` one by one and `log_batch`.

    PYTHONPATH=. python benchmarks/metric_points.py [POINTS] [REPETITIONS]

All three write to stores of their own in fresh folders; stores are made, and the run created, before the clock starts. `log_metric` gets a
hundredth of the points, `log_batch` all of them, 1000 a call, which is the most that MLflow takes.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from ablate.tracking.base import Entry, Points
from ablate.tracking.mlflow import MlflowTracker, connected
from benchmarks.side import machine

SLOWER = 100
"""`log_metric` writes one in so many of the points."""


def rates(points: int) -> dict[str, float]:
    """Points a second, by who."""
    from mlflow.entities import Metric

    found = {}
    with tempfile.TemporaryDirectory(prefix="logging-") as folder:
        tracker = MlflowTracker(Path(folder), "curves")
        entry = Entry("trial:a", "a", {}, {}, "RUNNING", None, tuple, tuple, started=time.time())
        tracker.tell([entry])
        rows: Points = [(step, {"train/loss": 1.0 / (step + 1)}) for step in range(points)]
        began = time.perf_counter()
        told = tracker.tell([replace(entry, points=lambda: rows, status="FINISHED", version="done:1")])
        found["ablate"] = points / (time.perf_counter() - began)
        if told.points != points:
            raise RuntimeError(f"expected {points} points told but got {told.points}.")
    for name, count in (("log_batch, 1000 a call", points), ("log_metric, one by one", max(1, points // SLOWER))):
        with tempfile.TemporaryDirectory(prefix="logging-") as folder:
            client = connected(Path(folder))
            run = client.create_run(client.create_experiment("curves")).info.run_id
            began = time.perf_counter()
            if name.startswith("log_batch"):
                for first in range(0, count, 1000):
                    steps = range(first, min(first + 1000, count))
                    client.log_batch(run, metrics=[Metric("train/loss", 1.0 / (step + 1), step, step) for step in steps])
            else:
                for step in range(count):
                    client.log_metric(run, "train/loss", 1.0 / (step + 1), step=step)
            found[name] = count / (time.perf_counter() - began)
    return found


def main() -> None:
    points, repetitions = (int(value) for value in (*sys.argv[1:3], *("100000", "5")[len(sys.argv[1:3]) :]))
    runs = [rates(points) for _ in range(repetitions)]
    print(f"{points:,} points. {machine(repetitions)}\n")
    print("| | points a second, median (range) | ours, times this one: median of the ratios within a repetition |\n| --- | --- | --- |")
    for name in runs[0]:
        values = [run[name] for run in runs]
        ratio = statistics.median(run["ablate"] / run[name] for run in runs)
        print(f"| {name} | {statistics.median(values):.0f} ({min(values):.0f} to {max(values):.0f}) | {ratio:.2f} |")


if __name__ == "__main__":
    main()
