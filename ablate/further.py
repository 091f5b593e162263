"""More replicates of one arm, asked for by hand, without a flattered answer.

Who asks for more has seen what there is, and would stop as soon as it pleases; a verdict on old and new replicates together would then
err more often than it says (optional stopping: Armitage, McPherson and Rowe 1969). So the arm meets its baseline on fresh replicates
alone, in a study of its own, whose error rate is its own; what the first study decided stays.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from ablate.errors import StudyError
from ablate.study import BASELINE, Phase, Replicates, Study
from ablate.transfer import FIRST_REPLICATE

PHASE = "more"
LEAST = 3
"""Replicates of a call: fewer pairs have no interval."""


def further(
    study: Study, arm: Mapping[str, Any], baseline: Mapping[str, Any], calls: Sequence[int], replicates: int | None = None
) -> Study:
    """The study that runs an arm of a decided phase beside the phase's baseline once more.

    Args:
        study: The one that decided.
        arm: Of a phase in `Results.document()`.
        baseline: The phase's own.
        calls: Replicates that each such call before asked for.
        replicates: Of both; none: `at_most` of the phase.

    Raises:
        StudyError: The arm is its phase's baseline, or it changes nothing, or there are too many calls.
    """
    where = f"{arm['phase']}/{arm['name']}"
    changes = {path: level for path, level in arm["levels"].items() if path not in baseline["levels"] or baseline["levels"][path] != level}
    if arm["name"] == BASELINE or not changes:
        raise StudyError(study.study, [f"{where}: expected an arm that differs from its baseline. Name another one of {arm['phase']}."])
    used = max(study.replicates_of(phase).first + study.replicates_of(phase).at_most for phase in study.phases)
    count, first = replicates or study.replicates_of(study.phase(arm["phase"])).at_most, used + sum(calls)
    if count < LEAST:
        raise StudyError(
            study.study, [f"--replicates: expected at least {LEAST} but got {count}. An interval from fewer pairs says nothing."]
        )
    if first + count > FIRST_REPLICATE:
        many = f"--replicates: expected at most {FIRST_REPLICATE - first} but got {count}. Later numbers are those of `ablate confirm`."
        raise StudyError(study.study, [many])
    name = re.sub(r"[^A-Za-z0-9_.-]+", "_", arm["name"]).strip("_.-")[:64] or "arm"
    phase = Phase(name=PHASE, design="add_one_in", components={name: changes})
    return study.model_copy(
        update={
            "study": f"{study.study}.more-{len(calls) + 1}",
            "question": f"Does {where} of {study.study} hold on {count} fresh replicates?",
            "baseline": dict(baseline["levels"]),
            "phases": [phase],
            "replicates": Replicates(start=count, at_most=count, first=first, futile=None),
            "rungs": [],
            "otherwise": None,
            "confirm": False,
        }
    )
