"""What users ask of a study: a file for each request, written by any shell, taken up by the controller at its next turn.

`runs/<study>/requests/<time>-<id>.json` holds `{"what": "stop"}`, `{"what": "stop_now"}` or
`{"what": "retry", "trials": [SIGNATURE, ...], "reopen": false}`. A request that comes while nothing runs waits for the next run.
"""

from __future__ import annotations

import json
import secrets
import time
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from ablate.errors import StudyError
from ablate.ledger import Ledger, Use
from ablate.plan import CONFIRM_REPLICATE, FRESH_REPLICATE
from ablate.study import CONFIRMATION, REFERENCES, Study, Tune
from ablate.trial import TrialState, write_atomic

TORN_S = 1.0
"""A file that cannot be read and is younger may still be on its way."""


class What(StrEnum):
    """What can be asked."""

    STOP = "stop"
    """End; running trials save a checkpoint first."""
    STOP_NOW = "stop_now"
    """End; running trials are ended at once and go on from their last checkpoint."""
    RETRY = "retry"
    """Give failed trials a fresh row of attempts."""


STOPS = (What.STOP, What.STOP_NOW)


@dataclass(frozen=True)
class Request:
    """One file, as it was understood."""

    path: Path
    what: What | None
    """None: not understood."""
    trials: tuple[str, ...] = ()
    reopen: bool = False
    problem: str = ""

    def put_away(self) -> None:
        """It was taken up, or never can be."""
        self.path.unlink(missing_ok=True)


def request(root: Path, study: str, what: What | str, *, trials: tuple[str, ...] = (), reopen: bool = False) -> Path:
    """Ask a study for something.

    Raises:
        StudyError: The request cannot be written.
    """
    folder = _folder(root, study)
    path = folder / f"{time.time_ns()}-{secrets.token_hex(4)}.json"
    document = {"what": str(What(what)), **({"trials": list(trials), "reopen": reopen} if what == What.RETRY else {})}
    try:
        folder.mkdir(exist_ok=True)
        write_atomic(path, json.dumps(document), durable=False)
    except OSError as error:
        raise StudyError(study, [f"{folder}: expected a folder to write a request into but got: {error.strerror}."]) from error
    return path


def waiting(root: Path, study: str) -> list[Request]:
    """The requests that nobody took up yet, oldest first; what cannot be read comes as one without `what`."""
    try:
        paths = sorted(path for path in _folder(root, study).iterdir() if not path.name.startswith("."))
    except OSError:
        return []
    return [found for path in paths if (found := _read(path)) is not None]


def stop_wanted(root: Path, study: str) -> bool:
    """Whether somebody asked the study to end."""
    return any(asked.what in STOPS for asked in waiting(root, study))


def _read(path: Path) -> Request | None:
    try:
        age_s = time.time() - path.stat().st_mtime
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError):
        return None if 0 <= age_s < TORN_S else Request(path, None, problem="expected JSON but it cannot be read")
    if not isinstance(values, dict) or values.get("what") not in list(What):
        return Request(path, None, problem=f'expected {{"what": "{"|".join(What)}"}} but got {json.dumps(values)[:80]}')
    trials = values.get("trials", [])
    if not isinstance(trials, list) or not all(isinstance(one, str) for one in trials):
        return Request(path, None, problem=f"trials: expected a list of signatures but got {json.dumps(trials)[:80]}")
    return Request(path, What(values["what"]), tuple(trials), values.get("reopen") is True)


def _folder(root: Path, study: str) -> Path:
    return root / study / "requests"


@dataclass(frozen=True)
class Retried:
    """What a retry did to the ledger."""

    signatures: tuple[str, ...]
    """Queued again."""
    reopened: tuple[str, ...]
    """Phases that are to be decided anew."""
    said: str


def taken_up(ledger: Ledger, asked: Request) -> bool:
    """Whether an earlier controller put it on record, and died before it put the file away."""
    return any(event.kind == "request" and event.text.startswith(f"{asked.path.name}:") for event in ledger.events())


def retry(ledger: Ledger, study: Study, asked: Request) -> Retried:
    """Queue the failed trials of a request again, and where it asks for that, open the phases that they were decided in.

    A concluded phase keeps its decision without `reopen`. A tuning phase that is still under way proposes its points anew: the later
    ones were chosen by what failed. Asking twice is asking once.
    """
    known = {record.signature: record.state for record in ledger.trials()}
    failed = dict.fromkeys(s for s in asked.trials if known.get(s) is TrialState.FAILED)
    for signature in failed:
        ledger.retry(signature)
    concluded = ledger.conclusions()
    served = {_phase(study, use) for use in ledger.uses() if use.signature in failed} if failed else set()
    order = [*(phase.name for phase in study.phases), CONFIRMATION]
    tuned = {phase.name for phase in study.phases if isinstance(phase.design, Tune)}
    opened = [name for name in order if name in served and (asked.reopen if name in concluded else name in tuned)]
    reopened = tuple(order[order.index(opened[0]) :]) if opened else ()
    kept = [name for name in order if name in served and name in concluded and name not in reopened]
    ledger.reopen(reopened)
    parts = [f"{len(failed)} failed trial{'' if len(failed) == 1 else 's'} queued again"]
    parts += [f"phases decided anew: {', '.join(reopened)}"] if reopened else []
    parts += [f"concluded and kept as decided: {', '.join(kept)}"] if kept else []
    others = [signature for signature in asked.trials if signature not in failed]
    parts += [f"no failed trial of this study: {', '.join(others)}"] if others else []
    return Retried(tuple(failed), reopened, "; ".join(parts))


def _phase(study: Study, use: Use) -> str:
    """The phase that a use serves; a reference serves the first phase that compares with its replicate."""
    if use.phase != REFERENCES:
        return use.phase
    if use.replicate >= CONFIRM_REPLICATE:
        return CONFIRMATION
    tuning = [phase.name for phase in study.phases if isinstance(phase.design, Tune)]
    return tuning[0] if use.replicate >= FRESH_REPLICATE and tuning else study.phases[0].name
