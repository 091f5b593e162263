"""What the reading commands say, as plain documents."""

from __future__ import annotations

from pathlib import Path

from ablate.cli.finding import opened
from ablate.errors import StudyError
from ablate.results import Results
from ablate.study import nearest


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
