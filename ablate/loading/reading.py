"""YAML text -> plain values. The platform's one door to YAML.

Study files are data: no interpolation and no tags. Departs from PyYAML's YAML 1.1 where that surprises: only `true` and
`false` are booleans (a level named `off` stays a text), `1e-5` is a number, `010` is ten, dates and `12:30` are texts.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import yaml

from ablate.errors import StudyError
from ablate.loading.problem import Keys, Problem

LARGEST_FILE_BYTES = 1_000_000


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012 (PyYAML's own attribute)


_TAG = "tag:yaml.org,2002:"
_NUMBERS = list("-+.0123456789")
_Loader.add_implicit_resolver(f"{_TAG}null", re.compile(r"^(?:~|null|Null|NULL|)$"), ["~", "n", "N", ""])
_Loader.add_implicit_resolver(f"{_TAG}bool", re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF"))
_Loader.add_implicit_resolver(f"{_TAG}int", re.compile(r"^[-+]?[0-9][0-9_]*$"), _NUMBERS)
_Loader.add_implicit_resolver(
    f"{_TAG}float",
    re.compile(r"^(?:[-+]?(?:[0-9][0-9_]*\.?|\.[0-9])[0-9_]*(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"),
    _NUMBERS,
)
_Loader.add_implicit_resolver(f"{_TAG}merge", re.compile(r"^<<$"), ["<"])


def _number(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> int | float:
    text = node.value.replace("_", "").lower().replace(".inf", "inf").replace(".nan", "nan")
    return int(text) if node.tag == f"{_TAG}int" else float(text)


_Loader.add_constructor(f"{_TAG}int", _number)
_Loader.add_constructor(f"{_TAG}float", _number)


def read_file(path: Path) -> tuple[dict[str, object], list[Problem]]:
    """The document of a study file, and what is wrong with its text.

    Raises:
        StudyError: Nothing can be read from it: missing, empty, no YAML, not a mapping.
    """
    where = str(path)
    try:
        if path.is_dir():
            raise StudyError(where, ["expected a study file but it is a folder. Name the .yaml file in it."])
        if path.stat().st_size > LARGEST_FILE_BYTES:
            raise StudyError(where, [f"expected a study file but it has more than {LARGEST_FILE_BYTES:,} bytes. Is it another file?"])
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise StudyError(where, [f"no such file.{_files_nearby(path)}"]) from error
    except UnicodeDecodeError as error:
        raise StudyError(where, [f"expected UTF-8 text but byte {error.start} is not. Save the file as UTF-8."]) from error
    except OSError as error:
        raise StudyError(where, [f"cannot be read: {error.strerror}. Check its permissions."]) from error
    try:
        document, problems = parse(text)
    except yaml.YAMLError as error:
        raise StudyError(where, [_syntax(error)]) from error
    if document is None:
        raise StudyError(
            where, ["expected a study but the file is empty. Begin with `study: NAME`; studies/smoke.yaml is a short example."]
        )
    if not isinstance(document, dict):
        raise StudyError(
            where, [f"expected keys such as `study: NAME` at the top but got a {_kind(document)}. studies/smoke.yaml is a short example."]
        )
    return document, problems


def parse(text: str) -> tuple[object, list[Problem]]:
    """Plain values of one YAML document, with the problems that do not keep it from being read.

    Raises:
        yaml.YAMLError: The text is no YAML.
    """
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None, []
        problems = list(_node_problems(node, (), ()))
        value = loader.construct_document(node)
    finally:
        loader.dispose()
    return _with_text_keys(value), problems + list(_number_problems(value, ()))


def parse_value(text: str) -> object:
    """The value of a `key=value` on the command line.

    Raises:
        ValueError: The text is no YAML value; the message says why.
    """
    try:
        value, problems = parse(text)
    except yaml.YAMLError as error:
        raise ValueError(_syntax(error)) from error
    if problems:
        raise ValueError(str(problems[0]))
    return value


def _node_problems(node: yaml.Node, keys: Keys, above: tuple[yaml.Node, ...]) -> Iterator[Problem]:
    """Duplicate keys, keys that are no text, and values that contain themselves."""
    if node in above:
        raise yaml.constructor.ConstructorError(None, None, "a value that contains itself", node.start_mark)
    above = (*above, node)
    if isinstance(node, yaml.MappingNode):
        lines: dict[str, int] = {}
        for key, value in node.value:
            line = key.start_mark.line + 1
            if key.tag == f"{_TAG}merge":
                continue
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.constructor.ConstructorError(None, None, "a key that is not a text", key.start_mark)
            if key.value in lines:
                yield Problem((*keys, key.value), f"stands twice, in line {lines[key.value]} and in line {line}. Keep one of them.")
            elif key.tag != f"{_TAG}str":
                yield Problem((*keys, key.value), f"expected a text as key in line {line} but got {key.value}. Put it into quotes.")
            lines[key.value] = line
            yield from _node_problems(value, (*keys, key.value), above)
    elif isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            yield from _node_problems(item, (*keys, index), above)


def _number_problems(value: object, keys: Keys) -> Iterator[Problem]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _number_problems(inner, (*keys, str(key)))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _number_problems(inner, (*keys, index))
    elif isinstance(value, float) and not math.isfinite(value):
        yield Problem(keys, f"expected a finite number but got {value}. Write the bound that you mean, or leave it out.")


def _with_text_keys(value: object) -> object:
    if isinstance(value, dict):
        return {str(key): _with_text_keys(inner) for key, inner in value.items()}
    return [_with_text_keys(inner) for inner in value] if isinstance(value, list) else value


def _syntax(error: yaml.YAMLError) -> str:
    """A YAML error in plain words, with its line."""
    mark = getattr(error, "problem_mark", None)
    what = str(getattr(error, "problem", None) or error).strip()
    where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark is not None else ""
    if "'\\t'" in what:
        return f"{where}expected spaces but got a tab. YAML indents with spaces only."
    if "could not determine a constructor" in what:
        return f"{where}expected plain values but got a tag. A study file is data: leave out what begins with `!`."
    if "expected a single document" in str(error):
        return f"{where}expected one study but a second document begins with `---`. Put each study into its own file."
    if "special characters are not allowed" in str(error):
        return "expected text but got control characters. Is it another kind of file?"
    return f"{where}expected YAML but {what}. Check the indentation, colons and brackets there."


def _kind(value: object) -> str:
    return "list" if isinstance(value, list) else "single value"


def _files_nearby(path: Path) -> str:
    folder = path.parent if path.parent.is_dir() else Path("studies")
    names = sorted(str(p) for p in folder.glob("*.y*ml")) if folder.is_dir() else []
    return f" There {'is' if len(names) == 1 else 'are'} {', '.join(names)}." if names else " Check the path and the folder you are in."


def load_mapping(path: Path) -> dict[str, object]:
    """The document of any YAML config.

    Raises:
        StudyError: It cannot be read, or is no mapping.
    """
    document, problems = read_file(path)
    if problems:
        raise StudyError(str(path), [str(problem) for problem in problems])
    return document


def dump_yaml(document: Mapping[str, object]) -> str:
    """A mapping as YAML, keys in their order."""
    return yaml.safe_dump(dict(document), sort_keys=False, default_flow_style=False)
