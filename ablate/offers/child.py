"""Offers that read data run in a process of their own, so that the platform never imports numpy or torch."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import json
import os
import selectors
import subprocess
import sys
import tempfile
import time
import typing
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType

from ablate.errors import TrainerError
from ablate.study import nearest

TAIL_LINES = 12
"""Lines of a failed process that its error shows."""


class Child:
    """One process that answers offers until the context ends; started with the first of them, ended with its parent."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Child:
        with contextlib.ExitStack() as opened:
            # What it prints; a pipe would fill while nobody reads.
            self._errors = opened.enter_context(tempfile.TemporaryFile())
            opened.callback(self._end)
            self._opened = opened.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._opened.close()

    def call(self, name: str, schema: str | None, configs: Sequence[Mapping[str, object]], timeout_s: float) -> list[object]:
        """The offer's answer for each config.

        Args:
            name: `package.module:callable`.
            schema: The module whose `from_mapping` makes the offer's argument from a config; none: the offer takes nested plain values.

        Raises:
            TrainerError: It failed, with the end of what it printed, or took too long.
        """
        request = json.dumps({"offer": name, "schema": schema, "configs": configs, "path": sys.path})
        process = self._started()
        answer = self._answered(process, request.encode() + b"\n", name, timeout_s)
        if answer is None:
            tail = "\n".join(f"  {line}" for line in self._printed().strip().splitlines()[-TAIL_LINES:])
            raise TrainerError(f"{name}: failed in its own process (exit code {self._end()}). The end of what it printed:\n{tail}")
        answered = json.loads(answer)
        if isinstance(answered, dict):
            raise TrainerError(answered["problem"])
        return typing.cast("list[object]", answered)

    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            command = [sys.executable, "-m", "ablate.offers"]
            self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors)
        return self._process

    def _answered(self, process: subprocess.Popen[bytes], request: bytes, name: str, timeout_s: float) -> bytes | None:
        """The line that it answers; none where it ended instead."""
        assert process.stdin is not None
        assert process.stdout is not None
        until, answer = time.monotonic() + timeout_s, b""
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(request)
            process.stdin.flush()
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            while not answer.endswith(b"\n"):
                if not selector.select(max(0.0, until - time.monotonic())):
                    self._end()
                    raise TrainerError(
                        f"{name}: expected an answer within {timeout_s:g} s but it still runs. Make it faster, or leave it out."
                    )
                part = os.read(process.stdout.fileno(), 1 << 16)
                if not part:
                    return None
                answer += part
        return answer

    def _printed(self) -> str:
        self._errors.seek(0)
        return self._errors.read().decode(errors="replace")

    def _end(self) -> int:
        """End it, whatever it does; its exit code."""
        process, self._process = self._process, None
        if process is None:
            return 0
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        try:
            return process.wait(timeout=1.0)  # it ends when its input does
        except subprocess.TimeoutExpired:
            process.kill()
            return process.wait()


def serve() -> None:
    """In the child: a request a line from stdin, an answer a line; what an offer prints goes to stderr."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    for line in sys.stdin:
        try:
            answer: object = _answer(json.loads(line))
        except ValueError as error:  # what a trainer raises on purpose: bad data, bad settings; its message is the mend
            answer = {"problem": str(error)}
        print(json.dumps(answer), file=answers, flush=True)


def _answer(request: Mapping[str, typing.Any]) -> list[object]:
    sys.path[:] = [*request["path"], *(p for p in sys.path if p not in request["path"])]
    offer = imported(request["offer"], "trainer")
    read = imported(f"{request['schema']}:from_mapping", "trainer.schema") if request["schema"] else None
    answers: list[object] = []
    for config in request["configs"]:
        answer = offer(read(config) if read else config)
        answers.append([_plain_finding(one) for one in answer] if isinstance(answer, (list, tuple)) else answer)
    return answers


def _plain_finding(finding: object) -> object:
    return dataclasses.asdict(finding) if dataclasses.is_dataclass(finding) and not isinstance(finding, type) else finding


def imported(name: str, where: str) -> Callable[..., typing.Any]:
    """What `package.module:callable` names.

    Raises:
        TrainerError: It cannot be imported, or there is no such callable in it.
    """
    module, _, attribute = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), attribute, None)
    except ModuleNotFoundError as error:
        raise TrainerError(f"{where}: cannot import {module} ({error}). Run from the folder that holds it, or install it.") from error
    except Exception as error:
        raise TrainerError(broke(module, error)) from error
    if not callable(found):
        known = [n for n in dir(sys.modules[module]) if not n.startswith("_")]
        raise TrainerError(f"{where}: expected a callable but {module} has none named {attribute!r}.{nearest(attribute, known)}")
    return typing.cast("Callable[..., typing.Any]", found)


def broke(name: str, error: Exception) -> str:
    """The message for an exception that a trainer's own code raised."""
    return f"{name}: raised {type(error).__name__}: {error}. This is a fault of the trainer, not of the study."
