"""Attempts that run, as a controller sees them from outside, and which of them it must end."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from ablate.execution import evidence
from ablate.execution.base import Order, WorkerFiles
from ablate.study import Study
from ablate.trial import AttemptFiles, Cause

MOST_BYTES = 256 * 2**20
"""Of an attempt's metric stream, and of its log: more is a fault of the trainer, and would fill the disk of all others."""

LEAST_MEMORY = 0.03
LEAST_MEMORY_BYTES = 512 * 2**20
"""Free memory, as a share or in bytes, whichever is less, below which the largest trial is ended: the kernel may choose the controller."""

LARGE = 0.1
"""A trial below this share of the machine's memory is not to blame for its end."""


@dataclass
class Running:
    """An attempt that a worker holds."""

    order: Order
    files: AttemptFiles
    began: float | None = None
    """When the controller first saw that it runs, by its own clock."""
    stream_bytes: int = 0
    progressed: float | None = None
    """When the controller last saw a new report; none before the first."""
    ended: tuple[Cause, str] | None = None
    """Why the controller killed its worker."""


@dataclass(frozen=True)
class Limits:
    """What an attempt may take; nothing asked: no limit."""

    timeout_s: float | None = None
    stall_s: float | None = None
    memory_bytes: int | None = None
    patience_s: float = 0.0
    """How much longer than `timeout_s` it has to save its checkpoint by itself."""
    most_bytes: int = field(default=MOST_BYTES)
    tasks: int = 1
    """Processes of an attempt, each with a log of its own."""

    @staticmethod
    def of(study: Study, patience_s: float) -> Limits:
        """Those of a study."""
        minutes = [None if n is None else 60 * n for n in (study.timeout_min, study.stall_min)]
        gib = study.memory_per_trial_gib
        memory_bytes = None if gib is None else int(gib * 2**30)
        return Limits(minutes[0], minutes[1], memory_bytes, patience_s, tasks=study.tasks_per_trial)


def exceeded(running: Running, limits: Limits, now_s: float) -> tuple[Cause, str] | None:
    """Why an attempt must be ended from outside, in words that say what to do; none: it need not.

    An attempt without any report yet is not stalled: some trainers report their end alone.
    """
    if running.began is None:
        return None
    if limits.timeout_s is not None and now_s - running.began > limits.timeout_s + limits.patience_s:
        return Cause.TIMEOUT, "It did not report within the study's timeout_min and was killed. Raise timeout_min if trials need longer."
    if limits.stall_s is not None and running.progressed is not None and now_s - running.progressed > limits.stall_s:
        minutes = f"{limits.stall_s / 60:g} min (stall_min)"
        return Cause.STALLED, f"It reported nothing for {minutes} and was killed. Raise stall_min if its reports may be further apart."
    logs = [running.files.log, *(running.files.log_of(task) for task in range(1, limits.tasks))]
    for path, what in ((running.files.metrics, "metric stream"), *((log, "log") for log in logs)):
        written = _size(path)
        if written > limits.most_bytes:
            mib = f"{limits.most_bytes / 2**20:.0f} MiB"
            return Cause.FLOOD, f"Its {what} grew beyond {mib}, so it was killed before it filled the disk. Report and print less often."
    return None


def greedy(running: Iterable[tuple[Running, WorkerFiles]], limits: Limits, *, low: bool) -> list[tuple[Running, WorkerFiles, str]]:
    """Attempts that take more memory than a trial may; where the machine's own is at its end, the largest of them all.

    Workers of other hosts are their scheduler's to bound.

    Args:
        low: Whether this machine's memory is at its end.
    """
    if limits.memory_bytes is None and not low:
        return []
    held = [(memory_bytes(files), one, files) for one, files in running]
    found = []
    for taken, one, files in held:
        if limits.memory_bytes is not None and taken > limits.memory_bytes:
            allowed = f"more than memory_per_trial_gib ({limits.memory_bytes / 2**30:g})"
            found.append((one, files, f"It took {taken / 2**30:.2f} GiB, {allowed}, and was killed. Smaller batches or crops need less."))
    if low and held and not found:
        taken, one, files = max(held, key=lambda each: each[0])
        if taken > LARGE * psutil.virtual_memory().total:
            most = f"of its trials this one took most ({taken / 2**30:.2f} GiB)"
            found.append((one, files, f"The machine was out of memory; {most} and was killed. Use fewer workers, or smaller batches."))
    return found


def memory_bytes(worker: WorkerFiles) -> int:
    """Memory that a worker and what it started hold on this host; 0 where it runs on another."""
    total = 0
    for identity in worker.identities():
        process = identity.process() if identity.here else None
        if process is None:
            continue
        with contextlib.suppress(psutil.Error):
            for one in (process, *process.children(recursive=True)):
                with contextlib.suppress(psutil.Error):
                    total += one.memory_info().rss
    return total


def memory_is_low() -> bool:
    """Whether nearly nothing is left of this machine's memory, or of what its control group may take."""
    memory = psutil.virtual_memory()
    bounds = [(memory.available, memory.total)]
    group = evidence.group_memory()
    if group is not None:
        bounds.append(group)
    return any(left < min(LEAST_MEMORY * whole, LEAST_MEMORY_BYTES) for left, whole in bounds)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
