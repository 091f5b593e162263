"""The one door to submitit: `python -m ablate.execution.launch [--tasks N] WORKER_DIRECTORY...` starts workers,
`--slurm REQUEST` submits their jobs.

A process of its own, in a session of its own: a Ctrl-C or a kill that hits the controller's group reaches neither the
workers nor submitit's process beside each of them, which would kill its worker.
"""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path

import submitit

from ablate.execution.worker import worker_main
from ablate.trial import write_atomic

FOREVER_MIN = 60 * 24 * 365
"""Submitit's own time limit; trials have theirs."""


def launch(directories: list[str], tasks: int = 1) -> None:
    """Start a worker for each directory; each gets a submitit folder of its own, because a job's id is a process number."""
    # Where the shell ignores SIGINT in background jobs, submitit could not end its tasks.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for directory in directories:
        executor = submitit.LocalExecutor(folder=Path(directory) / "submitit")
        executor.update_parameters(timeout_min=FOREVER_MIN, stderr_to_stdout=True, tasks_per_node=tasks)
        executor.submit(worker_main, directory)


def launch_slurm(request: Path) -> None:
    """Submit the jobs of a request, those with several directories as one array, and note each number in its worker's directory."""
    asked = json.loads(request.read_text())
    for job in asked["jobs"]:
        directories = job["directories"]
        executor = submitit.SlurmExecutor(folder=Path(directories[0]) / "submitit", max_num_timeout=0)
        executor.update_parameters(**asked["parameters"], job_name=job["name"])
        for directory, submitted in zip(directories, executor.map_array(worker_main, directories), strict=True):
            write_atomic(Path(directory) / "job.json", json.dumps({"job": submitted.job_id, "name": job["name"]}))


def take_over(directory: Path, name: str, number: str) -> None:
    """Finish what a launcher that was killed after Slurm took its job had left to do: without it the job would find no work.

    A job of an array cannot be helped so, because the order of its parts is lost; it ends by itself, and another one is submitted.
    """
    parts = list((directory / "submitit").glob("*.pkl"))
    if len(parts) == 1 and "_" not in number:
        submitit.core.utils.JobPaths(directory / "submitit", number).move_temporary_file(parts[0], "submitted_pickle")
        write_atomic(directory / "job.json", json.dumps({"job": number, "name": name}))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--slurm"]:
        launch_slurm(Path(sys.argv[2]))
    elif sys.argv[1:2] == ["--tasks"]:
        launch(sys.argv[3:], int(sys.argv[2]))
    else:
        launch(sys.argv[1:])
