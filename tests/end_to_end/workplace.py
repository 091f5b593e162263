"""A folder with a tiny study in it, and the commands run there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).parents[2]

TINY = """
study: tiny
question: Does anything differ in eight steps?
trainer:
  callable: "trainer.train:train"
  schema: "trainer.config:schema"
  preset: phantom_cpu
  set:
    data.phantom.scans: 8
    data.phantom.size_voxels: 48
    data.phantom.spacing_mm: 8.0
    crops.global_size_voxels: 16
    crops.local_size_voxels: 8
    model.patch_size_voxels: 4
    model.dim: 24
    model.heads: 4
    model.depth: 1
    model.head_hidden: 32
    model.bottleneck: 16
    model.prototypes: 16
    loop.steps: 8
    loop.warmup_steps: 2
    loop.batch_size: 4
    loop.checkpoint_every_steps: 2
    measure.every_steps: 2
    measure.crops_per_scan: 6
    measure.background_crops_per_scan: 2
baseline:
  crops.foreground_threshold: 500
references: {untrained: {loop.steps: 0}}
objective: {metric: probe/local_to_global_mrr, direction: maximize, smallest_effect: 0.02}
guards:
  - {metric: loop/updates_applied, at_least: 0.5}
replicates: {start: 3, at_most: 3}
phases:
  - name: flags
    design: factorial
    set: {crops.foreground_threshold: -500, crops.min_foreground_ratio: 0.5}
    factors:
      crops.foreground_crop_prob: [0.0, 1.0]
      crops.localcrops_subset_of_globalcrops: [false, true]
  - name: thresholds
    design: {tune: 2, sampler: tpe, batch: 2}
    set: {crops.foreground_crop_prob: 1.0, crops.foreground_threshold: -500}
    factors:
      crops.min_foreground_ratio: {low: 0.2, high: 0.6}
"""


class Workplace:
    """A folder with a study in it, and the commands run there."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.study = directory / "tiny.yaml"
        self.study.write_text(TINY)
        self.environment = {k: v for k, v in os.environ.items() if k != "MLFLOW_TRACKING_URI"} | {
            "PYTHONPATH": str(REPOSITORY),
            "TMPDIR": str(directory),
            "COLUMNS": "200",
            "PYTHONUTF8": "1",
        }

        self.output = ""
        """What the last whole run printed."""

    def run_to_its_end(self) -> None:
        done = self.ablate("run", "tiny.yaml")
        assert done.returncode == 0, done.stdout + done.stderr
        self.output = done.stdout

    def arguments(self, *command: str) -> list[str]:
        return [sys.executable, "-m", "ablate", *command]

    def ablate(self, *command: str, timeout: float = 240) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.arguments(*command),
            cwd=self.directory,
            env=self.environment,
            capture_output=True,
            encoding="utf-8",
            timeout=timeout,
            check=False,
        )

    def start(self, *command: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self.arguments(*command),
            cwd=self.directory,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            start_new_session=True,
        )

    def report(self, study: str = "tiny") -> dict[str, Any]:
        done = self.ablate("report", study, "--json")
        assert done.returncode == 0, done.stderr
        document: dict[str, Any] = json.loads(done.stdout)
        return document


def without_times(node: object) -> object:
    """The document less everything that measures time or money."""
    if isinstance(node, dict):
        timed = ("_s", "per_second", "data_fraction", "hours", "seconds")
        return {k: without_times(v) for k, v in node.items() if k != "budget" and not k.endswith(timed)}
    if isinstance(node, list):
        return [without_times(item) for item in node]
    return node
