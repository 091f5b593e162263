"""The pages on the screen: what is shown follows the address, and keeps itself up to date."""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from threading import Lock
from typing import Any

from dash import ALL, Dash, Input, Output, State, ctx, dcc, html, no_update
from dash.exceptions import PreventUpdate

from ablate.errors import AblateError
from ablate.words import counted
from dashboards.live import address, asking, comparison, listing, overview, trial
from dashboards.live.address import View
from dashboards.live.parts import Page, ask, chip, labelled, link
from dashboards.live.record import Record, Snapshot, mark_of
from dashboards.live.viewing import Viewing

EVERY_MS = 1000
REMEMBERED = 64
"""Views whose watched files are known."""

INDEX = """<!doctype html>
<html lang="en" data-study="{study}">
<head>{%metas%}<title>{%title%}</title><link rel="icon" href="data:,"><link rel="stylesheet" href="/style.css">
<script src="/live.js"></script>{%css%}</head>
<body><p id="lost" role="alert">The dashboard's server does not answer. What is shown may be old.</p>
{%app_entry%}<footer>{%config%}{%scripts%}{%renderer%}</footer></body>
</html>"""


@dataclass
class Screen:
    """What every view of a study shows.

    Args:
        token: What a page must hold to ask for something.
    """

    record: Record
    steering: asking.Steering
    token: str
    stranger: Callable[[], bool] = lambda: False
    """Whether the request that is being answered comes from another user."""
    viewing: Viewing | None = None
    """What runs the study's viewer; none: this screen runs none."""
    lock: Lock = field(default_factory=Lock)
    """One view is made at a time: they share streams that grow."""
    _watched: OrderedDict[str, Sequence[str]] = field(default_factory=OrderedDict)

    def look(self, view: View) -> tuple[str, Page]:
        """A view as it stands now, with the stamp that it had before: what changes meanwhile is seen at the next look."""
        self._watched.setdefault(view.address, ())
        before = self.stamp(view)
        made = self.page(view)
        return (before if not made.watched else self.stamp(view)), made

    def page(self, view: View) -> Page:
        """A view as it stands now; what is wrong with the record is said on the page."""
        with self.lock:
            try:
                made = self._page(view)
            except AblateError as error:
                made = Page("The record cannot be read", {"problem": html.P(str(error), role="alert")})
            made = Page(made.heading, {"state": self._state(), **made.regions}, made.controls, made.watched)
            self._watched[view.address] = made.watched
            self._watched.move_to_end(view.address)
            while len(self._watched) > REMEMBERED:
                self._watched.popitem(last=False)
            return made

    def _page(self, view: View) -> Page:
        now = self.record.snapshot()
        if now is None:
            return Page(
                "Nothing is on record yet", {"said": html.P("The study begins. This page shows its first trial as soon as there is one.")}
            )
        match view.page:
            case "overview":
                return overview.page(self.record, now)
            case "compare":
                return comparison.page(self.record, view, now, more=self.steering.replicates is not None)
            case "trials":
                return listing.page(view, now)
            case "trial":
                found = trial.page(self.record, view, now, self.viewing)
                if found is not None:
                    return found
        every = link("All trials", View(page="trials"))
        return Page("There is no such page", {"said": html.P(["Nothing is at this address, or several trials begin so. ", every])})

    def _state(self) -> Any:
        try:
            now = self.record.snapshot()
            status = now.status if now is not None else self.record.status()
        except AblateError:
            return None
        waiting = status["requests"]
        # What changes while it runs is handed over by itself: a press of the button would be lost if it were drawn anew meanwhile.
        more = "" if status["said"] == status["state"] else status["said"]
        said = html.Span(more, id={"text": "state"}, className="soft")
        asked = html.Span(f"{counted(waiting, 'request')} not taken up yet" if waiting else "", id={"text": "requests"}, className="soft")
        button = [ask("stop", "Stop the study…")] if status["state"] in ("running", "starting") else []
        return html.Div([chip(status["state"]), said, asked, *button], className="state")

    def stamp(self, view: View) -> str:
        """Another one when something that the view shows has changed."""
        marks = []
        try:
            now = self.record.snapshot()
        except AblateError as error:
            return str(error)
        if now is not None:
            marks = [mark_of(now.files(signature)) for signature in self._watched.get(view.address, [])]
        marks += [] if self.viewing is None else [str(self.viewing.changes)]
        return hashlib.sha256("|".join([view.address, self.record.stamp, *marks]).encode()).hexdigest()[:16]

    def drawn(self, view: View, what: str) -> list[str]:
        """The arms or metrics that a view shows, picked or not."""
        try:
            now = self.record.snapshot()
        except AblateError:
            now = None
        if now is None:
            return list(view.arms if what == "arms" else view.metrics)
        with self.lock:
            if what == "arms":
                return [str(key) for key in comparison.chosen_arms(view, now)]
            return trial.drawn(self.record, view, now) if view.page == "trial" else comparison.drawn(self.record, view, now)

    def question(self, asked: asking.Asked) -> str:
        """What is asked before something is done."""
        signature, _, step = asked.of.partition("/")
        command = self.viewing.words(signature, step) if asked.what == "view" and self.viewing is not None else ""
        return asked.question(self.record.name, self.place(signature), command)

    def place(self, signature: str) -> str:
        """A trial in words."""
        try:
            now: Snapshot | None = self.record.snapshot()
        except AblateError:
            now = None
        return listing.place(now, signature) if now is not None else signature[:8]


def build(screen: Screen) -> Dash:
    """The application; `guarded` must stand before it."""
    study = screen.record.name
    app = Dash(
        __name__,
        title=f"{study} · ablate",
        update_title="",
        serve_locally=True,
        include_assets_files=False,
        suppress_callback_exceptions=True,
        index_string=INDEX.replace("{study}", study),
        meta_tags=[{"name": "viewport", "content": "width=device-width, initial-scale=1"}],
        add_log_handler=False,
        enable_mcp=False,
    )
    app.layout = _frame(study, screen.token)
    _follow(app, screen)
    _choose(app, screen)
    _ask(app, screen)
    return app


def _frame(study: str, token: str) -> Any:
    ways = {"Overview": View(), "Compare arms": View(page="compare"), "Trials": View(page="trials")}
    ways["Failed"] = View(page="trials", state="failed")
    return html.Div(
        [
            html.A("Skip to the content", href="#main", className="skip"),
            html.Header(
                [
                    html.P(["ablate · study ", html.Strong(study)], className="over"),
                    html.Nav([link(words, view) for words, view in ways.items()], **labelled("Pages")),
                    html.Div(id={"region": "state"}),
                ]
            ),
            html.P(id="said", role="status", className="said"),
            html.Main(id="main", tabIndex=-1),
            dcc.Location(id="url", refresh="callback-nav"),
            dcc.Interval(id="tick", interval=EVERY_MS),
            dcc.Store(id="seen", data={}),
            dcc.Store(id="asked"),
            dcc.Store(id="token", data=token),
            dcc.ConfirmDialog(id="confirm", message=""),
        ],
        className="live",
    )


def _follow(app: Dash, screen: Screen) -> None:
    """Another page is drawn as a whole; on the same page only what has changed.

    Whatever is drawn as a whole loses its zoom and the keyboard's place, so figures and texts that grow are handed over by themselves.
    """

    @app.callback(Output("main", "children"), Output("seen", "data"), Input("url", "pathname"), State("url", "search"))
    def show(pathname: str | None, search: str | None) -> tuple[Any, Any]:
        view = address.read(pathname, search)
        stamp, made = screen.look(view)
        sections = [html.Section(content, id={"region": name}) for name, content in made.regions.items() if name != "state"]
        found = {name: Drawn(content) for name, content in made.regions.items() if name != "state"}
        return [html.H1(made.heading, id="heading"), made.controls, *sections], seen_as(stamp, found)

    @app.callback(
        Output({"region": ALL}, "children"),
        Output({"graph": ALL}, "figure"),
        Output({"text": ALL}, "children"),
        Output("seen", "data", allow_duplicate=True),
        Input("tick", "n_intervals"),
        Input("url", "search"),
        State("seen", "data"),
        State("url", "pathname"),
        prevent_initial_call=True,
    )
    def follow(_: int, search: str | None, seen: dict[str, Any], pathname: str | None) -> tuple[Any, ...]:
        view = address.read(pathname, search)
        names, graphs, texts = ([str(next(iter(output["id"].values()))) for output in found] for found in ctx.outputs_list[:3])
        known, leaves = seen.get("regions", {}), seen.get("leaves", {})
        if seen.get("stamp") == screen.stamp(view) and all(name in known for name in names):
            raise PreventUpdate
        stamp, made = screen.look(view)
        found = {name: Drawn(content) for name, content in made.regions.items()}
        whole = {name for name in names if name not in found or known.get(name) != found[name].frame}
        grown = {leaf: value for name, drawn in found.items() if name not in whole for leaf, value in drawn.leaves.items()}

        def changed(kind: str, keys: Sequence[str]) -> list[Any]:
            ids = [f"{kind} {key}" for key in keys]
            return [grown[leaf] if leaf in grown and leaves.get(leaf) != digest(grown[leaf]) else no_update for leaf in ids]

        regions = [made.regions.get(name) if name in whole else no_update for name in names]
        return regions, changed("graph", graphs), changed("text", texts), seen_as(stamp, found)


class Drawn:
    """A region taken apart: what grows in it by itself, and the frame around it."""

    def __init__(self, content: Any) -> None:
        self.leaves: dict[str, Any] = {}
        """`graph KEY` to its figure, `text KEY` to its words."""
        self.frame = digest(content, self._part)
        """Another one when anything else has changed."""

    def _part(self, component: Any) -> Any:
        part = component.to_plotly_json()
        of = part["props"].get("id")
        for kind, prop in (("graph", "figure"), ("text", "children")):
            if isinstance(of, dict) and kind in of:
                self.leaves[f"{kind} {of[kind]}"] = part["props"][prop]
                part = {**part, "props": {key: value for key, value in part["props"].items() if key != prop}}
        return part


def seen_as(stamp: str, found: Mapping[str, Drawn]) -> dict[str, Any]:
    """What the page knows of what it shows."""
    leaves = {leaf: digest(value) for drawn in found.values() for leaf, value in drawn.leaves.items()}
    return {"stamp": stamp, "regions": {name: drawn.frame for name, drawn in found.items()}, "leaves": leaves}


def digest(content: Any, part: Callable[[Any], Any] = lambda component: component.to_plotly_json()) -> str:
    """Equal for equal content."""
    return hashlib.sha256(json.dumps(content, default=part, sort_keys=True).encode()).hexdigest()[:16]


def _choose(app: Dash, screen: Screen) -> None:
    @app.callback(
        Output("url", "search", allow_duplicate=True),
        Input({"search": ALL}, "value"),
        Input({"toggle": ALL, "of": ALL}, "n_clicks"),
        State("url", "pathname"),
        State("url", "search"),
        prevent_initial_call=True,
    )
    def choose(sought: list[str | None], _: list[int], pathname: str | None, search: str | None) -> str:
        view = address.read(pathname, search)
        chosen, pressed = view, ctx.triggered_id
        if isinstance(pressed, dict) and "search" in pressed and sought and (sought[0] or "") != view.search:
            chosen = view.but(search=sought[0] or "")
        elif isinstance(pressed, dict) and "toggle" in pressed and ctx.triggered[0]["value"]:
            chosen = toggled(view, pressed["toggle"], pressed["of"], screen.drawn(view, pressed["toggle"]))
        if chosen == view:
            raise PreventUpdate
        _path, question, query = chosen.address.partition("?")
        return question + query


def toggled(view: View, what: str, pressed: str, drawn: Sequence[str]) -> View:
    """The view with an arm or a metric more, or with one less.

    Args:
        what: `arms` or `metrics`.
        drawn: Those that are shown now, picked or chosen for the user.
    """
    after = tuple(one for one in drawn if one != pressed) if pressed in drawn else (*drawn, pressed)
    return view.but(part=view.part, **{"arms" if what == "arms" else "metrics": after})


def _ask(app: Dash, screen: Screen) -> None:
    @app.callback(
        Output("confirm", "displayed"),
        Output("confirm", "message"),
        Output("asked", "data"),
        Input({"ask": ALL, "of": ALL}, "n_clicks"),
        State({"step": ALL}, "value"),
        prevent_initial_call=True,
    )
    def confirm(_: list[int | None], steps: list[float | None]) -> tuple[bool, str, Any]:
        found = asking.asked(ctx.triggered_id)
        if found is not None and found.what == "view":
            found = replace(found, of=f"{found.of}/{'' if not steps or steps[0] is None else steps[0]}")
        if found is None or not ctx.triggered or not ctx.triggered[0]["value"]:
            raise PreventUpdate
        return True, screen.question(found), {"ask": found.what, "of": found.of}

    @app.callback(
        Output("said", "children"),
        Input("confirm", "submit_n_clicks"),
        State("asked", "data"),
        State("token", "data"),
        prevent_initial_call=True,
    )
    def perform(submitted: int | None, button: Any, token: Any) -> str:
        found = asking.asked(button)
        if not submitted or found is None:
            raise PreventUpdate
        if not asking.same_token(token, screen.token):
            return "This page is of an earlier dashboard. Load it anew, then ask again."
        if screen.stranger():
            return "Only the user who started this dashboard may ask that."
        return found.perform(screen.steering)
