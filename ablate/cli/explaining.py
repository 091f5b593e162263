"""Why an arm has its verdict, with its numbers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ablate.answer import level
from ablate.cli.reading import chosen_arms
from ablate.results import Results
from ablate.study import BASELINE, REFERENCES
from ablate.words import between, number, probability


def explain(runs: Path, study: str, arm: str) -> list[dict[str, Any]]:
    """Each arm of that name, as `ARM` or `PHASE/ARM`, with the lines that explain it.

    Raises:
        StudyError: The study has no such arm.
    """
    document = Results(runs, study).document()
    return [{**found, "explained": _lines(document, found)} for found in chosen_arms(document, study, [arm])]


def _lines(document: Mapping[str, Any], arm: Mapping[str, Any]) -> list[str]:
    objective, alpha = document["objective"], document["alpha"]
    phase = next(one for one in document["phases"] if one["name"] == arm["phase"])
    baseline = next(one for one in phase["arms"] if one["name"] == "baseline")
    said = [f"{arm['phase']}/{arm['name']}: {arm['verdict']}. {arm['reason']}"]
    own, others = arm["levels"], baseline["levels"]
    changed = [f"{path}={level(value)} (baseline {level(others.get(path))})" for path, value in own.items() if others.get(path) != value]
    said.append(f"It changes: {'; '.join(changed) or 'nothing'}.")
    looks = phase["looks"]
    planned = f", looked at from {looks[0]} to {looks[1]}" if looks else ""
    said.append(f"Replicates with a result: {arm['replicates']}{planned}. {phase['stopped'].get(arm['name'], '')}".strip())
    effect = arm["effect"]
    if effect is not None and arm["name"] != "baseline":
        said.append(
            f"Effect on {objective['metric']}: {number(effect['mean'], signed=True)}{between(effect['low'], effect['high'])}; the smallest "
            f"that matters is {objective['smallest_effect']:g}, {'more' if objective['direction'] == 'maximize' else 'less'} is better."
        )
    if arm["p_adjusted"] is not None:
        below = "below" if arm["p_adjusted"] < alpha else "not below"
        said.append(f"Adjusted p {probability(arm['p_adjusted'])} over all arms of the phase and all looks: {below} alpha {alpha:g}.")
    for guard in arm["guards"]:
        held = "no replicate has a finite value" if guard["value"] is None else "kept" if guard["holds"] else "broken"
        said.append(f"Guard {guard['guard']}: {number(guard['value'])}, {held}.")
    for reference in arm["references"]:
        untold = "not compared, for want of pairs or of spread" if reference["individual"] is None else "not shown to be beaten"
        beaten = "beaten" if reference["beaten"] else untold
        own = between(*(reference["individual"] or (None, None)))
        said.append(f"Reference {reference['name']}: difference {number(reference['difference'], signed=True)}{own}, {beaten}.")
    if arm["collapse"]:
        said.append(f"Collapse, as the trainer says: {arm['collapse']}.")
    said += [one["sentence"] for one in document["problems"] if _concerns(one, arm)]
    said += _aliases(phase, arm)
    if phase["winner"] == arm["name"]:
        said.append(f"It is the winner. {phase['reason']}")
    return said


def _concerns(problem: Mapping[str, Any], arm: Mapping[str, Any]) -> bool:
    """Whether something that is missing is the arm's, or of what the arm is held against."""
    return problem["place"] == REFERENCES or (problem["place"] == arm["phase"] and not {arm["name"], BASELINE}.isdisjoint(problem["arms"]))


def _aliases(phase: Mapping[str, Any], arm: Mapping[str, Any]) -> list[str]:
    """The contrasts of a factorial that this arm's levels enter and that its cells do not tell apart."""
    found = phase["insight"]["factorial"]
    cell = next((one["cell"] for one in found["cells"] if one["arm"] == arm["name"]), None) if found else None
    if found is None or cell is None:
        return []
    return [one["sentence"] for one in found["not_estimable"] if any(cell[factor] == level for factor, level in one["steps"])]
