"""What a worker's job asks of Slurm, in submitit's words and in sbatch's, held against the cluster before anything is submitted."""

from __future__ import annotations

import shutil
import subprocess
import time
from typing import Any

from ablate.errors import StudyError
from ablate.execution.scheduler import answered, partition_limits
from ablate.study import Study, nearest

AWAY = ("sinfo", "-h", "-t", "down,drain,fail,maint")
RETRIES = 5

WARN_S = 90
"""A worker ends its trial so long before the end of its job, at most a quarter of its time: the trial saves a checkpoint."""


def warn_s(time_min: int) -> int:
    """How long before its end a job of such a time limit is warned."""
    return min(WARN_S, time_min * 15)


def parameters(study: Study) -> dict[str, Any]:
    """What submitit is asked for, for one worker."""
    slurm = study.slurm
    asked: dict[str, Any] = {
        "time": slurm.time_min,
        "cpus_per_task": study.threads_per_worker,
        "signal_delay_s": warn_s(slurm.time_min),
        "stderr_to_stdout": True,
        "array_parallelism": slurm.max_workers or study.workers,
        "additional_parameters": {"no_requeue": True, **slurm.additional},
    }
    optional: dict[str, Any] = {
        "partition": slurm.partition,
        "account": slurm.account,
        "qos": slurm.qos,
        "gpus_per_node": gpus_per_node(study),
        "mem": None if slurm.mem_gib is None else f"{round(slurm.mem_gib * 1024)}M",
    }
    if study.tasks_per_trial > 1:
        # A task that dies takes the others with it: they would wait for it.
        optional |= {"nodes": slurm.nodes_per_worker, "ntasks_per_node": study.tasks_per_trial // slurm.nodes_per_worker}
        optional |= {"srun_args": ["--kill-on-bad-exit=1"]}
    return asked | {key: value for key, value in optional.items() if value is not None}


def gpus_per_node(study: Study) -> int | None:
    """Of a worker's job; none: no GPU is asked for."""
    return study.slurm.gpus_per_worker // study.slurm.nodes_per_worker or None


def options(study: Study) -> list[str]:
    """The same settings as sbatch's own words."""
    slurm = study.slurm
    named = {
        "time": slurm.time_min,
        "signal": f"USR2@{warn_s(slurm.time_min)}",
        "no-requeue": True,
        "cpus-per-task": study.threads_per_worker,
        "partition": slurm.partition,
        "account": slurm.account,
        "qos": slurm.qos,
        "gpus-per-node": gpus_per_node(study),
        "mem": None if slurm.mem_gib is None else f"{round(slurm.mem_gib * 1024)}M",
        "nodes": slurm.nodes_per_worker if study.tasks_per_trial > 1 else None,
        "ntasks-per-node": study.tasks_per_trial // slurm.nodes_per_worker if study.tasks_per_trial > 1 else None,
        **{key.replace("_", "-"): value for key, value in slurm.additional.items()},
    }
    return [f"--{key}" if value is True else f"--{key}={value}" for key, value in named.items() if value is not None and value is not False]


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
