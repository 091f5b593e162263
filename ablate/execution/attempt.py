"""One attempt at a trial, in whichever process: what the trainer sees, and how its end becomes an outcome."""

from __future__ import annotations

import importlib
import json
import math
import os
import platform
import shutil
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import cast

from ablate.command import DIRECTORY, Command
from ablate.execution.base import Beside, Nobody, Order
from ablate.execution.command import CommandTrainer, Ended, OthersFailed, along, left_checkpoint
from ablate.trial import (
    PAUSED,
    AttemptFiles,
    Cause,
    Outcome,
    TrialFiles,
    TrialSpec,
    measurable,
    metric_line,
    sync_files,
    write_atomic,
)

OWN_FILES = ("metrics.jsonl", "outcome.json", "began.json", "log.txt", "stop")
"""What the platform writes into an attempt; never copied as it is into a later one."""


class Run:
    """What the trainer gets: its private directory, and where it reports.

    Args:
        asked: Why the trial should stop now; None: it should not.
        until: Step from which on it should, because it pauses at a rung.
    """

    def __init__(self, files: AttemptFiles, asked: Callable[[], Cause | None], until: int | None = None) -> None:
        self.directory = files.directory
        self.stopped: Cause | None = None
        self.paused = False
        self._until = until
        self._asked = asked
        self._stream = files.metrics.open("a", encoding="utf-8")

    def report(self, step: int, metrics: Mapping[str, float]) -> bool:
        """Record metrics of a step.

        Returns:
            False: save a checkpoint in `directory` and return now.
        """
        self._stream.write(metric_line(int(step), {str(name): float(value) for name, value in metrics.items()}))
        self._stream.flush()
        if self.stopped is None and self._until is not None and int(step) >= self._until:
            self.stopped, self.paused = Cause.STOPPED, True
        return self.go_on()

    def go_on(self) -> bool:
        """Whether to go on, asked without anything to report.

        Returns:
            False: save a checkpoint in `directory` and return now.
        """
        self.stopped = self.stopped or self._asked()
        return self.stopped is None

    def __enter__(self) -> Run:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            self._stream.flush()
            os.fsync(self._stream.fileno())
        finally:
            self._stream.close()


def run_attempt(
    order: Order,
    asked: Callable[[], Cause | None] = lambda: None,
    beside: Beside | None = None,
    whole_stay: Callable[[float], bool] = lambda seconds: False,
) -> Outcome:
    """Run an attempt to its end, whatever that is, and write its outcome.

    Args:
        asked: A reason to stop from outside the attempt's files, such as a signal to the process.
        beside: The other tasks that train it too; none: this process alone.
        whole_stay: Whether an attempt that took so long had this process for all the time there is.

    Raises:
        OSError: The outcome cannot be written; the attempt then counts as lost.
    """
    trial = TrialFiles(Path(order.root), order.signature)
    files = trial.attempt(order.attempt)
    files.directory.mkdir(parents=True, exist_ok=True)
    others = beside or Nobody()
    began = time.monotonic()
    deadline = math.inf if order.timeout_s is None else began + order.timeout_s

    def why_stop() -> Cause | None:
        if files.stop.exists():
            return _reason(files.stop)
        return Cause.TIMEOUT if time.monotonic() > deadline else asked()

    metrics: dict[str, float] = {}
    try:
        if order.resume_from is not None:
            carry_over(trial.attempt(order.resume_from), files)
        write_atomic(files.began, json.dumps({"resumed_from": order.resume_from, "pid": os.getpid(), "at": time.time()}), durable=False)
        spec = TrialSpec.from_json(trial.spec.read_text())
        with Run(files, why_stop, order.until) as run:
            try:
                if spec.command is None:
                    train = trainer(spec.trainer)
                    with others.training(None):
                        returned = train(spec.config, run)
                else:
                    returned = CommandTrainer(Command.model_validate(spec.command), others)(spec.config, run)
            except OthersFailed as failed:
                if failed.gone or run.go_on():
                    raise
                returned = {}  # the same signal ended them
        cause, message = run.stopped, "" if run.stopped is None else _STOPPED[run.stopped]
        if run.paused:
            message = f"{PAUSED} {order.until}, where arms are compared; its checkpoint is kept."
        elif cause is Cause.STOPPED and whole_stay(time.monotonic() - began) and not resumable(files, spec):
            cause, message = Cause.TIMEOUT, _NO_HEADWAY  # the next attempt would come no further
        metrics = _numbers(spec.trainer, returned) if cause is None else {}
        if cause is None:
            # What a result rests on is on the disk before it is told: the stream since it was closed, marks of an attempt that ended never.
            sync_files(files.directory, but=(files.metrics.name, files.began.name, files.claimed.name))
    except Ended as ended:
        cause, message = ended.cause, str(ended)
    except (Exception, SystemExit) as error:  # a trainer that calls sys.exit ends its trial, not the worker
        cause, message = classify(error), f"{type(error).__name__}: {error}"
        _note(files, traceback.format_exc())
    finite = {name: value for name, value in metrics.items() if measurable(value)}
    outcome = Outcome(
        order.signature,
        order.attempt,
        cause,
        message,
        round(time.monotonic() - began, 3),
        finite,
        tuple(sorted(metrics.keys() - finite.keys())),
        environment(),
        order.resume_from,
    )
    write_atomic(files.outcome, outcome.to_json())
    return outcome


class Along:
    """What the trainer of a task beside the first gets: the same directory; what it reports is the first one's to report.

    Whether to go on is the first one's to hear too: a trainer that runs on several ranks passes its rank 0's answer on.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def report(self, step: int, metrics: Mapping[str, float]) -> bool:
        """Nothing is recorded; always to go on."""
        return True

    def go_on(self) -> bool:
        """Always."""
        return True


def run_along(order: Order, arguments: Sequence[str] | None, log: Path, stop: Callable[[], bool]) -> tuple[Cause | None, str]:
    """Train as a task beside the first, or run its command; rank 0 alone reports, and its directory is everybody's.

    Returns:
        Why it came to no good end, and in words; none: it did.
    """
    trial = TrialFiles(Path(order.root), order.signature)
    try:
        spec = TrialSpec.from_json(trial.spec.read_text())
        if spec.command is not None and arguments is not None:
            along(Command.model_validate(spec.command), arguments, log, stop)
        else:
            train = cast(Callable[[Mapping[str, object], Along], object], trainer(spec.trainer))
            train(spec.config, Along(trial.attempt(order.attempt).directory))
    except Ended as ended:
        return ended.cause, str(ended)
    except (Exception, SystemExit) as error:
        traceback.print_exc()  # into the task's own log
        return classify(error), f"{type(error).__name__}: {error}"
    return None, ""


_STOPPED = {
    Cause.STOPPED: "The run was stopped; its checkpoint is kept.",
    Cause.TIMEOUT: "The attempt ran into the study's timeout_min. Its checkpoint is kept; raise timeout_min if trials need longer.",
}


_NO_HEADWAY = (
    "It had its worker's job for the whole of slurm.time_min and left no checkpoint to go on from. "
    "Raise slurm.time_min, or let the trainer save checkpoints."
)


def resumable(files: AttemptFiles, spec: TrialSpec) -> bool:
    """Whether an attempt left anything that the next could go on from: a file of the trainer or of the command."""
    if spec.command is not None:
        return left_checkpoint(Command.model_validate(spec.command), files.directory / DIRECTORY)
    return any(not _own(path) for path in files.directory.iterdir())


def _own(path: Path) -> bool:
    return path.name in OWN_FILES or path.name.startswith((".", "log."))


def carry_over(earlier: AttemptFiles, files: AttemptFiles) -> None:
    """Copy what an earlier attempt left, so that the trainer finds its checkpoint and its metric stream goes on.

    The earlier writer may still be alive, so nothing is linked. The stream comes last: it must reach at least to the
    checkpoint, or steps would be missing. A torn last line is cut off, or the next line would be lost with it.
    """
    for path in sorted(earlier.directory.iterdir()):
        if _own(path):
            continue
        if path.is_dir():
            shutil.copytree(path, files.directory / path.name, dirs_exist_ok=True, ignore_dangling_symlinks=True)
        else:
            shutil.copy2(path, files.directory / path.name)
    stream = earlier.metrics.read_bytes() if earlier.metrics.exists() else b""
    files.metrics.write_bytes(stream[: stream.rfind(b"\n") + 1])


def trainer(name: str) -> Callable[[Mapping[str, object], Run], Mapping[str, float]]:
    """The callable behind `package.module:callable`.

    Raises:
        ImportError: There is no such module or callable.
    """
    module, _, attribute = name.partition(":")
    try:
        found: Callable[[Mapping[str, object], Run], Mapping[str, float]] = getattr(importlib.import_module(module), attribute)
    except AttributeError as error:
        raise ImportError(f"trainer.callable: {module} has no {attribute!r}. Name a callable that it defines.") from error
    return found


def classify(error: BaseException) -> Cause:
    """Why an attempt that raised gave no result.

    A trainer needs no import of ours: a class named `ConfigError` or `DataError` says that the settings or the data
    cannot work, one named `NonFiniteLoss` that the numbers went wrong; both would fail again.
    """
    names = {kind.__name__ for kind in type(error).__mro__}
    if isinstance(error, MemoryError) or "OutOfMemoryError" in names or "out of memory" in str(error).lower():
        return Cause.OUT_OF_MEMORY
    if isinstance(error, ArithmeticError) or "NonFiniteLoss" in names:
        return Cause.NAN
    if isinstance(error, ImportError) or names & {"ConfigError", "DataError"}:
        return Cause.INVALID
    return Cause.CRASH


def environment() -> dict[str, str]:
    """What a result may depend on beside its signature."""
    found = {
        "cpu": _cpu_model(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "host": platform.node(),
        "threads": os.environ.get("OMP_NUM_THREADS", "unset"),
    }
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        found["tasks"] = os.environ["WORLD_SIZE"]
    torch = sys.modules.get("torch")  # looked up, never imported: the platform knows no torch
    if torch is not None:
        found["torch"] = str(getattr(torch, "__version__", "unknown"))
        found["threads"] = str(torch.get_num_threads())
    return found


def _cpu_model() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _numbers(name: str, returned: object) -> dict[str, float]:
    try:
        if not isinstance(returned, Mapping):
            raise TypeError(f"a {type(returned).__name__}")
        return {str(key): float(value) for key, value in returned.items()}
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{name}: expected final metrics as a mapping of names to numbers but got {error}. Return one.") from error


class ConfigError(ValueError):
    """The trainer breaks its contract: trying again would not help."""


def _reason(stop: Path) -> Cause:
    return Cause.TIMEOUT if Cause.TIMEOUT in stop.read_text() else Cause.STOPPED


def _note(files: AttemptFiles, text: str) -> None:
    try:
        with files.log.open("a", encoding="utf-8") as log:
            log.write(text)
    except OSError:
        return
