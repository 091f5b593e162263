"""`ablate trials` and `ablate logs`: every trial with its cause in a line, and what one printed."""

from __future__ import annotations

import codecs
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ablate.cli.finding import opened, place, the_trial
from ablate.errors import StudyError
from ablate.execution.lock import holder
from ablate.study import nearest
from ablate.trial import AttemptFiles, TrialFiles, TrialState

SHOWN_SIGNATURE = 8
FOLLOW_S = 0.1
STYLES = {"done": "green", "failed": "red", "running": "yellow", "queued": "dim"}


def trials_of(runs: Path, study: str, *, state: str | None = None, phase: str | None = None, arm: str | None = None) -> dict[str, Any]:
    """Every trial of a study that fits, in the order of the plan.

    Raises:
        StudyError: A state, phase or arm that there is none of, with the nearest name; all such at once.
    """
    ledger = opened(runs, study)
    uses = ledger.uses()
    phases = list(dict.fromkeys(use.phase for use in uses))
    problems = [
        f"--{what} {wanted}: there is none.{nearest(wanted, known)} Known: {', '.join(known) or 'none'}."
        for what, wanted, known in [
            ("state", state, [str(one) for one in TrialState]),
            ("phase", phase, phases),
            ("arm", arm, list(dict.fromkeys(use.arm for use in uses if phase not in phases or phase == use.phase))),
        ]
        if wanted is not None and wanted not in known
    ]
    if problems:
        raise StudyError(study, problems)
    served: dict[str, list[str]] = {}
    for use in uses:
        places = served.setdefault(use.signature, [])
        if phase in (None, use.phase) and arm in (None, use.arm):
            places.append(place(use))
    rows = []
    for record in ledger.trials():
        places = served.get(record.signature, [])
        if (state is not None and record.state != state) or (not places and (phase or arm)):
            continue
        files = TrialFiles(runs, record.signature)
        rows.append(
            {
                "signature": record.signature,
                "places": places,
                "state": record.state.value,
                "attempt": record.attempt,
                "attempts": record.attempts,
                "cause": None if record.cause is None else record.cause.value,
                "why": why(record.message),
                "message": record.message,
                "seconds": record.seconds,
                "log": None if record.attempt is None else str(files.attempt(record.attempt).log),
            }
        )
    return {"study": study, "trials": rows}


def why(message: str) -> str:
    """The cause in one line, without the place before it and the way to the log behind it."""
    text = message.split(". Log: ")[0].strip()
    _, found, rest = text.partition(", attempt ")
    text = rest.partition(": ")[2] if found else text
    return next(iter(text.splitlines()), "")


def print_trials(document: Mapping[str, Any]) -> None:
    """A line a trial."""
    console = Console()
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("trial", no_wrap=True)
    table.add_column("serves", overflow="fold")
    for column in ("state", "attempts", "time"):
        table.add_column(column, no_wrap=True)
    table.add_column("why", overflow="fold")
    for row in document["trials"]:
        places = row["places"]
        more = f" and {len(places) - 1} more" if len(places) > 1 else ""
        seconds = "" if row["seconds"] is None else f"{row['seconds']:.1f} s"
        state = Text(row["state"], style=STYLES.get(row["state"], ""))
        cells = (Text(f"{places[0]}{more}" if places else "-"), state, str(row["attempts"]), seconds, Text(row["why"]))
        table.add_row(row["signature"][:SHOWN_SIGNATURE], *cells)
    console.print(table)
    console.print(f"{document['study']}: {len(document['trials'])} trials", markup=False, highlight=False)
    failed = next((row for row in document["trials"] if row["state"] == "failed"), None)
    if failed is not None:
        short = failed["signature"][:SHOWN_SIGNATURE]
        console.print(f"What one printed: ablate logs {short}. To run it again: ablate retry {short}.", markup=False, highlight=False)


def log_of(runs: Path, trial: str, study: str | None, attempt: int | None) -> tuple[dict[str, Any], AttemptFiles]:
    """Where an attempt's log is; of the latest attempt where none is named.

    Raises:
        StudyError: No such trial or attempt, or nothing was ever started.
    """
    study, signature = the_trial(runs, trial, study)
    record = opened(runs, study).trial(signature)
    folder = TrialFiles(runs, signature).attempt(0).directory.parent
    numbers = sorted(int(entry.name) for entry in folder.iterdir() if entry.name.isdigit()) if folder.is_dir() else []
    if not numbers:
        why_not = "no attempt was started" if record.attempt is None else f"its files are no longer under {folder.parent}"
        raise StudyError(study, [f"{trial}: there is nothing to show, since {why_not} (it is {record.state})."])
    number = attempt if attempt is not None else record.attempt if record.attempt in numbers else numbers[-1]
    if number not in numbers:
        raise StudyError(study, [f"--attempt {number}: expected one of {', '.join(map(str, numbers))} of trial {signature}."])
    assert number is not None
    files = TrialFiles(runs, signature).attempt(number)
    return {"study": study, "signature": signature, "state": record.state.value, "attempt": number, "log": str(files.log)}, files


def log_text(files: AttemptFiles, tail: int | None) -> str:
    """What the attempt printed, or its last lines."""
    try:
        text = files.log.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return ""
    return _last(text, tail)


def follow(runs: Path, study: str, files: AttemptFiles, tail: int | None, out: Callable[[str], None]) -> None:
    """Print a log as it grows, until its attempt has ended or nothing runs that could go on with it."""
    decoder, at, first = codecs.getincrementaldecoder("utf-8")(errors="replace"), 0, True
    while True:
        ended = files.outcome.exists() or holder(runs, study) is None
        if files.log.exists():
            with files.log.open("rb") as log:
                log.seek(at)
                new = log.read()
            at += len(new)
            text = decoder.decode(new, final=ended)
            if text:
                out(_last(text, tail) if first else text)
            first = False
        if ended:
            return
        time.sleep(FOLLOW_S)


def _last(text: str, tail: int | None) -> str:
    return text if tail is None else "".join(text.splitlines(keepends=True)[-tail:] if tail > 0 else [])
