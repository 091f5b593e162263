"""From factors to arms. Pure: the same phase and carried levels give the same arms, in the same order."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from ablate.study import BASELINE, Arm, Level, Levels, Phase, Range, Study, Tune

ALL_OFF = "all off"
"""A factorial's own reference cell: the first level of each factor, every component off."""

ALL_ON = "all on"

_MOST_CELLS = 4096
"""A larger design is not searched for switches without effect."""


@dataclass(frozen=True)
class _Switch:
    """A factor or a component as a list of states; each is a label and the levels that it puts in place."""

    key: str
    """Where it stands in the phase: `factors.PATH` or `components.NAME`."""
    states: tuple[tuple[str, Levels], ...]
    """In file order. A component has the states off (no levels) and on."""

    @property
    def on(self) -> tuple[str, Levels]:
        return self.states[-1]


@dataclass(frozen=True)
class _Draft:
    name: str
    changes: Levels


def expand(phase: Phase, carried: Levels) -> list[Arm]:
    """The arms of a fixed design: the baseline first, then the design's own in file order.

    Levels of a factor or component override `phase.set`, which overrides what is carried. An arm whose levels equal the
    baseline's, or those of an earlier arm, is left out.

    Raises:
        ValueError: A tuning phase, whose arms are proposed, not expanded.
    """
    arms = [Arm(name=BASELINE, levels=dict(carried))]
    seen = {_identity(carried)}
    for draft in _drafts(phase, carried):
        levels = {**carried, **phase.set, **draft.changes}
        if _identity(levels) not in seen:
            seen.add(_identity(levels))
            arms.append(Arm(name=draft.name, levels=levels))
    return arms


def all_off(phase: Phase, carried: Levels) -> Arm | None:
    """The cell that a factorial's effects are measured from; none in another design.

    It is the arm named `baseline` where the two coincide, else the arm named `all off`.
    """
    if phase.design != "factorial":
        return None
    first = {path: value for switch in _switches(phase) for path, value in switch.states[0][1].items()}
    levels = {**carried, **phase.set, **first}
    same = _identity(levels) == _identity(carried)
    return Arm(name=BASELINE, levels=dict(carried)) if same else Arm(name=ALL_OFF, levels=levels)


def factorial_cells(phase: Phase, carried: Levels) -> tuple[list[tuple[str, tuple[str, ...]]], dict[tuple[int, ...], str]]:
    """The factors of a factorial as name and words of its levels, and the arm that stands in each cell.

    Returns:
        The factors, and the position of each one's level to the name of the arm.
    """
    by_levels = {_identity(arm.levels): arm.name for arm in reversed(expand(phase, carried))}
    switches = _switches(phase)
    names = [_short(switch, switches) for switch in switches]
    words = [tuple(_word(switch, index) for index in range(len(switch.states))) for switch in switches]
    cells = {}
    for cell in itertools.product(*(range(len(switch.states)) for switch in switches)):
        chosen = [switch.states[index][1] for switch, index in zip(switches, cell, strict=True)]
        levels = {**carried, **phase.set, **{path: value for part in chosen for path, value in part.items()}}
        cells[cell] = by_levels[_identity(levels)]
    return list(zip(names, words, strict=True)), cells


def _word(switch: _Switch, index: int) -> str:
    kind, _, path = switch.key.partition(".")
    return show(switch.states[index][1][path]) if kind == "factors" else ("off", "on")[index]


def switches(phase: Phase) -> dict[str, tuple[str, ...]]:
    """Factors and components of a phase by their short names, with the paths that each one sets."""
    found = _switches(phase)
    return {_short(switch, found): tuple(dict.fromkeys(path for _, levels in switch.states for path in levels)) for switch in found}


def inert_switches(phase: Phase, carried: Levels, identity: Callable[[Levels], str]) -> list[str]:
    """Factors and components (`factors.PATH`, `components.NAME`) that change nothing in any contrast of the phase.

    Args:
        identity: Equal for two assignments of levels exactly where they train the same network.
    """
    ground = {**carried, **phase.set}
    switches = _live_switches(phase, ground)
    if math.prod(len(switch.states) for switch in switches) > _MOST_CELLS:
        return []
    useless = []
    for switch in switches:
        groups = [group for group in _contrasts(phase, switch, switches, ground) if len({_identity(levels) for levels in group}) > 1]
        # Without such a group the switch holds what is carried already: it changes nothing, but not for want of effect.
        if groups and all(len({identity(levels) for levels in group}) < 2 for group in groups):
            useless.append(switch.key)
    return useless


def possible_carries(study: Study, before: int, at_most: int = 512) -> tuple[list[Levels], bool]:
    """What may have been carried into phase number `before`, whatever the gates and verdicts say.

    Returns:
        The assignments, the study's baseline first, and whether the list is complete (a tuning phase can carry
        infinitely many, and a long list is cut).
    """
    carries = [dict(study.baseline)]
    seen = {_identity(study.baseline)}
    complete = True
    for phase in study.phases[:before]:
        if isinstance(phase.design, Tune):
            complete = False
            found = [{**carried, **phase.set} for carried in carries]
        else:
            found = [arm.levels for carried in carries for arm in expand(phase, carried)]
        for levels in found:
            if _identity(levels) not in seen:
                seen.add(_identity(levels))
                carries.append(levels)
        if len(carries) > at_most:
            carries, complete = carries[:at_most], False
    return carries, complete


def _drafts(phase: Phase, carried: Levels) -> Iterator[_Draft]:
    """The design's arms as name and changes on top of carried and set."""
    if isinstance(phase.design, Tune):
        raise ValueError(f"{phase.name} is a tuning phase: its arms are proposed, not expanded.")
    switches = _switches(phase)
    if phase.design == "factorial":
        yield from _factorial(switches)
    elif phase.design == "one_at_a_time":
        for switch in switches:
            for label, levels in switch.states:
                if any(path not in carried or not same(carried[path], value) for path, value in levels.items()):
                    yield _Draft(label, levels)
    elif phase.design == "add_one_in":
        for switch in switches:
            yield _Draft(*switch.on)
    elif phase.design == "leave_one_out":
        yield _Draft(ALL_ON, _together(switches))
        for switch in switches:
            yield _Draft(without(_short(switch, switches)), _together([s for s in switches if s is not switch]))
    else:
        yield from _path(switches, {**carried, **phase.set})


def _factorial(switches: Sequence[_Switch]) -> Iterator[_Draft]:
    for cell in itertools.product(*(switch.states for switch in switches)):
        labels = [state[0] for state, switch in zip(cell, switches, strict=True) if state is not switch.states[0]]
        yield _Draft(", ".join(labels) or ALL_OFF, {path: value for _, levels in cell for path, value in levels.items()})


def _path(switches: Sequence[_Switch], ground: Levels) -> Iterator[_Draft]:
    """Level by level: each arm keeps all that stands before it in the file."""
    held: Levels = {}
    steps = 0
    for switch in switches:
        for label, levels in switch.states:
            now = {**ground, **held}
            if any(path not in now or not same(now[path], value) for path, value in levels.items()):
                held = {**held, **levels}
                steps += 1
                yield _Draft(label if steps == 1 else f"up to {label}", dict(held))


def without(name: str) -> str:
    """The arm of a leave-one-out design that lacks this component."""
    return f"without {name}"


def _together(switches: Sequence[_Switch]) -> Levels:
    return {path: value for switch in switches for path, value in switch.on[1].items()}


def _switches(phase: Phase) -> list[_Switch]:
    """Factors in file order, then components."""
    names = short_names(list(phase.factors))
    found = [
        _Switch(f"factors.{path}", tuple((f"{names[path]}={show(level)}", {path: level}) for level in levels))
        for path, levels in phase.factors.items()
        if not isinstance(levels, Range)
    ]
    return found + [_Switch(f"components.{name}", (("", {}), (name, dict(levels)))) for name, levels in phase.components.items()]


def _live_switches(phase: Phase, ground: Levels) -> list[_Switch]:
    """Those of a fixed design; in a tuning phase a live range counts as a switch between its ends."""
    ranges = [
        _Switch(f"factors.{path}", tuple((f"{path}={end:g}", {path: end}) for end in (levels.low, levels.high)))
        for path, levels in phase.factors.items()
        if isinstance(levels, Range) and levels.live(ground)
    ]
    return _switches(phase) + ranges


def _contrasts(phase: Phase, switch: _Switch, switches: Sequence[_Switch], ground: Levels) -> Iterator[list[Levels]]:
    """Groups of assignments that differ in this switch alone, as the phase's design holds them side by side."""
    others = [s for s in switches if s is not switch]
    crossed = phase.design == "factorial" or isinstance(phase.design, Tune)
    surroundings: Iterator[Levels]
    if crossed:
        cells = itertools.product(*(s.states for s in others))
        surroundings = ({path: value for _, levels in cell for path, value in levels.items()} for cell in cells)
    elif phase.design == "leave_one_out":
        surroundings = iter([_together(others)])
    elif phase.design == "path":
        surroundings = iter([_together(list(itertools.takewhile(lambda s: s is not switch, switches)))])
    else:
        surroundings = iter([{}])
    for around in surroundings:
        group = [{**ground, **around, **levels} for _, levels in switch.states]
        yield group if crossed else [{**ground, **around}, *group]


def short_names(paths: Sequence[str]) -> dict[str, str]:
    """The shortest ending of each dotted path that no other path shares: `crops.min_ratio` is `min_ratio`."""
    names = {}
    for path in paths:
        parts = path.split(".")
        endings = (".".join(parts[-count:]) for count in range(1, len(parts) + 1))
        names[path] = next((e for e in endings if not any(o != path and f".{o}".endswith(f".{e}") for o in paths)), path)
    return names


def show(level: Level) -> str:
    """A level as a person writes it; different levels never look the same."""
    if level is None:
        return "null"
    if isinstance(level, bool):
        return "true" if level else "false"
    if isinstance(level, list):
        return f"[{', '.join(show(item) for item in level)}]"
    if isinstance(level, (int, float)):
        level += 0  # -0.0 is 0
        return f"{level:g}" if float(f"{level:g}") == level else repr(level)
    return repr(level) if _looks_otherwise(level) else level


def _looks_otherwise(text: str) -> bool:
    if text in ("", "null", "true", "false") or any(mark in text for mark in ",=[]'\""):
        return True
    try:
        float(text)
    except ValueError:
        return False
    return True


def _short(switch: _Switch, switches: Sequence[_Switch]) -> str:
    kind, _, path = switch.key.partition(".")
    if kind == "components":
        return path
    return short_names([s.key.partition(".")[2] for s in switches if s.key.startswith("factors.")])[path]


def same(one: Level, other: Level) -> bool:
    """Whether two levels are the same value: 1 and 1.0 are, 1 and true are not."""
    return _value_key(one) == _value_key(other)


def _value_key(level: Level) -> object:
    if isinstance(level, list):
        return tuple(_value_key(item) for item in level)
    return (isinstance(level, bool), level)


def _identity(levels: Mapping[str, Level]) -> frozenset[tuple[str, object]]:
    return frozenset((path, _value_key(level)) for path, level in levels.items())
