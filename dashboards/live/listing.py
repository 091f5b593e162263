"""Every trial in a table: by state, phase or a word, a part at a time, each failed one with its cause."""

from __future__ import annotations

from typing import Any

from dash import dcc, html

from ablate.ledger import TrialRecord, Use
from ablate.trial import TrialState
from ablate.words import number
from dashboards.live.address import View
from dashboards.live.parts import Page, ask, broken, chip, first_line, labelled, link, pages, table
from dashboards.live.record import Snapshot


def page(view: View, now: Snapshot) -> Page:
    """The trials that fit a view."""
    rows = [(record, uses) for record, uses in _fitting(view, now)]
    shown, ways = pages(view, len(rows), "trial")
    failed = [record for record, _ in rows if record.state is TrialState.FAILED]
    buttons = [ask("retry_failed", "Retry all failed trials…")] if failed else []
    regions = {"choice": _choices(view, now), "buttons": buttons, "trials": [ways, _table(now, rows[shown])]}
    return Page("Trials", regions, search_box(view, "Arm, cause or message contains"))


def _choices(view: View, now: Snapshot) -> Any:
    """What narrows the list."""
    counts = now.status["trials"]
    states = [("all", "", sum(counts.values())), *((state.value, state.value, counts[state.value]) for state in TrialState)]
    phases = list(dict.fromkeys(use.phase for use in now.uses))
    by_state = [(f"{words} ({count})", view.but(state=state), state == view.state) for words, state, count in states]
    by_phase = [(name or "all", view.but(phase=name), name == view.phase) for name in ["", *phases]]
    return html.Div([choice("State", by_state), choice("Phase", by_phase)], className="controls")


def choice(label: str, ways: list[tuple[str, View, bool]]) -> Any:
    """Links of which one is taken."""
    links = [link(words, view, className="way taken" if taken else "way") for words, view, taken in ways]
    return html.Nav([html.Span(f"{label}: ", className="soft"), *links], className="choice", **labelled(label))


def search_box(view: View, words: str) -> Any:
    """A field that narrows a list as one types."""
    field = dcc.Input(id={"search": view.page}, type="search", value=view.search, debounce=0.4, maxLength=200, autoComplete="off")
    return html.Label([html.Span(f"{words} ", className="soft"), field], className="search")


def trial_view(signature: str) -> View:
    """The page of a trial."""
    return View(page="trial", trial=signature)


def place(now: Snapshot, signature: str) -> str:
    """Where a trial serves first, in words."""
    uses = now.places.get(signature, [])
    if not uses:
        return signature[:8]
    more = f" and {len(uses) - 1} more" if len(uses) > 1 else ""
    return f"{uses[0].phase} / {uses[0].arm} / replicate {uses[0].replicate}{more}"


def _fitting(view: View, now: Snapshot) -> list[tuple[TrialRecord, list[Use]]]:
    sought = view.search.casefold()
    found = []
    for signature, record in now.records.items():
        uses = [use for use in now.places.get(signature, []) if view.phase in ("", use.phase)]
        if (view.state and record.state.value != view.state) or (view.phase and not uses):
            continue
        if sought:
            words = " ".join(
                [signature, str(record.cause or ""), record.message, *(f"{use.phase}/{use.arm}/r{use.replicate}" for use in uses)]
            )
            if sought not in words.casefold():
                continue
        found.append((record, uses))
    return found


def _table(now: Snapshot, rows: list[tuple[TrialRecord, list[Use]]]) -> Any:
    metric = now.study.objective.metric
    cells = []
    for record, _ in rows:
        result = now.result(record.signature)
        seconds = "" if record.seconds is None else f"{record.seconds:.1f}"
        value = "" if result is None or metric not in result.metrics else number(result.metrics[metric])
        open_ = record.state in (TrialState.QUEUED, TrialState.FAILED)
        why = f"{record.cause}: {first_line(record.message, 200)}" if open_ and record.cause else ""
        name = link(broken(place(now, record.signature)), trial_view(record.signature))
        again = ask("retry", "Retry…", record.signature) if record.state is TrialState.FAILED else None
        cells.append([name, chip(record.state.value), str(record.attempts), seconds, value, [why, " ", again] if again else why])
    head = ["trial", "state", "attempts", "seconds", metric, "why, where it has no result"]
    return table("Trials", head, cells, numbers=[2, 3, 4], empty="No trial fits.")
