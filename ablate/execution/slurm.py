"""Workers as jobs of Slurm, submitted by submitit.

A job is known by its name, `ablate-STUDY-WORKER`, so that one that was submitted by a controller that died before it could note the
number is found again. Slurm is asked for all jobs at once and seldom; where it does not answer, the workers' own heartbeats tell.
"""

from __future__ import annotations

import getpass
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ablate.errors import StudyError
from ablate.execution.base import Identity, WorkerFiles, thread_environment
from ablate.execution.clock import SYSTEM, Clock
from ablate.execution.lease import Liveness
from ablate.study import Slurm as Settings
from ablate.study import Study, nearest
from ablate.trial import write_atomic

ASK_S = 5.0
"""Between two questions to Slurm."""

AWAY = ("sinfo", "-h", "-t", "down,drain,fail,maint")
RETRIES = 5

PATIENCE_S = 20.0
"""Longest wait for an answer."""

WARN_S = 90
"""Slurm tells a worker so long before its end: its trial saves a checkpoint."""

WAITING = ("PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "SUSPENDED", "RESV_DEL_HOLD", "SPECIAL_EXIT")


@dataclass(frozen=True)
class Job:
    """A job as Slurm has it."""

    number: str
    state: str
    reason: str


class Slurm:
    """One job a worker; a requeued job finds that its worker was there before, and leaves."""

    def __init__(self, study: Study, silence_s: float, clock: Clock = SYSTEM) -> None:
        self._study, self._clock = study, clock
        self._environment = {**os.environ, **thread_environment(study.threads_per_worker)}
        self._liveness = Liveness(silence_s, clock)
        self._launchers: dict[str, subprocess.Popen[bytes]] = {}
        self._jobs: dict[str, Job] | None = None
        self._known: dict[str, WorkerFiles] = {}
        self._seen: set[str] = set()
        """Jobs that Slurm had when it was last asked, or before."""
        self._asked = -ASK_S

    def name(self, worker: WorkerFiles) -> str:
        """Of a worker's job."""
        return f"ablate-{self._study.study}-{worker.id}"

    def submit(self, workers: Sequence[WorkerFiles]) -> None:
        """Submit a job for each directory, from a process of its own that a Ctrl-C does not reach."""
        request = workers[0].directory / "slurm.json"
        given = {"parameters": parameters(self._study), "names": [self.name(worker) for worker in workers]}
        write_atomic(request, json.dumps(given), durable=False)
        directories = [str(worker.directory.resolve()) for worker in workers]
        command = [sys.executable, "-m", "ablate.execution.launch", "--slurm", str(request.resolve()), *directories]
        with workers[0].log.open("ab") as log:
            launcher = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self._environment, start_new_session=True
            )
        self._launchers |= {worker.id: launcher for worker in workers}
        self._known |= {self.name(worker): worker for worker in workers}

    def poll(self) -> None:
        """Ask Slurm for this study's jobs, now and then."""
        for launcher in self._launchers.values():
            launcher.poll()
        if self._clock.now_s() - self._asked >= ASK_S:
            self._asked = self._clock.now_s()
            submitted = {name for name, worker in self._known.items() if (worker.directory / "job.json").exists()}
            self._jobs = jobs_of()
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
        waiting = [job.number for name, job in (jobs_of() or {}).items() if name in self._known and job.state in WAITING]
        if waiting:
            answered(["scancel", *waiting])

    def pending(self, worker: WorkerFiles) -> str | None:
        """Why Slurm did not start the job of this worker yet, or cannot say; None: it did, or has no such job."""
        name = self.name(worker)
        job = (self._jobs or {}).get(name)
        if job is not None:
            self._known[name] = worker
            return job.reason or job.state if job.state in WAITING else None
        launcher = self._launchers.get(worker.id)
        if launcher is not None and launcher.poll() is None:
            return "it is being submitted"
        if not (worker.directory / "job.json").exists():
            return None
        if self._jobs is None:
            return "Slurm does not answer"
        return "it was submitted" if launcher is not None and name not in self._seen else None

    def failure(self, worker: WorkerFiles) -> str | None:
        """Why a worker will not report: it could not be submitted, or its job ended before it came to it."""
        launcher = self._launchers.get(worker.id)
        if launcher is not None and launcher.poll() not in (None, 0):
            log = f"{worker.directory.parent}/*/log.txt"
            return f"submitting it to Slurm ended with {launcher.returncode}: {_last_line(worker)} Log: {log}"
        if self._over(worker):
            return f"its job ended before it came to it. Log: {worker.directory}/submitit"
        return None

    def alive(self, worker: WorkerFiles) -> bool:
        """Whether the process that reported still runs: by its heartbeat, unless Slurm knows that its job is over."""
        return not self._over(worker) and self._liveness.alive(worker)

    def _over(self, worker: WorkerFiles) -> bool:
        """Slurm had its job, and has it no more."""
        name = self.name(worker)
        self._known[name] = worker
        return name in self._seen and self._jobs is not None and name not in self._jobs

    def cancel(self, worker: WorkerFiles) -> None:
        """End the worker's job now."""
        job = (self._jobs or jobs_of() or {}).get(self.name(worker))
        if job is not None:
            answered(["scancel", job.number])
        identity = Identity.read(worker.identity)
        if identity is not None:
            identity.kill()


def parameters(study: Study) -> dict[str, Any]:
    """What submitit is asked for, for one worker."""
    slurm = study.slurm
    asked: dict[str, Any] = {
        "time": slurm.time_min,
        "cpus_per_task": study.threads_per_worker,
        "signal_delay_s": WARN_S,
        "stderr_to_stdout": True,
        "additional_parameters": {"no_requeue": True, **slurm.additional},
    }
    optional = {
        "partition": slurm.partition,
        "account": slurm.account,
        "qos": slurm.qos,
        "gpus_per_node": slurm.gpus_per_worker or None,
        "mem": None if slurm.mem_gib is None else f"{round(slurm.mem_gib * 1024)}M",
    }
    return asked | {key: value for key, value in optional.items() if value is not None}


def check(study: Study) -> None:
    """Hold the settings against this cluster before anything is submitted; a Slurm that does not answer now says nothing.

    Raises:
        StudyError: Every problem, each with its mend.
    """
    missing = [name for name in ("sbatch", "squeue", "scancel") if shutil.which(name) is None]
    if missing:
        expected = f"executor: expected Slurm's commands but {', '.join(missing)} are not on this machine"
        raise StudyError(study.study, [f"{expected}. Run it where jobs are submitted from, or set executor=local."])
    problems = []
    limits = partition_limits()
    if not limits:
        return
    named = None if study.slurm.partition is None else [name.strip() for name in study.slurm.partition.split(",")]
    for name in named or []:
        if name not in limits:
            problems.append(f"slurm.partition: expected one of {', '.join(sorted(limits))} but got {name}.{nearest(name, sorted(limits))}")
    wanted = [name for name, (_, default) in limits.items() if (default if named is None else name in named)]
    bounds = [bound for bound in (limits[name][0] for name in wanted) if bound is not None]
    if bounds and len(bounds) == len(wanted) and study.slurm.time_min > max(bounds):
        # Slurm takes such a job and never starts it.
        whose = f"the limit of {', '.join(wanted)}"
        problems.append(f"slurm.time_min: expected at most {max(bounds):g} ({whose}) but got {study.slurm.time_min}. Lower it.")
    refused = None if problems else _refused(study)
    if refused is not None:
        problems.append(f"slurm: expected settings that this cluster takes but sbatch says: {refused}. Change them under `slurm:`.")
    if problems:
        raise StudyError(study.study, problems)


def _refused(study: Study) -> str | None:
    """What sbatch has against a worker's options; None: nothing.

    Nodes that are down or drained for now, or were a moment ago, make it say that no node fits; such a job waits and starts later.
    """
    for _ in range(RETRIES):
        command = ["sbatch", "--test-only", *options(study), "--wrap", "true"]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, encoding="utf-8", timeout=60, check=False)
        said = " ".join(done.stderr.split())
        if done.returncode == 0 or ("configuration is not available" in said and answered([*AWAY, "-o", "%n"])):
            return None
        if "configuration is not available" not in said:
            break
        time.sleep(1.0)
    return said


def partition_limits() -> dict[str, tuple[float | None, bool]]:
    """Longest time of a job in minutes (none: no limit) and whether it is the default, by partition; empty where Slurm does not answer."""
    found = {}
    for line in (answered(["sinfo", "-h", "-o", "%P|%l"]) or "").splitlines():
        name, limit = line.split("|")
        found[name.rstrip("*")] = (minutes_of(limit), name.endswith("*"))
    return found


def minutes_of(limit: str) -> float | None:
    """Slurm's `[days-]hours:minutes:seconds` or `minutes:seconds`; none for `infinite`."""
    days, _, rest = limit.rpartition("-")
    parts = rest.split(":")
    if not all(part.isdigit() for part in [*parts, days or "0"]):
        return None
    seconds = sum(int(part) * (1, 60, 3600)[power] for power, part in enumerate(reversed(parts)))
    return int(days or 0) * 1440 + seconds / 60


def options(study: Study) -> list[str]:
    """The same settings as sbatch's own words."""
    slurm = study.slurm
    named = {
        "time": slurm.time_min,
        "signal": f"USR2@{WARN_S}",
        "no-requeue": True,
        "cpus-per-task": study.threads_per_worker,
        "partition": slurm.partition,
        "account": slurm.account,
        "qos": slurm.qos,
        "gpus-per-node": slurm.gpus_per_worker or None,
        "mem": None if slurm.mem_gib is None else f"{round(slurm.mem_gib * 1024)}M",
        **{key.replace("_", "-"): value for key, value in slurm.additional.items()},
    }
    return [f"--{key}" if value is True else f"--{key}={value}" for key, value in named.items() if value is not None and value is not False]


def jobs_of() -> dict[str, Job] | None:
    """This user's jobs of any study that wait or run, by name; None where Slurm does not answer."""
    told = answered(["squeue", "-h", "-r", "-u", getpass.getuser(), "-o", "%i|%T|%r|%j"])
    if told is None:
        return None
    found = {}
    for line in told.splitlines():
        number, state, reason, name = line.split("|", 3)
        if name.startswith("ablate-") and state != "COMPLETING":
            found[name] = Job(number, state, "" if reason == "None" else reason)
    return found


def answered(command: Sequence[str], patience_s: float = PATIENCE_S) -> str | None:
    """What one of Slurm's commands prints; None where it fails or does not answer in time."""
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, encoding="utf-8", timeout=patience_s, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


def _last_line(worker: WorkerFiles) -> str:
    try:
        lines = worker.log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    except OSError:
        return ""
    return lines[-1].strip() if lines else ""


def settings_of(path: Path) -> tuple[dict[str, Any], list[str]]:
    """What `submit` wrote for the launcher: parameters, and a name for each job."""
    given = json.loads(path.read_text())
    return given["parameters"], given["names"]


__all__ = ["Job", "Settings", "Slurm", "check", "jobs_of", "options", "parameters", "settings_of"]
