"""The one door to submitit: `python -m ablate.execution.launch [--slurm SETTINGS] WORKER_DIRECTORY...` starts a worker for each.

A process of its own, in a session of its own: a Ctrl-C or a kill that hits the controller's group reaches neither the
workers nor submitit's process beside each of them, which would kill its worker.
"""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path

import submitit

from ablate.execution.slurm import settings_of
from ablate.execution.worker import worker_main
from ablate.trial import write_atomic

FOREVER_MIN = 60 * 24 * 365
"""Submitit's own time limit; trials have theirs."""


def launch(directories: list[str]) -> None:
    """Start a worker for each directory; each gets a submitit folder of its own, because a job's id is a process number."""
    # Where the shell ignores SIGINT in background jobs, submitit could not end its tasks.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for directory in directories:
        executor = submitit.LocalExecutor(folder=Path(directory) / "submitit")
        executor.update_parameters(timeout_min=FOREVER_MIN, stderr_to_stdout=True)
        executor.submit(worker_main, directory)


def launch_slurm(settings: Path, directories: list[str]) -> None:
    """Submit a job for each directory and note its number there."""
    parameters, names = settings_of(settings)
    for directory, name in zip(directories, names, strict=True):
        executor = submitit.SlurmExecutor(folder=Path(directory) / "submitit", max_num_timeout=0)
        executor.update_parameters(**parameters, job_name=name)
        job = executor.submit(worker_main, directory)
        write_atomic(Path(directory) / "job.json", json.dumps({"job": job.job_id, "name": name}))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--slurm"]:
        launch_slurm(Path(sys.argv[2]), sys.argv[3:])
    else:
        launch(sys.argv[1:])
