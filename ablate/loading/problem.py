"""One thing that is wrong in a study file, and where."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

Keys = tuple[str | int, ...]
"""Keys and indices from the top of the document; a dotted config path is one key."""


@dataclass(frozen=True)
class Problem:
    """Where, and what was expected, what came and what to do."""

    keys: Keys
    text: str

    def __str__(self) -> str:
        return f"{show(self.keys)}: {self.text}" if self.keys else self.text


def show(keys: Keys) -> str:
    """`phases[0].factors.crops.foreground_crop_prob[1]`."""
    text = ""
    for key in keys:
        text += f"[{key}]" if isinstance(key, int) else f".{key}" if text else key
    return text


def pruned(document: object, problems: Iterable[Problem]) -> object:
    """The document without the values that have problems, so that what is left can be checked further."""
    gone = {problem.keys for problem in problems if problem.keys}

    def keep(value: object, keys: Keys) -> object:
        if isinstance(value, dict):
            return {key: keep(inner, (*keys, key)) for key, inner in value.items() if (*keys, key) not in gone}
        if isinstance(value, list):
            return [keep(inner, (*keys, index)) for index, inner in enumerate(value) if (*keys, index) not in gone]
        return value

    return keep(document, ())
