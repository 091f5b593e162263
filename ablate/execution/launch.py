"""The one door to submitit: `python -m ablate.execution.launch WORKER_DIRECTORY...` starts a worker for each.

A process of its own, in a session of its own: a Ctrl-C or a kill that hits the controller's group reaches neither the
workers nor submitit's process beside each of them, which would kill its worker.
"""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import submitit

from ablate.execution.worker import worker_main

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


if __name__ == "__main__":
    launch(sys.argv[1:])
