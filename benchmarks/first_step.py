"""From `ablate run` to the first metrics of a training step, torch's import included.

    PYTHONPATH=. python benchmarks/first_step.py [STUDY] [REPETITIONS]

Each repetition is a study in a folder of its own, started twice: first with nothing known, then with preflight's findings kept from before
and no trial left. All workers start at the same time, as they do for a user. The run is ended as Ctrl-C ends it.
"""

from __future__ import annotations

import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.side import machine

STUDY = "studies/collapse.yaml"
LONGEST_S = 120.0
LOOK_S = 0.02


def first_s(study: str, root: Path, name: str) -> float:
    """Seconds until some trial has reported a step."""
    command = [sys.executable, "-m", "ablate", "run", study, "--runs", str(root), "--no-mlflow", f"study={name}"]
    began = time.perf_counter()
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while not any(stream.stat().st_size for stream in root.glob("trials/*/attempts/*/metrics.jsonl")):
            if process.poll() is not None or time.perf_counter() - began > LONGEST_S:
                raise RuntimeError(f"expected a first step of {study} but got none within {LONGEST_S:g} s, or the run ended.")
            time.sleep(LOOK_S)
        return time.perf_counter() - began
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(60)


def main() -> None:
    arguments = sys.argv[1:]
    study, repetitions = (arguments[0] if arguments else STUDY), (int(arguments[1]) if len(arguments) > 1 else 5)
    found: dict[str, list[float]] = {}
    for _ in range(repetitions):
        with tempfile.TemporaryDirectory(prefix="first-") as folder:
            root = Path(folder) / "runs"
            for said, name in (("nothing known", "first"), ("preflight kept", "second")):
                found.setdefault(said, []).append(first_s(study, root, name))
                shutil.rmtree(root / "trials")
    print(f"{machine(repetitions)}\n")
    print(f"| {study} | seconds to the first reported step, median (range) |\n| --- | --- |")
    for said, seconds in found.items():
        print(f"| {said} | {statistics.median(seconds):.1f} ({min(seconds):.1f} to {max(seconds):.1f}) |")


if __name__ == "__main__":
    main()
