"""Descriptions in Markdown: of the study, of its own run, of an arm."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

from ablate.conclusion import ArmVerdict, Conclusion
from ablate.study import Study
from ablate.tracking.views import View, filter_of, view_url

BEHIND_AN_ARM = 'tags."phase.<phase>" = "<arm>"'


def study_note(study: Study, conclusions: Sequence[Conclusion], experiment: str, *, reported: bool) -> str:
    """The study's description in Markdown: question, what each phase decided, and where to look."""
    lines = [f"**{_plain(study.question)}**", ""]
    lines += _decided(conclusions)
    said: list[tuple[View, str]] = [
        ("arms", "the arms, with effect and verdict"),
        ("curves", "their mean curves overlaid"),
        ("trials", "the trials behind them"),
        ("study", "the study's own run, with its report" if reported else "the study's own run"),
    ]
    lines += ["", "Look at " + ", ".join(f"[{text}]({view_url('', experiment, view)})" for view, text in said) + "."]
    lines += ["", f"By hand: `{filter_of(study.study, 'arm')}`, and for the trials behind an arm `{BEHIND_AN_ARM}`."]
    return "\n".join(lines)


def run_note(study: Study, conclusions: Sequence[Conclusion], *, reported: bool) -> str:
    """Of the study's own run: question, what each phase decided, what decides."""
    lines = [f"**{_plain(study.question)}**", "", *_decided(conclusions)]
    if reported:
        lines += ["", "The whole answer: `report.html` under Artifacts."]
    objective = study.objective
    lines += ["", f"Objective: {_code(objective.metric)}, {objective.direction}d; smallest effect {objective.smallest_effect:g}."]
    return "\n".join(lines)


def arm_note(study: Study, arm: ArmVerdict, *, carried_on: bool) -> str:
    """The arm in Markdown: its verdict, what it changes, what its guards say."""
    lines = [f"**{arm.verdict}**{' and carried on' if carried_on else ''}. {_plain(arm.reason)}"]
    changed = {path: value for path, value in sorted(arm.levels.items()) if study.baseline.get(path) != value}
    if changed:
        lines += [
            "",
            "Beside the study's baseline it sets",
            "",
            *(f"- {_code(path)}: {_code(_text(value))}" for path, value in changed.items()),
        ]
    if arm.guards:
        lines += [
            "",
            "Guards",
            "",
            *(f"- {_code(g.guard)}: {'holds' if g.holds else '**broken**'} ({_measured(g.value)})" for g in arm.guards),
        ]
    return "\n".join(lines)


def _measured(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.4g}"


def _decided(conclusions: Sequence[Conclusion]) -> list[str]:
    return [f"- `{conclusion.phase}`: {_plain(conclusion.reason)}" for conclusion in conclusions] or ["No phase is concluded yet."]


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _plain(value: object) -> str:
    """Text from outside as text. By numbers, not backslashes: MLflow's Markdown knows no escape for `<`, and drops what looks like HTML."""
    one_line = re.sub(r"\s+", " ", str(value)).strip()
    return re.sub(r"[&<>*`\[\]\\~|]|(?<![^\W_])_|_(?![^\W_])", lambda found: f"&#{ord(found[0])};", one_line)


def _code(value: object) -> str:
    """A span of code, whatever stands in it."""
    one_line = re.sub(r"\s+", " ", str(value)).strip()
    fence = "`" * (max((len(run) for run in re.findall(r"`+", one_line)), default=0) + 1)
    blank = " " if "`" in (one_line[:1], one_line[-1:]) else ""
    return f"{fence}{blank}{one_line}{blank}{fence}"
