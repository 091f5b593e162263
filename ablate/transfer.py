"""Does the short verdict hold at length? The study that asks, and what its answer says of the first one."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence

from ablate.conclusion import Conclusion, Interval
from ablate.errors import StudyError
from ablate.study import BASELINE, CONFIRMATION, Arm, Confirms, Levels, Phase, Study
from ablate.words import between, listed, number

FIRST_REPLICATE = 500
"""Of a study that confirms another: no seed of the first one."""

WINNER = "winner"


def confirming(short: Study, conclusions: Sequence[Conclusion], long: Study, asked: Sequence[str]) -> Study:
    """The study that runs the winner of a finished one against its baseline again, under other settings.

    Its one effect is what it is run for, so that neither a rung nor a poor prospect stops it before `start` replicates.

    Args:
        short: As it was run.
        conclusions: Its phases'.
        long: The same study file under the settings asked for (a preset, a length).
        asked: These settings, as typed; each set of them is a study of its own.

    Raises:
        StudyError: Nothing was adopted, or the settings asked for change what is to be confirmed.
    """
    phases = [one for one in conclusions if one.phase != CONFIRMATION]
    adopted = [f"{one.winner} ({one.phase})" for one in phases if one.winner != BASELINE]
    if not adopted:
        raise StudyError(short.study, ["expected an adopted arm to confirm but nothing is adopted yet. Run the study to its end first."])
    winner = Arm(name=WINNER, levels=phases[-1].winner_levels)
    paths = winner.changes(Arm(name=BASELINE, levels=short.baseline))
    changes: Levels = {path: winner.levels[path] for path in paths if path in winner.levels}
    clash = [path for path in paths if long.baseline.get(path) != short.baseline.get(path)]
    if clash:
        raise StudyError(
            short.study, [f"{path}: is what the winner changes. Leave it out, or run a study that asks about it." for path in clash]
        )
    effect = _effect(conclusions[-1])
    trainer = long.trainer.model_copy(update={"set": {**long.trainer.set, **long.trainer.confirm}})
    key = f"-{hashlib.sha256(json.dumps(sorted(asked)).encode()).hexdigest()[:6]}" if asked else ""
    return long.model_copy(
        update={
            "study": f"{short.study}.confirm{key}",
            "question": f"Does what {short.study} adopted hold here? {short.question}",
            "trainer": trainer,
            "phases": [Phase(name="transfer", design="add_one_in", components={WINNER: changes})],
            "replicates": long.replicates.model_copy(update={"first": FIRST_REPLICATE, "futile": None}),
            "rungs": [],
            "confirm": False,
            "otherwise": None,
            "confirms": Confirms(study=short.study, winner=listed(adopted), effect=effect.mean, low=effect.low, high=effect.high),
        }
    )


def sentence(study: Study, last: Conclusion) -> str | None:
    """Whether the short answer held; none for a study that confirms no other."""
    found = study.confirms
    if found is None:
        return None
    arm = next((arm for arm in last.arms if arm.name == WINNER), None)
    before = f"{number(found.effect, signed=True)}{between(found.low, found.high)}"
    if arm is None or arm.effect is None:
        return f"Whether the answer of {found.study} holds here is not known: the winner has no result."
    now = f"{number(arm.effect.mean, signed=True)}{between(arm.effect.low, arm.effect.high)}"
    figures = f"{study.objective.metric} {before} there, {now} here on fresh replicates"
    held = {"adopt": "held", "reject": "did not hold"}.get(arm.verdict)
    if held is None:
        return f"Whether the answer of {found.study} holds here is open: {figures}."
    return f"The answer of {found.study} {held}: {figures}."


def _effect(last: Conclusion) -> Interval:
    total = last.arms[-1].total_effect if last.phase == CONFIRMATION else last.arm(last.winner).total_effect
    return total or Interval(mean=0.0, low=None, high=None)
