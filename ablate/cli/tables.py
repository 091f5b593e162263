"""What the commands print for people. Fits 80 columns where the content allows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ablate import words

if TYPE_CHECKING:  # `ablate plan` prints too, and need not wait for the ledger's packages
    from ablate.results import Results

SHOWN_ARMS = 3
SHOWN_FAILURES = 5
NAMES_WIDTH, ARM_WIDTH = 26, 13
"""Characters that the names of rows and a column of one arm need, borders included."""
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
    return f"{number(effect['mean'], signed=True)} [{', '.join(words.ends(effect['low'], effect['high'], signed=True))}]"


def short(metric: str) -> str:
    """A metric's last word, broken so that a column stays narrow."""
    return metric.rsplit("/", 1)[-1].replace("_", " ")


def print_answer(results: Results) -> None:
    """Everything a run ends with: two tables a phase, winners, thresholds, the questions, what to change."""
    console, document, study = Console(), results.document(), results.study
    for phase in document["phases"]:
        _print_phase(console, phase, study.objective.metric, study.columns, document["references"])
    if document["thresholds"]:
        console.print()
        console.print(_thresholds_table(document["thresholds"]))
    console.print()
    for line in results.answer().lines():
        console.print(line, markup=False, highlight=False)


def _print_phase(
    console: Console, phase: Mapping[str, Any], objective: str, columns: Sequence[str], references: Mapping[str, Mapping[str, Any]]
) -> None:
    """Arms by letter with their names, what was decided of each and why, and what was measured."""
    arms = phase["arms"]
    console.print(f"\nphase {phase['name']}", style="bold")
    decided = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for column in ("", "arm"):
        decided.add_column(column, overflow="fold")
    for column in ("effect [simultaneous]", "verdict", "guards", "collapse"):
        decided.add_column(column)
    for letter, arm in zip(letters(len(arms)), arms, strict=True):
        broken = [short(guard["metric"]) + ("?" if guard["value"] is None else "") for guard in arm["guards"] if not guard["holds"]]
        decided.add_row(
            letter,
            Text("\n".join(arm["name"].split(", "))),
            interval(arm["effect"]),
            Text(arm["verdict"], style=STYLES.get(arm["verdict"], "")),
            Text("hold" if not broken else "\n".join(broken)),
            Text((arm["collapse"] or "").replace(", ", "\n")),
        )
    console.print(decided)
    shown = [m for m in (objective, *columns) if any(m in arm["metrics"] for arm in arms)]
    measured = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    measured.add_column("", no_wrap=True)
    for metric in shown:
        alike = [other for other in shown if short(other) == short(metric)]
        measured.add_column("\n".join((metric if len(alike) > 1 else short(metric)).split(" ")), justify="right", overflow="fold")
    for letter, arm in zip(letters(len(arms)), arms, strict=True):
        measured.add_row(letter, *(number(arm["metrics"].get(metric)) for metric in shown))
    for name, reference in references.items():
        measured.add_row(Text(name), *(number(reference["metrics"].get(metric)) for metric in shown), style="dim")
    console.print(measured)
    for letter, arm in zip(letters(len(arms)), arms, strict=True):
        if arm["name"] != "baseline":
            console.print(f"{letter} {arm['verdict']}: {arm['reason']}", markup=False, highlight=False)
    console.print(f"winner of {phase['name']}: {phase['winner']}", style="bold", markup=False, highlight=False)


def letters(count: int) -> list[str]:
    """A, B, ... Z, AA, AB, ..."""
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
    return [(alphabet[i // 26 - 1] if i >= 26 else "") + alphabet[i % 26] for i in range(count)]


def _thresholds_table(thresholds: Mapping[str, Mapping[str, Any]]) -> Table:
    table = Table(title="thresholds", title_justify="left", title_style="bold")
    for column in ("setting", "recommended", "good from", "to", "status"):
        table.add_column(column)
    for path, row in thresholds.items():
        table.add_row(Text(path), str(row["recommended"]), number(row["low"]), number(row["high"]), row["status"])
    return table


def print_plan(document: Mapping[str, Any], file: str) -> None:
    """What would run, phase by phase, its cost, and what the trainer says of it before any training."""
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
    if document["pilot"] is not None:
        console.print(document["pilot"]["said"], markup=False, highlight=False)
    _print_estimate(console, document["estimate"])
    for sentence in document["power"]["sentences"]:
        console.print(sentence, markup=False, highlight=False)
    if document["preflight"] is None:
        console.print(f"Not looked at yet, what speaks against its arms: ablate plan {file} --preflight", markup=False, highlight=False)
    else:
        print_findings(document["preflight"], console)


def _print_estimate(console: Console, estimate: Mapping[str, Any]) -> None:
    """What is still to come, how sure that is, and whether the budget carries it."""
    if estimate["trial_s"] is None:
        console.print(f"time of a trial: {estimate['source']}", markup=False, highlight=False)
    else:
        gpu = f" and {spanned(estimate, 'gpu_hours')} GPU-hours" if estimate["gpus_each"] else ""
        trials, workers = estimate["trials_to_come_at_most"], words.counted(estimate["workers"], "worker")
        text = f"to come: at most {trials} trials, {spanned(estimate, 'hours')} hours{gpu} on {workers}"
        console.print(text, markup=False, highlight=False)
        console.print(f"time of a trial: {spanned(estimate, 'trial_s')} s, {estimate['source']}", markup=False, highlight=False)
    for problem in estimate["over_budget"]:
        console.print(f"over budget: {problem}", markup=False, highlight=False, style="bold yellow")


def spanned(estimate: Mapping[str, Any], key: str) -> str:
    """`12 (8 to 15)`."""
    return f"{estimate[key]:.3g} ({estimate[key + '_low']:.3g} to {estimate[key + '_high']:.3g})"


def print_findings(findings: Sequence[Mapping[str, Any]], console: Console) -> None:
    """What the trainer's preflight says, each finding once."""
    shown = [finding for finding in findings if finding["level"] != "info"]
    if not shown:
        console.print("Preflight: nothing speaks against any arm.", markup=False)
    for finding in shown:
        arms = finding["arms"]
        where = ", ".join(arms[:SHOWN_ARMS]) + (f" and {len(arms) - SHOWN_ARMS} more" if len(arms) > SHOWN_ARMS else "")
        style = "bold red" if finding["level"] == "error" else "bold yellow"
        console.print(f"Preflight {finding['level']}: {finding['path']}: {finding['what']}", markup=False, highlight=False, style=style)
        console.print(f"  in   {where}\n  why  {finding['why']}\n  do   {finding['mend']}", markup=False, highlight=False)


def print_status(document: Mapping[str, Any]) -> None:
    """Where a study stands."""
    console = Console()
    console.print(f"{document['study']}: {document['said']}", markup=False, style="bold")
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
    for letter, arm in zip(letters(len(arms)), arms, strict=True):
        console.print(f"{letter}  {arm['phase']}/{arm['name']}", markup=False, highlight=False)
    named = list(zip(letters(len(arms)), arms, strict=True))
    abreast = max(1, (console.width - NAMES_WIDTH) // ARM_WIDTH)
    for start in range(0, len(named), abreast):
        part = named[start : start + abreast]
        title = f"{document['study']}: {'arms side by side' if len(part) == len(named) else f'arms {part[0][0]} to {part[-1][0]}'}"
        console.print(_side_by_side(document, part, title))


def _side_by_side(document: Mapping[str, Any], named: Sequence[tuple[str, Mapping[str, Any]]], title: str) -> Table:
    table, arms = Table(title=title, title_justify="left"), [arm for _, arm in named]
    table.add_column("", overflow="fold")
    for letter, _ in named:
        table.add_column(letter, overflow="fold")
    for path in document["settings"]:
        table.add_row(Text(path), *(Text(str(arm["levels"].get(path, "-"))) for arm in arms))
    table.add_section()
    table.add_row("effect", *(interval(arm["effect"]) for arm in arms))
    table.add_row("verdict", *(arm["verdict"] for arm in arms))
    for metric in document["metrics"]:
        table.add_row(Text(metric), *(number(arm["metrics"].get(metric)) for arm in arms))
    return table
