"""Pictures of effects for the site, drawn from the figures of our own runs in `studies/reports/` when it is built."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

REPORTS = Path(__file__).parents[2] / "studies" / "reports"

DRAWN = (("solutions", "alone"), ("collapse_exhaustive", "flags"), ("robustness", "flags"), ("collapse_ct", "flags"))
"""Study and phase."""

COLOUR = {"adopt": "#0072b2", "reject": "#d55e00", "undecided": "#6b6b6b", "baseline": "#000000"}
"""Apart also for the colour-blind (Okabe and Ito 2008); the verdict stands beside it in words."""

LEFT, WIDTH, RIGHT, ROW, TOP = 330, 960, 150, 40, 58


def pictures() -> dict[str, str]:
    """Path below the site's root to SVG."""
    return {f"images/effects_{study}_{phase}.svg": drawn(study, phase) for study, phase in DRAWN}


def drawn(study: str, phase: str) -> str:
    """Each arm's effect with its simultaneous interval, the smallest effect as a line."""
    document = json.loads((REPORTS / f"{study}.json").read_text(encoding="utf-8"))
    arms = [
        arm for one in document["phases"] if one["name"] == phase for arm in one["arms"] if arm["effect"] and arm["verdict"] != "baseline"
    ]
    smallest = document["objective"]["smallest_effect"]
    ends = [value for arm in arms for value in (arm["effect"]["low"], arm["effect"]["mean"], arm["effect"]["high"]) if value is not None]
    low, high = min([0.0, *ends]), max([smallest, *ends])
    room = (WIDTH - LEFT - RIGHT) / (high - low)

    def x(value: float) -> float:
        return LEFT + (value - low) * room

    height = TOP + ROW * len(arms) + 46
    bottom = height - 40
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif" font-size="13" role="img">',
        f"<title>{html.escape(_title(study, phase, arms))}</title>",
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
        f'<text x="12" y="24" font-size="15" font-weight="bold">{html.escape(_title(study, phase, arms))}</text>',
        f'<text x="12" y="43" fill="#444444">effect on {html.escape(document["objective"]["metric"])}, simultaneous interval</text>',
        _line(x(0.0), TOP, x(0.0), bottom, "#000000", 1),
        _line(x(smallest), TOP, x(smallest), bottom, "#999999", 1, dash="4 3"),
        f'<text x="{x(0.0):.1f}" y="{bottom + 16}" text-anchor="middle">0</text>',
        f'<text x="{x(smallest) + 4:.1f}" y="{bottom + 30}" fill="#666666">smallest effect {smallest:g}</text>',
    ]
    for tick in (low, high):
        parts.append(f'<text x="{x(tick):.1f}" y="{bottom + 16}" text-anchor="middle">{tick:+.2f}</text>')
    for row, arm in enumerate(arms):
        parts += _row(arm, TOP + ROW * row + ROW / 2, x)
    return "\n".join([*parts, "</svg>"]) + "\n"


def _row(arm: Mapping[str, Any], y: float, x: Any) -> list[str]:
    effect, colour = arm["effect"], COLOUR[arm["verdict"]]
    names = arm["name"].split(", ")
    lines = []
    for index, name in enumerate(names):
        down = y + 4 + 13 * (index - (len(names) - 1) / 2)
        lines.append(f'<text x="{LEFT - 14}" y="{down:.1f}" text-anchor="end" font-size="11.5">{html.escape(name)}</text>')
    if effect["low"] is not None and effect["high"] is not None:
        lines.append(_line(x(effect["low"]), y, x(effect["high"]), y, colour, 2.5))
    lines.append(f'<circle cx="{x(effect["mean"]):.1f}" cy="{y:.1f}" r="5" fill="{colour}"/>')
    lines.append(f'<text x="{WIDTH - RIGHT + 24}" y="{y + 4:.1f}" fill="{colour}">{arm["verdict"]} {effect["mean"]:+.3f}</text>')
    return lines


def _title(study: str, phase: str, arms: Sequence[Mapping[str, Any]]) -> str:
    counts = {word: sum(arm["verdict"] == word for arm in arms) for word in ("adopt", "reject", "undecided")}
    said = [f"{count} {word}{'ed' if word != 'undecided' else ''}" for word, count in counts.items() if count]
    return f"{study}, phase {phase}: {', '.join(said)} of {len(arms)} arms"


def _line(x1: float, y1: float, x2: float, y2: float, colour: str, width: float, dash: str = "") -> str:
    dashed = f' stroke-dasharray="{dash}"' if dash else ""
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}" stroke-width="{width}"{dashed}/>'


def on_files(files: Any, config: Any) -> Any:
    """Called by mkdocs: the pictures join those of the folder."""
    from mkdocs.structure.files import File

    for path, text in pictures().items():
        files.append(File.generated(config, path, content=text))
    return files
