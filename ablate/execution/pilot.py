"""A short timed pilot: some steps of the baseline in a process of its own, extrapolated to a whole trial.

Nothing of it counts: it runs in a folder that is deleted, and no ledger hears of it.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ablate.errors import StudyError, TrainerError
from ablate.execution.attempt import run_attempt, trainer
from ablate.execution.base import Order, thread_environment
from ablate.execution.evidence import latest_metrics
from ablate.offers import Offers
from ablate.plan import trials
from ablate.study import BASELINE, Arm, Study
from ablate.trial import Cause, TrialFiles, TrialSpec, flatten, read_outcome, write_atomic

PILOT_S = 10.0
"""From the first report on."""

LEAST_STEPS = 2
LONGEST_S = 900.0
"""With the start."""

STEP_NAMES = (
    "steps",
    "max_steps",
    "total_steps",
    "num_steps",
    "n_steps",
    "iterations",
    "max_iters",
    "num_iterations",
    "epochs",
    "max_epochs",
)
"""Last words of the settings that may say how long a trial is."""


@dataclass(frozen=True)
class Pilot:
    """What a pilot measured, and the whole trial that follows from it."""

    trial_s: float
    steps_run: int
    start_s: float
    """Until the first report, with the reading of data, without the import of the trainer: a worker imports once for many trials."""
    step_s: float | None
    """None: the trial was so short that it ended."""
    setting: str | None
    """The setting that says how many steps a trial has."""

    @property
    def said(self) -> str:
        """How it was extrapolated."""
        if self.step_s is None:
            return f"pilot: a whole trial of the baseline took {self.trial_s:.3g} s"
        return (
            f"pilot: {self.steps_run} steps of the baseline, {self.start_s:.3g} s to the first report, then {self.step_s:.3g} s a step; "
            f"with the steps of {self.setting} a trial takes {self.trial_s:.3g} s, if later steps cost what these did"
        )


def pilot(study: Study, offers: Offers, *, seconds: float = PILOT_S, setting: str | None = None) -> Pilot:
    """Run some steps of the baseline and extrapolate.

    Args:
        setting: Dotted path of the trainer's setting that says how many steps a trial has; none: one that is named so.

    Raises:
        TrainerError: The baseline does not run.
        StudyError: It cannot be told how many steps a trial has.
    """
    (planned,) = trials(Arm(name=BASELINE, levels=dict(study.baseline)), [0], offers, None)
    if setting is not None and setting not in dict(flatten(planned.spec.config)):
        raise StudyError(
            study.study, [f"--pilot-steps {setting}: the trainer has no such setting. Name the one that says how many steps it trains."]
        )
    with tempfile.TemporaryDirectory(prefix="ablate-pilot-") as folder:
        files = TrialFiles(Path(folder), planned.spec.signature)
        files.directory.mkdir(parents=True)
        write_atomic(files.spec, planned.spec.to_json(), durable=False)
        done = subprocess.run(
            [sys.executable, "-m", "ablate.execution.pilot", folder, planned.spec.signature, str(seconds)],
            env={**os.environ, **thread_environment(study.threads_per_worker)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
            check=False,
        )
        outcome = read_outcome(files.attempt(1))
        try:
            samples = json.loads((Path(folder) / "samples.json").read_text())
        except (OSError, ValueError):
            samples = []
    if outcome is not None and outcome.cause is None:
        return Pilot(outcome.seconds, len(samples), 0.0, None, None)
    if outcome is None or outcome.cause is not Cause.STOPPED or len(samples) < LEAST_STEPS:
        why = f"{outcome.cause}: {outcome.message}" if outcome is not None else f"it ended with {done.returncode}"
        raise TrainerError(f"{study.trainer.name}: the pilot of the baseline gave no time: {why}\n{done.stdout[-2000:]}".rstrip())
    return extrapolated(study.study, planned.spec.config, samples, setting)


def extrapolated(study: str, config: Mapping[str, object], samples: list[tuple[float, int]], setting: str | None) -> Pilot:
    """A whole trial from (seconds since the start, step) of each report that was seen.

    Raises:
        StudyError: It cannot be told how many steps a trial has.
    """
    (first_s, first), (last_s, last) = samples[0], samples[-1]
    flat = dict(flatten(config))
    if setting is None:
        named = {name: [path for path in flat if path.rpartition(".")[2] == name] for name in STEP_NAMES}
        fitting = [path for name in STEP_NAMES for path in named[name] if _steps(flat[path]) >= max(1, last)]
        if len({flat[path] for path in fitting}) != 1:
            found = f"{', '.join(fitting)} may all say it" if fitting else "no setting is named so"
            raise StudyError(study, [f"expected a setting that says how many steps a trial has, but {found}. Name it: --pilot-steps PATH."])
        setting = fitting[0]
    step_s = (last_s - first_s) / (last - first)
    return Pilot(first_s + step_s * max(0.0, _steps(flat[setting]) - first), last - first, first_s, step_s, setting)


def _steps(value: object) -> float:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else 0.0


def main(folder: str, signature: str, seconds: float) -> None:
    """The process of the pilot: train until there is enough to extrapolate from."""
    sys.path.insert(0, os.getcwd())
    files = TrialFiles(Path(folder), signature).attempt(1)
    spec = TrialSpec.from_json(TrialFiles(Path(folder), signature).spec.read_text())
    if spec.command is None:
        with contextlib.suppress(Exception):  # the attempt meets the same error and names it
            trainer(spec.trainer)  # a worker imports once for many trials
    began, samples, known = time.monotonic(), list[tuple[float, int]](), 0

    def asked() -> Cause | None:
        nonlocal known
        now = time.monotonic() - began
        latest = latest_metrics(files, known)
        if latest is not None:
            known, step, _ = latest
            if not samples or step > samples[-1][1]:
                samples.append((now, step))
        return Cause.STOPPED if len(samples) >= LEAST_STEPS and now - samples[0][0] >= seconds else None

    run_attempt(Order(folder, signature, 1, None, LONGEST_S), asked)
    write_atomic(Path(folder) / "samples.json", json.dumps(samples), durable=False)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], float(sys.argv[3]))
