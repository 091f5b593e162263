"""What a study file says of names, designs and settings, checked on the raw document so that one mistake hides no other."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ablate import design
from ablate.loading.problem import Keys, Problem
from ablate.loading.wording import plain
from ablate.offers import Offers, SettingType
from ablate.study import BASELINE, CONFIRMATION, REFERENCES, nearest
from ablate.trial import flatten

YARDSTICK = "measure."
"""Settings of this section measure all arms alike: `trainer.set` may change them for the whole study, an arm may not."""

Document = dict[str, object]

Role = Literal["set", "level", "factor", "when"]


@dataclass(frozen=True)
class _Place:
    """Where a document assigns a setting."""

    keys: Keys
    path: str
    value: object
    role: Role
    """Every arm's value, one arm's value, a list or range of values, the values under which a range is live."""


def with_dotted_levels(document: Document) -> Document:
    """The document with nested levels (`crops: {foreground_threshold: 0}`) written as dotted paths."""
    changed = copy.deepcopy(document)
    for keys in _level_mappings(document):
        levels = _found(changed, keys)
        if isinstance(levels, dict):
            _put(changed, keys, dict(flatten(levels)))
    return changed


def guards(document: Document) -> list[Problem]:
    """Guards that forbid what the objective asks for, or that no value can keep."""
    objective = _mapping(document.get("objective"))
    wrong, better = ("at_least", "less") if objective.get("direction") == "minimize" else ("at_most", "more")
    problems = []
    bounds: dict[str, list[tuple[Keys, str, float]]] = {}
    for index, guard in enumerate(_list(document.get("guards"))):
        said = _mapping(guard)
        if said.get("metric") == objective.get("metric") is not None and said.get(wrong) is not None:
            text = (
                f"forbids what the objective asks for: {better} of {objective.get('metric')} is better. Take it out, or turn the direction."
            )
            problems.append(Problem(("guards", index, wrong), text))
        for key in ("at_least", "at_most"):
            if isinstance(bound := said.get(key), int | float):
                bounds.setdefault(str(said.get("metric")), []).append((("guards", index, key), key, bound))
    for metric, found in bounds.items():
        least = max((one for one in found if one[1] == "at_least"), key=lambda one: one[2], default=None)
        most = min((one for one in found if one[1] == "at_most"), key=lambda one: one[2], default=None)
        if least is not None and most is not None and least[2] > most[2]:
            where = f"guards[{most[0][1]}].at_most: {most[2]:g}"
            text = f"no value of {metric} is at least {least[2]:g} and keeps {where} too, so nothing could be adopted. Mend one of them."
            problems.append(Problem(least[0], text))
    return problems


_TAKEN = {REFERENCES: "the study's references in the ledger", CONFIRMATION: "the last phase, which comes by itself (`confirm: true`)"}


def names(document: Document) -> list[Problem]:
    """Names that clash and gates that lead nowhere."""
    problems = []
    phases = [phase if isinstance(phase, dict) else {} for phase in _list(document.get("phases"))]
    titles = [phase.get("name") for phase in phases]
    for index, (phase, title) in enumerate(zip(phases, titles, strict=True)):
        if title in titles[:index]:
            problems.append(
                Problem(("phases", index, "name"), f"phases[{titles.index(title)}] is named {title!r} too. Give each phase its own name.")
            )
        if isinstance(title, str) and title in _TAKEN:
            problems.append(Problem(("phases", index, "name"), f"{title!r} is the name of {_TAKEN[title]}. Choose another."))
        shorts = set(design.short_names(list(_mapping(phase.get("factors")))).values())
        for name in shorts & _mapping(phase.get("components")).keys():
            problems.append(Problem(("phases", index, "components", name), "a factor of this phase has this name too. Choose another."))
        if BASELINE in _mapping(phase.get("components")):
            problems.append(Problem(("phases", index, "components", BASELINE), "the reference arm has this name. Choose another."))
        fallback = _mapping(phase.get("gate")).get("otherwise")
        if isinstance(fallback, str) and fallback not in titles[index + 1 :]:
            later = [str(t) for t in titles[index + 1 :]]
            choice = f"one of the later phases {', '.join(later)}" if later else "nothing, as this is the last phase,"
            problems.append(
                Problem(("phases", index, "gate", "otherwise"), f"expected {choice} but got {fallback!r}.{nearest(fallback, later)}")
            )
    if BASELINE in _mapping(document.get("references")):
        problems.append(Problem(("references", BASELINE), "the reference arm has this name. Choose another."))
    return problems


def companion(document: Document, path: Path) -> list[Problem]:
    """A study for the case that nothing helps, which is not there."""
    named = document.get("otherwise")
    if not isinstance(named, str) or (path.parent / named).is_file():
        return []
    beside = sorted(found.name for found in path.parent.glob("*.y*ml") if found.name != path.name)
    choice = f" Name one of {', '.join(beside)}." if beside else ""
    return [Problem(("otherwise",), f"expected a study file in {path.parent} but there is no {named}.{nearest(named, beside) or choice}")]


def shapes(document: Document) -> list[Problem]:
    """Designs whose factors do not fit them; that are ranges where levels are needed, or none at all."""
    problems = []
    for index, phase in enumerate(_list(document.get("phases"))):
        if not isinstance(phase, dict):
            continue
        keys: Keys = ("phases", index)
        factors, components, fixed = (_mapping(phase.get(key)) for key in ("factors", "components", "set"))
        tuned = isinstance(phase.get("design"), dict)
        if not factors and not components:
            problems.append(Problem(keys, "expected factors or components to vary but got neither. Name what this phase compares."))
        if tuned and components:
            problems.append(
                Problem((*keys, "components"), "have no place in a tuning phase. List them as levels of a factor, or use a fixed design.")
            )
        for path, levels in factors.items():
            place = (*keys, "factors", path)
            if path in fixed:
                problems.append(Problem((*keys, "set", path), "is varied in this phase too. Keep it in set or in factors."))
            if isinstance(levels, dict) and not tuned and isinstance(phase.get("design"), str):
                problems.append(
                    Problem(
                        place,
                        f"a range needs a tuning design but the design is {phase['design']}. List its levels, or tune it.",
                    )
                )
            if isinstance(levels, list):
                problems += _list_problems(
                    place, levels, alone_is_enough=phase.get("design") in ("add_one_in", "leave_one_out", "path", "one_at_a_time")
                )
            if isinstance(levels, dict):
                both = [other for other in _mapping(levels.get("when")) if other in factors]
                problems += [
                    Problem(
                        (*place, "when", other),
                        "is varied in this phase; `when` reads what is carried into it. Put the two into two phases.",
                    )
                    for other in both
                ]
    return problems


def _list_problems(place: Keys, levels: list[object], *, alone_is_enough: bool) -> Iterator[Problem]:
    if not levels or (len(levels) == 1 and not alone_is_enough):
        yield Problem(
            place, f"expected at least {1 if alone_is_enough else 2} levels but got {len(levels)}. One value for all arms belongs into set."
        )
    scalars = [level for level in levels if not isinstance(level, (dict, list))]
    for index, level in enumerate(levels):
        if level in scalars and any(design.same(level, other) for other in levels[:index] if not isinstance(other, (dict, list))):  # type: ignore[arg-type]
            yield Problem((*place, index), f"{plain(level)} stands twice. Keep one of them.")


def settings(document: Document, offers: Offers) -> list[Problem]:
    """Settings that the trainer does not have, and values that they do not take."""
    types = offers.setting_types()
    problems = []
    for place in _places(document):
        if place.path == offers.trainer.seed_key:
            problems.append(Problem(place.keys, "is the replicate's own setting. Say how many with replicates.start."))
        elif types is None:
            continue
        elif place.path not in types:
            problems.append(Problem(place.keys, _no_such(place.path, types, offers.schema_module)))
        elif place.role != "set" and place.path.startswith(YARDSTICK) and not types[place.path].free:
            problems.append(
                Problem(place.keys, "is part of the yardstick, which is the same for every arm. Set it for the whole study in trainer.set.")
            )
        elif place.path == "preset" and not types[place.path].free:
            problems.append(Problem(place.keys, "expected settings, not a preset. Name the preset in trainer.preset."))
        else:
            problems += _value_problems(place, types[place.path])
    return problems


def _no_such(path: str, types: Mapping[str, SettingType], module: str) -> str:
    inside = [known for known in types if known.startswith(f"{path}.")]
    if inside:
        return f"is a section of {module}, not a setting. Name one of its settings, such as {inside[0]}."
    guess = nearest(path, list(types))
    sections = dict.fromkeys(known.partition(".")[0] for known in types)
    return f"no such setting in {module}.{guess or ' It has ' + ', '.join(sections) + '.'}"


def _value_problems(place: _Place, setting: SettingType) -> Iterator[Problem]:
    if place.role in ("set", "level"):
        problem = setting.problem(place.value)
        if problem is not None and not isinstance(place.value, dict):
            yield Problem(place.keys, problem)
    elif isinstance(place.value, list):
        for index, level in enumerate(place.value):
            problem = setting.problem(level)
            if problem is not None and not isinstance(level, dict):
                yield Problem((*place.keys, index), problem)
    elif isinstance(place.value, dict) and place.role == "factor":
        yield from _range_problems(place, place.value, setting)


def _range_problems(place: _Place, ends: dict[str, object], setting: SettingType) -> Iterator[Problem]:
    if setting.kind not in (int, float) or setting.choices:
        yield Problem(
            place.keys, f"a range needs a setting that takes numbers but this one takes {setting.words}. List its levels: [.., ..]."
        )
        return
    if setting.free and setting.kind is int and any(isinstance(ends.get(end), float) for end in ("low", "high")):
        yield Problem(
            place.keys, "the base has a whole number there, so whole numbers are tuned. Write whole ends, or a number such as 1.0 there."
        )
        return
    for end in ("low", "high"):
        value = ends.get(end)
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            problem = setting.problem(setting.coerce(value))
            if problem is not None:
                yield Problem((*place.keys, end), problem)


def coerced(document: Document, offers: Offers) -> Document:
    """The document with each level in the type of its setting, so that 0 and 0.0 are one level."""
    types = offers.setting_types() or {}
    changed = copy.deepcopy(document)
    for place in _places(document):
        setting = types.get(place.path)
        if setting is None or (place.role in ("factor", "when") and not isinstance(place.value, list)):
            continue
        one_by_one = place.role in ("factor", "when")
        value = [setting.coerce(level) for level in _list(place.value)] if one_by_one else setting.coerce(place.value)
        _put(changed, place.keys, value)
    return changed


_FOR_ALL: tuple[Keys, ...] = (("trainer", "set"), ("trainer", "confirm"))
"""Where settings hold for all arms alike."""


def _level_mappings(document: Document) -> Iterator[Keys]:
    """Where levels stand, except factors."""
    yield ("baseline",)
    yield from _FOR_ALL
    yield from (("references", name) for name in _mapping(document.get("references")))
    for index, phase in enumerate(_list(document.get("phases"))):
        if isinstance(phase, dict):
            yield ("phases", index, "set")
            yield from (("phases", index, "components", name) for name in _mapping(phase.get("components")))


def _places(document: Document) -> Iterator[_Place]:
    for keys in _level_mappings(document):
        role: Role = "set" if keys in _FOR_ALL else "level"
        for path, value in _mapping(_found(document, keys)).items():
            yield _Place((*keys, path), path, value, role)
    for index, phase in enumerate(_list(document.get("phases"))):
        for path, value in _mapping(_mapping(phase).get("factors")).items():
            keys = ("phases", index, "factors", path)
            yield _Place(keys, path, value, "factor")
            for other, allowed in _mapping(_mapping(value).get("when")).items():
                yield _Place((*keys, "when", other), other, allowed, "when")


def _mapping(value: object) -> dict[str, object]:
    return value if isinstance(value, dict) else {}


def _list(value: object) -> list[object]:
    return value if isinstance(value, list) else []


def _found(value: object, keys: Keys) -> object:
    for key in keys:
        inside = key in value if isinstance(value, dict) else isinstance(value, list) and isinstance(key, int) and key < len(value)
        if not inside:
            return None
        value = value[key]  # type: ignore[index]
    return value


def _put(document: Document, keys: Keys, value: object) -> None:
    owner = _found(document, keys[:-1])
    if isinstance(owner, (dict, list)):
        owner[keys[-1]] = value  # type: ignore[index]
