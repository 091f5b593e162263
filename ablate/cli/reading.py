"""What the reading commands say, as plain documents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

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
    chosen = chosen_arms(Results(runs, study).document(), study, arms)
    paths = sorted({path for row in chosen for path in row["levels"]})
    differing = [path for path in paths if len({repr(row["levels"].get(path)) for row in chosen}) > 1]
    keys = ("phase", "name", "levels", "effect", "total_effect", "verdict", "reason", "collapse", "replicates", "metrics")
    return {
        "study": study,
        "settings": differing,
        "metrics": sorted({metric for row in chosen for metric in row["metrics"]}),
        "arms": [{key: row[key] for key in keys} for row in chosen],
    }


def chosen_arms(document: Mapping[str, Any], study: str, wanted: Sequence[str]) -> list[dict[str, Any]]:
    """Arms of a report's document with their phase, each asked for as ARM or PHASE/ARM; all where none is asked for.

    Raises:
        StudyError: An arm that the study does not have, with the nearest name.
    """
    rows = [{"phase": phase["name"], **arm} for phase in document["phases"] for arm in phase["arms"]]
    known = [f"{row['phase']}/{row['name']}" for row in rows]
    chosen, problems = [], []
    for one in wanted:
        found = [row for row in rows if one in (row["name"], f"{row['phase']}/{row['name']}")]
        if not found:
            problems.append(f"{one}: no such arm.{nearest(one, known)} Arms: {'; '.join(known)}.")
        chosen += found
    if problems:
        raise StudyError(study, problems)
    return chosen or rows
