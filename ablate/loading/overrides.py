"""`key=value` on the command line, put into the document before it is checked.

A key is a place in the study file (`replicates.start`, `phases.flags.replicates.start`, `guards[0].at_least`) or a setting of
the trainer (`loop.steps`), which then holds for every arm.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Collection, Iterator, Sequence

from ablate.loading.problem import Problem
from ablate.loading.reading import parse_value
from ablate.loading.wording import key_names
from ablate.study import Study, nearest

_LEVEL_KEYS = ("baseline", "set", "factors", "when")
_BUNDLE_KEYS = ("references", "components")


def split(override: str) -> tuple[str, object]:
    """Key and value of `key=value`.

    Raises:
        ValueError: Another form; the message says what was expected.
    """
    key, equals, text = override.partition("=")
    if not equals or not key.strip():
        raise ValueError(f"expected KEY=VALUE but got {override!r}. For example replicates.start=3.")
    if not text.strip():
        raise ValueError(f"expected a value after {key.strip()}= but got nothing. Write null for none.")
    try:
        return key.strip(), parse_value(text)
    except ValueError as error:
        raise ValueError(f"{key.strip()}: {error}") from error


def apply(
    document: dict[str, object], overrides: Sequence[str], settings: Collection[str] | None
) -> tuple[dict[str, object], list[Problem]]:
    """The document with the overrides in it, later ones over earlier ones; the input stays as it was.

    Args:
        settings: Dotted paths of the trainer's settings; none: unchecked.
    """
    changed = copy.deepcopy(document)
    problems = []
    for override in overrides:
        try:
            key, value = split(override)
        except ValueError as error:
            problems.append(Problem((), f"override {error}"))
            continue
        parts = re.sub(r"\[(\d+)\]", r".\1", key).split(".")
        mistake = _unknown(key, parts[0], settings, changed) or _in_their_file(parts, changed)
        if mistake is None and parts[0] in key_names(Study):
            mistake = _put(changed, parts, value)
        elif mistake is None:
            mistake = _put(changed, ["trainer", "set", *parts], value)
        if mistake is not None:
            problems.append(Problem((), f"override {key}: {mistake}"))
    return changed, problems


def _unknown(key: str, first: str, settings: Collection[str] | None, document: dict[str, object]) -> str | None:
    """Why a key names neither a place of the study file nor a setting; none where it does."""
    keys = key_names(Study)
    if first in keys or (settings is not None and key in settings):
        return None
    guess = nearest(key, list(_places(document)) + sorted(settings or ()))
    if settings is None and (guess == "" or "." in key):
        return None
    sections = [path for path in settings or () if path.startswith(f"{key}.")]
    if sections:
        return f"is a section of settings, not a setting. Name one of its settings, such as {sections[0]}."
    return f"no such key of a study and no such setting of its trainer.{guess}"


def _in_their_file(parts: Sequence[str], document: dict[str, object]) -> str | None:
    """A value in a base that is the program's own file: the program reads that file, not the study's copy of it."""
    trainer = document.get("trainer")
    if parts[:2] != ["trainer", "base"] or len(parts) < 3 or not isinstance(trainer, dict) or not isinstance(trainer.get("base"), str):
        return None
    return f"the base is a file, {trainer['base']}. To change a setting for all arms, write {'.'.join(parts[2:])}=VALUE."


def _places(document: dict[str, object]) -> Iterator[str]:
    """Keys that an override can name: those of the study and one level below."""
    for key in key_names(Study):
        yield key
    for key, value in key_names(Study).items():
        inner = value if value else document.get(key) if isinstance(document.get(key), dict) else {}
        yield from (f"{key}.{name}" for name in (inner if isinstance(inner, dict) else {}))


def _put(document: dict[str, object], parts: Sequence[str], value: object) -> str | None:
    """Put the value where the dotted parts lead; says why where they lead nowhere."""
    node: object = document
    walked: list[str] = []
    rest = list(parts)
    while True:
        if isinstance(node, list):
            index = _index(node, rest[0])
            if index is None:
                names = [str(item.get("name")) for item in node if isinstance(item, dict) and "name" in item]
                return f"expected one of {', '.join(names)} or a number below {len(node)} but got {rest[0]!r}.{nearest(rest[0], names)}"
            if len(rest) == 1:
                node[index] = value
                return None
            if not isinstance(node[index], (dict, list)):
                node[index] = {}
            node, walked, rest = node[index], [*walked, rest[0]], rest[1:]
            continue
        assert isinstance(node, dict)
        key, rest = _key(node, walked, rest)
        if not rest:
            node[key] = value
            return None
        if not isinstance(node.get(key), (dict, list)):
            node[key] = {}
        node, walked = node[key], [*walked, key]


def _key(node: dict[str, object], walked: Sequence[str], rest: list[str]) -> tuple[str, list[str]]:
    """The key that comes next: config paths are keys with dots in them, so the longest one that is there counts."""
    levels = bool(walked) and (walked[-1] in _LEVEL_KEYS or (len(walked) > 1 and walked[-2] in _BUNDLE_KEYS))
    if not levels:
        return rest[0], rest[1:]
    for count in range(len(rest), 0, -1):
        key = ".".join(rest[:count])
        if key in node:
            return key, rest[count:]
    return ".".join(rest), []


def _index(items: list[object], name: str) -> int | None:
    """A list's item by its number, or by its `name`, or by the `metric` that it is about."""
    if name.isdigit():
        return int(name) if int(name) < len(items) else None
    return next((i for i, item in enumerate(items) if isinstance(item, dict) and item.get("name") == name), None)
