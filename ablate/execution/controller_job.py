"""A controller as a job of Slurm: `python -m ablate.execution.controller_job STUDY_DIRECTORY COMMAND...` is what the job runs.

It starts `ablate COMMAND` and passes signals on. A study goes on where it stopped, so the job may be requeued at will: Slurm does it
after a preemption or when the node is lost, and the job itself when its time limit is near.
"""

from __future__ import annotations

import contextlib
import getpass
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from types import FrameType

from ablate.errors import Interrupted, StudyError
from ablate.execution import sbatch, scheduler
from ablate.execution.base import Identity
from ablate.execution.scheduler import ENDING
from ablate.study import ControllerJob, Study
from ablate.trial import write_atomic

WARN_S = 180
"""Slurm tells the job so long before its end, at most a quarter of its time: trials save checkpoints then."""

LOOK_S = 5.0
"""Between two questions to Slurm of those who look on."""

PATIENCE_S = 3.0
"""They do not wait longer for an answer."""

GONE_S = 10.0
"""How long a job that is taken back may take to go."""

SCRIPT = '#!/bin/sh\nexec "$@"\n'
"""Sbatch wants a script; the command comes as arguments, so that no word of it is read by a shell."""


@dataclass(frozen=True)
class Queued:
    """A controller's job as Slurm has it."""

    number: str
    state: str
    reason: str

    @property
    def waits(self) -> bool:
        """Whether it is still to be started, or started again."""
        return self.state in scheduler.WAITING

    @property
    def ends(self) -> bool:
        """Whether it was ended and is not gone yet; one that asked for it stands in the queue again then."""
        return self.state == ENDING


def submit(study: Study, job: ControllerJob, directory: Path, arguments: Sequence[str]) -> str:
    """Submit `ablate ARGUMENTS`, its output to `controller.log`.

    Returns:
        The job's number.

    Raises:
        StudyError: Slurm does not take the workers' settings or the controller's; all that is known of it.
    """
    sbatch.check(study)
    asked = _as_workers(study, job)
    try:
        sbatch.check(asked)
    except StudyError as error:
        raise StudyError(error.where, [problem.replace("slurm", "slurm.controller", 1) for problem in error.problems]) from error
    directory.mkdir(parents=True, exist_ok=True)
    script, log = (directory / "controller.sh").resolve(), str((directory / "controller.log").resolve()).replace("%", "%%")
    script.write_text(SCRIPT)
    own = {
        "job-name": f"ablate-{study.study}-controller",
        "signal": f"B:USR1@{min(WARN_S, job.time_min * 15)}",
        "output": log,
        "open-mode": "append",
    }
    command = ["sbatch", "--parsable", *sbatch.options(asked), "--requeue", *(f"--{key}={value}" for key, value in own.items())]
    command += [str(script), sys.executable, "-m", "ablate.execution.controller_job", str(directory.resolve()), *arguments]
    done = subprocess.run(
        command, env=outside(os.environ), stdin=subprocess.DEVNULL, capture_output=True, encoding="utf-8", timeout=60, check=False
    )
    if done.returncode != 0:
        said = " ".join(done.stderr.split())
        raise StudyError(study.study, [f"slurm.controller: expected settings that this cluster takes but sbatch says: {said}."])
    return done.stdout.strip().partition(";")[0]


def _as_workers(study: Study, job: ControllerJob) -> Study:
    """The study whose workers would be what the controller's job is, so that both are checked and worded by the same code."""
    changes = {"time_min": job.time_min, "mem_gib": job.mem_gib, "gpus_per_worker": 0, "nodes_per_worker": 1, "additional": job.additional}
    partition = job.partition or study.slurm.partition
    settings = study.slurm.model_copy(update={**changes, "partition": partition})
    return study.model_copy(update={"slurm": settings, "threads_per_worker": job.cpus, "tasks_per_trial": 1})


def outside(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment as outside of any job: jobs submitted from within one must not take its memory, CPUs and tasks for their own."""
    kept = ("SLURM_CONF", "SLURM_CLUSTERS")
    return {name: value for name, value in environment.items() if name in kept or not name.startswith("SLURM_")}


def queued(number: str) -> Queued | None:
    """The job where it waits or runs; None where it is over.

    Raises:
        TimeoutError: Slurm does not answer.
    """
    found = _queue(int(time.monotonic() / LOOK_S))
    if found is None:
        raise TimeoutError("Slurm does not answer")
    return found.get(number)


@lru_cache(1)
def _queue(_turn: int) -> dict[str, Queued] | None:
    """Controllers' jobs by number, asked for once a turn."""
    told = scheduler.answered(["squeue", "-h", "-u", getpass.getuser(), "-o", "%i|%T|%r|%j"], PATIENCE_S)
    if told is None:
        return None
    jobs = [Queued(*line.split("|")[:3]) for line in told.splitlines() if line.endswith("-controller")]
    return {job.number: job for job in jobs}


def cancel(number: str) -> None:
    """Take the job back, and wait until it is gone."""
    scheduler.answered(["scancel", number])
    until, gone = time.monotonic() + GONE_S, False
    while not gone and time.monotonic() < until:
        time.sleep(0.1)
        _queue.cache_clear()
        with contextlib.suppress(TimeoutError):
            found = queued(number)
            gone = found is None or found.ends


def within(directory: Path, number: str) -> Identity | None:
    """The controller's process inside of the job; none before it was started, or after it was told to end."""
    try:
        same = json.loads(_file(directory).read_text())["job"] == number
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return Identity.read(_file(directory)) if same else None


def _file(directory: Path) -> Path:
    return directory / "controller.within.json"


def main(directory: Path, arguments: Sequence[str]) -> int:
    """The job: run the controller, and stand in the queue again where the time was too short.

    Returns:
        The controller's exit code.
    """
    # SIGUSR1: its time limit is near, or where the cluster says so, it is preempted. SIGTERM: it shall end.
    number, heard = os.environ["SLURM_JOB_ID"], list[int]()
    controller: subprocess.Popen[bytes] | None = None

    def hear(given: int, _: FrameType | None) -> None:
        heard.append(given)
        if controller is not None:
            end(controller)

    def end(process: subprocess.Popen[bytes]) -> None:
        _file(directory).unlink(missing_ok=True)  # it may come back: whoever looks on waits until the job is gone or there again
        process.send_signal(signal.SIGTERM)

    for given in (signal.SIGUSR1, signal.SIGTERM):
        signal.signal(given, hear)
    started = subprocess.Popen([sys.executable, "-m", "ablate", *arguments], env=outside(os.environ), stdin=subprocess.DEVNULL)
    write_atomic(_file(directory), json.dumps({"job": number, **asdict(Identity.of(started.pid))}), durable=False)
    controller = started
    if heard:
        end(started)
    code = started.wait()
    if signal.SIGUSR1 in heard and code == Interrupted.exit_code:
        print(f"Slurm takes its place away: job {number} stands in the queue again and will go on.", flush=True)
        scheduler.answered(["scontrol", "requeue", number])
    return code


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2:]))
