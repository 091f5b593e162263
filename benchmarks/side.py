"""Two sides of a comparison as processes that live as long as the benchmark, asked in turn.

Ours runs in this environment, peers in one of their own (`make peers`, from benchmarks/peers.lock; another folder by the variable
`PEERS_VENV`), so that no peer's requirement touches the platform. Imports and preparation happen once, before the first answer; a measure
is taken when it is asked for, so that repetitions alternate. Standard library only: both environments import this file.
"""

from __future__ import annotations

import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PEERS = Path(os.environ.get("PEERS_VENV", ROOT / ".venv-peers")) / "bin/python"
Answer = dict[str, float]


def have_peers() -> bool:
    """Whether the peers' environment stands."""
    return PEERS.exists()


class Side:
    """A process of `benchmarks/sides/NAME.py`; a context that ends it."""

    def __init__(self, name: str, *, peer: bool, threads: int = 1, settings: Mapping[str, Any] | None = None) -> None:
        self.name = name
        environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": str(threads), "PYTHONWARNINGS": "ignore"}
        command = [str(PEERS) if peer else sys.executable, str(ROOT / f"benchmarks/sides/{name}.py"), json.dumps(dict(settings or {}))]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, encoding="utf-8", env=environment)

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    def ask(self, **question: Any) -> Answer:
        """One measure.

        Raises:
            RuntimeError: The process ended instead.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            print(json.dumps(question), file=self._process.stdin, flush=True)
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise RuntimeError(
                f"benchmarks/sides/{self.name}.py: expected an answer but it ended ({self._process.wait()}). See above for why."
            )
        found: Answer = json.loads(line)
        return found

    def __enter__(self) -> Side:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def serve(answer: Callable[[dict[str, Any]], Answer]) -> None:
    """Answer questions, one JSON line each, until there are no more; whatever a library prints goes to the errors instead."""
    told = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    for line in sys.stdin:
        print(json.dumps(answer(json.loads(line))), file=told, flush=True)


def settings() -> dict[str, Any]:
    """What `Side` was given, read by the process itself."""
    found: dict[str, Any] = json.loads(sys.argv[1])
    return found


def timed(work: Callable[[], Any], times: int) -> Answer:
    """Seconds of wall and of CPU (all threads of this process) of one call, the mean over `times`."""
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(times):
        work()
    return {"wall_s": (time.perf_counter() - wall) / times, "cpu_s": (time.process_time() - cpu) / times}


def timed_with_children(work: Callable[[], Any]) -> Answer:
    """Seconds of wall and of CPU of one call, its ended child processes included."""

    def cpu() -> float:
        uses = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        return sum(use.ru_utime + use.ru_stime for use in uses)

    wall, began = time.perf_counter(), cpu()
    work()
    return {"wall_s": time.perf_counter() - wall, "cpu_s": cpu() - began}


def alternating(sides: Mapping[str, tuple[Side, Mapping[str, Any]]], repetitions: int) -> dict[str, list[Answer]]:
    """Each side's answers, one a repetition; who is asked first rotates."""
    names = list(sides)
    found: dict[str, list[Answer]] = {name: [] for name in names}
    for repetition in range(repetitions):
        for name in names[repetition % len(names) :] + names[: repetition % len(names)]:
            side, question = sides[name]
            found[name].append(side.ask(**question))
    return found


def started(stack: ExitStack, side: Side) -> Side:
    """The side, ended with the stack; it has imported and prepared everything."""
    stack.enter_context(side)
    side.ask(ready=True)
    return side


def spread(values: Sequence[float], digits: int = 1) -> str:
    """Median and range."""
    return f"{statistics.median(values):,.{digits}f} ({min(values):,.{digits}f} to {max(values):,.{digits}f})"


def ratios(ours: Sequence[Answer], theirs: Sequence[Answer], of: str) -> list[float]:
    """Theirs over ours within each repetition."""
    return [b[of] / a[of] for a, b in zip(ours, theirs, strict=True)]


def machine(repetitions: int | None = None) -> str:
    """One sentence on where and how a table was measured."""
    day, cores, load = time.strftime("%Y-%m-%d"), os.cpu_count(), os.getloadavg()[0]
    often = "" if repetitions is None else f", {repetitions} alternating repetitions"
    return f"{day}, {platform.machine()}, {cores} cores, load {load:.1f} at the end{often}."
