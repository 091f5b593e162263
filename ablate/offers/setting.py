"""What each setting of a trainer takes, read from its schema: a dataclass whose field metadata may hold choices, bounds and help."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ablate.study import Level, nearest


@dataclass(frozen=True)
class SettingType:
    """What one setting of the trainer takes, read from the schema's dataclass field and its metadata."""

    kind: type
    """bool, int, float, str or list."""
    optional: bool = False
    item: type | None = None
    """The kind of a list's items."""
    choices: tuple[Level, ...] = ()
    at_least: float | None = None
    at_most: float | None = None
    help: str = ""
    free: bool = False
    """Only its path is known for certain: `kind` is that of the value which stands there, and any other may follow."""

    @property
    def words(self) -> str:
        """What is expected, in words: `a whole number from 1 to 64`."""
        if self.choices:
            return f"one of {', '.join(str(choice) for choice in self.choices)}"
        items = {bool: "true or false", int: "whole numbers", float: "numbers", str: "texts"}.get(self.item or object, "values")
        plain = {bool: "true or false", int: "a whole number", float: "a number", str: "a text", list: f"a list of {items}"}
        bounds = ""
        if self.at_least is not None and self.at_most is not None:
            bounds = f" from {self.at_least:g} to {self.at_most:g}"
        elif self.at_least is not None:
            bounds = f" of at least {self.at_least:g}"
        elif self.at_most is not None:
            bounds = f" of at most {self.at_most:g}"
        return f"{plain.get(self.kind, self.kind.__name__)}{bounds}{' or null' if self.optional else ''}"

    def problem(self, value: object) -> str | None:
        """`expected <what> but got <value>.` where the setting does not take the value."""
        if self.free or (self.optional and value is None) or self._takes(value):
            return None
        return f"expected {self.words} but got {_plain(value)}.{nearest(str(value), [str(c) for c in self.choices])}"

    def coerce(self, value: object) -> object:
        """The value as the trainer reads it, so that 0 and 0.0 are one level; what the setting does not take stays as it is."""
        if self.kind is float and isinstance(value, int) and not isinstance(value, bool):
            return float(value)
        if self.kind is int and isinstance(value, float) and value.is_integer():
            return int(value)
        if self.kind is list and isinstance(value, list) and self.item is float:
            return [float(v) if isinstance(v, int) and not isinstance(v, bool) else v for v in value]
        return value

    def _takes(self, value: object) -> bool:
        if not _is_a(value, self.kind):
            return False
        if isinstance(value, list) and self.item is not None and not all(_is_a(v, self.item) for v in value):
            return False
        if self.choices and value not in self.choices:
            return False
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return (self.at_least is None or value >= self.at_least) and (self.at_most is None or value <= self.at_most)
        return True


def setting_types(instance: object, prefix: str = "") -> Iterator[tuple[str, SettingType]]:
    """Dotted path and type of every setting of a schema's dataclass; nested dataclasses are sections."""
    hints = typing.get_type_hints(type(instance))
    for field in dataclasses.fields(typing.cast(typing.Any, instance)):
        value, path = getattr(instance, field.name), f"{prefix}{field.name}"
        if dataclasses.is_dataclass(value):
            yield from setting_types(value, f"{path}.")
            continue
        kind, optional, item = _kind(hints[field.name])
        meta = field.metadata
        yield (
            path,
            SettingType(
                kind, optional, item, tuple(meta.get("choices", ())), meta.get("at_least"), meta.get("at_most"), meta.get("help", "")
            ),
        )


def _kind(hint: object) -> tuple[type, bool, type | None]:
    """A type hint as (kind, may be null, kind of a list's items)."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        inner = [a for a in arguments if a is not type(None)]
        kind, _, item = _kind(inner[0])
        return kind, len(inner) < len(arguments), item
    if origin is typing.Literal:
        return type(arguments[0]), False, None
    if origin in (list, tuple, Sequence):
        return list, False, _kind(arguments[0])[0] if arguments else None
    return (hint if isinstance(hint, type) else str), False, None


def _is_a(value: object, kind: type) -> bool:
    if kind is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and value == value and abs(value) != float("inf")
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, (list, tuple)) if kind is list else isinstance(value, kind)


def _plain(value: object) -> str:
    """A value as a study file writes it."""
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else repr(value)
