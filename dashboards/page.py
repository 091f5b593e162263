"""The parts of a page as HTML. Everything that comes from outside passes through `text`."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dashboards.figures import shown
from dashboards.palette import VERDICTS, Line

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

HERE = Path(__file__).parent

POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:"
"""Content security policy: whatever is in the page, no request leaves it."""


def text(value: object) -> str:
    """Text from outside as text: markup shows as typed."""
    return html.escape(str(value), quote=True)


def breakable(value: object) -> str:
    """The same, where a long name of a metric or setting may go on in the next line behind each of its parts."""
    return re.sub(r"(?<=\w[/_])(?=\w)", "<wbr>", text(value))


@dataclass(frozen=True)
class Cell:
    """A table's cell: HTML that is already safe."""

    html: str
    kind: str = ""
    """CSS class: `number`, `name`, `reason`."""


def table(head: Sequence[Cell], rows: Sequence[Sequence[Cell]], *, label: str, marked: Sequence[int] = ()) -> str:
    """A table that scrolls sideways by itself where the page is narrow.

    Args:
        marked: Indices of rows to stand out.
    """
    top = "".join(f'<th scope="col" class="{cell.kind}">{cell.html}</th>' for cell in head)
    body = "".join(
        f"<tr{' class=winner' if index in marked else ''}>" + "".join(f'<td class="{cell.kind}">{cell.html}</td>' for cell in row) + "</tr>"
        for index, row in enumerate(rows)
    )
    inner = f"<table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>"
    return f'<div class="scroll" tabindex="0" role="region" aria-label="{text(label)}">{inner}</div>'


def chip(word: str, kind: str | None = None) -> str:
    """A verdict as its word and sign; colour only repeats them."""
    mark = VERDICTS.get(word)
    return f'<span class="chip {kind or word}">{mark.sign + " " if mark else ""}{text(word)}</span>'


def figure(drawn: Figure, *, name: str, title: str, caption: str, group: str = "", heading: bool = True) -> str:
    """A figure with its finding as title, its caption and its text alternative; page.js draws it when it comes into view.

    Args:
        name: Unique on the page.
        group: Figures that one legend switches.
        heading: Whether the title stands above; not where what stands there already says it.
    """
    data = as_json(drawn.to_json())
    described = text(". ".join(part for part in (title, caption) if part))
    which = f'data-figure="{text(name)}" data-group="{text(group)}" data-title="{text(title)}"'
    plot = f'<div class="plot" role="figure" aria-label="{described}" {which} style="min-height:{int(drawn.layout.height)}px"></div>'
    above = f"<h3>{text(title)}</h3>" if heading else ""
    said = f"<figcaption>{text(caption)}</figcaption>" if caption else ""
    forms = "".join(f'<button type="button" data-form="{form}">{form.upper()}</button>' for form in ("png", "svg", "csv"))
    files = f'<details class="downloads"><summary aria-label="Download: {text(title)}">Download</summary>{forms}</details>'
    return f'{above}<figure>{plot}<script type="application/json" id="{text(name)}">{data}</script>{said}{files}</figure>'


def legend(lines: Mapping[str, Line], group: str) -> str:
    """Arms with their lines; pressing one hides it in every figure of the group."""
    dashes = {"solid": "", "dash": "8 4", "dot": "2 4", "dashdot": "8 4 2 4"}
    entries = [
        f'<button type="button" aria-pressed="true" data-group="{text(group)}" data-arm="{text(shown(arm))}">'
        f'<svg width="28" height="8" aria-hidden="true"><line x1="0" x2="28" y1="4" y2="4" stroke="{line.colour}" stroke-width="3" '
        f'stroke-dasharray="{dashes[line.dash]}"/></svg>{text(arm)}</button>'
        for arm, line in lines.items()
    ]
    return f'<div class="legend" role="group" aria-label="Arms; press to hide">{"".join(entries)}</div>'


def copyable(content: str) -> str:
    """A block to copy; by keyboard it scrolls where a line is longer than the page is wide."""
    block = '<pre tabindex="0" role="region" aria-label="To copy">'
    return f'<div class="copy"><button type="button">Copy</button>{block}<code>{text(content)}</code></pre></div>'


def described(rows: Mapping[str, str]) -> str:
    """Terms with what they are."""
    return "<dl>" + "".join(f"<dt>{text(term)}</dt><dd>{text(what)}</dd>" for term, what in rows.items()) + "</dl>"


def listing(items: Sequence[str]) -> str:
    """A bulleted list."""
    return "<ul>" + "".join(f"<li>{text(item)}</li>" for item in items) + "</ul>" if items else ""


def as_json(content: str) -> str:
    """JSON that cannot end the script element that holds it."""
    return re.sub("[<>&\u2028\u2029]", lambda found: f"\\u{ord(found.group()):04x}", content)


def yaml_block(levels: Mapping[str, object], notes: Mapping[str, str]) -> str:
    """Dotted settings as nested YAML, each leaf with its note as a comment."""
    nested: dict[str, object] = {}
    for path, value in sorted(levels.items()):
        *parents, leaf = path.split(".")
        node = nested
        for parent in parents:
            below = node.setdefault(parent, {})
            assert isinstance(below, dict)
            node = below
        node[leaf] = _Leaf(value, notes.get(path, ""))
    return "\n".join(_yaml_lines(nested, ""))


@dataclass(frozen=True)
class _Leaf:
    value: object
    note: str


def _yaml_lines(node: Mapping[str, object], indent: str) -> list[str]:
    lines = []
    for key, value in node.items():
        name = key if re.fullmatch(r"[A-Za-z_][\w-]*", key) else json.dumps(key)
        if isinstance(value, _Leaf):
            note = f"  # {' '.join(value.note.split())}" if value.note else ""
            lines.append(f"{indent}{name}: {_yaml_scalar(value.value)}{note}")
        elif isinstance(value, dict):
            lines += [f"{indent}{name}:", *_yaml_lines(value, f"{indent}  ")]
    return lines


def _yaml_scalar(value: object) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(_yaml_scalar, value))}]"
    if isinstance(value, float) and "e" in repr(value) and "." not in repr(value):
        return repr(value).replace("e", ".0e")  # YAML reads 1e-05 as text
    plain = isinstance(value, str) and re.fullmatch(r"[A-Za-z][\w./-]*", value) and value.lower() not in YAML_WORDS
    return str(value) if plain else json.dumps(value)


YAML_WORDS = frozenset({"true", "false", "yes", "no", "on", "off", "null", "y", "n"})
"""Plain words that YAML reads as something else."""


def page(title: str, body: str, document: Mapping[str, object]) -> str:
    """The whole page in one string: style, plotly and data inside, nothing loaded from anywhere.

    Args:
        document: Kept in the page as JSON, for programs.
    """
    from plotly.offline import get_plotlyjs

    css, script = (HERE / "page.css").read_text(encoding="utf-8"), (HERE / "page.js").read_text(encoding="utf-8")
    data = as_json(json.dumps(document, allow_nan=False))
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<title>{text(title)}</title>\n<link rel="icon" href="data:,">\n<style>\n{css}</style>\n</head>\n'
        f"<body>\n<main>\n{body}\n</main>\n"
        f'<script type="application/json" id="document">{data}</script>\n'
        f"<script>{get_plotlyjs()}</script>\n<script>\n{script}</script>\n</body>\n</html>\n"
    )
