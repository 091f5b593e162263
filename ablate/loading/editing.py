"""Settings put into the text of somebody's YAML config: its comments and all other lines stay as they are."""

from __future__ import annotations

from collections.abc import Mapping

import yaml

from ablate.loading.reading import dump_yaml, parse
from ablate.trial import merge


def with_settings(text: str, levels: Mapping[str, object]) -> str:
    """A YAML mapping's text with values put at dotted paths; the whole is written anew, without comments, only where it cannot be edited.

    Args:
        text: A mapping, or nothing.

    Raises:
        yaml.YAMLError: It is no YAML.
    """
    document, _ = parse(text)
    wanted = merge(document if isinstance(document, dict) else {}, levels)
    edited = text
    try:
        for path, value in levels.items():
            edited = _put(edited, path.split("."), value)
        right = parse(edited)[0] == wanted
    except yaml.YAMLError:
        right = False
    return edited if right else dump_yaml(wanted)


def _put(text: str, path: list[str], value: object) -> str:
    """The text with one value replaced, or added to the deepest mapping on its way."""
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    if not isinstance(root, yaml.MappingNode) or not root.value:
        return text + dump_yaml(merge({}, {".".join(path): value}))
    node = root
    while True:
        found = next((inner for key, inner in node.value if key.value == path[0]), None)
        if not isinstance(found, yaml.MappingNode) or not found.value or len(path) == 1:
            break
        node, path = found, path[1:]
    if found is not None:
        inner = value if len(path) == 1 else merge({}, {".".join(path[1:]): value})
        return text[: found.start_mark.index] + _flow(inner) + text[found.end_mark.index :]
    new = f"{_flow(path[0])}: {_flow(value if len(path) == 1 else merge({}, {'.'.join(path[1:]): value}))}"
    first = node.value[0][0].start_mark
    after = ", " if node.flow_style else "\n" + " " * first.column
    return text[: first.index] + new + after + text[first.index :]


def _flow(value: object) -> str:
    """A value on one line."""
    return yaml.safe_dump(value, default_flow_style=True, width=10**6, sort_keys=False).removesuffix("\n").removesuffix("\n...")
