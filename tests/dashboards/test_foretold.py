"""What was said before training, on the report."""

from __future__ import annotations

import json
import re
from html import unescape
from typing import Any

from dashboards.foretold import foretold

MAP = {
    "x": "a ratio",
    "xs": [0.1, 0.5],
    "y": "<b>a threshold</b>, HU",
    "ys": [-500.0, 0.0],
    "z": "share",
    "rows": [[0.75, 0.5], [0.25, 0.0]],
}


def finding(level: str, **more: Any) -> dict[str, Any]:
    return {
        "level": level,
        "path": "a.path",
        "what": "what <it> is",
        "value": None,
        "why": "why",
        "mend": "mend",
        "arms": ["baseline"],
        **more,
    }


def test_a_map_is_drawn_as_it_is_with_crosses_where_nothing_is_left() -> None:
    page = foretold({"preflight": [finding("info", map=MAP)]})
    assert "<table" not in page, "an info is no finding against an arm"
    assert "<h3>what &lt;it&gt; is</h3>" in page
    drawn = re.search(r'<script type="application/json" id="foretold-0">(.*?)</script>', page, re.DOTALL)
    assert drawn is not None
    heat, crosses = json.loads(unescape(drawn[1]))["data"]
    assert heat["z"] == MAP["rows"]
    assert (crosses["x"], crosses["y"]) == (["0.5"], ["0"])
    assert "<b>a threshold" not in drawn[1]


def test_warnings_stand_in_a_table_and_infos_without_a_map_nowhere() -> None:
    page = foretold({"preflight": [finding("warning"), finding("info", path="quiet.path")]})
    assert "a.path: what &lt;it&gt; is" in page
    assert "quiet.path" not in page
    assert foretold({"preflight": [finding("info")]}) == ""
