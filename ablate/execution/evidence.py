"""What the files of an attempt and the kernel tell about it: its checkpoint, its progress, its death."""

from __future__ import annotations

import contextlib
import errno
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ablate.trial import AttemptFiles, Cause, TrialFiles

if TYPE_CHECKING:  # a worker counts what the kernel killed, and needs no database for it
    from ablate.ledger import AttemptRecord

DISK_FULL = "The disk is full."


def checkpoint(trial: TrialFiles, attempts: Sequence[AttemptRecord]) -> int | None:
    """The attempt whose files the next one goes on from; None: from the start.

    Only one that began counts, because only then its own copy was whole. An attempt that went on from a checkpoint and
    crashed speaks against the checkpoint, so the next starts from nothing; so does one whose numbers went wrong.
    """
    for attempt in reversed(attempts):
        try:
            began = json.loads(trial.attempt(attempt.number).began.read_text())
        except (OSError, ValueError):
            continue
        suspect = attempt.cause is Cause.NAN or (attempt.cause is Cause.CRASH and began.get("resumed_from") is not None)
        return None if suspect else attempt.number
    return None


def latest_metrics(files: AttemptFiles, known_bytes: int) -> tuple[int, int, dict[str, float]] | None:
    """Length of the stream in bytes, step and metrics of its last whole line; None where it did not grow."""
    try:
        with files.metrics.open("rb") as stream:
            length = stream.seek(0, os.SEEK_END)
            if length == known_bytes:
                return None
            stream.seek(max(0, length - 65536))
            lines = stream.read().split(b"\n")
    except OSError:
        return None
    for line in reversed(lines[:-1]):
        with contextlib.suppress(ValueError, KeyError, TypeError, AttributeError):
            record = json.loads(line)
            finite = {name: float(value) for name, value in record["metrics"].items() if value is not None}
            return length, int(record["step"]), finite
    return None


def lasted_s(files: AttemptFiles) -> float:
    """How long an attempt ran by its own files, up to the last one that it wrote; 0 where it never began."""
    try:
        began = float(json.loads(files.began.read_text())["at"])
        last = max(entry.stat().st_mtime for entry in os.scandir(files.directory) if entry.is_file())
    except (OSError, ValueError, KeyError, TypeError):
        return 0.0
    return round(max(0.0, last - began), 3)


def of_death(files: AttemptFiles, root: Path, *, oom: bool) -> tuple[Cause, str]:
    """Why a worker vanished in the middle of an attempt.

    Args:
        oom: The kernel killed something for memory since the last look.
    """
    if disk_full(root):
        return Cause.STOPPED, DISK_FULL
    fatal = _fatal_error(files)
    if fatal is not None:
        return Cause.CRASH, fatal
    if oom:
        return Cause.OUT_OF_MEMORY, "The kernel killed its process for memory. Use fewer workers, or smaller batches or crops."
    return Cause.LOST, "Its process was killed."


def _fatal_error(files: AttemptFiles) -> str | None:
    try:
        lines = files.log.read_text(errors="replace").splitlines()
    except OSError:
        return None
    return next((line for line in reversed(lines) if line.startswith("Fatal Python error")), None)


def disk_full(root: Path) -> bool:
    """Whether the file system refuses a few bytes more; asked by writing them."""
    probe = root / f".space.{os.getpid()}"
    try:
        with probe.open("wb") as file:
            file.write(bytes(65536))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        return error.errno in (errno.ENOSPC, errno.EDQUOT)
    finally:
        with contextlib.suppress(OSError):
            probe.unlink()
    return False


def oom_kills() -> int:
    """Processes that the kernel killed for memory so far: in this control group where it can be told, else on this host."""
    with contextlib.suppress(OSError, ValueError, IndexError, StopIteration):
        group = Path("/proc/self/cgroup").read_text().strip().splitlines()[-1].rpartition(":")[2]
        return _counter(Path(f"/sys/fs/cgroup{group}/memory.events"))
    with contextlib.suppress(OSError, ValueError, IndexError, StopIteration):
        return _counter(Path("/proc/vmstat"))
    return 0


def group_memory() -> tuple[int, int] | None:
    """Bytes left, and bytes in all, of this process's control group; none where it has no bound of its own."""
    with contextlib.suppress(OSError, ValueError, IndexError, StopIteration):
        group = Path("/sys/fs/cgroup" + Path("/proc/self/cgroup").read_text().strip().splitlines()[-1].rpartition(":")[2])
        most = int((group / "memory.max").read_text())
        used = int((group / "memory.current").read_text())
        lines = (group / "memory.stat").read_text().splitlines()
        reclaimable = next(int(line.split()[1]) for line in lines if line.startswith("inactive_file "))
        return most - used + reclaimable, most
    return None


def _counter(path: Path) -> int:
    return next(int(line.split()[1]) for line in path.read_text().splitlines() if line.startswith("oom_kill "))
