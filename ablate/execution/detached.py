"""A controller in the background: who it is from its start on, before it holds the study's lock."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from ablate.execution import controller_job
from ablate.execution.base import Identity
from ablate.execution.lock import holder, last_holder
from ablate.study import Study
from ablate.trial import write_atomic

STARTING = "starting in the background"


@dataclass(frozen=True)
class Detached:
    """`runs/<study>/`, seen as the place of a controller in the background."""

    directory: Path

    @property
    def log(self) -> Path:
        """What it prints."""
        return self.directory / "controller.log"

    @property
    def identity(self) -> Path:
        """Which process was started, or which job was submitted; it may have ended since."""
        return self.directory / "controller.json"

    def start(self, study: Study, arguments: Sequence[str]) -> str:
        """Start `ablate ARGUMENTS` where the study says, its output in the log: a process of this machine, or a job of Slurm.

        Returns:
            Which one, in words.

        Raises:
            StudyError: Slurm does not take the job.
        """
        job = study.slurm.controller if study.executor == "slurm" else None
        if job is not None:
            number = controller_job.submit(study, job, self.directory, arguments)
            write_atomic(self.identity, json.dumps({"job": number}), durable=False)
            return f"job {number} of Slurm"
        return f"process {self._start_here(arguments)}"

    def _start_here(self, arguments: Sequence[str]) -> int:
        self.directory.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            log.write(f"\n$ ablate {' '.join(arguments)}\n".encode())
            log.flush()
            process = subprocess.Popen(
                [sys.executable, "-m", "ablate", *arguments], stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        process.returncode = 0  # not waited for: it outlives this process
        Identity.of(process.pid).write(self.identity)
        return process.pid

    def starting(self) -> str | None:
        """In words, where it was started and does not hold the study yet; none after that: its report may still be on the way."""
        job = self._job()
        if job is None:
            return None if self._before_it_began() is None else STARTING
        if holder(self.directory.parent, self.directory.name) is not None:
            return None
        try:
            found = controller_job.queued(job)
        except TimeoutError as silent:
            return None if self._held(controller_job.within(self.directory, job)) else f"job {job} was submitted; {silent}"
        if found is None or (not found.waits and self._held(controller_job.within(self.directory, job))):
            return None
        if found.waits:
            return f"job {job} waits in Slurm's queue ({found.reason})"
        return f"job {job} of Slurm {'ends or stands in its queue again' if found.ends else 'is starting'}"

    def end_before_it_began(self) -> bool:
        """End it while it waits, or only reads and checks; whether there was one."""
        job = self._job()
        if job is not None:
            found = self.starting() is not None
            if found:
                controller_job.cancel(job)
            return found
        process = self._before_it_began()
        if process is None:
            return False
        try:
            os.kill(process.pid, signal.SIGTERM)
            process.wait(10)
        except (OSError, psutil.Error):
            return False
        return True

    def _before_it_began(self) -> psutil.Process | None:
        identity = Identity.read(self.identity)
        process = identity.process() if identity is not None and identity.here else None
        if process is None or holder(self.directory.parent, self.directory.name) is not None:
            return None
        return None if self._held(identity) else process

    def _held(self, identity: Identity | None) -> bool:
        """Whether it is the process that held the study last."""
        last = last_holder(self.directory)
        return identity is not None and (identity.pid, identity.host) == (last["pid"], last["host"])

    def _job(self) -> str | None:
        """The number of its job, where it is one."""
        try:
            values = json.loads(self.identity.read_text())
            return str(values["job"]) if "job" in values else None
        except (OSError, ValueError, TypeError):
            return None
