"""Where the study stands: its phases, queue, workers, budget, the time that is left, and what went wrong."""

from __future__ import annotations

import time
from collections import Counter
from typing import Any

from dash import html

from ablate.study import BASELINE, CONFIRMATION
from ablate.trial import TrialState
from ablate.words import counted, listed, number
from dashboards.live.address import View
from dashboards.live.listing import place, trial_view
from dashboards.live.parts import Page, ago, ask, bar, broken, chip, first_line, link, table, tile
from dashboards.live.record import ArmKey, Record, Snapshot

NEXT = 8
WORKERS = 64
"""Rows of a list on this page; links lead to the rest."""


def page(record: Record, now: Snapshot) -> Page:
    """The first page."""
    regions = {
        "tiles": _tiles(now),
        "phases": [html.H2("Phases"), _phases(now)],
        "workers": [html.H2("Workers"), _workers(record, now)],
        "queue": [html.H2("Next in the queue"), *_queue(now)],
        "failures": [html.H2("Failed"), *_failures(now)],
        "events": [html.H2("What happened"), _events(now)],
    }
    return Page(now.study.question, regions, watched=list(now.held)[:WORKERS])


def _tiles(now: Snapshot) -> Any:
    counts, used, budget = now.status["trials"], now.status["used"], now.status["budget"]
    known = sum(counts.values())
    to_come = 0 if now.status["state"] == "done" else max(0, (now.trials_at_most or 0) - known)
    planned = f" of at most {known + to_come}" if to_come else f" of {known}"
    note = f"{counts['running']} running, {counts['queued']} queued, {counts['failed']} failed"
    tiles = [
        tile(
            "Trials done",
            f"{counts['done']}{planned}",
            note,
            bar(counts | {"to come": to_come}, "Trials by state"),
        )
    ]
    bounds = [
        f"{used['trials']}{_of(budget['trials'])} trials started",
        *([f"{used['gpu_hours']:.2f}{_of(budget['gpu_hours'])} GPU-hours"] if budget["gpu_hours"] or used["gpu_hours"] else []),
    ]
    hours = f"{used['hours']:.2f} h" if used["hours"] >= 1 else ago(3600 * used["hours"])
    tiles.append(tile("Budget used", f"{hours}{_of(budget['hours'])}{' h' if budget['hours'] else ''}", "; ".join(bounds)))
    left = now.remaining()
    if left is not None:
        tiles.append(tile("Remaining, at most", f"about {ago(left[0])}", left[1]))
    else:
        why = {"done": "the study is done", "running": "no trial has ended yet"}.get(now.status["state"], "nothing runs")
        tiles.append(tile("Remaining", "nothing" if now.status["state"] == "done" else "not known", why))
    tiles.append(_latest_answer(now))
    return html.Div(tiles, className="grid four")


def _of(bound: float | None) -> str:
    return "" if bound is None else f" of {bound:g}"


def _latest_answer(now: Snapshot) -> Any:
    """The latest decision, or the best arm so far."""
    phase = next((name for name in reversed(now.phases) if name in now.conclusions), None)
    if phase is not None and phase == now.latest_phase:
        found = now.conclusions[phase]
        if phase == CONFIRMATION and found.winner != BASELINE:  # there the arm is called "winner"; by its own name it stands in the phases
            adopted = [one.winner for name, one in now.conclusions.items() if name != CONFIRMATION and one.winner != BASELINE]
            return tile("Winner, confirmed", broken(listed(adopted)), found.reason)
        return tile(f"Winner of {phase}", broken(found.winner), found.reason)
    objective = now.study.objective
    means = {
        key.name: (sum(values) / len(values), len(values))
        for key in now.of_arm
        if key.phase == now.latest_phase and (values := now.finals(key, objective.metric))
    }
    if not means:
        return tile("Best so far", "no result yet", f"{objective.metric}, {objective.direction}")
    best = max(means, key=lambda name: objective.sign * means[name][0])
    mean, count = means[best]
    said = f"{objective.metric} {number(mean)} over {counted(count, 'replicate')}; not decided"
    return tile(f"Best so far in {now.latest_phase}", broken(best), said)


def _phases(now: Snapshot) -> Any:
    rows = []
    for name in now.phases:
        keys = [key for key in now.of_arm if key.phase == name]
        conclusion = now.conclusions.get(name)
        counts = now.counted({signature for key in keys for signature in now.of_arm[key].values()})
        if conclusion is not None:
            verdicts = Counter(arm.verdict for arm in conclusion.arms if arm.verdict != "baseline")
            said: Any = [chip("decided"), f" winner: {conclusion.winner}"]
            found = listed([f"{count} {verdict}" for verdict, count in verdicts.items()])
        else:
            said, found = chip("running" if keys and now.status["state"] == "running" else "stopped" if keys else "waits"), ""
        whole = sum(counts.values())
        progress = [f"{counts['done']} of {whole}", bar(counts, f"Trials of {name}")] if whole else "not begun"
        words: Any = link(name, View(page="compare", phase=name)) if keys else name
        rows.append([words, said, progress, str(len(keys)) if keys else "", found])
    return table("Phases", ["phase", "state", "trials done", "arms", "verdicts"], rows, numbers=[3])


def _workers(record: Record, now: Snapshot) -> Any:
    rows = []
    for signature, attempt in list(now.held.items())[:WORKERS]:
        files = now.files(signature, attempt.number)
        stream, waits = record.stream(files), files is not None and not files.began.exists()
        silent = now.beats(attempt.worker)
        heard = "" if silent is None or silent < 15 else f"silent for {ago(silent)}"
        step = "comes next" if waits else "no report yet" if stream.step is None else f"step {stream.step}"
        began = time.strftime("%H:%M:%S", time.localtime(attempt.started))
        rows.append([attempt.worker, link(place(now, signature), trial_view(signature)), step, began, str(attempt.number), heard])
    more = len(now.held) - WORKERS
    if more > 0:
        rows.append(["", link(f"and {more} more", View(page="trials", state="running")), "", "", "", ""])
    empty = "No trial runs." if now.status["state"] != "running" else "No worker has a trial right now."
    return table("Workers", ["worker", "holds", "has reported", "since", "attempt", ""], rows, numbers=[4], empty=empty)


def _queue(now: Snapshot) -> list[Any]:
    queued = [record.signature for record in now.records.values() if record.state is TrialState.QUEUED]
    if not queued:
        return [html.P("Nothing waits.", className="soft")]
    rows = [html.Li(link(place(now, signature), trial_view(signature))) for signature in queued[:NEXT]]
    rest = len(queued) - NEXT
    more = html.P(link(f"and {rest} more", View(page="trials", state="queued"))) if rest > 0 else None
    return [html.Ol(rows), more]


def _failures(now: Snapshot) -> list[Any]:
    failed = [record for record in now.records.values() if record.state is TrialState.FAILED]
    if not failed:
        return [html.P("No trial has failed for good.", className="soft")]
    causes = Counter(str(record.cause or "unknown") for record in failed)
    rows = [
        [link(place(now, record.signature), trial_view(record.signature)), str(record.cause or "unknown"), first_line(record.message)]
        for record in failed[:NEXT]
    ]
    said = f"{counted(len(failed), 'trial')} failed for good: {listed([f'{count} {cause}' for cause, count in causes.most_common()])}. "
    every = link("All of them", View(page="trials", state="failed"))
    return [
        html.P([said, every]),
        table("Failed trials", ["trial", "cause", "message"], rows),
        ask("retry_failed", "Retry all failed trials…"),
    ]


def _events(now: Snapshot) -> Any:
    rows = [[time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(event.at)), event.kind, first_line(event.text)] for event in now.events]
    return table("Events", ["at", "kind", "what"], rows, empty="Nothing is on record yet.")


def best_first(now: Snapshot, keys: list[ArmKey]) -> list[ArmKey]:
    """Arms by their mean objective so far, the best first; those without a result last, in the order of the plan."""
    objective = now.study.objective

    def rank(key: ArmKey) -> tuple[bool, float]:
        values = now.finals(key, objective.metric)
        return not values, -objective.sign * sum(values) / len(values) if values else 0.0

    return sorted(keys, key=rank)
