"""Workers import the trainer while it looks at the study, and are gone where it finds that the study cannot work."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from ablate.cli.finding import begun

REPOSITORY = Path(__file__).parents[2]

TRAINER = """\
import os
from pathlib import Path

Path(__file__).with_name(f"imported-{os.getpid()}").touch()


def train(config, run):
    return {"score": config["gain"] + 0.01 * config["seed"]}
"""

LOOKS = """\
import time
from pathlib import Path


def look(config):
    until = time.monotonic() + 60
    while not list(Path(__file__).parent.glob("imported-*")):
        if time.monotonic() > until:
            raise ValueError("no worker has imported the trainer.")
        time.sleep(0.01)
    wrong = {"level": "error", "path": "gain", "what": "Too small.", "why": "It is.", "mend": "Raise it."}
    return [wrong] if config["gain"] < 0 else []
"""

STUDY = """\
study: warm
question: Is anything imported early?
workers: 2
trainer: {callable: "warm_trainer:train", preflight: "warm_looks:look", set: {gain: 0.0}}
baseline: {gain: 0.0}
objective: {metric: score, direction: maximize, smallest_effect: 0.1}
replicates: {start: 3, at_most: 3}
phases: [{name: flags, design: one_at_a_time, factors: {gain: [0.0, LEVEL]}}]
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "warm_trainer.py").write_text(TRAINER)
    (tmp_path / "warm_looks.py").write_text(LOOKS)
    return tmp_path


def run(folder: Path, level: float) -> subprocess.CompletedProcess[str]:
    (folder / "warm.yaml").write_text(STUDY.replace("LEVEL", str(level)))
    return ablate(folder, "run", "warm.yaml", "--no-mlflow")


def ablate(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "ablate", *words]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "PYTHONUTF8": "1"}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, encoding="utf-8", timeout=120, check=False)


def test_workers_import_the_trainer_while_it_looks_at_the_study(folder: Path) -> None:
    done = run(folder, 1.0)
    assert done.returncode == 0, done.stdout + done.stderr
    assert 1 <= len(list(folder.glob("imported-*"))) <= 2, "the platform itself never imports the trainer"


def test_a_refused_study_leaves_no_worker_and_starts_anew_once_mended(folder: Path) -> None:
    done = run(folder, -1.0)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "Raise it." in done.stderr
    assert not (folder / "runs" / "trials").exists()
    for imported in folder.glob("imported-*"):
        with contextlib.suppress(psutil.NoSuchProcess):
            psutil.Process(int(imported.name.partition("-")[2])).wait(timeout=60)
    said = ablate(folder, "report", "warm")
    assert said.returncode != 0
    assert "ablate run" in said.stderr
    assert "did not begin" in ablate(folder, "status", "warm").stdout
    assert not begun(folder / "runs", "warm")
    mended = run(folder, 1.0)
    assert mended.returncode == 0, mended.stdout + mended.stderr
    again = run(folder, 1.0)
    assert again.returncode == 0
    assert (folder / "runs" / "warm" / "report.html").exists()


def test_a_trainer_that_ends_the_process_on_import_is_told_as_a_failed_trial(folder: Path) -> None:
    (folder / "warm_trainer.py").write_text("import sys\n\nsys.exit(3)\n\n\ndef train(config, run):\n    return {}\n")
    (folder / "warm_looks.py").write_text("def look(config):\n    return []\n")
    done = run(folder, 1.0)
    assert done.returncode == 1, done.stdout + done.stderr
    failed = json.loads(ablate(folder, "trials", "warm", "--state", "failed", "--json").stdout)["trials"]
    assert [row["why"].partition(":")[0] for row in failed] == ["crash"] * 6
    assert {row["attempts"] for row in failed} == {3}, "as many as the study gives"
