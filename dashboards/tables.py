"""The tables of arms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ablate.words import between, number, probability
from dashboards import palette
from dashboards.page import Cell, chip, table, text

Document = Mapping[str, Any]


def arms(document: Document, found: Document) -> str:
    """Every arm of a phase, then the references, with every metric folded away below."""
    metric = document["objective"]["metric"]
    everything = [*found["arms"], *document["references"].values()]
    columns = [column for column in dict.fromkeys([metric, *document["columns"]]) if any(column in one["metrics"] for one in everything)]
    numeric = [Cell(_metric_heading(column), "number") for column in columns]
    first = document["phases"][0]["name"] == found["name"]  # there the phase's baseline is the study's
    words = {"verdict": "", "effect, interval": "number"} | ({} if first else {"against the study's baseline": "number"})
    words |= {"adjusted p": "number", "guards": "", "collapse": "", "replicates": "number"}
    head = [Cell("arm, and why"), *(Cell(text(word), kind) for word, kind in words.items()), *numeric]
    rows = [
        [
            _named(arm["name"], arm["reason"], "carried on" if arm["name"] == found["winner"] else ""),
            Cell(chip(arm["verdict"])),
            Cell(_interval(arm["effect"]), "number"),
            *([] if first else [Cell(_interval(arm["total_effect"]), "number")]),
            Cell("" if arm["p_adjusted"] is None else text(probability(arm["p_adjusted"])), "number"),
            Cell(_guards(arm["guards"]), "guards"),
            Cell(text(arm["collapse"] or "")),
            Cell(str(arm["replicates"]), "number"),
            *_of_columns(arm["metrics"], columns),
        ]
        for arm in found["arms"]
    ]
    for name, reference in document["references"].items():
        blank = [Cell("")] * (4 if first else 5)
        cells = [_named(name, "Stands in every table; does not compete."), Cell(chip("reference")), *blank]
        rows.append([*cells, Cell(str(reference["replicates"]), "number"), *_of_columns(reference["metrics"], columns)])
    winner = [i for i, arm in enumerate(found["arms"]) if arm["name"] == found["winner"]]
    return table(head, rows, label=f"Arms of phase {found['name']}", marked=winner) + _every_metric(found)


def _every_metric(found: Document) -> str:
    """Every metric of every arm, folded away."""
    metrics = sorted({metric for arm in found["arms"] for metric in arm["metrics"]})
    rows = [[Cell(text(metric)), *numbers([arm["metrics"].get(metric) for arm in found["arms"]])] for metric in metrics]
    head = [Cell("mean over replicates"), *(Cell(text(arm["name"]), "number") for arm in found["arms"])]
    inside = table(head, rows, label=f"All metrics of phase {found['name']}")
    return f"<details><summary>All {len(metrics)} metrics of each arm</summary>{inside}</details>"


def _guards(guards: Sequence[Mapping[str, Any]]) -> str:
    broken = [guard for guard in guards if not guard["holds"] and guard["value"] is not None]
    unknown = [text(f"{palette.title(guard['metric'])} was not reported") for guard in guards if guard["value"] is None]
    if not guards:
        return ""
    if not broken and not unknown:
        return "all hold"
    told = [
        text(f"{palette.title(g['metric'])} is {number(g['value'])}, must be {g['guard'].removeprefix(g['metric']).strip()}")
        for g in broken
    ]
    said = [f'<span class="reject">✗ broken</span>: {"; ".join(told)}'] if told else []
    return "; ".join([*said, *unknown])


def _named(name: str, reason: str, note: str = "") -> Cell:
    beside = f' <span class="chip adopt">{text(note)}</span>' if note else ""
    return Cell(f'<strong>{text(name)}</strong>{beside}<p class="soft">{text(reason)}</p>', "name")


def _interval(effect: Mapping[str, float | None] | None) -> str:
    if effect is None:
        return ""
    bounds = between(effect["low"], effect["high"]).strip()
    return text(number(effect["mean"], signed=True)) + (f"<br><span class=soft>{text(bounds)}</span>" if bounds else "")


def _metric_heading(metric: str) -> str:
    where, unit = metric.rpartition("/")[0], palette.unit(metric)
    soft = ", ".join(word for word in (where, unit) if word)
    return f'<span title="{text(metric)}">{text(palette.title(metric))}</span><br><span class="soft">{text(soft)}</span>'


def _of_columns(metrics: Mapping[str, float], columns: Sequence[str]) -> list[Cell]:
    return numbers([metrics.get(column) for column in columns])


def numbers(values: Sequence[float | None]) -> list[Cell]:
    """Numbers as cells; an unknown one is empty."""
    return [Cell("" if value is None else text(number(value)), "number") for value in values]


def plain(value: object) -> str:
    """A level as the config has it."""
    return {True: "true", False: "false", None: "null"}[value] if value is None or isinstance(value, bool) else str(value)
