"""What the types of `study.py` expect, in plain words: their validation errors without any jargon."""

from __future__ import annotations

import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import annotated_types
from pydantic import BaseModel, ValidationError

from ablate.loading.problem import Keys, Problem
from ablate.study import Level, Name, Study, nearest

MENDS = {
    "replicates.start": "An interval from fewer pairs says nothing.",
    "replicates.at_most": "An interval from fewer pairs says nothing.",
    "objective.smallest_effect": "It is the smallest difference worth acting on, in the metric's unit.",
    "trainer.callable": "For example trainer.train:train.",
    "trainer.schema": "For example trainer.config:schema.",
    "alpha": "It is the chance of adopting an arm that changes nothing; 0.05 is usual.",
}
"""What to do, by the last keys of a place."""

_NAME_WORDS = "a name of letters, digits, _, - and . that begins with a letter or digit, 64 at most"
_NAME_PATTERNS = {getattr(m, "pattern", None) for m in typing.get_args(Name)[1:]}
_LEVEL_WORDS = "true, false, a number, a text, null, or a list of these"
_FORMS = {"Range": "a range {low: .., high: ..}", "Tune": "{tune: POINTS}", "Solved": "{solved: VALUE}"}


@dataclass(frozen=True)
class _Expected:
    """A type annotation with the bounds that stand beside it."""

    annotation: object
    metadata: tuple[object, ...] = ()

    @property
    def members(self) -> list[object]:
        """The union's members, None left out; else the annotation alone."""
        if self.annotation == Level:
            return [self.annotation]
        if typing.get_origin(self.annotation) in (typing.Union, types.UnionType):
            return [a for a in typing.get_args(self.annotation) if a is not type(None)]
        return [self.annotation]

    def fitting(self, value: object) -> list[object]:
        """The members that a value of this shape can only have been meant for."""
        wanted = (_is_mapping_type,) if isinstance(value, Mapping) else (_is_list_type,) if isinstance(value, list) else ()
        return [member for member in self.members if any(test(member) for test in wanted)]


def problems_of(error: ValidationError, document: object) -> list[Problem]:
    """One problem a place, in the order of the file's types."""
    found: dict[Keys, Problem] = {}
    for detail in error.errors():
        problem = _problem(detail["type"], detail["loc"], detail["msg"], document)
        if problem is not None:
            found.setdefault(problem.keys, problem)
    return list(found.values())


def key_names(model: type[BaseModel]) -> dict[str, dict[str, object] | None]:
    """A model's keys as a file writes them; each with its own keys where it is itself a model."""
    names: dict[str, dict[str, object] | None] = {}
    for name, info in model.model_fields.items():
        inner = next((m for m in _Expected(info.annotation).members if isinstance(m, type) and issubclass(m, BaseModel)), None)
        names[info.alias or name] = dict.fromkeys(key_names(inner)) if inner is not None else None
    return names


def _problem(kind: str, loc: Sequence[str | int], message: str, document: object) -> Problem | None:
    """The problem of one validation error; none where it belongs to a form of the value that was not meant."""
    value, expected = document, _Expected(Study)
    keys: Keys = ()
    is_key = bool(loc) and loc[-1] == "[key]"
    steps = list(loc[:-1] if is_key else loc)
    for position, step in enumerate(steps):
        here = _at(value, step)
        last = position == len(steps) - 1
        if here is _ABSENT and not (last and kind == "missing"):
            # The step names a member of a union, not a place in the file.
            fitting = expected.fitting(value)
            if not fitting:
                return Problem(keys, _say(expected, value, keys))
            if not any(_mentions(str(step), member) for member in fitting):
                return None
            expected = _Expected(fitting[0])
            continue
        owner = expected
        expected, value, keys = _inside(expected, value, step), here, (*keys, step)
        if kind == "extra_forbidden" and last:
            return Problem(keys, f"no such key.{_known(step, owner)}")
    if is_key:
        return Problem(keys, f"expected {_NAME_WORDS} but got {keys[-1]!r}.")
    if kind == "missing":
        return Problem(keys, f"expected {_words(expected)} but it is missing. Add it.{_mend(keys)}")
    if kind == "value_error":
        text = message.removeprefix("Value error, ")
        inner, colon, rest = text.partition(": ")
        return Problem((*keys, inner), rest) if colon and inner.isidentifier() else Problem(keys, text)
    return Problem(keys, _say(expected, value, keys))


class _Absent:
    pass


_ABSENT = _Absent()


def _at(value: object, step: str | int) -> object:
    if isinstance(value, Mapping):
        return value.get(step, _ABSENT)
    if isinstance(value, list) and isinstance(step, int) and step < len(value):
        return value[step]
    return _ABSENT


def _inside(expected: _Expected, value: object, step: str | int) -> _Expected:
    """What is expected one key or index further in."""
    for member in [*expected.fitting(value), *expected.members]:
        if isinstance(member, type) and issubclass(member, BaseModel):
            for name, info in member.model_fields.items():
                if (info.alias or name) == step:
                    return _Expected(info.annotation, tuple(info.metadata))
        arguments = typing.get_args(member)
        if typing.get_origin(member) in (dict, list) and arguments:
            return _Expected(arguments[-1])
    return _Expected(object)


def _mentions(step: str, member: object) -> bool:
    if isinstance(member, type) and issubclass(member, BaseModel):
        return member.__name__ in step
    return step.startswith("dict" if typing.get_origin(member) is dict else "list")


def _is_mapping_type(member: object) -> bool:
    return typing.get_origin(member) is dict or (isinstance(member, type) and issubclass(member, BaseModel))


def _is_list_type(member: object) -> bool:
    return typing.get_origin(member) is list


def _say(expected: _Expected, value: object, keys: Keys) -> str:
    choices = [str(c) for m in expected.members if typing.get_origin(m) is typing.Literal for c in typing.get_args(m)]
    guess = nearest(value, choices) if isinstance(value, str) else ""
    return f"expected {_words(expected)} but got {plain(value)}.{guess}{_mend(keys)}"


def plain(value: object) -> str:
    """A value as a study file writes it, cut where it is long."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    text = "a mapping" if isinstance(value, Mapping) else "a list" if isinstance(value, list) else repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _words(expected: _Expected) -> str:
    words = [_member_words(member, expected.metadata) for member in expected.members]
    nullable = type(None) in typing.get_args(expected.annotation) and expected.annotation != Level
    return " or ".join(dict.fromkeys(words)) + (" or null" if nullable else "")


def _member_words(member: object, metadata: Iterable[object]) -> str:
    if member == Level:
        return _LEVEL_WORDS
    origin, arguments = typing.get_origin(member), typing.get_args(member)
    if member == Name:
        return _NAME_WORDS
    if origin is typing.Annotated:
        return _member_words(arguments[0], arguments[1:])
    if origin is typing.Literal:
        return f"one of {', '.join(str(a) for a in arguments)}"
    if origin is list:
        return "a list with at least one item" if any(isinstance(m, annotated_types.MinLen) for m in metadata) else "a list"
    if origin is dict:
        return "a mapping of keys to values"
    if isinstance(member, type) and issubclass(member, BaseModel):
        return _FORMS.get(member.__name__, f"a mapping with {', '.join(key_names(member))}")
    plain_words = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}
    patterns = {getattr(m, "pattern", None) for m in metadata} - {None}
    if member is str and patterns:
        return _NAME_WORDS if patterns & _NAME_PATTERNS else "`package.module:name`"
    return plain_words.get(typing.cast(type, member), "another value") + _bounds(metadata)


def _bounds(metadata: Iterable[object]) -> str:
    words = []
    for bound in metadata:
        if isinstance(bound, annotated_types.Ge):
            words.append(f"of at least {bound.ge}")
        elif isinstance(bound, annotated_types.Gt):
            words.append(f"above {bound.gt}")
        elif isinstance(bound, annotated_types.Le):
            words.append(f"at most {bound.le}")
        elif isinstance(bound, annotated_types.Lt):
            words.append(f"below {bound.lt}")
    return f" {' and '.join(words)}" if words else ""


def _known(step: str | int, owner: _Expected) -> str:
    models = [m for m in owner.members if isinstance(m, type) and issubclass(m, BaseModel)]
    keys = [key for model in models for key in key_names(model)]
    return nearest(str(step), keys) or f" The keys here are {', '.join(keys)}."


def _mend(keys: Keys) -> str:
    place = ".".join(str(key) for key in keys if isinstance(key, str))
    return next((f" {mend}" for end, mend in MENDS.items() if place == end or place.endswith(f".{end}")), "")
