"""What the reading commands say, as plain documents."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from ablate.cli.finding import opened
from ablate.errors import StudyError
from ablate.execution.lock import holder
from ablate.execution.requests import waiting
from ablate.results import Results
from ablate.study import nearest
from ablate.trial import TrialState


def status_of(runs: Path, study: str) -> dict[str, object]:
    """Where a study stands: phases, counts of trials, failures with their cause."""
    ledger = opened(runs, study)
    trials = {record.signature: record for record in ledger.trials()}
    conclusions = ledger.conclusions()
    phases = []
    for phase in ledger.phases():
        signatures = {use.signature for use in ledger.uses(phase)}
        counts = Counter(trials[s].state for s in signatures)
        phases.append(
            {
                "name": phase,
                "arms": len(ledger.arms(phase)),
                **{state.value: counts.get(state, 0) for state in TrialState},
                "winner": conclusions.get(phase, {}).get("winner"),
            }
        )
    controller = holder(runs, study)
    finished = any(event.kind == "done" for event in ledger.events()[-1:])
    state = f"running (process {controller['pid']} on {controller['host']})" if controller else "done" if finished else "stopped, resumable"
    places: dict[str, list[str]] = {}
    for use in ledger.uses():
        if trials[use.signature].state == TrialState.FAILED:
            places.setdefault(use.signature, []).append(f"{use.phase}/{use.arm} r{use.replicate}")
    failures = [
        {"signature": s, "where": where, "cause": str(trials[s].cause), "message": trials[s].message} for s, where in places.items()
    ]
    used = ledger.used()
    return {
        "study": study,
        "state": state,
        "phases": phases,
        "failures": failures,
        "requests": len(waiting(runs, study)),
        "used": {"trials": used.trials, "hours": used.seconds / 3600},
    }


def comparison(runs: Path, study: str, arms: list[str]) -> dict[str, object]:
    """Arms side by side: only settings that differ, all metrics that any has.

    Raises:
        StudyError: An arm that the study does not have, with the nearest name.
    """
    opened(runs, study)
    rows = [{"phase": phase["name"], **arm} for phase in Results(runs, study).document()["phases"] for arm in phase["arms"]]
    chosen, problems = [], []
    for wanted in arms:
        found = [row for row in rows if wanted in (row["name"], f"{row['phase']}/{row['name']}")]
        known = [f"{row['phase']}/{row['name']}" for row in rows]
        if not found:
            problems.append(f"{wanted}: no such arm.{nearest(wanted, known)} Arms: {'; '.join(known)}.")
        chosen += found
    if problems:
        raise StudyError(study, problems)
    chosen = chosen or rows
    paths = sorted({path for row in chosen for path in row["levels"]})
    differing = [path for path in paths if len({repr(row["levels"].get(path)) for row in chosen}) > 1]
    keys = ("phase", "name", "levels", "effect", "total_effect", "verdict", "reason", "collapse", "replicates", "metrics")
    return {
        "study": study,
        "settings": differing,
        "metrics": sorted({metric for row in chosen for metric in row["metrics"]}),
        "arms": [{key: row[key] for key in keys} for row in chosen],
    }
