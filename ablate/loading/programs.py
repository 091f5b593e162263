"""A trainer that is a command: its config file read, and what is wrong with how the study describes it, all at once."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from ablate.command import PLACEHOLDERS, SECRET, VIEWED, Arguments, Command, DataVersion, vector
from ablate.errors import StudyError
from ablate.loading import composing
from ablate.loading.problem import Problem
from ablate.offers import program
from ablate.study import CALLABLE_KEYS, COMMAND_KEYS, Trainer, nearest

_ARGUMENTS: TypeAdapter[Arguments | None] = TypeAdapter(Arguments | None)
_WORD = re.compile(r"\{(\w+)\}")


def resolved(document: dict[str, object]) -> tuple[dict[str, object], list[Problem]]:
    """The document with the values of the config file that `trainer.base` names, and what kept them from being read."""
    trainer = document.get("trainer")
    if not isinstance(trainer, dict) or trainer.get("command") is None:
        return document, []
    named = trainer.get("base")
    if not isinstance(named, str):
        return document, []
    cwd = trainer.get("cwd", ".")
    found: dict[str, object] = {key: value for key, value in trainer.items() if key != "base"}
    try:
        found["base"] = composing.settings_of(Path(cwd if isinstance(cwd, str) else ".") / named)
    except StudyError as error:
        return {**document, "trainer": found}, [Problem(("trainer", "base"), f"{named}: {text}") for text in error.problems]
    found.setdefault("hand_over", "changed")
    return {**document, "trainer": found}, []


def kinds(document: Mapping[str, object]) -> list[Problem]:
    """Keys of a callable beside a command, and the other way round."""
    trainer = document.get("trainer")
    if not isinstance(trainer, dict) or (trainer.get("command") is None) == (trainer.get("callable") is None):
        return []
    if trainer.get("command") is not None:
        problems = [Problem(("trainer", key), "belongs to a callable but this trainer is a command.") for key in CALLABLE_KEYS]
    else:
        problems = [Problem(("trainer", key), "belongs to a command but this trainer is a callable.") for key in COMMAND_KEYS]
    return [Problem(p.keys, f"{p.text} Leave it out.") for p in problems if trainer.get(str(p.keys[-1])) is not None]


def viewer(document: Mapping[str, object]) -> list[Problem]:
    """What is wrong with `trainer.viewer`, which either kind of trainer may have; what is no valid value at all is left to the types."""
    trainer = document.get("trainer")
    try:
        given: Arguments | None = _ARGUMENTS.validate_python(trainer.get("viewer") if isinstance(trainer, dict) else None, strict=True)
        words = None if given is None else vector(given)
    except ValidationError:
        return []
    except ValueError as error:
        return [Problem(("trainer", "viewer"), f"expected an argument vector but {error}. Close the quote, or write a list.")]
    if words is None:
        return []
    if not words or not words[0].strip():
        example = '["{python}", "{folder}/show.py", "{directory}"]'
        return [Problem(("trainer", "viewer"), f"expected a program and its arguments but it is empty. For example {example}.")]
    found = [f"no such placeholder: {{{word}}}." for argument in words for word in _WORD.findall(argument) if word not in VIEWED]
    names = ", ".join(f"{{{name}}}" for name in VIEWED)
    return [Problem(("trainer", "viewer"), f"{text} There are {names}.") for text in dict.fromkeys(found)]


def problems_of(document: Mapping[str, object]) -> list[Problem]:
    """What the types cannot say of a command: placeholders, paths, secrets. What is no valid value at all is left to them."""
    trainer = document.get("trainer")
    if not isinstance(trainer, dict) or trainer.get("command") is None:
        return []
    try:
        command: Command = Trainer.model_validate({key: value for key, value in trainer.items() if key not in CALLABLE_KEYS})
    except ValidationError as error:
        wrong = {detail["loc"][0] for detail in error.errors() if detail["loc"]}
        kept = {key: value for key, value in trainer.items() if key in Command.model_fields and key not in wrong}
        try:
            command = Command.model_validate(kept)
        except ValidationError:
            return []
    found = list(_problems(command))
    if trainer.get("metrics") is None and trainer.get("result") is None:
        text = "expected where its metrics are but it is missing. Add metrics.file, metrics.pattern, or result (a JSON file)."
        found.append(Problem(("metrics",), text))
    found = [Problem(("trainer", *problem.keys), problem.text) for problem in found]
    if document.get("rungs") and trainer.get("checkpoint") is None:
        text = "trials pause at a rung and go on from a checkpoint, but trainer.checkpoint is missing. Add it, or leave rungs out."
        found.append(Problem(("rungs",), text))
    return found


def _problems(command: Command) -> Iterator[Problem]:
    for name in command.environment:
        if SECRET.search(name):
            yield Problem(
                ("environment", name),
                "looks like a secret, and a study file is copied beside every result. Export it before you start; the program inherits it.",
            )
    names = list(command.rename.values())
    for theirs, ours in command.rename.items():
        if names.count(ours) > 1:
            yield Problem(("rename", theirs), f"{ours!r} is the new name of another metric too. Give each its own.")
    if not Path(command.cwd).is_dir():
        yield Problem(("cwd",), f"expected a folder but there is no {command.cwd} in {Path.cwd()}. It is from where you call ablate.")
        return
    yield from _paths(command)
    if command.command is None:
        return
    try:
        arguments = command.arguments
    except ValueError as error:
        yield Problem(("command",), f"expected an argument vector but {error}. Close the quote, or write a list.")
        return
    if not arguments or not arguments[0].strip():
        yield Problem(("command",), 'expected a program and its arguments but it is empty. For example ["{python}", train.py].')
        return
    if program.executable(command) is None:
        yield Problem(
            ("command",), f"cannot find the program {arguments[0]!r}. Install it, write its whole path, or {{python}} for this one."
        )
    yield from _placeholders(command, arguments)
    if command.checkpoint is not None:
        try:
            resume = vector(command.checkpoint.argument)
        except ValueError as error:
            yield Problem(("checkpoint", "argument"), f"expected an argument vector but {error}. Close the quote, or write a list.")
        else:
            yield from _unknown(("checkpoint", "argument"), resume)


def _placeholders(command: Command, arguments: list[str]) -> Iterator[Problem]:
    yield from _unknown(("command",), arguments)
    if command.config in ("yaml", "json") and not any("{config}" in argument for argument in arguments):
        yield Problem(
            ("command",), f"expected {{config}} where the path of its {command.config} file goes. Add it, such as --config {{config}}."
        )
    if command.config in ("hydra", "flags"):
        inside = [argument for argument in arguments if "{config}" in argument and argument != "{config}"]
        if inside:
            yield Problem(
                ("command",),
                f"expected {{config}} as an argument of its own but got {inside[0]!r}: {command.config} are several arguments.",
            )
    if command.checkpoint is None and any("{checkpoint}" in argument for argument in arguments):
        yield Problem(("command",), "{checkpoint} has no value. Name the file in trainer.checkpoint.file.")
    if command.checkpoint is not None and "*" in command.checkpoint.file and any("{checkpoint}" in argument for argument in arguments):
        yield Problem(("checkpoint", "file"), "has a * and so names no single {checkpoint} for the command. Name the file.")


def _unknown(keys: tuple[str, ...], arguments: list[str]) -> Iterator[Problem]:
    for argument in arguments:
        for word in _WORD.findall(argument):
            guess = nearest(word, list(PLACEHOLDERS))
            if word not in PLACEHOLDERS and guess:
                yield Problem(keys, f"no such placeholder: {{{word}}}.{guess}")


def _paths(command: Command) -> Iterator[Problem]:
    data = [] if isinstance(command.data, DataVersion) else [command.data] if isinstance(command.data, str) else command.data
    for key, names in (("code", command.code), ("data", data)):
        for index, name in enumerate(names):
            if not (Path(command.cwd) / Path(name).expanduser()).exists():
                keys = (key, index) if isinstance(getattr(command, key), list) else (key,)
                yield Problem(keys, f"no such file or folder: {name}, from {Path(command.cwd).resolve()}. Name what is there.")
