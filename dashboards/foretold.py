"""What was said before any training: findings, and the maps to choose levels from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dashboards.figures import shown
from dashboards.page import Cell, figure, table, text
from dashboards.palette import VERMILLION

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

Document = dict[str, Any]


def foretold(document: Document) -> str:
    """Findings, each with the arms that it is about, and maps."""
    found = [one for one in document["preflight"] if one["level"] != "info"]
    maps = [one for one in document["preflight"] if one.get("map")]
    if not found and not maps:
        return ""
    said = "<p>Found from settings and data alone, before step 1. What training then showed stands above.</p>"
    drawn = "".join(
        figure(
            heatmap(one["map"]),
            name=f"foretold-{index}",
            title=one["what"],
            caption=f"Across: {one['map']['x']}; upward: {one['map']['y']}; colour and number: {one['map']['z']}, as measured for "
            f"{one['arms'][0]}; a cross: none at all. {one['why']}",
        )
        for index, one in enumerate(maps)
    )
    return f"<h2>What preflight foretold</h2>{said}{_findings(found) if found else ''}{drawn}"


def _findings(found: list[Document]) -> str:
    head = [Cell("arms"), Cell("what was found"), Cell("why it matters", "reason"), Cell("what to change", "reason")]
    body = [
        [
            Cell(text(", ".join(one["arms"][:3]) + (f" and {len(one['arms']) - 3} more" if len(one["arms"]) > 3 else ""))),
            Cell(text(f"{one['path']}: {one['what']}")),
            Cell(text(one["why"])),
            Cell(text(one["mend"])),
        ]
        for one in found
    ]
    return table(head, body, label="Findings of preflight")


def heatmap(found: Document) -> Figure:
    """A quantity over two settings; where it is 0 a cross stands."""
    import plotly.graph_objects as go

    across, upward = ([f"{value:g}" for value in found[axis]] for axis in ("xs", "ys"))
    nothing = [(x, y) for y, row in zip(upward, found["rows"], strict=True) for x, value in zip(across, row, strict=True) if value == 0]
    drawn = go.Figure(layout={"template": "none"})
    drawn.add_trace(
        go.Heatmap(
            x=across,
            y=upward,
            z=found["rows"],
            text=[[f"{value:.2f}" if value else "" for value in row] for row in found["rows"]],
            texttemplate="%{text}",
            hovertemplate=f"{shown(found['x'])} %{{x}}<br>{shown(found['y'])} %{{y}}<br>%{{z:.3f}}<extra></extra>",
            colorscale="Cividis",
            colorbar={"title": {"text": shown(found["z"]), "side": "right"}},
        )
    )
    drawn.add_trace(
        go.Scatter(
            x=[x for x, _ in nothing],
            y=[y for _, y in nothing],
            mode="markers",
            name="none at all",
            hovertemplate="%{x}, %{y}: none at all<extra></extra>",
            marker={"size": 11, "symbol": "x-thin", "line": {"width": 2, "color": VERMILLION}},
            showlegend=bool(nothing),
        )
    )
    drawn.update_layout(height=130 + 34 * len(upward), margin={"l": 60, "r": 12, "t": 20, "b": 90}, legend={"orientation": "h", "y": -0.3})
    drawn.update_xaxes(title=shown(found["x"]), type="category", automargin=True)
    drawn.update_yaxes(title=shown(found["y"]), type="category", automargin=True)
    return drawn
