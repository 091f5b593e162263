"""What mattered: interactions of a factorial as a matrix, the way from baseline to winner, and where thresholds may stand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ablate.words import between, counted, listed, number
from dashboards.figures import setting, shown
from dashboards.page import figure, listing, text
from dashboards.palette import BLUE, GREEN, GREY, ORANGE, SKY, VERMILLION, title, unit

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

Document = Mapping[str, Any]


def mattered(document: Document) -> str:
    """The section: attribution first, then each factorial; empty where there is neither."""
    parts = []
    if document["attribution"]:
        parts.append(_attribution(document))
    for index, phase in enumerate(document["phases"]):
        if phase["insight"]["factorial"] is not None:
            parts.append(_factorial(document, phase, index))
        if phase["insight"]["left_out"] is not None:
            told = listing(list(phase["insight"]["left_out"]["sentences"]))
            parts.append(f"<h3>What phase {text(phase['name'])} loses without each component</h3>{told}")
    noise = [
        f"{phase['name']}: {' '.join(phase['insight'][key]['sentence'] for key in ('noise', 'pairing') if phase['insight'][key])}"
        for phase in document["phases"]
        if phase["insight"]["noise"]
    ]
    if not parts:
        return ""
    return f"<h2>What mattered</h2>{''.join(parts)}<h3>What these replicates could show</h3>{listing(noise)}"


def _attribution(document: Document) -> str:
    found, metric = document["attribution"], document["objective"]["metric"]
    needed = [name for name, need in found["needs"].items() if need.startswith("needed")]
    steps = found["path"]
    start = found["start"]["name"]
    heading = f"The way from {start} to winner: {counted(len(needed), 'component')} of {len(found['needs'])} shown to be needed"
    drawn = figure(
        waterfall(document),
        name="attribution",
        title=f"From {start} to winner {title(metric)} gains most by {max(steps, key=lambda step: step['mean'])['name']}"
        if steps
        else "The way is not measured",
        caption="Each bar is what the component adds on top of those to its left, over the replicates that both cells have. The replicates "
        "that choose the order also measure it, so early steps flatter.",
    )
    return f"<h3>{text(heading)}</h3>{drawn if steps else ''}{listing(list(found['sentences']))}"


def waterfall(document: Document) -> Figure:
    """Mean of the cell without any component (the baseline's), what each step of the greedy path adds, and where that leads."""
    import plotly.graph_objects as go

    metric, steps = document["objective"]["metric"], document["attribution"]["path"]
    sign = 1 if document["objective"]["direction"] == "maximize" else -1
    start = document["attribution"]["start"]["mean"] or 0.0
    names = [document["attribution"]["start"]["name"], *(step["name"] for step in steps), "reached"]
    reached = start + sum(sign * step["mean"] for step in steps)
    drawn = go.Figure(layout={"template": "none"})
    drawn.add_trace(
        go.Waterfall(
            meta={key: [None, *(_ends(step, sign)[place] for step in steps), None] for place, key in enumerate(("low", "high"))},
            x=[shown(name) for name in names],
            y=[start, *(sign * step["mean"] for step in steps), reached],
            measure=["absolute", *("relative" for _ in steps), "total"],
            text=[number(start), *(number(sign * step["mean"], signed=True) for step in steps), number(reached)],
            hovertext=[
                "",
                *(f"{number(step['mean'], signed=True)}{between(step['low'], step['high'])}, {step['pairs']} pairs" for step in steps),
                "",
            ],
            textposition="outside",
            increasing={"marker": {"color": GREEN if sign > 0 else VERMILLION}},
            decreasing={"marker": {"color": VERMILLION if sign > 0 else GREEN}},
            totals={"marker": {"color": GREY}},
            connector={"line": {"color": GREY, "width": 1}},
        )
    )
    drawn.update_layout(height=360, margin={"l": 60, "r": 12, "t": 20, "b": 80}, showlegend=False)
    drawn.update_yaxes(title=shown(title(metric)) + (f" ({unit(metric)})" if unit(metric) else ""), rangemode="tozero")
    drawn.update_xaxes(title="components, as they are switched on")
    return drawn


def _ends(step: Mapping[str, Any], sign: int) -> tuple[float | None, float | None]:
    """The interval of a step in the metric's own direction, lower end first."""
    if step["low"] is None or step["high"] is None:
        return None, None
    low, high = sorted((sign * step["low"], sign * step["high"]))
    return low, high


def _factorial(document: Document, phase: Document, index: int) -> str:
    found = phase["insight"]["factorial"]
    told = [one for one in found["interactions"] if _cell(one).endswith("*")]
    strongest = max(told, key=lambda one: abs(one["mean"]), default=None)
    words = f"{strongest['name']} change each other most" if strongest else "No two factors are shown to change each other"
    drawn = figure(
        matrix(found, document["objective"]["metric"]),
        name=f"factorial-{index}",
        title=f"Phase {phase['name']}: {words}",
        caption="On the diagonal what a level gains on average over all others (positive: better), off it by how much two change each "
        "other; * : the simultaneous interval excludes 0; ? : not told apart from others. Empty: not estimable from these cells.",
    )
    return f"<h3>Effects in phase {text(phase['name'])}</h3>{drawn if found['main'] else ''}{listing(list(found['sentences']))}"


def matrix(found: Document, metric: str) -> Figure:
    """Main effects on the diagonal, interactions beside it."""
    import plotly.graph_objects as go

    names = [one["name"] for one in found["main"]]
    cells: dict[tuple[str, str], Document] = {(one["name"], one["name"]): one for one in found["main"]}
    for one in found["interactions"]:
        first, _, second = one["name"].partition(" x ")
        cells[first, second] = cells[second, first] = one
    values = [[_mean(cells.get((row, column))) for column in names] for row in names]
    words = [[_cell(cells.get((row, column))) for column in names] for row in names]
    most = max((abs(value) for line in values for value in line if value is not None), default=1.0) or 1.0
    drawn = go.Figure(layout={"template": "none"})
    labels = [shown(name) for name in names]
    drawn.add_trace(
        go.Heatmap(
            x=labels,
            y=labels,
            z=values,
            text=words,
            texttemplate="%{text}",
            hovertemplate="%{y} and %{x}: %{text}<extra></extra>",
            colorscale=[[0, ORANGE], [0.5, "#f7f7f7"], [1, SKY]],
            textfont={"color": "#1a1a1a"},
            zmin=-most,
            zmax=most,
            colorbar={"title": {"text": f"gain, {shown(unit(metric) or title(metric))}", "side": "right"}},
        )
    )
    drawn.update_layout(height=max(280, 120 + 70 * len(names)), margin={"l": 12, "r": 12, "t": 20, "b": 40})
    drawn.update_xaxes(automargin=True)
    drawn.update_yaxes(automargin=True, autorange="reversed")
    return drawn


def _mean(one: Document | None) -> float | None:
    return None if one is None else one["mean"]


def _cell(one: Document | None) -> str:
    if one is None or one["mean"] is None:
        return ""
    if one["assumes_absent"]:
        return number(one["mean"], signed=True) + " ?"
    sure = one["low"] is not None and (one["low"] > 0 or one["high"] < 0)
    return number(one["mean"], signed=True) + (" *" if sure else "")


def operating(document: Document) -> str:
    """For each tuning phase its range in words, and over two thresholds a map of all that was measured."""
    parts = []
    for index, phase in enumerate(document["phases"]):
        found = phase["operating"]
        if not found:
            continue
        paths = [threshold["name"] for threshold in found["thresholds"]]
        drawn = ""
        if len(paths) >= 2 and phase["points"]:
            regions = found.get("regions")
            axes = [regions["x"], regions["y"]] if regions else paths[:2]
            feasible = [point for point in phase["points"] if point["feasible"]]
            drawn = figure(
                points_map(phase, axes, document),
                name=f"operating-{index}",
                title=f"Phase {phase['name']}: {len(feasible)} of {counted(len(phase['points']), 'measured point')} keep all guards",
                caption=_map_caption(found, axes),
            )
        parts.append(f"<h3>Where the thresholds of {text(phase['name'])} may stand</h3>{listing(list(found['sentences']))}{drawn}")
    return "".join(parts)


def _map_caption(found: Document, axes: Sequence[str]) -> str:
    """What is drawn; of the thresholds beside the two axes at which value."""
    others = [f"{path} at {number(value)}" for path, value in (found["recommended_levels"] or {}).items() if path not in axes]
    said = "Discs: points with all guards kept. Crosses: a guard is broken or a replicate failed."
    if found.get("regions"):
        kept = f", with {listed(others)}" if others else ""
        said += (
            f" Areas are predicted from them{kept}: not feasible is what lies nearest to a cross, or to a setting refused before training."
        )
        if any("u" in row for row in found["regions"]["rows"]):
            said += " Nothing is predicted of the grey ground beyond the outermost points."
    return f"{said} The rectangle is predicted to be as good as the best along each axis through the diamond."


AREAS = (
    ("g", "as good as the best (predicted)", GREEN),
    ("f", "feasible, not shown to be as good", SKY),
    ("x", "not feasible (predicted)", VERMILLION),
    ("u", "not measured: beyond the outermost points", GREY),
)
"""Letter of `stats.operating_range.Regions`, what it says, and its colour."""


def _areas(regions: Document) -> list[Any]:
    """A pale field for each kind of setting that there is."""
    import plotly.graph_objects as go

    fields = []
    for letter, word, colour in AREAS:
        if any(letter in row for row in regions["rows"]):
            z = [[1 if found == letter else None for found in row] for row in regions["rows"]]
            look = {"colorscale": [[0, colour], [1, colour]], "showscale": False, "opacity": 0.22, "showlegend": True}
            fields.append(go.Heatmap(x=regions["xs"], y=regions["ys"], z=z, name=word, hoverinfo="skip", hoverongaps=False, **look))
    return fields


def points_map(phase: Document, axes: Sequence[str], document: Document) -> Figure:
    """Every measured point over two thresholds, what is predicted between them, the middle of the range and what is recommended."""
    import plotly.graph_objects as go

    found, (x, y), metric = phase["operating"], axes, document["objective"]["metric"]
    drawn = go.Figure(_areas(found["regions"]) if found.get("regions") else [], layout={"template": "none"})
    good = [point for point in phase["points"] if point["feasible"]]
    bad = [point for point in phase["points"] if not point["feasible"]]
    drawn.add_trace(
        go.Scatter(
            x=[point["levels"].get(x) for point in good],
            y=[point["levels"].get(y) for point in good],
            mode="markers",
            name="guards kept",
            text=[f"{shown(point['name'])}: {number(point['objective'])}" for point in good],
            hovertemplate="%{text}<extra></extra>",
            marker={
                "size": 12,
                "color": [point["objective"] for point in good],
                "colorscale": "Cividis",
                "colorbar": {"title": {"text": shown(title(metric)), "side": "right"}},
                "line": {"width": 1, "color": GREY},
            },
        )
    )
    drawn.add_trace(
        go.Scatter(
            x=[point["levels"].get(x) for point in bad],
            y=[point["levels"].get(y) for point in bad],
            mode="markers",
            name="not feasible",
            text=[shown(point["name"]) for point in bad],
            hovertemplate="%{text}<extra></extra>",
            marker={"size": 11, "symbol": "x-thin", "line": {"width": 2, "color": VERMILLION}},
        )
    )
    spans = {span["name"]: span for span in found["spans"]}
    if found["recommended_levels"]:
        if {x, y} <= spans.keys():
            box = {"name": "about as good", "x0": spans[x]["low"], "x1": spans[x]["high"], "y0": spans[y]["low"], "y1": spans[y]["high"]}
            drawn.add_shape(type="rect", **box, line={"color": BLUE, "width": 2, "dash": "dash"}, layer="below")
        at = found["recommended_levels"]
        marker = {"size": 15, "symbol": "diamond-open", "line": {"width": 3, "color": BLUE}, "color": BLUE}
        chosen = {path: document["thresholds"].get(path, {}).get("recommended") for path in (x, y)}
        same = all(chosen[path] == at[path] for path in (x, y))
        name = "recommended: the middle of the operating range" if same else "middle of the operating range"
        drawn.add_trace(go.Scatter(x=[at[x]], y=[at[y]], mode="markers", name=name, marker=marker))
        if not same and all(isinstance(value, int | float) for value in chosen.values()):
            star = {"size": 17, "symbol": "star", "color": ORANGE, "line": {"width": 1.5, "color": "black"}}
            drawn.add_trace(
                go.Scatter(x=[chosen[x]], y=[chosen[y]], mode="markers", name="recommended: the carried value stays", marker=star)
            )
    ranges = {threshold["name"]: threshold for threshold in found["thresholds"]}
    for axis, path in ((drawn.update_xaxes, x), (drawn.update_yaxes, y)):
        axis(title=setting(path), type="log" if ranges[path]["log"] else "linear", zeroline=False)
    drawn.update_layout(height=480, margin={"l": 60, "r": 12, "t": 20, "b": 110}, legend={"orientation": "h", "y": -0.2})
    return drawn
