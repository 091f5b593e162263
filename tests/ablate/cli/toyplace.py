"""A folder with a study of the toy trainer in it, and the real commands run there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from stage import until

from ablate.execution.base import Identity
from ablate.execution.lock import holder
from ablate.ledger import Ledger, TrialRecord

TESTS = Path(__file__).parents[2]

TOY = """
study: toy
question: Do more steps add up to more?
trainer: {callable: "toy_trainer:train", set: {step_s: STEP_S, counts: COUNTS, FAULT}}
baseline: {steps: 4}
objective: {metric: probe/total, direction: maximize, smallest_effect: 0.02}
replicates: {start: 3, at_most: 3}
phases:
  - name: more
    design: one_at_a_time
    factors: {steps: [4, 6]}
  - name: most
    design: one_at_a_time
    factors: {steps: [4, 6, 8]}
"""


class Toyplace:
    """A folder, its study `toy.yaml`, and what runs in it."""

    def __init__(self, directory: Path) -> None:
        self.directory, self.runs = directory, directory / "runs"
        (directory / "counts").mkdir()
        self.broken = directory / "broken"
        self.started: list[subprocess.Popen[str]] = []
        self.environment = os.environ | {
            "PYTHONPATH": os.pathsep.join([str(TESTS.parent), str(TESTS / "contracts")]),
            "TMPDIR": str(directory),
            "COLUMNS": "200",
            "PYTHONUTF8": "1",
            "OMP_NUM_THREADS": "1",
        }

    def write(self, *, step_s: float = 0.0, fault: dict[str, Any] | None = None, more: str = "") -> None:
        """The study; a fault strikes while the file `broken` is there."""
        counts = json.dumps(str(self.directory / "counts"))
        values = {f"fault.{key}": value for key, value in {"while": str(self.broken), **(fault or {})}.items()} if fault else {}
        text = TOY.replace("STEP_S", str(step_s)).replace("COUNTS", counts)
        text = text.replace(", FAULT", "".join(f", {key}: {json.dumps(value)}" for key, value in values.items()))
        (self.directory / "toy.yaml").write_text(text + more)

    def ablate(self, *command: str, code: int | None = 0, timeout: float = 60) -> str:
        """Run a command to its end, and see that it ends with that code; what it printed."""
        done = subprocess.run(
            [sys.executable, "-m", "ablate", *command],
            cwd=self.directory,
            env=self.environment,
            capture_output=True,
            encoding="utf-8",
            timeout=timeout,
            check=False,
        )
        assert code is None or done.returncode == code, f"{done.returncode}: {done.stdout}{done.stderr}"
        return done.stdout + done.stderr

    def json(self, *command: str) -> Any:
        """What a reading command says."""
        return json.loads(self.ablate(*command, "--json"))

    def start(self, *command: str) -> subprocess.Popen[str]:
        """Start a command."""
        process = subprocess.Popen(
            [sys.executable, "-m", "ablate", *command],
            cwd=self.directory,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            start_new_session=True,
        )
        self.started.append(process)
        return process

    def ledger(self) -> Ledger:
        return Ledger(self.runs / "toy" / "ledger.db", read_only=True)

    def records(self) -> list[TrialRecord]:
        return self.ledger().trials()

    def wait_for_attempts(self, count: int) -> None:
        """Until so many attempts have begun."""
        until(lambda: len(list(self.runs.glob("trials/*/attempts/*/began.json"))) >= count)

    def wait_until_nobody_runs(self) -> None:
        until(lambda: holder(self.runs, "toy") is None)

    def end_all(self) -> None:
        """Whatever a test left behind is ended, each by its process."""
        for process in self.started:
            if process.poll() is None:
                process.kill()
                process.communicate()
        for path in [*self.runs.glob("*/controller.json"), *self.runs.glob("*/workers/*/worker.json")]:
            identity = Identity.read(path)
            if identity is not None and identity.pid != os.getpid():
                identity.kill()
