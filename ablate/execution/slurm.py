"""Workers as jobs of Slurm, submitted by submitit.

A job is known by its name, `ablate-STUDY-WORKER`, so that one that was submitted by a controller that died before it could note the
number is found again. Slurm is asked for all jobs at once, seldom, and on a thread of its own; where it does not answer, the workers'
own heartbeats tell.
"""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from ablate.execution import sbatch, scheduler
from ablate.execution.base import WorkerFiles, thread_environment
from ablate.execution.clock import SYSTEM, Clock
from ablate.execution.lease import Liveness
from ablate.execution.scheduler import ENDING, WAITING, Aside, Job
from ablate.study import Study
from ablate.trial import write_atomic

ASK_S = 5.0
"""Between two questions to Slurm."""

MOST_IN_ARRAY = 1000
"""Jobs in one array: Slurm's own bound where a cluster sets no other."""


class Slurm:
    """One job a worker; a requeued job finds that its worker was there before, and leaves."""

    def __init__(self, study: Study, silence_s: float, clock: Clock = SYSTEM) -> None:
        self._study, self._clock = study, clock
        self._environment = {**os.environ, **thread_environment(study.threads_per_worker)}
        self._liveness = Liveness(silence_s, clock)
        self._launchers: dict[str, subprocess.Popen[bytes]] = {}
        self._jobs: dict[str, Job] | None = None
        self._keys: dict[str, str] = {}
        """Of the jobs, by worker."""
        self._known: dict[str, WorkerFiles] = {}
        """The other way round, of the workers that this controller has to do with."""
        self._seen: set[str] = set()
        """Jobs that Slurm had when it was last asked, or before."""
        self._under_way: set[str] = set()
        """Jobs whose submission this controller saw going on."""
        self._unwanted: set[str] = set()
        self._asked = -ASK_S
        self._asking: tuple[Aside[dict[str, Job] | None], set[str]] | None = None
        self._cancelling: Aside[None] | None = None

    def submit(self, workers: Sequence[WorkerFiles]) -> None:
        """Submit a job for each directory, from a process of its own that a Ctrl-C does not reach.

        Each directory says beforehand by what name its job will be found, and by which lock one sees that submitting is still under
        way: the launcher holds it from before it exists until it ends, so that whoever comes after a killed controller can tell.
        """
        together = MOST_IN_ARRAY if self._study.slurm.array else 1
        groups = [list(workers[i : i + together]) for i in range(0, len(workers), together)]
        lock = workers[0].directory / "launching"
        for group in groups:
            name = f"ablate-{self._study.study}-{group[0].id}"
            for index, worker in enumerate(group):
                key = scheduler.key_of(name, index if len(group) > 1 else None)
                write_atomic(_note(worker), json.dumps({"job": key, "launcher": workers[0].id}), durable=False)
                self._keys[worker.id] = key
                self._known[key] = worker
                self._under_way.add(key)
        request = workers[0].directory / "request.json"
        asked = [{"name": f"ablate-{self._study.study}-{group[0].id}", "directories": [_path(one) for one in group]} for group in groups]
        write_atomic(request, json.dumps({"parameters": sbatch.parameters(self._study), "jobs": asked}), durable=False)
        command = [sys.executable, "-m", "ablate.execution.launch", "--slurm", str(request.resolve())]
        held = os.open(lock, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(held, fcntl.LOCK_EX)
            with workers[0].log.open("ab") as log:
                launcher = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    env=self._environment,
                    start_new_session=True,
                    pass_fds=[held],
                )
        finally:
            os.close(held)  # the launcher's own copy keeps it
        self._launchers |= {worker.id: launcher for worker in workers}

    def poll(self) -> None:
        """Ask Slurm for this study's jobs, now and then, and end those that are not wanted; never waits, but for the very first answer."""
        for launcher in self._launchers.values():
            launcher.poll()
        if self._asking is not None and self._asking[0].wait():
            self._hear(*self._asking)
        if self._asking is None and self._clock.now_s() - self._asked >= ASK_S:
            first, self._asked = self._asked < 0, self._clock.now_s()
            submitted = {key for key, worker in self._known.items() if _number(worker).exists()}
            self._asking = Aside(scheduler.jobs_of), submitted
            if first and self._asking[0].wait(scheduler.PATIENCE_S + 1):
                self._hear(*self._asking)
        if self._unwanted and (self._cancelling is None or self._cancelling.wait()):
            keys, self._unwanted = self._unwanted, set()
            self._cancelling = Aside(lambda: scheduler.cancel(keys))

    def _hear(self, asking: Aside[dict[str, Job] | None], submitted: set[str]) -> None:
        self._asking, self._jobs = None, asking.answer
        if self._jobs is not None:
            self._seen |= self._jobs.keys() | submitted

    def close(self) -> None:
        """Collect the launchers; this fleet's jobs that still wait in the queue are taken back."""
        for launcher in self._launchers.values():
            try:
                launcher.wait(timeout=30)
            except subprocess.TimeoutExpired:
                launcher.kill()
                launcher.wait()
        if self._cancelling is not None:
            self._cancelling.wait(2 * scheduler.PATIENCE_S)
        if not self._known:
            return
        for key, job in (scheduler.jobs_of() or {}).items():
            if key in self._known and job.state in WAITING:
                self._unwanted.add(key)
        if self._unwanted:
            scheduler.cancel(self._unwanted)

    def pending(self, worker: WorkerFiles) -> str | None:
        """Why Slurm did not start the job of this worker yet, or cannot say; None: it did, or has no such job."""
        key = self._key(worker)
        job = (self._jobs or {}).get(key)
        if self._launching(worker):
            self._under_way.add(key)
            return "it is being submitted"
        if job is not None:
            if not _number(worker).exists():
                self._take_over(worker, key, job)
            return job.reason or job.state if job.state in WAITING else None
        if not _number(worker).exists():
            return None
        if self._jobs is None:
            return "Slurm does not answer"
        return "it was submitted" if key in self._under_way and key not in self._seen else None

    def coming(self, worker: WorkerFiles) -> bool:
        """Whether its job waits, starts, or is being submitted."""
        waits, job = self.pending(worker), (self._jobs or {}).get(self._key(worker))
        return waits is not None or (job is not None and job.state != ENDING)

    def failure(self, worker: WorkerFiles) -> str | None:
        """Why a worker will not report: it could not be submitted, or its job ended before it came to it."""
        launcher = self._launchers.get(worker.id)
        if launcher is not None and launcher.poll() not in (None, 0) and self._key(worker) not in (self._jobs or {}):
            log = f"{worker.directory.parent}/*/log.txt"
            return f"submitting it to Slurm ended with {launcher.returncode}: {_last_line(worker)} Log: {log}"
        if self._over(worker, ENDING):
            return f"its job ended before it came to it. Log: {worker.directory}/submitit"
        return None

    def alive(self, worker: WorkerFiles) -> bool:
        """Whether the process that reported still runs: by its heartbeat, unless Slurm knows that its job is over."""
        return not self._over(worker) and self._liveness.alive(worker)

    def cancel(self, worker: WorkerFiles) -> None:
        """End the worker's job: with all others that are to end, in one call at the next turn."""
        self._unwanted.add(self._key(worker))
        for identity in worker.identities():
            identity.kill()

    @staticmethod
    def _take_over(worker: WorkerFiles, key: str, job: Job) -> None:
        from ablate.execution.launch import take_over  # seldom needed, and submitit comes with it

        take_over(worker.directory, key, job.number)

    def _over(self, worker: WorkerFiles, *states: str) -> bool:
        """Slurm had its job, and has it no more, or in one of these states."""
        key = self._key(worker)
        if key not in self._seen or self._jobs is None:
            return False
        return key not in self._jobs or self._jobs[key].state in states

    def _key(self, worker: WorkerFiles) -> str:
        """By what its job is found."""
        if worker.id not in self._keys:
            said = _read(_note(worker)).get("job")
            self._keys[worker.id] = said or f"ablate-{self._study.study}-{worker.id}"
        key = self._keys[worker.id]
        self._known[key] = worker
        return key

    def _launching(self, worker: WorkerFiles) -> bool:
        """Whether its job is still being submitted, by this controller's launcher or by one that an earlier controller left."""
        launcher = self._launchers.get(worker.id)
        if launcher is not None:
            return launcher.poll() is None
        try:
            handle = os.open(worker.directory.parent / _read(_note(worker)).get("launcher", "") / "launching", os.O_RDONLY)
        except OSError:
            return False
        try:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(handle)
        return False


def _note(worker: WorkerFiles) -> Path:
    """What the worker's job will be known by; written before it is submitted."""
    return worker.directory / "slurm.json"


def _number(worker: WorkerFiles) -> Path:
    """The number that Slurm gave the job; written by the launcher."""
    return worker.directory / "job.json"


def _read(note: Path) -> dict[str, str]:
    try:
        return {str(key): str(value) for key, value in json.loads(note.read_text()).items()}
    except (OSError, ValueError, AttributeError):
        return {}


def _path(worker: WorkerFiles) -> str:
    return str(worker.directory.resolve())


def _last_line(worker: WorkerFiles) -> str:
    try:
        lines = worker.log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    except OSError:
        return ""
    return lines[-1].strip() if lines else ""
