"""What MLflow takes of a study's time: a run of real trials with the process that tells MLflow beside it.

    PYTHONPATH=. python benchmarks/logging_share.py [REPLICATES]

One phase of the phantom's trainer, baseline and three arms. No trial waits for MLflow; what is told takes CPU time of the process that
tells it, which is read while that lives: MLflow's import and all looks at the ledger are in it. Telling alone is measured afterwards, into
a fresh store.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

from ablate.ledger import Ledger
from ablate.tracking.entries import StudyEntries
from ablate.tracking.mlflow import MlflowTracker, connected
from ablate.trial import result_of
from benchmarks.side import machine

STUDY = """
study: logged
question: What does MLflow take?
trainer: {{callable: "trainer.train:train", schema: "trainer.config:schema", preset: phantom_cpu}}
baseline: {{crops.localcrops_subset_of_globalcrops: true}}
objective: {{metric: probe/local_to_global_mrr, direction: maximize, smallest_effect: 0.02}}
replicates: {{start: {replicates}, at_most: {replicates}}}
phases:
  - {{name: flags, design: one_at_a_time, factors: {{crops.min_global_overlap: [0.0, 0.1, 0.2, 0.3]}}}}
"""
LOOK_S = 0.05


def followed(controller: subprocess.Popen[bytes]) -> float:
    """CPU seconds of the process that follows this run into MLflow, once the run has ended."""
    seconds, follower = 0.0, None
    while controller.poll() is None:
        try:
            if follower is None:
                found = (p for p in psutil.Process(controller.pid).children() if "ablate.tracking.mlflow" in p.cmdline())
                follower = next(found, None)
            if follower is not None:
                seconds = max(seconds, sum(follower.cpu_times()[:2]))
        except psutil.Error:
            follower = None
        time.sleep(LOOK_S)
    return seconds


def main() -> None:
    replicates = int(sys.argv[1]) if len(sys.argv) > 1 else 6
    os.environ.pop("MLFLOW_TRACKING_URI", None)
    with tempfile.TemporaryDirectory(prefix="logged-") as folder:
        study, root, fresh = Path(folder, "logged.yaml"), Path(folder, "runs"), Path(folder, "fresh")
        study.write_text(STUDY.format(replicates=replicates), encoding="utf-8")
        command = [sys.executable, "-m", "ablate", "run", str(study), "--runs", str(root), "--yes"]
        with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as controller:
            following = followed(controller)
        if controller.returncode:
            raise SystemExit(controller.returncode)
        ledger = Ledger(root / "logged" / "ledger.db", read_only=True)
        results = [result for record in ledger.trials() if (result := result_of(root, record.signature)) is not None]
        ledger.close()
        spent = sum(result.seconds for result in results)
        os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{fresh}.db"
        connected(root)
        tracker, found = MlflowTracker(root, "logged"), StudyEntries(root, "logged")
        trials = [entry for entry in found.all() if entry.key.startswith("trial:")]
        tracker.tell([])
        began = time.process_time()
        told = tracker.tell(trials)
        telling = time.process_time() - began
    print(f"{len(results)} trials of {spent / len(results):.1f} s, {told.points / len(results):.0f} points each. {machine()}\n")
    print("| | CPU ms a trial | share of the trials' time |\n| --- | --- | --- |")
    for name, seconds in (("telling the trials", telling), ("the process beside the run: import, looks and arms too", following)):
        print(f"| {name} | {1000 * seconds / len(results):.0f} | {100 * seconds / spent:.2f} % |")


if __name__ == "__main__":
    main()
