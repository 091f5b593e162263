"""Offers that read data run in a process of their own, so that the platform never imports numpy or torch."""

from __future__ import annotations

import dataclasses
import importlib
import json
import subprocess
import sys
import tempfile
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from ablate.errors import TrainerError
from ablate.study import nearest
from ablate.trial import write_atomic

TAIL_LINES = 12
"""Lines of a failed process that its error shows."""


def call(name: str, schema: str | None, configs: Sequence[Mapping[str, object]], timeout_s: float) -> list[object]:
    """The offer's answer for each config, from one process for all of them.

    Args:
        name: `package.module:callable`.
        schema: The module whose `from_mapping` makes the offer's argument from a config; none: the offer takes nested plain values.

    Raises:
        TrainerError: It failed, with the end of what it printed, or took too long.
    """
    with tempfile.TemporaryDirectory(prefix="ablate-") as folder:
        answer = Path(folder) / "answer.json"
        request = {"offer": name, "schema": schema, "configs": configs, "answer": str(answer), "path": sys.path}
        command = [sys.executable, "-m", "ablate.offers"]
        try:
            done = subprocess.run(command, input=json.dumps(request), capture_output=True, text=True, timeout=timeout_s, check=False)
        except subprocess.TimeoutExpired as error:
            raise TrainerError(
                f"{name}: expected an answer within {timeout_s:g} s but it still runs. Make it faster, or leave it out."
            ) from error
        if done.returncode != 0 or not answer.exists():
            tail = "\n".join(f"  {line}" for line in done.stderr.strip().splitlines()[-TAIL_LINES:])
            raise TrainerError(f"{name}: failed in its own process (exit code {done.returncode}). The end of what it printed:\n{tail}")
        answered = json.loads(answer.read_text())
        if isinstance(answered, dict):
            raise TrainerError(answered["problem"])
        return typing.cast("list[object]", answered)


def serve() -> None:
    """In the child: read a request from stdin, write the answer to the file that it names."""
    request = json.loads(sys.stdin.read())
    try:
        answer: object = _answer(request)
    except ValueError as error:  # what a trainer raises on purpose: bad data, bad settings; its message is the mend
        answer = {"problem": str(error)}
    write_atomic(Path(request["answer"]), json.dumps(answer))


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
