"""How a command gets its settings: Hydra overrides, flags, or a file."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from ablate.command import Command, Flags, filled, vector
from ablate.trial import flatten

Settings = Mapping[str, object]


def arguments(command: Command, config: Settings, values: Mapping[str, str]) -> list[str]:
    """The whole argument vector.

    Args:
        config: Nested plain values, the replicate's seed included.
        values: Placeholder to its text, `{config}` left out unless it is a file's path.
    """
    given = command.arguments
    settings = _settings(command, config)
    if command.config == "hydra":
        words = [f"{path}={hydra_value(value)}" for path, value in settings]
    elif command.config == "flags":
        words = [word for path, value in settings for word in flag(path, value, command.flags)]
    else:
        return [filled(argument, values) for argument in given]
    if "{config}" not in given:
        given = [*given, "{config}"]
    return [word for argument in given for word in (words if argument == "{config}" else [filled(argument, values)])]


def resume_arguments(command: Command, values: Mapping[str, str]) -> list[str]:
    """What is added where there is a checkpoint to go on from."""
    return [] if command.checkpoint is None else [filled(word, values) for word in vector(command.checkpoint.argument)]


def write_config(command: Command, config: Settings, directory: Path) -> Path | None:
    """The settings as a file in the command's directory, for a command that reads one."""
    if command.config == "yaml":
        from ablate.loading.reading import dump_yaml  # only where it is needed: it comes with all of loading

        path, text = directory / "config.yaml", dump_yaml(config)
    elif command.config == "json":
        path, text = directory / "config.json", json.dumps(config, indent=1) + "\n"
    else:
        return None
    path.write_text(text, encoding="utf-8")
    return path


def _settings(command: Command, config: Settings) -> Iterator[tuple[str, object]]:
    """The settings to hand over, the seed last."""
    base = dict(flatten(command.base)) if isinstance(command.base, Mapping) else {}
    flat = dict(flatten(config))
    seed = flat.pop(command.seed_key, None)
    absent = object()
    for path, value in flat.items():
        if command.hand_over != "changed" or base.get(path, absent) != value or type(base[path]) is not type(value):
            yield path, value
    if seed is not None and not any("{seed}" in argument for argument in command.arguments):
        yield command.seed_key, seed


def flag(path: str, value: object, style: Flags) -> Iterator[str]:
    """A setting as the words of a flag; null is no flag at all."""
    if value is None:
        return
    if isinstance(value, bool) and style.booleans != "value":
        if value:
            yield f"--{path}"
        elif style.booleans == "negatable":
            yield f"--no-{path}"
        return
    if style.equals:
        yield f"--{path}={','.join(map(_word, value)) if isinstance(value, list) else _word(value)}"
        return
    yield f"--{path}"
    yield from map(_word, value if isinstance(value, list) else [value])


def _word(value: object) -> str:
    if isinstance(value, str):
        return value
    return json.dumps(value) if not isinstance(value, float) else repr(value)


_PLAIN = re.compile(r"[A-Za-z_/][A-Za-z0-9_/.-]*")


def hydra_value(value: object) -> str:
    """A value in Hydra's override grammar; texts are quoted where they could be read as something else."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return repr(value) if math.isfinite(value) else str(value)
    if isinstance(value, int):
        return str(value)
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{hydra_value(str(key))}:{hydra_value(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ",".join(map(hydra_value, value)) + "]"
    text = str(value)
    if _PLAIN.fullmatch(text) and text.lower() not in ("null", "true", "false", "nan", "inf"):
        return text
    # A quote takes a backslash, and so do backslashes that stand before one or end the text.
    return "'" + re.sub(r"(\\*)('|$)", lambda m: m[1] * 2 + ("\\'" if m[2] else ""), text) + "'"
