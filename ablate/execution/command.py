"""A command behind the trainer's seam: started, followed, stopped, and its end named, so that nothing else knows it from a callable."""

from __future__ import annotations

import json
import math
import os
import re
import shlex
import shutil
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from ablate.command import DIRECTORY, SECRET, Command
from ablate.execution import handover
from ablate.execution.base import Beside, Nobody
from ablate.execution.evidence import oom_kills
from ablate.execution.following import TURN_BYTES, JsonLines, Printed, Reader, Row, Seen, Tail, final_metrics, last_lines, numbers_of
from ablate.execution.process import End, Process
from ablate.trial import AttemptFiles, Cause, write_atomic

TURN_S = 0.05
"""How often metrics are read and a stop is looked for. The command's end is seen at once."""

SHOWN_LINES = 5
LONGEST_MESSAGE = 600


class Ended(Exception):
    """A command gave no result; the message says how it ended."""

    def __init__(self, cause: Cause, message: str) -> None:
        super().__init__(message)
        self.cause = cause


class OthersFailed(Ended):
    """A task beside this one came to no good end.

    Args:
        gone: It is dead, or hangs: also where all were told to stop, that is no stop.
    """

    def __init__(self, cause: Cause, message: str, *, gone: bool = False) -> None:
        super().__init__(cause, message)
        self.gone = gone


class Reports(Protocol):
    """What a trainer gets of the platform."""

    @property
    def directory(self) -> Path: ...

    def report(self, step: int, metrics: Mapping[str, float]) -> bool: ...

    def go_on(self) -> bool: ...


class CommandTrainer:
    """Trains by running a command."""

    def __init__(self, command: Command, beside: Beside | None = None) -> None:
        self.command = command
        self.beside = beside or Nobody()

    def __call__(self, config: Mapping[str, object], run: Reports) -> Mapping[str, float]:
        """Run the command to its end.

        Returns:
            Its final metrics; nothing where it was stopped.

        Raises:
            Ended: It gave no result, with the cause and the end of what it printed.
        """
        files = AttemptFiles(run.directory.resolve())
        directory = files.directory / DIRECTORY
        checkpoint = self._prepare(directory)
        followed = _Followed(self.command, files, directory, run)
        followed.catch_up()
        arguments = self._arguments(config, directory, checkpoint)
        cwd = Path(self.command.cwd).resolve()
        if not cwd.is_dir():
            raise Ended(Cause.INVALID, f"trainer.cwd: there is no folder {cwd}. Start `ablate` where the study's paths are from.")
        with files.log.open("a", encoding="utf-8") as log:
            log.write(f"$ {shlex.join(arguments)}\n")
        followed.begin()
        kills = oom_kills()
        with self.beside.training(arguments):
            with Process(arguments, cwd, environment_of(self.command), files.log) as process:
                end, told, flood = self._watched(process, followed, run)
            followed.finish(cut=flood is not None)
            if flood is not None:
                raise Ended(Cause.FLOOD, flood)
            if told or (end.status != 0 and not run.go_on()):  # a signal to the whole job may reach the command before it reaches us
                return {}
            if end.status != 0:
                cause, text = cause_of(end, last_lines(files.log, followed.log_start, 200), oom=oom_kills() > kills)
                raise Ended(cause, _masked(text))
        return self._results(files, directory, followed)

    def _prepare(self, directory: Path) -> Path | None:
        """The command's folder, and the checkpoint in it; without one, what an earlier attempt left is no use and goes."""
        wanted = self.command.checkpoint
        found: list[Path] = []
        if wanted is not None and directory.is_dir():
            found = sorted(directory.glob(wanted.file), key=lambda path: path.stat().st_mtime_ns)
            if not found:
                shutil.rmtree(directory)
        directory.mkdir(exist_ok=True)
        if self.command.result is not None:
            (directory / self.command.result).unlink(missing_ok=True)
        return found[-1] if found else None

    def _arguments(self, config: Mapping[str, object], directory: Path, checkpoint: Path | None) -> list[str]:
        values = {"directory": str(directory), "python": sys.executable, "seed": str(_at(config, self.command.seed_key))}
        if self.command.checkpoint is not None:
            values["checkpoint"] = str(checkpoint or directory / self.command.checkpoint.file)
        written = handover.write_config(self.command, config, directory)
        if written is not None:
            values["config"] = str(written)
        resume = handover.resume_arguments(self.command, values) if checkpoint is not None else []
        return [*handover.arguments(self.command, config, values), *resume]

    def _watched(self, process: Process, followed: _Followed, run: Reports) -> tuple[End, bool, str | None]:
        """Follow the command to its end; also whether it was told to stop, and why it was ended as a flood."""
        stop, killed_at, flood = self.command.stop, None, None
        while True:
            end = process.wait(0.0 if followed.behind else TURN_S)
            if flood is None and (flood := followed.flood()) is not None:
                process.kill()
            if flood is None:
                followed.turn()
            if end is not None:
                return end, killed_at is not None, flood
            if killed_at is None and not run.go_on():
                self.beside.stop()
                process.send(signal.Signals[stop.signal], to_all=stop.to == "all")
                killed_at = time.monotonic() + stop.wait_s
            if killed_at is not None and time.monotonic() > killed_at:
                process.kill()

    def _results(self, files: AttemptFiles, directory: Path, followed: _Followed) -> dict[str, float]:
        last = 1 if self.command.final == "last" else int(self.command.final.removeprefix("mean_"))
        found = final_metrics(files.metrics, last)
        if self.command.result is not None:
            found |= self._stated(directory / self.command.result)
        if followed.garbage:
            write_atomic(files.summary, json.dumps({"garbage_lines": followed.garbage}), durable=False)
        if not found:
            raise Ended(
                Cause.INVALID, f"It ended well but gave no metrics: {followed.searched()} Compare trainer.metrics with what it writes."
            )
        return found

    def _stated(self, path: Path) -> dict[str, float]:
        try:
            named = numbers_of(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError, RecursionError) as error:
            raise Ended(
                Cause.INVALID,
                f"trainer.result: expected a JSON object of names and numbers in {self.command.result} but {error}.",
            ) from error
        return {self.command.rename.get(name, name): value for name, value in named.items()}


def left_checkpoint(command: Command, directory: Path) -> bool:
    """Whether a command's folder has what the next attempt may go on from: one that names no checkpoint may find its own files."""
    if command.checkpoint is not None:
        return any(directory.glob(command.checkpoint.file))
    reported = command.metrics.file if command.metrics is not None else None
    known = {directory / name for name in ("config.yaml", "config.json", reported, command.result) if name is not None}
    return any(path.is_file() and path not in known for path in directory.rglob("*"))


def environment_of(command: Command) -> dict[str, str]:
    """The worker's own; a Python program prints its lines as they come, so that none is lost with it."""
    return {"PYTHONUNBUFFERED": "1", **os.environ, **{name: str(value) for name, value in command.environment.items()}}


def along(command: Command, arguments: Sequence[str], log: Path, stop: Callable[[], bool]) -> None:
    """Run the command as a task beside the first, to its end; its metrics and its result are the first one's.

    Args:
        stop: Whether it is to be stopped.

    Raises:
        Ended: It came to no good end, and was not told to stop.
    """
    kills, kill_at = oom_kills(), math.inf
    with Process(arguments, Path(command.cwd).resolve(), environment_of(command), log) as process:
        while (end := process.wait(TURN_S)) is None:
            if kill_at == math.inf and stop():
                process.send(signal.Signals[command.stop.signal], to_all=command.stop.to == "all")
                kill_at = time.monotonic() + command.stop.wait_s
            if time.monotonic() > kill_at:
                process.kill()
    if end.status != 0 and kill_at == math.inf:
        cause, text = cause_of(end, last_lines(log, 0, 200), oom=oom_kills() > kills)
        raise Ended(cause, _masked(text))


class _Followed:
    """The metrics of a running command, reported as they come."""

    def __init__(self, command: Command, files: AttemptFiles, directory: Path, run: Reports) -> None:
        self._command, self._files, self._run = command, files, run
        metrics = command.metrics
        self._reader: Reader | None = None
        self._file: Path | None = None
        if metrics is not None and metrics.file is not None:
            self._reader, self._file = JsonLines(metrics.step, command.rename), directory / metrics.file
        elif metrics is not None:
            self._reader = Printed(metrics.patterns, command.rename)
        self._tail = Tail(self._file or files.log)
        self._known: Seen | None = None
        self.log_start = 0
        self.behind = False
        """There was more to read than a turn reads."""
        self.rows = 0

    @property
    def garbage(self) -> int:
        """Lines that should have been metrics and were not."""
        return self._tail.too_long + (self._reader.garbage if self._reader is not None else 0)

    def catch_up(self) -> None:
        """Report what an earlier attempt's program said and its worker no longer read: its checkpoint may lie behind that."""
        earlier = self._earlier()
        if earlier is None or self._reader is None:
            return
        self._known = Seen(self._files.metrics)
        if self._file is None:
            self._drain(Tail(earlier.log))
        elif self._file.exists():
            content = self._file.read_bytes()
            # A torn last line would be lost together with the next.
            self._file.write_bytes(content[: content.rfind(b"\n") + 1])
            self._drain(self._tail)
        self._known = None

    def begin(self) -> None:
        """What stands in the log before the command prints is not its output."""
        self.log_start = self._files.log.stat().st_size
        if self._file is None:
            self._tail = Tail(self._files.log, self.log_start)

    def turn(self) -> None:
        """Report what has come."""
        before = self._tail.position
        for line in self._tail.lines() if self._reader is not None else ():
            self._take(line)
        self.behind = self._tail.position - before >= TURN_BYTES

    def finish(self, *, cut: bool) -> None:
        """Read to the end, unless it is cut off."""
        if cut:
            _cut(self._files.log, self.log_start + int(self._command.limits.output_mib * 2**20))
            if self._file is not None:
                _cut(self._file, int(self._command.limits.metrics_mib * 2**20))
        elif self._reader is not None:
            self._drain(self._tail)
            self._take(self._tail.rest())
        if self.garbage:
            with self._files.log.open("a", encoding="utf-8") as log:
                log.write(f"\n[{self.garbage} lines of metrics could not be read and were left out]\n")

    def flood(self) -> str | None:
        """Why the command is ended: it writes without end."""
        limits = self._command.limits
        for path, start, most, key in (
            (self._files.log, self.log_start, limits.output_mib, "output_mib"),
            (self._file, 0, limits.metrics_mib, "metrics_mib"),
        ):
            if path is not None and path.exists() and path.stat().st_size - start > most * 2**20:
                what = "Its output" if path == self._files.log else f"{path.name}"
                return (
                    f"{what} grew beyond {most:g} MiB; it was ended and the rest cut off. Let it write less, or raise trainer.limits.{key}."
                )
        return None

    def searched(self) -> str:
        """Where metrics were looked for, and what was there."""
        if self._reader is None:
            return "no result."
        if self._file is not None:
            if not self._file.exists():
                return f"there is no {self._file.name} in its {{directory}}."
            return f"{self._file.name} has {self.garbage} lines, none of them a JSON object with a {self._reader_step()!r} and a number."
        return f"no line of its output matches{f', {self.garbage} matched without a number' if self.garbage else ''}."

    def _reader_step(self) -> str:
        return self._command.metrics.step if self._command.metrics is not None else ""

    def _earlier(self) -> AttemptFiles | None:
        try:
            number = json.loads(self._files.began.read_text())["resumed_from"]
        except (OSError, ValueError, KeyError):
            return None
        return None if number is None else AttemptFiles(self._files.directory.parent / f"{number:04d}")

    def _drain(self, tail: Tail) -> None:
        while True:
            before = tail.position
            for line in tail.lines():
                self._take(line)
            if tail.position == before:
                return

    def _take(self, line: bytes) -> None:
        assert self._reader is not None
        row: Row | None = self._reader.row(line)
        if row is not None and row.metrics and (self._known is None or row not in self._known):
            self.rows += 1
            self._run.report(row.step, row.metrics)


def _cut(path: Path, size: int) -> None:
    if path.exists() and path.stat().st_size > size:
        os.truncate(path, size)
        with path.open("ab") as file:
            file.write(b"\n[cut off here]\n")


_MEMORY = re.compile(r"out of memory|OutOfMemoryError|\bMemoryError\b|std::bad_alloc|Cannot allocate memory", re.IGNORECASE)
_NAN = re.compile(r"^(?:[\w.]+\.)?(?:FloatingPointError|NonFiniteLoss|ZeroDivisionError|OverflowError)\b")
_INVALID = re.compile(
    r"^(?:[\w.]+\.)?(?:ModuleNotFoundError|ImportError|ConfigError|DataError|ConfigAttributeError|ConfigKeyError)\b"
    r"|error: (?:unrecognized arguments|argument |the following arguments)|^Could not override |can't open file"
)
_FAULTS = (signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGTRAP, signal.SIGSYS)


def cause_of(end: End, lines: list[str], *, oom: bool = False) -> tuple[Cause, str]:
    """Why a command gave no result, in one line.

    Args:
        lines: The end of what it printed.
        oom: The kernel killed something for memory while it ran.
    """
    if end.problem:
        return Cause.INVALID, f"{end.problem[0].upper()}{end.problem[1:]}. Mend trainer.command."
    if end.status is None:
        return Cause.LOST, "Its process was killed."
    if end.status < 0:
        name = signal.Signals(-end.status).name if -end.status in set(signal.Signals) else f"signal {-end.status}"
        how = f"It was ended by {name}"
        by_fault = Cause.CRASH if -end.status in _FAULTS else Cause.LOST
    else:
        how, by_fault = f"It ended with exit code {end.status}", Cause.CRASH
    cause = by_fault
    if any(_MEMORY.search(line) for line in lines) or (oom and end.status == -signal.SIGKILL):
        cause = Cause.OUT_OF_MEMORY
    elif by_fault is Cause.CRASH and any(_NAN.search(line) for line in lines[-SHOWN_LINES:]):
        cause = Cause.NAN
    elif by_fault is Cause.CRASH and any(_INVALID.search(line) for line in lines[-2 * SHOWN_LINES :]):
        cause = Cause.INVALID
    shown = " | ".join(lines[-SHOWN_LINES:])
    shown = shown if len(shown) <= LONGEST_MESSAGE else f"... {shown[-LONGEST_MESSAGE:]}"
    return cause, f"{how}. The end of its output: {shown}" if shown else f"{how} and printed nothing."


def _masked(text: str) -> str:
    """Without the values of secrets and the passwords in addresses."""
    for name, value in os.environ.items():
        if SECRET.search(name) and len(value) >= 6:
            text = text.replace(value, "***")
    return re.sub(r"(\w+://)[^\s/@]+@", r"\1***@", text)


def _at(config: Mapping[str, object], path: str) -> object:
    node: object = config
    for key in path.split("."):
        node = node.get(key) if isinstance(node, Mapping) else None
    return node
