"""Arms picked side by side: what differs in their settings, how they stand, and their curves laid over each other."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from dash import html

from ablate.study import BASELINE
from ablate.trial import TrialState
from ablate.words import between, number
from dashboards import palette
from dashboards.live.address import View
from dashboards.live.drawing import comparison, graph, swatch
from dashboards.live.listing import choice, search_box
from dashboards.live.overview import best_first
from dashboards.live.parts import Page, ask, broken, chip, labelled, level, link, metric_picker, pages, table, toggle
from dashboards.live.record import ArmKey, Record, Snapshot
from dashboards.live.streams import Series, names, spread
from dashboards.palette import Line

PICKED = 4
"""Arms that are shown where none is picked."""

MOST_ARMS = 24
"""Arms that can be told apart by colour and line style."""

DRAWN_METRICS = 4
"""Metrics that are drawn where none is picked."""

MOST_METRICS = 24


def page(record: Record, view: View, now: Snapshot, *, more: bool) -> Page:
    """The comparison.

    Args:
        more: Whether more replicates can be asked for.
    """
    phase = chosen_phase(view, now)
    keys = chosen_arms(view, now)
    lines = palette.lines([str(key) for key in keys], baseline=str(ArmKey(phase, BASELINE)))
    drawn = {key: lines[str(key)] for key in keys}
    watched = [signature for key in keys for signature in now.of_arm[key].values()]
    found = names([record.stream(now.files(signature)) for signature in watched])
    metrics = chosen_metrics(view, now, found, keys)
    regions = {
        "choice": _phases(view, now, phase),
        "arms": _picker(view, now, phase, keys),
        "picked": [html.H2("Side by side"), _table(now, drawn, more=more)],
        "metrics": metric_picker(metrics, _offered(now, found, keys)),
        "legend": _legend(drawn),
        "curves": _curves(record, now, drawn, metrics),
    }
    running = [signature for signature in watched if now.records[signature].state is TrialState.RUNNING]
    return Page("Compare arms", regions, search_box(view, "Arm's name contains"), running)


def chosen_phase(view: View, now: Snapshot) -> str:
    """The phase whose arms are offered."""
    return view.phase if any(key.phase == view.phase for key in now.of_arm) else now.latest_phase


def chosen_arms(view: View, now: Snapshot) -> list[ArmKey]:
    """The picked arms that there are; where none is picked, the phase's baseline with its best arms, or its first ones while it runs."""
    known = {str(key): key for key in now.of_arm}
    picked = [known[arm] for arm in view.arms if arm in known][:MOST_ARMS]
    if picked or view.arms:
        return picked
    phase = chosen_phase(view, now)
    baseline = [key for key in now.of_arm if key == ArmKey(phase, BASELINE)]
    rivals = [key for key in now.of_arm if key.phase == phase and key.name != BASELINE]
    # While a phase runs its order stands, so that nothing that is looked at goes away.
    return (baseline + (best_first(now, rivals) if phase in now.conclusions else rivals))[:PICKED]


def chosen_metrics(view: View, now: Snapshot, streamed: Sequence[str], keys: Sequence[ArmKey]) -> list[str]:
    """The picked metrics; where none is picked, those that the study is about and those that tell most while it trains."""
    offered = _offered(now, streamed, keys)
    if view.metrics:
        return [metric for metric in view.metrics if metric in offered][:MOST_METRICS]
    wanted = [now.study.objective.metric, *now.study.columns, *(guard.metric for guard in now.study.guards)]
    # What a study is about is often measured at the end alone: then its like in the stream, by the last part of its name.
    ends = [metric.rsplit("/", 1)[-1] for metric in wanted]
    alike = [metric for end in ends for metric in streamed if metric.rsplit("/", 1)[-1] == end]
    losses = [metric for metric in streamed if "loss" in metric]
    ordered = dict.fromkeys([*(m for m in wanted[:1] if m in offered), *alike, *losses[:1], *streamed])
    return list(ordered)[:DRAWN_METRICS]


def drawn(record: Record, view: View, now: Snapshot) -> list[str]:
    """The metrics that a view draws."""
    keys = chosen_arms(view, now)
    streams = [record.stream(now.files(signature)) for key in keys for signature in now.of_arm[key].values()]
    return chosen_metrics(view, now, names(streams), keys)


def _offered(now: Snapshot, streamed: Sequence[str], keys: Sequence[ArmKey]) -> list[str]:
    """Metrics that can be drawn: streamed ones over steps, those of the end as marks."""
    final: set[str] = set()
    for key in keys:
        for signature in now.of_arm[key].values():
            result = now.result(signature)
            final |= set(result.metrics) if result is not None else set()
    return sorted({*streamed, *final})


def _phases(view: View, now: Snapshot, phase: str) -> Any:
    begun = list(dict.fromkeys(key.phase for key in now.of_arm))
    return choice("Phase", [(name, view.but(phase=name), name == phase) for name in begun])


def _picker(view: View, now: Snapshot, phase: str, keys: Sequence[ArmKey]) -> Any:
    objective = now.study.objective
    sought = view.search.casefold()
    fitting = [key for key in now.of_arm if key.phase == phase and sought in key.name.casefold()]
    shown, ways = pages(view, len(fitting), "arm")
    picked = set(keys)
    buttons = []
    for key in fitting[shown]:
        values = now.finals(key, objective.metric)
        verdict = now.verdict(key)
        sign = palette.VERDICTS[verdict.verdict].sign + " " if verdict is not None and verdict.verdict in palette.VERDICTS else ""
        mean = f"{number(sum(values) / len(values))}, " if values else ""
        label = f"{sign}{key.name} ({mean}{len(values)} of {len(now.of_arm[key])} done)"
        buttons.append(toggle("arms", str(key), label, on=key in picked))
    label = f"Arms of {phase}, each with its mean {objective.metric}: press to show or hide"
    group = html.Div(buttons, className="toggles", role="group", **labelled(label))
    first = link("Choose for me: the baseline and the best", view.but(arms=()))
    return [html.P(label, className="soft"), group, ways, html.P(first, className="soft") if view.arms else None]


def called(key: ArmKey, beside: Iterable[ArmKey]) -> str:
    """An arm's name among others: with its phase where they are of several."""
    return key.name if all(other.phase == key.phase for other in beside) else str(key)


def _table(now: Snapshot, drawn: Mapping[ArmKey, Line], *, more: bool) -> Any:
    metric = now.study.objective.metric
    levels = {key: now.arms[key].levels if key in now.arms else {} for key in drawn}
    paths = sorted({path for found in levels.values() for path in found})
    absent = object()
    differing = [path for path in paths if len({repr(found.get(path, absent)) for found in levels.values()}) > 1]
    rows = []
    for key, line in drawn.items():
        values, verdict = now.finals(key, metric), now.verdict(key)
        effect = verdict.effect if verdict is not None else None
        said = "" if effect is None else f"{number(effect.mean, signed=True)}{between(effect.low, effect.high)}"
        state = chip(verdict.verdict) if verdict is not None else "tuning point" if key.phase in now.conclusions else "not decided"
        counts = now.counted(list(now.of_arm[key].values()))
        done = f"{counts['done']} of {sum(counts.values())}" + (f", {counts['failed']} failed" if counts["failed"] else "")
        mean = "" if not values else f"{number(sum(values) / len(values))} ({number(min(values))} to {number(max(values))})"
        name = [swatch(line), link(broken(called(key, drawn)), View(page="trials", phase=key.phase, search=f"/{key.name}/"))]
        cells: list[Any] = [name, state, done, mean, said]
        cells += [level(levels[key][path]) if path in levels[key] else "" for path in differing]
        decided = verdict is not None and key.name != BASELINE
        rows.append(cells + ([ask("replicates", "More replicates…", str(key)) if decided else ""] if more else []))
    head = [
        "arm",
        "verdict",
        "replicates done",
        f"{metric}: mean (least to greatest)",
        "effect, interval",
        *differing,
        *([""] if more else []),
    ]
    return table("Picked arms", head, rows, numbers=[2, 3, 4], empty="No arm is picked. Press some above.")


def _legend(drawn: Mapping[ArmKey, Line]) -> list[Any]:
    entries = [html.Li([swatch(line), called(key, drawn)]) for key, line in drawn.items()]
    return [html.H2("Curves"), html.Ul(entries, className="lines")]


def _curves(record: Record, now: Snapshot, drawn: Mapping[ArmKey, Line], metrics: Sequence[str]) -> Any:
    if not drawn or not metrics:
        return html.P("There is nothing to draw yet: no picked arm has reported.", className="soft")
    series: dict[ArmKey, list[dict[str, Series | None]]] = {}
    for key in drawn:
        streams = [record.stream(now.files(signature)) for signature in now.of_arm[key].values()]
        series[key] = [{metric: stream.series(metric) for metric in metrics} for stream in streams]
    cards = []
    for metric in metrics:
        arms = {
            called(key, drawn): (line, spread([one for found in series[key] if (one := found[metric]) is not None]))
            for key, line in drawn.items()
        }
        finals = {called(key, drawn): now.finals(key, metric) for key in drawn}
        plot = graph(comparison(metric, arms, finals), key=f"compare {metric}", described=f"{metric} over steps, an arm a line")
        cards.append(html.Div([html.H3(broken(metric)), plot], className="card", key=metric))
    said = "Line: mean over replicates that have reported. Band: from the least to the greatest. Double click: the whole again."
    return [html.Div(cards, className="grid"), html.P(said, className="soft")]
