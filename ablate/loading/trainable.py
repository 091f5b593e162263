"""Arms that cannot be trained and factors that change nothing, as far as it is certain before anything runs."""

from __future__ import annotations

from collections.abc import Iterator

from ablate import design
from ablate.loading.problem import Problem
from ablate.offers import Offers
from ablate.study import Arm, Levels, Phase, Range, Study, Tune
from ablate.trial import flatten

MOST_CARRIES = 128
"""With more assignments that could be carried into a phase, what depends on them is left to the start of the phase."""

NO_ARM = "has no arm beside its baseline."


def completed(study: Study, offers: Offers) -> Study:
    """The study with the trainer's own value in its baseline wherever a phase touches a setting that the baseline leaves open."""
    base = dict(flatten(offers.base()))
    touched: list[str] = []
    for phase in study.phases:
        touched += [*phase.set, *phase.factors]
        touched += [path for bundle in phase.components.values() for path in bundle]
        touched += [path for ranged in phase.factors.values() if isinstance(ranged, Range) for path in ranged.when]
    missing = {path: base[path] for path in dict.fromkeys(touched) if path in base and path not in study.baseline and _is_level(base[path])}
    headlines = offers.headlines()
    filled = study.model_dump(by_alias=True) | {"baseline": {**study.baseline, **missing}}
    filled["columns"] = study.columns or headlines.get("columns", [])
    filled["questions"] = filled["questions"] or headlines.get("questions", [])
    filled["floors"] = filled["floors"] or headlines.get("floors", [])
    return Study.model_validate(filled)


def _is_level(value: object) -> bool:
    """A command's base may hold what no factor can: lists of mappings."""
    return not isinstance(value, (dict, list)) or (isinstance(value, list) and not any(isinstance(v, (dict, list)) for v in value))


def problems_of(study: Study, offers: Offers) -> list[Problem]:
    """The baseline, the references and every arm that is known before anything runs; of later phases what holds whoever wins before."""
    found = offers.problems(offers.config(study.baseline, 0))
    if found:
        of_trainer = offers.problems(offers.config({}, 0))
        return [Problem(("trainer", "set") if line in of_trainer else ("baseline",), line) for line in found]
    problems = []
    for name, reference in study.references.items():
        problems += [Problem(("references", name), line) for line in offers.problems(offers.config({**study.baseline, **reference}, 0))]
    for index, phase in enumerate(study.phases):
        carries, complete = design.possible_carries(study, index, MOST_CARRIES)
        if complete and all(len(_arms(phase, carried)) == 1 for carried in carries) and not isinstance(phase.design, Tune):
            problems.append(Problem(("phases", index), f"{NO_ARM} Add levels that differ from what is carried."))
        problems += _clashes(index, phase, carries, complete, offers)
        problems += _without_effect(index, phase, carries, complete, offers)
    return problems


def _clashes(index: int, phase: Phase, carries: list[Levels], complete: bool, offers: Offers) -> Iterator[Problem]:
    """Settings of an arm that do not go together, whatever is carried into its phase."""
    where: dict[str, list[str]] = {}
    for position, arm in enumerate(_arms(phase, carries[0])):
        lines = offers.problems(offers.config(arm.levels, 0))
        if lines and len(carries) > 1:
            others = [_arms(phase, carried) for carried in carries[1:]]
            same_arm = [next((a for a in found if a.name == arm.name), found[min(position, len(found) - 1)]) for found in others]
            if not complete or not all(offers.problems(offers.config(a.levels, 0)) for a in same_arm):
                continue
        for line in lines:
            where.setdefault(line, []).append(arm.name)
    for line, found in where.items():
        more = f" and {len(found) - 1} more" if len(found) > 1 else ""
        yield Problem(("phases", index), f"{line} (arm {found[0]!r}{more})")


def _arms(phase: Phase, carried: Levels) -> list[Arm]:
    if isinstance(phase.design, Tune):
        return [Arm(name="set", levels={**carried, **phase.set})]
    return design.expand(phase, carried)


def _without_effect(index: int, phase: Phase, carries: list[Levels], complete: bool, offers: Offers) -> Iterator[Problem]:
    useless = design.inert_switches(phase, carries[0], offers.identity)
    for carried in carries[1:]:
        if not useless or not complete:
            break
        useless = [key for key in design.inert_switches(phase, carried, offers.identity) if key in useless]
    if complete or len(carries) == 1:
        for key in useless:
            kind, _, name = key.partition(".")
            yield Problem(
                ("phases", index, kind, name),
                "has no effect in any arm of this phase. Switch on what it depends on in set, or leave it out.",
            )
    for path, levels in phase.factors.items():
        if isinstance(levels, Range) and levels.when and complete and not any(levels.live({**c, **phase.set}) for c in carries):
            asked = ", ".join(f"{p}={'|'.join(design.show(v) for v in allowed)}" for p, allowed in levels.when.items())
            yield Problem(
                ("phases", index, "factors", path),
                f"is never tuned: nothing before this phase can carry {asked}. Put it into set, or leave the range out.",
            )
