"""One trial: how it stands, why it failed, its curves, its settings beside the baseline's, its log and its pictures."""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

from dash import dcc, html

from ablate.ledger import TrialRecord
from ablate.study import BASELINE
from ablate.trial import AttemptFiles, TrialState
from ablate.words import counted, number
from dashboards.live.address import View
from dashboards.live.drawing import graph, single
from dashboards.live.parts import Page, ago, ask, broken, chip, first_line, labelled, level, link, metric_picker, table
from dashboards.live.record import ArmKey, Record, Snapshot, log_tail
from dashboards.live.streams import names, thinned
from dashboards.live.viewing import Seen, Viewing, command_of
from dashboards.pictures import caption

DRAWN_METRICS = 6
"""Metrics that are drawn where none is picked."""


def page(record: Record, view: View, now: Snapshot, viewing: Viewing | None = None) -> Page | None:
    """A trial by its signature or a unique beginning of it; none: there is no such trial, or several."""
    signature = _meant(view, now)
    if signature is None:
        return None
    known = now.records[signature]
    files = now.files(signature)
    stream = record.stream(files)
    offered = names([stream])
    metrics = _chosen(view, now, offered)
    uses = now.places.get(signature, [])
    regions = {
        "head": _head(now, known),
        "failure": _failure(record, now, known),
        "settings": [html.H2("Settings that differ from the baseline"), _settings(now, signature)],
        "metrics": metric_picker(metrics, offered),
        "curves": [html.H2("Curves"), _curves(record, files, metrics)],
        "final": _final(now, signature),
        "pictures": _pictures(signature, files),
        "views": _views(now, signature, viewing),
        "log": [html.H2("The end of its log"), _log(files)],
        "attempts": [html.H2("Attempts"), _attempts(record, signature)],
        "commands": _commands(now, signature, files, stream.step),
    }
    first = f"{uses[0].arm}, replicate {uses[0].replicate}" if uses else signature
    return Page(first, regions, watched=[signature] if known.state is TrialState.RUNNING else [])


def drawn(record: Record, view: View, now: Snapshot) -> list[str]:
    """The metrics that a view draws."""
    signature = _meant(view, now)
    return [] if signature is None else _chosen(view, now, names([record.stream(now.files(signature))]))


def _meant(view: View, now: Snapshot) -> str | None:
    found = [signature for signature in now.records if view.trial and signature.startswith(view.trial)]
    return found[0] if len(found) == 1 else None


def _chosen(view: View, now: Snapshot, offered: Sequence[str]) -> list[str]:
    return [metric for metric in view.metrics if metric in offered] or _telling(now, offered)


def _telling(now: Snapshot, offered: Sequence[str]) -> list[str]:
    wanted = [now.study.objective.metric, *now.study.columns, *(guard.metric for guard in now.study.guards)]
    ends = {metric.rsplit("/", 1)[-1] for metric in wanted}
    first = [metric for metric in offered if metric.rsplit("/", 1)[-1] in ends]
    return list(dict.fromkeys([*first, *(metric for metric in offered if "loss" in metric), *offered]))[:DRAWN_METRICS]


def _head(now: Snapshot, known: TrialRecord) -> Any:
    served = []
    for use in now.places.get(known.signature, []):
        key = ArmKey(use.phase, use.arm)
        verdict = now.verdict(key)
        arm = link(use.arm, View(page="compare", phase=use.phase, arms=tuple(dict.fromkeys([f"{use.phase}/{BASELINE}", str(key)]))))
        said: list[Any] = [f"{use.phase} / ", arm, f" / replicate {use.replicate} "]
        served.append(html.Li(said if verdict is None else [*said, chip(verdict.verdict)]))
    held, result = now.held.get(known.signature), now.result(known.signature)
    took = f" {ago(known.seconds)} of training." if known.seconds is not None else ""
    since = f" Since {time.strftime('%H:%M:%S', time.localtime(held.started))} on {held.worker}." if held is not None else ""
    collapse = result.summary.get("collapse") if result is not None else None
    seen = f" Collapse: {collapse}." if isinstance(collapse, str) else ""
    words = f" trial {known.signature[:8]}, {counted(known.attempts, 'attempt')}.{took}{since}{seen}"
    return [html.P([chip(known.state.value), words]), html.Ul(served)]


def _failure(record: Record, now: Snapshot, known: TrialRecord) -> Any:
    if known.cause is None or known.state is TrialState.DONE:
        return None
    concluded = sorted({use.phase for use in now.places.get(known.signature, []) if use.phase in now.conclusions})
    buttons: list[Any] = []
    if known.state is TrialState.FAILED:
        buttons.append(ask("retry", "Retry this trial…", known.signature))
        if concluded:
            buttons.append(ask("retry_reopen", f"Retry and decide {', '.join(concluded)} anew…", known.signature))
    said = "It failed for good" if known.state is TrialState.FAILED else "Its last attempt ended without a result"
    heading = html.H2(f"{said}: {known.cause.value.replace('_', ' ')}")
    return html.Div([heading, html.Pre(known.message.strip() or "no message", tabIndex=0), html.P(buttons)], className="failure")


def _settings(now: Snapshot, signature: str) -> Any:
    uses = now.places.get(signature, [])
    if not uses:
        return html.P("No arm uses this trial any more.", className="soft")
    use = uses[0]
    key, baseline = ArmKey(use.phase, use.arm), now.baseline_of(use)
    if baseline == signature:
        return html.P("It is the baseline itself.", className="soft")
    own = now.config(signature)
    other = now.config(baseline) if baseline is not None else {}
    if not own or not other:  # one of them has not begun: what the plan says of both
        own = dict(now.arms[key].levels) if key in now.arms else {}
        reference = now.arms.get(ArmKey(use.phase, BASELINE))
        other = dict(reference.levels) if reference is not None else {}
    absent = object()
    rows = [
        [html.Span(broken(path)), *("not set" if values.get(path, absent) is absent else level(values[path]) for values in (other, own))]
        for path in sorted(own.keys() | other.keys())
        if own.get(path, absent) != other.get(path, absent)
    ]
    return table("Settings", ["setting", "baseline", "this trial"], rows, empty="None: it is set as the baseline is.")


def _curves(record: Record, files: AttemptFiles | None, drawn: Sequence[str]) -> Any:
    stream = record.stream(files)
    if not drawn:
        return html.P("It has not reported anything yet.", className="soft")
    cards = []
    for metric in drawn:
        series = stream.series(metric)
        figure = single(metric, None if series is None else thinned(series))
        plot = graph(figure, key=f"trial {metric}", described=f"{metric} of this trial over steps")
        cards.append(html.Div([html.H3(broken(metric)), plot], className="card", key=metric))
    return html.Div(cards, className="grid")


def _final(now: Snapshot, signature: str) -> Any:
    result = now.result(signature)
    if result is None:
        return None
    rows = [[metric, number(value)] for metric, value in sorted(result.metrics.items())]
    inner = table("Final metrics", ["metric", "value"], rows, numbers=[1], empty="It returned no metric.")
    return html.Details([html.Summary(f"All {len(rows)} final metrics"), inner])


def _pictures(signature: str, files: AttemptFiles | None) -> Any:
    if files is None or not (found := files.pictures):
        return None
    images = []
    for path in found:
        try:
            changed = path.stat().st_mtime_ns
        except OSError:  # the attempt's folder went meanwhile
            continue
        address = f"/file/{signature}/{int(files.directory.name)}/{quote(path.name, safe='')}?{changed}"
        said = caption(path)
        picture = html.Img(src=address, alt=said.title)
        words = html.Figcaption([html.Strong(said.title), f" {said.description}"] if said.description else said.title)
        images.append(html.Figure([html.A(picture, href=address, target="_blank", rel="noopener"), words]))
    return [html.H2("Gallery and crops"), html.Div(images, className="grid pictures")]


def _log(files: AttemptFiles | None) -> Any:
    text = None if files is None else log_tail(files)
    if text is None:
        return html.P("Nothing was printed. With executor=inline it goes to the run's own output.", className="soft")
    return html.Pre(text or "(empty)", id={"text": "log"}, tabIndex=0, className="log", **labelled("The end of the log"))


def _attempts(record: Record, signature: str) -> Any:
    rows = []
    for attempt in record.attempts(signature):
        began = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(attempt.started))
        ended = "runs" if attempt.ended is None else "result" if attempt.cause is None else attempt.cause.value
        seconds = "" if attempt.seconds is None else f"{attempt.seconds:.1f}"
        rows.append([str(attempt.number), began, attempt.worker, seconds, ended, first_line(attempt.message) if attempt.message else ""])
    empty = "None in this study: it waits, or its result was found under the same runs folder."
    return table("Attempts", ["number", "began", "worker", "seconds", "end", "message"], rows, numbers=[3], empty=empty)


def _views(now: Snapshot, signature: str, viewing: Viewing | None) -> Any:
    """The viewer's button, what of it runs, and the pages that it wrote."""
    if viewing is None or command_of(now, signature, 0) is None:
        return None
    field = dcc.Input(id={"step": signature}, type="number", min=0, step=1, placeholder="the last", autoComplete="off")
    chosen = html.Label([html.Span("Step ", className="soft"), field], className="search")
    controls = html.Div([chosen, ask("view", "Run the viewer…", signature)], className="viewer")
    seen = [html.Li(_seen(signature, one)) for one in viewing.of(signature)]
    said = html.P("Runs the command that the study names as trainer.viewer, on this machine; its page opens from here.", className="soft")
    return [html.H2("Look at what it saw"), said, controls, html.Ul(seen, className="views") if seen else None]


def _seen(signature: str, one: Seen) -> list[Any]:
    began = time.strftime("%H:%M:%S", time.localtime(one.began))
    if one.seconds is None:
        end = ask("view_end", f"End the viewer of step {one.step}…", f"{signature}/{one.key}")
        return [f"Step {one.step}: the viewer runs since {began}. ", end]
    links = []
    for name in one.pages:
        address = f"/view/{signature}/{one.key}/{quote(name, safe='')}"
        links += [html.A(f"open {name}", href=address, target="_blank", rel="noopener"), " "]
    said: list[Any] = [f"Step {one.step}: ", *links]
    if not one.fault:
        return [*said, html.Span(f"made at {began} in {ago(one.seconds)}", className="soft")]
    output = html.Pre(one.said or "It printed nothing.", tabIndex=0, className="log", **labelled(f"Output of the viewer, step {one.step}"))
    command = html.Pre(shlex.join(one.command), tabIndex=0, **labelled(f"Command of the viewer, step {one.step}"))
    return [*said, html.Strong(one.fault), output, command]


def _commands(now: Snapshot, signature: str, files: AttemptFiles | None, step: int | None) -> Any:
    study = now.study.study
    lines = [f"ablate logs {signature[:12]} {study}"]
    viewer = command_of(now, signature, step)
    lines += [shlex.join(viewer)] if viewer else []
    own = html.Pre("\n".join(lines), tabIndex=0, **labelled("Commands"))
    where = html.P(["Its files: ", html.Code(json.dumps(str(files.directory))[1:-1])]) if files is not None else None
    return [html.H2("In a terminal"), own, where]
