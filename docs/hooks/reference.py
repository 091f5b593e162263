"""Pages of the reference, made from the code when the site is built: so they cannot drift.

mkdocs calls `on_files`; `pages()` is what it adds.
"""

from __future__ import annotations

import ast
import dataclasses
import html
import inspect
import re
import sys
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from ablate.study import Level, Study  # noqa: E402  # found by the line above

STUDY, TRAINER, METRICS = "reference/study.md", "reference/trainer.md", "reference/metrics.md"

PLAIN = {"str": "text", "int": "whole number", "float": "number", "bool": "true | false", "None": "none", "list": "list"}
"""Python's names of types as a reader of YAML thinks of them."""

BOUNDS = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below", "pattern": "matches"}


def pages() -> dict[str, str]:
    """Path below the site's root to Markdown."""
    return {STUDY: study_page(), TRAINER: trainer_page(), METRICS: metrics_page()}


def study_page() -> str:
    """Every key of a study file, from the types that read it."""
    lines = [
        "# Every key of a study file",
        "",
        "Made from `ablate/study.py` and `ablate/command.py`. Unknown keys, wrong types and values out of bounds are told all at once,",
        "each with its path; any value can be overridden on the command line: `ablate run STUDY replicates.start=3`.",
    ]
    for model in models_of(Study):
        lines += ["", f"## {model.__name__}", "", *_paragraph(model), ""]
        lines += _table(("key", "type", "default", ""), [_key(model, name, field) for name, field in model.model_fields.items()])
    return "\n".join(lines) + "\n"


def trainer_page() -> str:
    """Every setting of the trainer, from its dataclasses, with what the presets make of it."""
    from trainer.config import TrainerConfig, schema
    from trainer.config.composing import presets

    names = sorted(presets())
    lines = [
        "# Every setting of the trainer",
        "",
        "Made from `trainer/config/fields.py`. A study's factors, `baseline` and `trainer.set` name them by these paths; "
        "`python -m trainer PATH=VALUE` sets one.",
        "",
        f"Presets: {', '.join(f'`{name}`' for name in names)}. What they set apart from the default stands in the last column.",
    ]
    base = schema(None)
    made = {name: schema(name) for name in names}
    for path, group in _groups(TrainerConfig, base):
        lines += ["", f"## {path or 'top level'}", "", *_paragraph(type(group)), ""]
        rows = []
        for field in dataclasses.fields(group):
            value = getattr(group, field.name)
            if dataclasses.is_dataclass(value):
                continue
            whole = f"{path}.{field.name}" if path else field.name
            set_by = [
                f"{name} {_code(_value(_at(one, whole)))}" for name, one in made.items() if _at(one, whole) != value and whole != "preset"
            ]
            rows.append((_code(whole), _escaped(_bare(field.type)), _code(_value(value)), _help(field), "; ".join(set_by)))
        lines += _table(("setting", "type", "default", "", "presets"), rows)
    return "\n".join(lines) + "\n"


def metrics_page() -> str:
    """Every metric that the trainer reports, from its own list of them."""
    from trainer.measure.names import METRICS as NAMED
    from trainer.measure.names import SECTIONS

    lines = [
        "# Every metric of the trainer",
        "",
        "Made from `trainer/measure/names.py`, which a test holds against what a run reports. `probe/` is measured on crops that are the",
        "same for every arm, held out from training: for deciding. `train/` is measured on an arm's own crops: for looking. `loop/` is",
        "about the machine.",
        "",
        "A program of your own may report any metric; only the study's `objective`, `guards` and `columns` name what is read.",
    ]
    for section, text in SECTIONS.items():
        rows = [(_code(one.name), one.unit, one.meaning) for one in NAMED if one.name.startswith(f"{section}/")]
        lines += ["", f"## {section}", "", text, "", *_table(("metric", "unit", ""), rows)]
    return "\n".join(lines) + "\n"


def models_of(model: type[BaseModel]) -> list[type[BaseModel]]:
    """A model and all that its fields are made of, each once, in reading order."""
    found: list[type[BaseModel]] = [model]
    for one in found:
        for field in one.model_fields.values():
            found += [inner for inner in _models_in(field.annotation) if inner not in found]
    return found


def described(model: type) -> dict[str, str]:
    """Field to the docstring under it, of a class and those that it is made from."""
    found: dict[str, str] = {}
    for one in reversed(model.__mro__):
        if one.__module__.partition(".")[0] not in ("ablate", "trainer"):
            continue
        (body,) = (node for node in ast.parse(inspect.cleandoc("\n" + inspect.getsource(one))).body if isinstance(node, ast.ClassDef))
        for field, after in zip(body.body, body.body[1:], strict=False):
            if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(after, ast.Expr):
                found[field.target.id] = str(ast.literal_eval(after.value))
    return found


def _key(model: type[BaseModel], name: str, field: FieldInfo) -> tuple[str, str, str, str]:
    required = field.is_required()
    default = "required" if required else _code(_value(field.get_default(call_default_factory=True)))
    kind = _escaped(_bare(field.annotation))
    for one in _models_in(field.annotation):
        kind = re.sub(rf"\b{one.__name__}\b", f"[{one.__name__}](#{one.__name__.lower()})", kind)
    return _code(field.alias or name), kind, default, " ".join([described(model).get(name, ""), _bounds(field)]).strip()


def _bounds(field: FieldInfo) -> str:
    said = [
        f"{BOUNDS[key]} {_code(getattr(rule, key))}" for rule in field.metadata for key in BOUNDS if getattr(rule, key, None) is not None
    ]
    return f"({', '.join(said)})" if said else ""


def _help(field: dataclasses.Field[Any]) -> str:
    known = field.metadata
    said = [f"one of {', '.join(_code(choice) for choice in known['choices'])}"] if "choices" in known else []
    said += [f"{word} {_code(known[key])}" for key, word in (("at_least", "at least"), ("at_most", "at most")) if key in known]
    return " ".join([_escaped(known.get("help", "")), f"({', '.join(said)})" if said else ""]).strip()


def _groups(kind: type, instance: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    yield path, instance
    for field in dataclasses.fields(kind):
        value = getattr(instance, field.name)
        if dataclasses.is_dataclass(value):
            yield from _groups(type(value), value, f"{path}.{field.name}" if path else field.name)


def _at(config: Any, path: str) -> Any:
    for name in path.split("."):
        config = getattr(config, name)
    return config


def _models_in(kind: Any) -> list[type[BaseModel]]:
    if inspect.isclass(kind) and not isinstance(kind, types.GenericAlias) and issubclass(kind, BaseModel):
        return [kind]
    return [one for inner in typing.get_args(kind) for one in _models_in(inner)]


def _bare(kind: Any) -> str:
    """A type as a reader of YAML thinks of it."""
    if kind == Level:
        return "value"
    if isinstance(kind, str):
        return re.sub(r"\b(str|int|float|bool|None|list)\b", lambda found: PLAIN[found.group()], kind)
    if kind is type(None):
        return "none"
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Annotated:
        return _bare(inner[0])
    if origin is typing.Literal:
        return " | ".join(map(str, inner))
    if origin in (typing.Union, types.UnionType):
        return " | ".join(dict.fromkeys(_bare(one) for one in inner))
    if origin is list:
        return f"list of {_bare(inner[0])}"
    if origin is dict:
        return f"mapping of {_bare(inner[0])} to {_bare(inner[1])}"
    name = getattr(kind, "__name__", str(kind))
    return PLAIN.get(name, name)


def _value(value: Any) -> str:
    if value is None or value is PydanticUndefined:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, BaseModel):
        return "its own defaults"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _paragraph(kind: type) -> list[str]:
    return [_escaped(line) for line in (inspect.getdoc(kind) or "").splitlines()]


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [head, ["---"] * len(head), *rows]
    return ["| " + " | ".join(cell.replace("\n", " ") for cell in row) + " |" for row in lines]


def _code(text: object) -> str:
    shown = str(text).replace("|", "\\|")
    return f"`{shown}`" if shown else ""


def _escaped(text: str) -> str:
    return html.escape(text, quote=False).replace("|", "\\|")


def on_files(files: Any, config: Mapping[str, Any]) -> Any:
    """Called by mkdocs: the pages join those of the folder."""
    from mkdocs.structure.files import File

    for path, text in pages().items():
        files.append(File.generated(config, path, content=text))
    return files
