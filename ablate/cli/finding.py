"""Which study, and which trial, a few typed characters mean."""

from __future__ import annotations

import re
from pathlib import Path

from ablate.errors import StudyError
from ablate.execution.detached import Detached
from ablate.execution.lock import holder
from ablate.ledger import Ledger, Use
from ablate.study import nearest

PLACE = re.compile(r"^(?P<phase>[^/]+)/(?P<arm>.+)[/ ]r(?P<replicate>\d+)$")
"""`phase/arm/r0`, and as messages write it `phase/arm r0`."""

SHOWN_NAMES = 12


def opened(runs: Path, study: str) -> Ledger:
    """The study's ledger, for reading.

    Raises:
        StudyError: No such study has run here.
    """
    path = runs / study / "ledger.db"
    if not path.exists():
        known = studies(runs)
        raise StudyError(str(runs), [f"{study}: no such study has run here.{nearest(study, known)} Known: {', '.join(known) or 'none'}."])
    return Ledger(path, read_only=True)


def begun(runs: Path, study: str) -> bool:
    """Whether a run of the study came so far that its record says what the study is: past preflight, that is."""
    path = runs / study / "ledger.db"
    if not path.exists():
        return False
    ledger = Ledger(path, read_only=True)
    try:
        return ledger.frozen() is not None
    finally:
        ledger.close()


def studies(runs: Path) -> list[str]:
    """Studies that have run here or begin to, by name."""
    return sorted({path.parent.name for path in [*runs.glob("*/ledger.db"), *runs.glob("*/controller.json")]})


def the_study(runs: Path, *, alone: bool = False) -> str:
    """The study that is meant where none is named: the one that runs, else the one that ran last.

    Args:
        alone: Not by time: something is going to be changed.

    Raises:
        StudyError: None has run here, or several may be meant.
    """
    known = studies(runs)
    running = [name for name in known if Detached(runs / name).starting() or holder(runs, name) is not None]
    candidates = running or known
    if not candidates:
        raise StudyError(
            str(runs), ["expected a study but none has run here. Start one with `ablate run STUDY`, or name the folder: --runs."]
        )
    if len(candidates) > 1 and (alone or running):
        raise StudyError(
            str(runs), [f"expected the name of a study, since several {'run' if running else 'ran here'}: {', '.join(candidates)}."]
        )
    return max(candidates, key=lambda name: _changed(runs, name))


def _changed(runs: Path, name: str) -> float:
    path = runs / name / "ledger.db"
    return path.stat().st_mtime if path.exists() else 0.0


def place(use: Use) -> str:
    """`phase/arm/r0`."""
    return f"{use.phase}/{use.arm}/r{use.replicate}"


def the_trial(runs: Path, text: str, study: str | None) -> tuple[str, str]:
    """Study and signature of a trial, named by a unique beginning of its signature or by its place in the study.

    Raises:
        StudyError: There is none, with the nearest name, or several.
    """
    begun = [name for name in studies(runs) if (runs / name / "ledger.db").exists()]
    wanted = [study] if study is not None else begun or [the_study(runs)]
    found: dict[str, str] = {}
    places: list[str] = []
    for name in wanted:
        ledger = opened(runs, name)
        uses = ledger.uses()
        places += [place(use) for use in uses]
        signatures = {record.signature for record in ledger.trials()}
        matched = PLACE.match(text)
        if matched is not None:
            at = (matched["phase"], matched["arm"], int(matched["replicate"]))
            hits = {use.signature for use in uses if (use.phase, use.arm, use.replicate) == at}
        else:
            hits = {signature for signature in signatures if signature.startswith(text)} if text else set()
        if len(hits) == 1:
            found[name] = hits.pop()
        elif hits:
            raise StudyError(name, [f"{text}: expected one trial but {len(hits)} begin so: {', '.join(sorted(hits)[:SHOWN_NAMES])}."])
    if not found:
        listed = (
            f" Trials: {', '.join(places[:SHOWN_NAMES])}{' ...' if len(places) > SHOWN_NAMES else ''}"
            if places
            else " It has no trials yet"
        )
        where = study or str(runs)
        raise StudyError(where, [f"{text}: no such trial.{nearest(text, places)}{listed}. `ablate trials` lists all."])
    if len(set(found.values())) > 1:
        raise StudyError(str(runs), [f"{text}: expected one trial but these studies have one: {', '.join(found)}. Name the study too."])
    latest = max(found, key=lambda name: _changed(runs, name))
    return latest, found[latest]
