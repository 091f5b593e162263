"""Frames and documents to plotly figures. Pure; colours of text, grid and paper are left to the page, which knows light and dark.

Plotly reads a little HTML in every text it draws, so each name from outside goes through `shown`.
"""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ablate.words import between, number, probability
from dashboards.palette import BLUE, GREEN, GREY, ORANGE, SKY, VERDICTS, VERMILLION, Line, title, unit

if TYPE_CHECKING:
    import pandas as pd
    from plotly.graph_objects import Figure

Arm = Mapping[str, Any]
"""An arm of `Results.document()`."""

ROW_PIXELS, LINE_PIXELS = 60, 15
"""Height of an arm in the effect plot: its marker, and each line of its name above it."""

NAME_WIDTH = 46
"""Characters of an arm's name in one line; a phone shows so many."""

POINTS = 150
"""Of a curve at most; a small multiple has about two pixels for each."""

CHARACTER_PIXELS, TICKS = 7, 6
"""Width of a figure in a tick's label, and how many ticks an axis of a curve has about; its labels are never wider for fewer."""

SEEN = 0.02
"""Share of a figure's height below which a rise is not marked."""

BAND = "rgba(127,127,127,0.18)"
_ACROSS_X = {"x0": 0, "x1": 1, "xref": "x domain"}
_ACROSS_Y = {"y0": 0, "y1": 1, "yref": "y domain"}


def shown(text: object) -> str:
    """Text from outside as plotly draws it: markup shows as typed."""
    return html.escape(str(text), quote=False)


def wrapped(name: str, width: int = NAME_WIDTH) -> list[str]:
    """An arm's name in lines, broken at its commas, else where it must."""
    lines = [""]
    for part in (part if i == 0 else f", {part}" for i, part in enumerate(name.split(", "))):
        if len(lines[-1]) + len(part) <= width or not lines[-1]:
            lines[-1] += part
        else:
            lines[-1] += ","
            lines.append(part.removeprefix(", "))
    return [line[start : start + width] for line in lines for start in range(0, max(len(line), 1), width)]


def effects(
    arms: Sequence[Arm], *, metric: str, sign: int, smallest_effect: float, references: Mapping[str, float], alpha: float
) -> Figure:
    """Each arm's effect against its phase's baseline with its interval, best on top.

    Args:
        arms: Those of one phase; one without an effect is drawn as "no effect known".
        sign: 1 where more is better, else -1.
        references: Name to difference to the phase's baseline, in the metric's unit.
    """
    import plotly.graph_objects as go

    ordered = sorted(arms, key=lambda arm: (arm["effect"] is not None, sign * arm["effect"]["mean"] if arm["effect"] else 0.0))
    labels = [wrapped(arm["name"]) for arm in ordered]
    positions = _rows([len(lines) for lines in labels])
    # Shapes and texts are handed over at once: each call of plotly's `add_` looks at all that is there, and 125 arms took 9 s.
    band = {"type": "rect", "x0": -smallest_effect, "x1": smallest_effect, "fillcolor": BAND, "line": {"width": 0}, "layer": "below"}
    shapes: list[dict[str, Any]] = [
        {**band, **_ACROSS_Y, "name": "smaller than the smallest effect"},
        _upright(0, {"color": GREY, "width": 1.5}),
    ]
    texts: list[dict[str, Any]] = []
    for index, (name, difference) in enumerate(references.items()):
        shapes.append({**_upright(difference, {"color": SKY, "width": 2, "dash": "dash"}), "name": shown(name)})
        above = {"y": 1, "yref": "paper", "yanchor": "bottom", "yshift": 6 + 14 * index}
        texts.append({"x": difference, **above, "text": shown(name), "showarrow": False, "font": {"color": SKY}})
    for y in positions[1:]:
        shapes.append(
            {"type": "line", "y0": y - ROW_PIXELS * 0.45, "y1": y - ROW_PIXELS * 0.45, "line": {"color": BAND, "width": 1}, **_ACROSS_X}
        )
    for arm, y, lines in zip(ordered, positions, labels, strict=True):
        broken = [guard["metric"] for guard in arm["guards"] if not guard["holds"] and guard["value"] is not None]
        said = f"{VERDICTS[arm['verdict']].sign} {arm['verdict']}" + (f" · guard broken: {', '.join(map(title, broken))}" if broken else "")
        text = f"{'<br>'.join(map(shown, lines))}<br><b>{shown(said)}</b>"
        left = {"name": "arm", "x": 0, "xref": "paper", "xanchor": "left", "y": y, "yshift": 9, "yanchor": "bottom", "align": "left"}
        texts.append({**left, "text": text, "showarrow": False, "font": {"size": 12}})
    ends = [arm["effect"][end] for arm in arms if arm["effect"] for end in ("mean", "low", "high") if arm["effect"][end] is not None]
    ends += [-smallest_effect, smallest_effect, *references.values()]
    middle = (min(ends) + max(ends)) / 2
    markers = [_effect_marker(arm, y, metric, alpha, middle) for arm, y in zip(ordered, positions, strict=True)]
    figure = go.Figure(markers, layout={"template": "none", "shapes": shapes, "annotations": texts})
    top = positions[-1] + ROW_PIXELS * 0.6 + LINE_PIXELS * len(labels[-1]) if positions else ROW_PIXELS
    figure.update_layout(height=int(top) + 110, margin={"l": 12, "r": 12, "t": 40 + 14 * len(references), "b": 56}, showlegend=False)
    better = "more" if sign > 0 else "less"
    figure.update_xaxes(title=f"effect on {shown(title(metric))}{_in(metric)}<br>{better} is better", zeroline=False)
    figure.update_yaxes(range=[-0.45 * ROW_PIXELS, top], visible=False, fixedrange=True)
    return figure


def _upright(x: float, line: Mapping[str, object]) -> dict[str, Any]:
    """A line from the lower to the upper end."""
    return {"type": "line", "x0": x, "x1": x, "line": line, **_ACROSS_Y}


def _rows(lines: Sequence[int]) -> list[float]:
    """The height of each arm's marker in pixels above the lowest one."""
    positions, y = [], 0.0
    for count in lines:
        positions.append(y)
        y += ROW_PIXELS + LINE_PIXELS * count
    return positions


def _effect_marker(arm: Arm, y: float, metric: str, alpha: float, middle: float) -> Any:
    """An arm's mark; its number begins or ends below it, towards the middle of the figure, since a phone would cut off its sign."""
    import plotly.graph_objects as go

    mark, effect = VERDICTS[arm["verdict"]], arm["effect"]
    x = 0.0 if effect is None else effect["mean"]
    bars: dict[str, Any] = {}
    if effect is None:
        text = "no effect known"
    elif arm["verdict"] == "baseline":
        text = "0"
    else:
        text = f"{number(effect['mean'], signed=True)}{between(effect['low'], effect['high'])}"
        if effect["low"] is not None and effect["high"] is not None:
            ends = {"array": [effect["high"] - effect["mean"]], "arrayminus": [effect["mean"] - effect["low"]]}
            bars = {"error_x": {"type": "data", "symmetric": False, "color": mark.colour, "thickness": 2.5, "width": 6, **ends}}
    p = "" if arm["p_adjusted"] is None else f"<br>adjusted p {probability(arm['p_adjusted'])}"
    hover = f"<b>{shown(arm['name'])}</b><br>{shown(metric)} {text}<br>{1 - alpha:.0%} simultaneous interval{p}"
    return go.Scatter(
        x=[x],
        y=[y],
        mode="markers+text",
        text=[text],
        textposition="bottom right" if x < middle else "bottom left",
        textfont={"size": 11},
        cliponaxis=False,
        marker={"color": mark.colour, "symbol": mark.symbol, "size": 12, "line": {"width": 2, "color": mark.colour}},
        opacity=0.35 if effect is None else 1.0,
        name=shown(arm["name"]),
        meta="unknown" if effect is None else None,
        hovertemplate=f"{hover}<extra></extra>",
        **bars,
    )


def curves(frame: pd.DataFrame, metric: str, arms: Mapping[str, Line], winner: str, marked: Mapping[str, float]) -> Figure:
    """A metric over steps: the mean over replicates as a line, their spread from least to greatest as a band.

    Args:
        frame: `Results.curves` of one phase and metric.
        arms: In the order of drawing; the names are the legend's keys.
        winner: Drawn heavier.
        marked: A step of some arms, drawn as a dotted line in their colour.

    A loss has a triangle where each arm rises most. A long curve is drawn in `POINTS` stretches.
    """
    import plotly.graph_objects as go

    figure = go.Figure(layout={"template": "none"})
    for arm, line in arms.items():
        found = _thinned(frame[frame["arm"] == arm].groupby("step")["value"].agg(["mean", "min", "max"]))
        if found.empty:
            continue
        steps = found.index.tolist()
        spread = {"x": steps + steps[::-1], "y": _short(found["max"]) + _short(found["min"])[::-1]}
        figure.add_trace(
            go.Scatter(
                **spread,
                mode="lines",
                fill="toself",
                fillcolor=_faint(line.colour),
                line={"width": 0},
                hoverinfo="skip",
                legendgroup=shown(arm),
                meta="band",
            )
        )
        hover = f"{shown(arm)}<br>step %{{x}}: %{{y:.4g}}<extra></extra>"
        drawn = {"color": line.colour, "dash": line.dash, "width": 4 if arm == winner else 2}
        figure.add_trace(
            go.Scatter(x=steps, y=_short(found["mean"]), mode="lines", line=drawn, legendgroup=shown(arm), hovertemplate=hover)
        )
    figure.add_traces(_rises(frame, arms) if is_loss(metric) else [])
    for arm, step in marked.items():
        if arm in arms:
            figure.add_vline(x=step, line={"color": arms[arm].colour, "dash": "dot", "width": 1}, name=f"collapse of {shown(arm)}")
    # Room for the labels is reckoned here: where plotly finds it (automargin) it draws each figure twice, a third of a page of 500 trials.
    said = f"{shown(title(metric))}{_in(metric, br=True)}"
    left = 22 + 15 * (1 + said.count("<br>")) + CHARACTER_PIXELS * _label_length(frame[frame["arm"].isin(list(arms))]["value"])
    figure.update_layout(height=260, showlegend=False, margin={"l": left, "r": 12, "t": 8, "b": 48})
    figure.update_xaxes(title="step (optimizer updates)", zeroline=False, automargin=False)
    figure.update_yaxes(title=said, zeroline=False, automargin=False)
    return figure


def _label_length(values: pd.Series) -> int:
    """Characters of the longest label that an axis over these values will have; large and small ones end in a letter (10k, 50µ)."""
    known = values[values.abs() < math.inf]
    if known.empty:
        return 1
    low, high = float(known.min()), float(known.max())
    decimals = max(0, -math.floor(math.log10((high - low) / TICKS))) if high > low else 3
    return min(7, max(len(f"{end:.{decimals}f}") for end in (low, high)) + (low < 0 <= high))


def _thinned(found: pd.DataFrame) -> pd.DataFrame:
    """Mean, least and greatest by step, in at most `POINTS` stretches of steps: their mean, their least and their greatest."""
    if len(found) <= POINTS:
        return found
    steps = found.index.to_series()
    stretch = (steps - steps.min()) * POINTS // (steps.max() - steps.min() + 1)
    fewer = found.groupby(stretch.to_numpy()).agg({"mean": "mean", "min": "min", "max": "max"})
    fewer.index = [round(step, 1) for step in steps.groupby(stretch.to_numpy()).mean()]
    return fewer


def _short(values: pd.Series) -> list[float]:
    """In as many digits as anybody can read off; a page of 500 trials has half a million of them."""
    return [float(f"{value:.7g}") for value in values]


def is_loss(metric: str) -> bool:
    """Whether a metric is a loss by its name, and not a measure of one."""
    last = metric.rsplit("/", 1)[-1]
    return "loss" in last and "stability" not in last and "rise" not in last


def largest_rise(values: Sequence[float]) -> tuple[int, float]:
    """Where a curve, smoothed, lies furthest above its least value so far, and by how much; 0 where it never rises.

    Smoothed as the trainer's `loss_largest_rise` does it: means of n // 10 successive values, so that single steps are no rise.
    """
    window = max(1, len(values) // 10)
    smooth = [sum(values[i : i + window]) / window for i in range(len(values) - window + 1)]
    least, at, most = float("inf"), 0, 0.0
    for index, value in enumerate(smooth):
        least = min(least, value)
        if value - least > most:
            at, most = index + window // 2, value - least
    return at, most


def _rises(frame: pd.DataFrame, arms: Mapping[str, Line]) -> list[Any]:
    """A triangle on each arm's mean curve where it rises most; none where that is less than the figure can show."""
    import plotly.graph_objects as go

    means = {arm: frame[frame["arm"] == arm].groupby("step")["value"].mean() for arm in arms}
    known = {arm: mean for arm, mean in means.items() if len(mean) > 1}
    if not known:
        return []
    span = max(mean.max() for mean in known.values()) - min(mean.min() for mean in known.values())
    traces = []
    for arm, mean in known.items():
        at, rise = largest_rise(mean.tolist())
        if rise > SEEN * span:
            marker = {"symbol": "triangle-up", "size": 11, "color": arms[arm].colour, "line": {"width": 1, "color": "white"}}
            hover = f"{shown(arm)}<br>rises by {rise:.3g} above its least, about step %{{x}}<extra></extra>"
            place = {"x": [mean.index[at]], "y": [mean.iloc[at]], "name": f"largest rise of {shown(arm)}"}
            traces.append(go.Scatter(**place, mode="markers", marker=marker, legendgroup=shown(arm), hovertemplate=hover))
    return traces


def pairs(baseline: Mapping[int, float], arm: Mapping[int, float], metric: str, names: tuple[str, str]) -> Figure:
    """A metric of two arms by replicate, the same replicate joined by a line."""
    import plotly.graph_objects as go

    figure = go.Figure(layout={"template": "none"})
    for replicate in sorted(baseline.keys() & arm.keys()):
        values = [baseline[replicate], arm[replicate]]
        hover = f"replicate {replicate}: %{{y:.4g}}<extra></extra>"
        marker = {"size": 10, "color": [GREY, BLUE], "symbol": ["square", "circle"]}
        figure.add_trace(
            go.Scatter(x=[0, 1], y=values, mode="lines+markers", line={"color": GREY, "width": 1.5}, marker=marker, hovertemplate=hover)
        )
    figure.update_layout(height=230, showlegend=False, margin={"l": 56, "r": 12, "t": 8, "b": 28})
    figure.update_xaxes(tickvals=[0, 1], ticktext=[shown(name) for name in names], range=[-0.35, 1.35], fixedrange=True, zeroline=False)
    figure.update_yaxes(title=f"{shown(title(metric))}{_in(metric, br=True)}", zeroline=False)
    return figure


def setting(path: str) -> str:
    """A setting as an axis is called, with its unit where it has one."""
    return shown(path) + (" (HU)" if path.endswith("foreground_threshold") else "")


def slices(
    points: Sequence[Mapping[str, Any]], path: str, *, metric: str, threshold: Mapping[str, Any] | None, log: bool = False
) -> Figure:
    """Every measured tuning point along one setting, its trials beside it, with the recommended value and the range that is about as good.

    Args:
        points: Those of one phase of `Results.document()`.
        threshold: The setting's row of `document()["thresholds"]`.
        log: Whether the setting was searched by its logarithm.
    """
    import plotly.graph_objects as go

    figure = go.Figure(layout={"template": "none"})
    if threshold and threshold["low"] is not None and threshold["high"] is not None:
        about = {"x0": threshold["low"], "x1": threshold["high"], "name": "about as good"}
        figure.add_vrect(**about, fillcolor="rgba(0,158,115,0.15)", line_width=0, layer="below")
    measured = [point for point in points if point["objective"] is not None and _is_number(point["levels"].get(path))]
    trials = [(point, value) for point in measured for value in point.get("values", {}).values()]
    if len(trials) > len(measured):
        each = {"x": [point["levels"][path] for point, _ in trials], "y": [value for _, value in trials]}
        names = [shown(point["name"]) for point, _ in trials]
        hover = f"%{{text}}, one trial<br>{shown(metric)} %{{y:.4g}}<extra></extra>"
        small = {"color": GREY, "symbol": "circle-open", "size": 5}
        figure.add_trace(go.Scatter(**each, text=names, mode="markers", name="a trial", marker=small, hovertemplate=hover))
    for feasible, colour, symbol, word in ((True, GREEN, "circle", "guards kept"), (False, VERMILLION, "x", "a guard is broken")):
        some = [point for point in measured if point["feasible"] is feasible]
        marker = {"color": colour, "symbol": symbol, "size": 10}
        hover = f"%{{text}}: {word}<br>{shown(path)} %{{x:.4g}}<br>{shown(metric)} %{{y:.4g}}<extra></extra>"
        xs, ys = [point["levels"][path] for point in some], [point["objective"] for point in some]
        names = [shown(point["name"]) for point in some]
        figure.add_trace(go.Scatter(x=xs, y=ys, text=names, mode="markers", name=word, marker=marker, hovertemplate=hover))
    if threshold and _is_number(threshold["recommended"]):
        figure.add_vline(x=threshold["recommended"], line={"color": ORANGE, "width": 2.5, "dash": "dash"}, name="recommended")
        said = f"recommended {threshold['recommended']:.4g}"
        at = (
            math.log10(threshold["recommended"]) if log else threshold["recommended"]
        )  # plotly's texts, unlike its lines, want the logarithm
        figure.add_annotation(x=at, y=1, yref="paper", yanchor="bottom", text=said, showarrow=False)
    figure.update_layout(height=300, showlegend=False, margin={"l": 60, "r": 16, "t": 30, "b": 48})
    figure.update_xaxes(title=setting(path), zeroline=False, type="log" if log else "linear")
    figure.update_yaxes(title=f"{shown(title(metric))}{_in(metric, br=True)}", zeroline=False)
    return figure


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _in(metric: str, *, br: bool = False) -> str:
    found = unit(metric)
    return f"{'<br>' if br else ' '}({found})" if found else ""


def _faint(colour: str) -> str:
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},0.12)"
