"""Workers as processes of this machine, started by submitit."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence

from ablate.execution.base import WorkerFiles, thread_environment
from ablate.execution.lease import Liveness


class Local:
    """Starts workers through `launch`; a worker is known by the identity that it writes, never by submitit's job."""

    def __init__(self, threads_per_worker: int, silence_s: float, tasks: int = 1) -> None:
        self._tasks = tasks
        self._environment = {**os.environ, **thread_environment(threads_per_worker)}
        self._liveness = Liveness(silence_s)
        self._launchers: dict[str, subprocess.Popen[bytes]] = {}

    def submit(self, workers: Sequence[WorkerFiles]) -> None:
        """Start a worker for each directory."""
        command = [
            sys.executable,
            "-m",
            "ablate.execution.launch",
            "--tasks",
            str(self._tasks),
            *(str(worker.directory.resolve()) for worker in workers),
        ]
        with workers[0].log.open("ab") as log:
            launcher = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self._environment, start_new_session=True
            )
        self._launchers |= {worker.id: launcher for worker in workers}

    def close(self) -> None:
        """Collect the launchers, which end by themselves; their workers were told to leave."""
        for launcher in self._launchers.values():
            try:
                launcher.wait(timeout=10)
            except subprocess.TimeoutExpired:
                launcher.kill()
                launcher.wait()

    def poll(self) -> None:
        """Processes work by themselves; only launchers that ended are collected."""
        for launcher in self._launchers.values():
            launcher.poll()

    def pending(self, worker: WorkerFiles) -> str | None:
        """Nobody waits for a process of this machine."""
        return None

    def coming(self, worker: WorkerFiles) -> bool:
        """Nobody can tell; one that comes finds that it is not wanted."""
        return False

    def failure(self, worker: WorkerFiles) -> str | None:
        """Why a worker will not report: its launcher failed."""
        launcher = self._launchers.get(worker.id)
        if launcher is None or launcher.poll() in (None, 0):
            return None
        return f"starting it through submitit ended with {launcher.returncode}. Log: {worker.directory.parent}/*/log.txt"

    def alive(self, worker: WorkerFiles) -> bool:
        """Whether the process that reported still runs."""
        return self._liveness.alive(worker)

    def cancel(self, worker: WorkerFiles) -> None:
        """Kill the worker and what it started, if it runs on this host."""
        for identity in worker.identities():
            identity.kill()
