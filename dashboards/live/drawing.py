"""Curves as plotly figures: plain values, so that neither this page nor its server needs plotly's object tree.

Text, grid and paper get their colours from the page's style sheet, which knows light and dark.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dash import dcc, html

from dashboards.figures import shown
from dashboards.live.parts import labelled
from dashboards.live.streams import Series, Spread
from dashboards.palette import BLUE, Line, title, unit

Figure = dict[str, Any]

HIDDEN: dict[str, Any] = {"aria-hidden": "true"}
HEIGHT = 260
BAND = 0.14
"""Opacity of the band between the least and the greatest replicate."""


def comparison(metric: str, arms: Mapping[str, tuple[Line, Spread | None]], finals: Mapping[str, Sequence[float]]) -> Figure:
    """A metric of several arms over steps: mean over replicates as a line, their spread as a band, final values as marks at the end.

    Args:
        finals: Arm to the final values of its replicates, where the metric is one that is measured at the end.
    """
    traces: list[dict[str, Any]] = []
    ends = [found.steps[-1] for _, found in arms.values() if found is not None]
    for name, (line, found) in arms.items():
        if found is None:
            continue
        if found.replicates > 1:
            edge = {"x": [*found.steps, *reversed(found.steps)], "y": [*found.high, *reversed(found.low)]}
            band = {"mode": "lines", "fill": "toself", "fillcolor": _faint(line.colour), "line": {"width": 0}, "hoverinfo": "skip"}
            traces.append({"type": "scatter", **edge, **band})
        hover = f"{shown(name)}<br>step %{{x}}: %{{y:.4g}}<extra></extra>"
        drawn = {"color": line.colour, "dash": line.dash, "width": 2}
        mode = "lines+markers" if len(found.steps) < 3 else "lines"
        traces.append({"type": "scatter", "x": found.steps, "y": found.mean, "mode": mode, "line": drawn, "hovertemplate": hover})
    if not ends:
        traces += [_dots(name, arms[name][0], values, position) for position, (name, values) in enumerate(finals.items()) if values]
    figure = _figure(traces, metric)
    if not ends:
        labels = [shown(name if len(name) < 20 else f"{name[:18]}…") for name in finals]
        # They rise towards their mark: none reaches beyond the right end, where plotly would leave it out.
        figure["layout"]["xaxis"] |= {"title": {"text": ""}, "tickvals": list(range(len(labels))), "ticktext": labels, "tickangle": -40}
        figure["layout"]["xaxis"]["range"] = [-0.5, len(labels) - 0.5]
    return figure


def single(metric: str, series: Series | None) -> Figure:
    """A metric of one trial over steps."""
    steps, values = ([], []) if series is None else (series[0].tolist(), [float(f"{value:.6g}") for value in series[1]])
    mode = "lines+markers" if len(steps) < 3 else "lines"
    drawn = {"mode": mode, "line": {"color": BLUE, "width": 2}, "hovertemplate": "step %{x}: %{y:.4g}<extra></extra>"}
    return _figure([{"type": "scatter", "x": steps, "y": values, **drawn}], metric)


def graph(figure: Figure, *, key: str, described: str) -> Any:
    """A figure with its text alternative; zoom and position stay when new points come."""
    config: Any = {"displaylogo": False, "displayModeBar": "hover", "responsive": True}
    config |= {
        "modeBarButtons": [["toImage", "zoom2d", "pan2d", "resetScale2d"]],
        "toImageButtonOptions": {"format": "svg", "filename": key},
    }
    plot = dcc.Graph(id={"graph": key}, figure=figure, config=config, style={"height": f"{HEIGHT}px"})
    return html.Div(plot, role="group", className="plot", **labelled(described))


def swatch(line: Line) -> Any:
    """A line as it is drawn, for a legend."""
    style = {"solid": "solid", "dash": "dashed", "dot": "dotted", "dashdot": "double"}[line.dash]
    return html.Span(className="swatch", style={"borderTop": f"4px {style} {line.colour}"}, **HIDDEN)


def _dots(name: str, line: Line, values: Sequence[float], position: int) -> dict[str, Any]:
    marker = {"color": line.colour, "size": 9, "opacity": 0.8}
    hover = f"{shown(name)}: %{{y:.4g}}<extra></extra>"
    return {
        "type": "scatter",
        "x": [position] * len(values),
        "y": list(values),
        "mode": "markers",
        "marker": marker,
        "hovertemplate": hover,
    }


def _figure(traces: list[dict[str, Any]], metric: str) -> Figure:
    axis = {"zeroline": False, "automargin": True, "showline": True}
    found = unit(metric)
    named = shown(title(metric)) + (f"<br>({found})" if found else "")
    layout = {
        "uirevision": "kept",
        "showlegend": False,
        "autosize": True,
        "margin": {"l": 56, "r": 10, "t": 12, "b": 40},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"family": "system-ui, sans-serif", "size": 12},
        "hoverlabel": {"align": "left"},
        "xaxis": {**axis, "title": {"text": "step"}},
        "yaxis": {**axis, "title": {"text": named}},
    }
    return {"data": traces, "layout": layout}


def _faint(colour: str) -> str:
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},{BAND})"
