"""What the commands print for people. Fits 80 columns where the content allows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ablate import words

if TYPE_CHECKING:  # `ablate plan` prints too, and need not wait for the ledger's packages
    from ablate.results import Results

SHOWN_FAILURES = 5
STYLES = {"adopt": "bold green", "reject": "red", "undecided": "yellow", "baseline": "dim", "reference": "dim"}


def number(value: float | None, signed: bool = False) -> str:
    """Three significant digits, or nothing."""
    return "" if value is None else words.number(value, signed=signed)


def interval(effect: Mapping[str, float | None] | None) -> str:
    """`+0.061 [+0.042, +0.080]`."""
    if effect is None:
        return ""
    if effect["low"] is None or effect["high"] is None:
        return number(effect["mean"], signed=True)
    return f"{number(effect['mean'], signed=True)} [{number(effect['low'], signed=True)}, {number(effect['high'], signed=True)}]"


def short(metric: str) -> str:
    """A metric's last word, broken so that a column stays narrow."""
    return metric.rsplit("/", 1)[-1].replace("_", " ")


def print_answer(results: Results) -> None:
    """Everything a run ends with: a table a phase, winners, thresholds, the questions, what to change."""
    console, document, study = Console(), results.document(), results.study
    columns = [c for c in study.columns if any(c in arm["metrics"] for phase in document["phases"] for arm in phase["arms"])]
    for phase in document["phases"]:
        console.print()
        console.print(_phase_table(phase, study.objective.metric, columns, document["references"]))
        console.print(f"winner of {phase['name']}: {phase['winner']}", style="bold", markup=False, highlight=False)
        for arm in phase["arms"]:
            if arm["name"] != "baseline":
                console.print(f"  {arm['name']}: {arm['verdict']}. {arm['reason']}", markup=False, highlight=False)
    if document["thresholds"]:
        console.print()
        console.print(_thresholds_table(document["thresholds"]))
    answer = results.answer()
    console.print()
    for line in answer.lines():
        console.print(line, markup=False, highlight=False)


def _phase_table(phase: Mapping[str, Any], objective: str, columns: Sequence[str], references: Mapping[str, Any]) -> Table:
    table = Table(title=f"phase {phase['name']}", title_justify="left", title_style="bold")
    table.add_column("arm", overflow="fold", max_width=34)
    table.add_column(f"effect on {short(objective)}", overflow="fold")
    table.add_column("verdict")
    table.add_column("guards")
    table.add_column("collapse", overflow="fold")
    for column in (objective, *columns):
        table.add_column(short(column), justify="right", overflow="fold", max_width=12)
    for arm in phase["arms"]:
        broken = [guard["metric"] for guard in arm["guards"] if not guard["holds"]]
        table.add_row(
            Text(arm["name"]),
            interval(arm["effect"]),
            Text(arm["verdict"], style=STYLES.get(arm["verdict"], "")),
            Text("hold" if not broken else "broken: " + ", ".join(short(name) for name in broken)),
            Text(arm["collapse"] or ""),
            *(number(arm["metrics"].get(column)) for column in (objective, *columns)),
        )
    for name, reference in references.items():
        values = (number(reference["metrics"].get(column)) for column in (objective, *columns))
        table.add_row(Text(name, style="dim"), "", Text("reference", style="dim"), "", "", *values)
    return table


def _thresholds_table(thresholds: Mapping[str, Mapping[str, Any]]) -> Table:
    table = Table(title="thresholds", title_justify="left", title_style="bold")
    for column in ("setting", "recommended", "good from", "to", "status"):
        table.add_column(column)
    for path, row in thresholds.items():
        table.add_row(Text(path), str(row["recommended"]), number(row["low"]), number(row["high"]), row["status"])
    return table


def print_plan(document: Mapping[str, Any]) -> None:
    """What would run, phase by phase, and its cost."""
    console = Console()
    table = Table(title=f"plan of {document['study']}", title_justify="left", title_style="bold")
    for column in ("phase", "design", "arms", "new trials"):
        table.add_column(column, justify="left" if column in ("phase", "design") else "right")
    for phase in document["phases"]:
        table.add_row(phase["name"], phase["design"], str(phase["arms"]), str(phase["trials"]))
    console.print(table)
    console.print(f"at most {document['trials_at_most']} trials", markup=False)
    if document["cost"].get("arithmetic"):
        console.print(document["cost"]["arithmetic"], markup=False, highlight=False)


def print_status(document: Mapping[str, Any]) -> None:
    """Where a study stands."""
    console = Console()
    console.print(f"{document['study']}: {document['state']}", markup=False, style="bold")
    table = Table()
    for column in ("phase", "arms", "done", "running", "queued", "failed", "winner"):
        table.add_column(column)
    for phase in document["phases"]:
        cells = (str(phase[key]) for key in ("arms", "done", "running", "queued", "failed"))
        table.add_row(Text(phase["name"]), *cells, Text(phase["winner"] or ""))
    console.print(table)
    for failure in document["failures"][:SHOWN_FAILURES]:
        console.print(f"failed: {failure['message']}", markup=False, highlight=False)
    if len(document["failures"]) > SHOWN_FAILURES:
        console.print(f"and {len(document['failures']) - SHOWN_FAILURES} more failed trials: ablate status {document['study']} --json")


def print_comparison(document: Mapping[str, Any]) -> None:
    """Arms as lettered columns with a legend, settings and metrics as rows."""
    console, arms = Console(), document["arms"]
    letters = [chr(ord("A") + i) if i < 26 else f"A{i}" for i in range(len(arms))]
    for letter, arm in zip(letters, arms, strict=True):
        console.print(f"{letter}  {arm['phase']}/{arm['name']}", markup=False, highlight=False)
    table = Table(title=f"{document['study']}: arms side by side", title_justify="left")
    table.add_column("", overflow="fold", min_width=20)
    for letter in letters:
        table.add_column(letter)
    for path in document["settings"]:
        table.add_row(Text(path), *(Text(str(arm["levels"].get(path, "-"))) for arm in arms))
    table.add_section()
    table.add_row("effect", *(interval(arm["effect"]) for arm in arms))
    table.add_row("verdict", *(arm["verdict"] for arm in arms))
    for metric in document["metrics"]:
        table.add_row(Text(metric), *(number(arm["metrics"].get(metric)) for arm in arms))
    console.print(table)
