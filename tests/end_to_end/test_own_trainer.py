"""The examples as their readers run them: a plain script and a Hydra application, neither of which knows of us."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from workplace import REPOSITORY

from ablate.trial import AttemptFiles, read_metrics

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("own_trainer")]


class Bench:
    """A folder with the examples in it, and the commands run there."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        shutil.copytree(REPOSITORY / "examples", directory / "examples")
        self.environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1", "COLUMNS": "200"}

    def start(self, *command: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "ablate", *command],
            cwd=self.directory,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
            start_new_session=True,
        )

    def ablate(self, *command: str) -> str:
        process = self.start(*command)
        output = process.communicate(timeout=240)[0]
        assert process.returncode == 0, output
        return output

    def report(self, study: str) -> dict[str, Any]:
        document: dict[str, Any] = json.loads(self.ablate("report", study, "--json"))
        return document

    def commands(self) -> list[psutil.Process]:
        """Running programs of the trials below this folder."""
        found = []
        for process in psutil.process_iter():
            try:
                line = process.cmdline()
            except psutil.Error:
                continue
            if any(word in ("train.py", "app.py") for word in line) and any(str(self.directory) in word for word in line):
                found.append(process)
        return found

    def attempts(self) -> list[Path]:
        return sorted((self.directory / "runs/trials").glob("*/attempts/*"))

    def halfway(self) -> list[Path]:
        """Attempts that have reported something and not ended."""
        begun = [attempt for attempt in self.attempts() if (attempt / "metrics.jsonl").exists() and not (attempt / "outcome.json").exists()]
        return [attempt for attempt in begun if len(steps_of(attempt)) > 5]


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def until(holds: Callable[[], object], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.01)


def steps_of(attempt: Path) -> list[int]:
    """Steps of the stream as all read it: one that was told, but not saved before the kill, is told again and counts once."""
    return [step for step, metrics in read_metrics(AttemptFiles(attempt)) if metrics.keys() & {"train/loss", "train/mse"}]


def test_a_hydra_application_is_ablated_as_it_is(bench: Bench) -> None:
    output = bench.ablate("run", "examples/hydra_app/study.yaml", "--no-mlflow")
    assert "winner of cures: features=4" in output
    verdicts = {arm["name"]: arm["verdict"] for arm in bench.report("hydra_app")["phases"][0]["arms"]}
    assert verdicts["features=4"] == "adopt"
    overrides = [(a / "command/.hydra/overrides.yaml").read_text() for a in bench.attempts()]
    assert sum("model.features=4" in text for text in overrides) == 2 * 3, (
        "the application itself says what it was given, in its phase and where it is confirmed"
    )
    assert all(steps_of(attempt) == list(range(30, 301, 30)) for attempt in bench.attempts())
    assert not bench.commands()


def test_a_plain_script_goes_on_from_its_checkpoint_after_its_worker_was_killed(bench: Bench) -> None:
    study = ["examples/plain_torch/study.yaml", "--no-mlflow", "trainer.set.steps=2000"]
    controller = bench.start("run", *study)
    until(bench.halfway)
    killed = bench.halfway()[0]
    running = next(process for process in bench.commands() if any(str(killed) in word for word in process.cmdline()))
    worker = next(p for p in running.parents() if "submitit" in " ".join(p.cmdline()))
    worker.kill()
    until(lambda: not running.is_running() or running.status() == psutil.STATUS_ZOMBIE)
    output = controller.communicate(timeout=240)[0]
    assert controller.returncode == 0, output
    assert "winner of cures: activation=tanh" in output
    second = killed.with_name("0002")
    first_line = (second / "log.txt").read_text(encoding="utf-8").splitlines()[0]
    assert f"--resume {second}/command/checkpoint.pt" in first_line
    assert "step 20 loss" not in (second / "log.txt").read_text(encoding="utf-8"), "it did not begin anew"
    assert steps_of(second) == list(range(20, 2001, 20))


def test_a_stopped_study_keeps_the_checkpoints_of_its_commands(bench: Bench) -> None:
    controller = bench.start("run", "examples/plain_torch/study.yaml", "--no-mlflow", "trainer.set.steps=100000")
    until(bench.halfway)
    os.killpg(controller.pid, signal.SIGINT)
    output = controller.communicate(timeout=60)[0]
    assert controller.returncode == 3, output
    until(lambda: not bench.commands())
    [attempt] = [a for a in bench.attempts() if (a / "outcome.json").exists()]
    assert json.loads((attempt / "outcome.json").read_text())["cause"] == "stopped"
    assert (attempt / "command/checkpoint.pt").exists()
