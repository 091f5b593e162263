"""What a worker of this machine gets: its GPU, and whether there is memory for it."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import psutil

from ablate.errors import StudyError
from ablate.study import Study

VARIABLE = "CUDA_VISIBLE_DEVICES"
GIB = 2**30


@dataclass(frozen=True)
class Slots:
    """The GPUs that workers share out among them; none: a worker sees what the controller sees."""

    devices: tuple[str, ...] = ()
    """As `CUDA_VISIBLE_DEVICES` names them."""
    per_gpu: int = 1
    gpus_each: float = 0.0
    """GPUs that a worker holds, for the budget; half a GPU where two share one."""

    @staticmethod
    def of(study: Study) -> Slots:
        """Those of a study on this machine: `gpus`, else all that are to be seen.

        Raises:
            StudyError: The study names GPUs that this machine does not show.
        """
        if study.executor != "local" or study.gpus == []:
            return Slots(gpus_each=float(study.slurm.gpus_per_worker) if study.executor == "slurm" else 0.0)
        seen = visible_gpus()
        if study.gpus is None:
            devices = tuple(seen or ())
        elif seen is None:  # nothing here can tell: what the user says holds
            devices = tuple(str(index) for index in study.gpus)
        else:
            missing = [index for index in study.gpus if index >= len(seen)]
            if missing:
                known = f"0 to {len(seen) - 1}" if seen else "none"
                raise StudyError(
                    study.study,
                    [f"gpus: expected GPUs that this machine shows ({known}) but got {missing}. Name others, or leave gpus out."],
                )
            devices = tuple(seen[index] for index in study.gpus)
        if study.tasks_per_trial > 1:
            return _shared_out(devices, study)
        return Slots(devices, study.trials_per_gpu, 1 / study.trials_per_gpu if devices else 0.0)

    def workers(self, study: Study) -> int:
        """How many workers: no more than there are slots; one a slot where the study does not say."""
        if study.executor == "inline":
            return 1
        if study.executor == "slurm":
            return study.slurm.max_workers or study.workers
        if not self.devices:
            return study.workers
        places = len(self.devices) * self.per_gpu
        return min(study.workers, places) if "workers" in study.model_fields_set else places

    def next_free(self, held: Iterable[str | None]) -> str | None:
        """The GPU that the next worker gets: the one that fewest hold."""
        count = Counter(held)
        return min(self.devices, key=lambda device: count[device], default=None)


def _shared_out(devices: tuple[str, ...], study: Study) -> Slots:
    """A GPU for each task of a trial; where there is none at all, tasks do without.

    Raises:
        StudyError: There are fewer GPUs than a trial has tasks.
    """
    each = study.tasks_per_trial
    if 0 < len(devices) < each:
        expected = f"tasks_per_trial: expected at most a task for each GPU ({len(devices)}) but got {each}"
        raise StudyError(study.study, [f"{expected}. Lower it, or set gpus: [] to train on CPU."])
    groups = tuple(",".join(devices[i : i + each]) for i in range(0, len(devices) - each + 1, each))
    return Slots(groups, 1, float(each) if groups else 0.0)


def visible_gpus() -> list[str] | None:
    """The GPUs that this process may use: what `CUDA_VISIBLE_DEVICES` lists, else what nvidia-smi does; None where neither can tell."""
    listed = os.environ.get(VARIABLE)
    if listed is not None:
        names = [name.strip() for name in listed.split(",")]
        return names[: next((i for i, name in enumerate(names) if name in ("", "-1")), len(names))]
    if shutil.which("nvidia-smi") is None:
        return None
    try:
        done = subprocess.run(
            ["nvidia-smi", "-L"], stdin=subprocess.DEVNULL, capture_output=True, encoding="utf-8", timeout=20, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    found = [line for line in done.stdout.splitlines() if line.startswith("GPU ")]
    return [str(index) for index in range(len(found))] if done.returncode == 0 else None


def fitting(workers: int, memory_per_trial_gib: float | None, available_gib: float | None = None) -> tuple[int, str]:
    """No more workers than trials fit into the memory that is free now, but at least one; and a sentence where that is fewer."""
    if memory_per_trial_gib is None:
        return workers, ""
    free_gib = available_memory_gib() if available_gib is None else available_gib
    fit = max(1, int(free_gib / memory_per_trial_gib))
    if fit >= workers:
        return workers, ""
    return fit, f"{fit} of {workers} workers: {free_gib:.1f} GiB are free and memory_per_trial_gib is {memory_per_trial_gib:g}."


def available_memory_gib() -> float:
    """Free memory, of the machine or of this process's control group, whichever is less."""
    free = psutil.virtual_memory().available
    try:
        group = Path("/sys/fs/cgroup") / Path("/proc/self/cgroup").read_text().strip().splitlines()[-1].rpartition(":")[2].lstrip("/")
        free = min(free, int((group / "memory.max").read_text()) - int((group / "memory.current").read_text()))
    except (OSError, ValueError, IndexError):
        pass
    return free / GIB
