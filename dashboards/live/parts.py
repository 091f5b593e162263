"""The parts that pages are made of. Text from outside goes in as text: Dash never reads it as HTML."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from dash import dcc, html

from ablate.words import counted
from dashboards.live.address import View
from dashboards.palette import VERDICTS

ROWS = 25
"""Of a table at a time."""

SIGNS = {"queued": "○", "running": "▶", "done": "✓", "failed": "✗", "stopped": "■", "starting": "○", "decided": "✓", "waits": "○"}


@dataclass(frozen=True)
class Page:
    """A view on the screen."""

    heading: str
    regions: Mapping[str, Any]
    """Name to content, each drawn again only when it has changed."""
    controls: Any = None
    """Above the regions: what is chosen, drawn again only with another page."""
    watched: Sequence[str] = field(default_factory=tuple)
    """Signatures of trials whose growing files are shown."""


def labelled(words: str) -> dict[str, Any]:
    """The name of a part for those who do not see it."""
    return {"aria-label": words}


def broken(name: str) -> list[Any]:
    """A long name that may go on in the next line behind each of its parts; a number stays whole."""
    pieces = re.split(r"(?<=[/_,=])|(?<=\.)(?!\d)", name)
    return [part for piece in pieces if piece for part in (piece, html.Wbr())][:-1]


def first_line(message: str, most: int = 300) -> str:
    """What a message says first; one longer than `most` characters ends in a sign for that, so that half a command is not taken for one."""
    line = (message.strip() or "no message").splitlines()[0]
    return line if len(line) <= most else f"{line[: most - 1]}…"


def link(words: Any, view: View, **more: Any) -> Any:
    """A link to another view, without a reload."""
    return dcc.Link(words, href=view.address, **more)


def chip(word: str, *, kind: str | None = None) -> Any:
    """A state or verdict as its word and sign; colour only repeats them."""
    sign = VERDICTS[word].sign if word in VERDICTS else SIGNS.get(word, "")
    return html.Span(f"{sign} {word}".strip(), className=f"chip {kind or word}")


def table(label: str, head: Sequence[str], rows: Sequence[Sequence[Any]], *, numbers: Sequence[int] = (), empty: str = "") -> Any:
    """A table that scrolls sideways by itself where the page is narrow.

    Args:
        numbers: Columns of numbers.
        empty: What is said where there is no row.
    """
    if not rows:
        return html.P(empty, className="soft")

    def kind(column: int) -> str:
        return "number" if column in numbers else "name" if column == 0 else ""

    top = html.Tr([html.Th(broken(word), scope="col", className=kind(column)) for column, word in enumerate(head)])
    body = [html.Tr([html.Td(cell, className=kind(column)) for column, cell in enumerate(row)]) for row in rows]
    inner = html.Table([html.Thead(top), html.Tbody(body)])
    return html.Div(inner, className="scroll", tabIndex=0, role="region", **labelled(label))


def pages(view: View, count: int, noun: str) -> tuple[slice, Any]:
    """Which rows of a long table are shown, and the way to the others."""
    last = max(1, -(-count // ROWS))
    part = min(view.part, last)
    shown = slice((part - 1) * ROWS, part * ROWS)
    if last == 1:
        return shown, html.P(counted(count, noun), className="soft")
    to = {"← earlier": part - 1, "later →": part + 1}
    ways = [
        link(words, view.but(part=number)) if 1 <= number <= last else html.Span(words, className="soft") for words, number in to.items()
    ]
    said = f"{shown.start + 1} to {min(shown.stop, count)} of {counted(count, noun)}"
    return shown, html.Nav([ways[0], html.Span(said), ways[1]], className="pages", **labelled(f"Parts of the list of {noun}s"))


def bar(parts: Mapping[str, int], label: str) -> Any:
    """Shares of a whole as a bar; the numbers stand beside it as text."""
    parts = {name: parts[name] for name in ("done", "running", "failed", "queued", "to come") if name in parts}
    whole = sum(parts.values())
    pieces = [html.Span(className=f"piece {name}", style={"flexGrow": count}) for name, count in parts.items() if count]
    said = ", ".join(f"{count} {name}" for name, count in parts.items() if count) or "none"
    return html.Div(pieces, className="bar", role="img", **labelled(f"{label}: {said}")) if whole else None


def tile(heading: str, value: str | list[Any], note: str = "", below: Any = None) -> Any:
    """A number with what it is."""
    return html.Div(
        [
            html.P(heading, className="label"),
            html.P(value, className="big" if isinstance(value, str) else "big long"),
            below,
            html.P(note, className="soft"),
        ],
        className="card tile",
    )


def toggle(what: str, of: str, words: Any, *, on: bool) -> Any:
    """A button that is pressed or not: an arm or a metric that is shown or not."""
    pressed: dict[str, Any] = {"aria-pressed": "true" if on else "false"}
    return html.Button(words, id={"toggle": what, "of": of}, n_clicks=0, type="button", className="toggle", **pressed)


def metric_picker(drawn: Sequence[str], offered: Sequence[str]) -> Any:
    """Which metrics are drawn, folded away."""
    buttons = [toggle("metrics", metric, metric, on=metric in drawn) for metric in offered]
    inner = html.Div(buttons, className="toggles", role="group", **labelled("Metrics to draw"))
    return html.Details([html.Summary(f"Metrics: {len(drawn)} of {len(offered)} drawn"), inner]) if offered else None


def ask(what: str, words: str, of: str = "") -> Any:
    """A button that asks something of the study; a confirmation comes first."""
    return html.Button(words, id={"ask": what, "of": of}, n_clicks=0, type="button", className=f"ask {what}")


def ago(seconds: float) -> str:
    """How long something took or is past."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 172800 else f"{seconds / 86400:.0f} days"


def level(value: object) -> str:
    """A setting's value as a config has it."""
    if value is None or isinstance(value, bool):
        return {True: "true", False: "false", None: "null"}[value]
    return f"{value:g}" if isinstance(value, float) else str(value)
