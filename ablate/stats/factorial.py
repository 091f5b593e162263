"""Main effects and two-way interactions of a factorial, full or fractional, with replicates as blocks."""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from ablate.stats.effects import LEAST_PAIRS, Paired

Cell = tuple[int, ...]
"""The position of each factor's level, in the order of the factors; 0 is the first level ("off")."""

Steps = tuple[tuple[int, int], ...]
"""Factor and level of each step away from a first level."""

_ZERO = 1e-9


@dataclass(frozen=True)
class Factor:
    """A factor and its levels as words."""

    name: str
    levels: tuple[str, ...]


@dataclass(frozen=True)
class Contrast:
    """A level against the first level of its factor, or how much one such step changes another (difference of differences)."""

    steps: Steps
    """Factor and level of each step; one is a main effect, two an interaction."""
    name: str
    mean: float | None
    low: float | None
    high: float | None
    """Simultaneous over all contrasts and conditional effects of the factorial. None: fewer than 3 replicates, or no spread."""
    replicates: tuple[int, ...]
    """Those in which it could be estimated."""
    lost: tuple[int, ...]
    """Those in which failures left it without an estimate."""
    assumes_absent: tuple[str, ...]
    """Contrasts that these cells do not tell apart from this one (aliased): the figures are those of the whole of them."""

    @property
    def shown(self) -> bool:
        """Whether the interval excludes 0."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)


@dataclass(frozen=True)
class Alias:
    """A contrast that the cells with a result do not tell apart from others."""

    name: str
    partners: tuple[str, ...]
    """Empty: it is the same in all of these cells."""
    steps: Steps
    """Of it and of its partners."""
    sentence: str


@dataclass(frozen=True)
class Factorial:
    """What a factorial says."""

    main: tuple[Contrast, ...]
    interactions: tuple[Contrast, ...]
    not_estimable: tuple[Alias, ...]
    """Contrasts without a figure, since these cells do not tell them apart from others."""
    dropped: tuple[tuple[Cell, int], ...]
    """Cells and replicates whose value was NaN or infinite."""
    sentences: tuple[str, ...]


def analyse(factors: Sequence[Factor], cells: Mapping[Cell, Mapping[int, float]], alpha: float, sign: int = 1) -> Factorial:
    """Effects averaged over the levels of all other factors, each level with equal weight.

    The model has main effects and two-way interactions (three-way ones are taken as 0 only where cells are missing). Each replicate is a
    block and is fitted alone by least squares; an effect's interval is the t interval of its estimates over replicates at
    alpha / (2 k), k all contrasts and conditional effects (Bonferroni). So neither equal noise in all cells nor independence of the cells
    of a replicate is assumed, which a pooled error would: a collapsed and a healthy arm are not equally noisy.

    Args:
        cells: Cell to replicate to value. A cell without any finite value is as good as left out of the design: what it alone would tell
            apart is aliased.
        sign: -1 where less is better, so that a positive effect helps.

    Raises:
        ValueError: A cell that the factors do not have, or no cell at all.

    Source: Montgomery, Design and Analysis of Experiments, chapters 4 (blocks), 5 and 8 (factorials, aliases).
    """
    wrong = [
        cell for cell in cells if len(cell) != len(factors) or any(not 0 <= x < len(f.levels) for x, f in zip(cell, factors, strict=True))
    ]
    if wrong or not cells:
        raise ValueError(f"cells: expected a level of each of {len(factors)} factors but got {wrong or 'no cell'}.")
    steps = [((i, level),) for i, f in enumerate(factors) for level in range(1, len(f.levels))]
    terms: list[Steps] = [*steps]
    terms += [(a[0], b[0]) for a, b in itertools.combinations(steps, 2) if a[0][0] != b[0][0]]
    names = [" x ".join(_step(factors, s) for s in term) for term in terms]
    order = [cell for cell in sorted(cells) if any(math.isfinite(v) for v in cells[cell].values())]
    if len(order) < 2:
        bad = tuple((cell, r) for cell in sorted(cells) for r, v in sorted(cells[cell].items()) if not math.isfinite(v))
        which = "only one" if order else "none"
        return Factorial(
            (), (), (), bad, (f"Of {len(cells)} cells of the factorial {which} has a result, so nothing is known of any factor.",)
        )
    full = np.column_stack([np.ones(len(order)), *([_column(factors, order, term) for term in terms])])
    kept, partners = _aliases(full)
    values = {(cell, r): sign * v for cell, found in cells.items() for r, v in found.items() if math.isfinite(v)}
    dropped = tuple(sorted((cell, r) for cell, found in cells.items() for r, v in found.items() if not math.isfinite(v)))
    replicates = sorted({r for found in cells.values() for r in found})
    conditional = [
        (i, j) for i, j in itertools.permutations(range(len(factors)), 2) if len(factors[i].levels) == len(factors[j].levels) == 2
    ]
    family = max(1, len(kept) - 1 + 2 * len(conditional))
    fitted = {r: _fit(order, full[:, kept], values, r) for r in replicates}

    def contrast(weights: Float[np.ndarray, " kept"], steps: Steps, name: str, absent: tuple[str, ...]) -> Contrast:
        found = {r: value for r, fit in fitted.items() if (value := _estimate(fit, weights)) is not None}
        scale = max((abs(v) for v in values.values()), default=0.0)
        pairs = Paired(found, (), scale)
        interval = pairs.interval(1 - alpha / family) if pairs.pairs >= LEAST_PAIRS else None
        low, high = interval or (None, None)
        return Contrast(steps, name, pairs.mean, low, high, tuple(found), tuple(r for r in replicates if r not in found), absent)

    results: dict[Steps, Contrast] = {}
    for position, term in enumerate(terms, start=1):
        if position in kept:
            weights = np.zeros(len(kept))
            weights[kept.index(position)] = 1.0
            absent = tuple(names[k - 1] for k, known in partners.items() if position in known)
            results[term] = contrast(weights, term, names[position - 1], absent)
    given: dict[tuple[int, int, int], Contrast] = {}
    for i, j in conditional:
        pair = tuple(sorted(((i, 1), (j, 1))))
        parts = [results.get(((i, 1),)), results.get(pair)]
        if all(part is not None and not part.assumes_absent for part in parts):
            for level in (0, 1):
                weights = np.zeros(len(kept))
                weights[kept.index(1 + terms.index(((i, 1),)))] = 1.0
                weights[kept.index(1 + terms.index(pair))] = level - 0.5
                given[i, j, level] = contrast(weights, ((i, 1),), f"{_step(factors, (i, 1))} where {_at(factors[j], level)}", ())
    lost = tuple(_alias(names, terms, k, known) for k, known in partners.items())
    main = tuple(c for t, c in results.items() if len(t) == 1)
    crossed = tuple(c for t, c in results.items() if len(t) == 2)
    used = {r for one in results.values() for r in one.replicates}
    gaps = _gaps(factors, cells, order, sorted(r for r in used if any((cell, r) not in values for cell in order)))
    return Factorial(main, crossed, lost, dropped, (*gaps, *_sentences(factors, main, crossed, given, lost)))


def _column(factors: Sequence[Factor], order: Sequence[Cell], term: Steps) -> Float[np.ndarray, " cells"]:
    """Product of centred indicators, so that each coefficient is an average over the other factors' levels with equal weight."""
    column = np.ones(len(order))
    for i, level in term:
        column = column * (np.array([cell[i] == level for cell in order], dtype=float) - 1 / len(factors[i].levels))
    return column


def _aliases(full: Float[np.ndarray, "cells terms"]) -> tuple[list[int], dict[int, list[int]]]:
    """Terms that raise the rank, lower orders first; and for each other one the terms that it is a combination of."""
    kept: list[int] = []
    partners: dict[int, list[int]] = {}
    for k in range(full.shape[1]):
        weights, *_ = np.linalg.lstsq(full[:, kept], full[:, k], rcond=None)
        if np.linalg.norm(full[:, k] - full[:, kept] @ weights) > _ZERO * max(1.0, float(np.linalg.norm(full[:, k]))):
            kept.append(k)
        else:
            partners[k] = [kept[i] for i in np.flatnonzero(np.abs(weights) > 1e-7)]
    return kept, partners


def _alias(names: Sequence[str], terms: Sequence[Steps], position: int, partners: Sequence[int]) -> Alias:
    """A term by its position among the columns, the mean being the first."""
    name, others = names[position - 1], tuple(names[p - 1] for p in partners if p > 0)
    steps = tuple(dict.fromkeys(step for p in (position, *partners) if p > 0 for step in terms[p - 1]))
    if not others:
        said = f"{name} is not told apart from the mean: it is the same in every cell that has a result. No figure is given for it."
        return Alias(name, (), steps, said)
    said = f"{name} is not told apart from {' and '.join(others)} by the cells that have a result. No figure is given for it."
    return Alias(name, others, steps, said)


_Fit = tuple[Float[np.ndarray, " kept"], Float[np.ndarray, "kept kept"]]


def _fit(order: Sequence[Cell], design: Float[np.ndarray, "cells kept"], values: Mapping[tuple[Cell, int], float], replicate: int) -> _Fit:
    """Coefficients of one block, and the projection on what its cells can estimate."""
    rows = [k for k, cell in enumerate(order) if (cell, replicate) in values]
    seen = np.array([values[order[k], replicate] for k in rows])
    inverse = np.linalg.pinv(design[rows], rcond=_ZERO)
    return inverse @ seen, inverse @ design[rows]


def _estimate(fit: _Fit, weights: Float[np.ndarray, " kept"]) -> float | None:
    """None where the block's cells do not determine this combination."""
    coefficients, estimable = fit
    return float(weights @ coefficients) if np.allclose(weights @ estimable, weights, atol=1e-7) else None


def _step(factors: Sequence[Factor], step: tuple[int, int]) -> str:
    factor = factors[step[0]]
    return _at(factor, step[1])


def _at(factor: Factor, level: int) -> str:
    return f"{factor.name}={factor.levels[level]}"


def _gaps(factors: Sequence[Factor], cells: Collection[Cell], measured: Sequence[Cell], patchy: Sequence[int]) -> list[str]:
    """Cells without any result, and replicates that tell something although they have not all of the others."""
    said = []
    empty = [cell for cell in sorted(cells) if cell not in measured]
    absent = "; interactions of three and more factors are taken as absent" if len(factors) > 2 else ""
    if empty:
        named = "; ".join(", ".join(_at(factor, level) for factor, level in zip(factors, cell, strict=True)) for cell in empty)
        said.append(f"No replicate has a result in {len(empty)} of {len(cells)} cells ({named}): effects are those of the others{absent}.")
    elif patchy and absent:
        which = f"replicate{'s' if len(patchy) > 1 else ''} {', '.join(map(str, patchy))}"
        said.append(f"Not every cell has a result in {which}: there{absent.removeprefix(';')}.")
    return said


def _sentences(
    factors: Sequence[Factor],
    main: Sequence[Contrast],
    crossed: Sequence[Contrast],
    given: Mapping[tuple[int, int, int], Contrast],
    lost: Sequence[Alias],
) -> list[str]:
    said = []
    for effect in (*main, *crossed):
        steps = [_step(factors, step) for step in effect.steps]
        if effect.assumes_absent:
            others = " and ".join(effect.assumes_absent)
            apart = f"{effect.name} is not told apart from {others} by the cells that have a result, so whether it matters is not known"
            told = f"{apart}; measured is the whole of them{_figures(effect)}"
        elif len(steps) == 1 and effect.mean is None:
            told = f"What {effect.name} does is not known{_figures(effect)}"
        elif len(steps) == 1:
            word = "is not shown to matter" if not effect.shown else "helps" if effect.mean is not None and effect.mean > 0 else "harms"
            told = f"{effect.name} {word} on average over the other factors{_figures(effect)}"
        elif effect.low is None:
            told = f"Whether {steps[0]} and {steps[1]} change each other is not known{_figures(effect)}"
        elif not effect.shown:
            told = f"{steps[0]} and {steps[1]} are not shown to change each other{_figures(effect)}"
        else:
            told = f"{_together(effect, steps[0], steps[1], factors, given)}{_figures(effect, 'interaction ')}"
        said.append(f"{told}.{_without(effect)}")
    return said + [one.sentence for one in lost]


def _together(effect: Contrast, one: str, other: str, factors: Sequence[Factor], given: Mapping[tuple[int, int, int], Contrast]) -> str:
    (i, _), (j, _) = effect.steps
    for x, y, name in ((i, j, one), (j, i, other)):
        if (x, y, 0) in given:
            off, on = given[x, y, 0], given[x, y, 1]
            for here, there, level in ((on, off, 1), (off, on, 0)):
                if here.shown and (here.mean or 0) > 0 and not (there.shown and (there.mean or 0) > 0):
                    rest = "it harms" if there.shown else "no help is shown"
                    where = _at(factors[y], level)
                    return f"{name} is shown to help only where {where} ({here.mean:+.3g}; elsewhere {rest}, {there.mean:+.3g})"
    word = "more" if (effect.mean or 0) > 0 else "less"
    return f"{one} and {other} together do {word} than the sum of both"


def _figures(effect: Contrast, what: str = "") -> str:
    if effect.mean is None:
        return " (no estimate)"
    if effect.low is None or effect.high is None:
        count = len(effect.replicates)
        why = f"only {count} of the at least {LEAST_PAIRS} replicates that one needs" if count < LEAST_PAIRS else "no spread"
        return f" ({what}{effect.mean:+.3g}, no interval: {why})"
    return f" ({what}{effect.mean:+.3g}, {effect.low:+.3g} to {effect.high:+.3g})"


def _without(effect: Contrast) -> str:
    if not effect.lost:
        return ""
    lost = f"replicate{'' if len(effect.lost) == 1 else 's'} {', '.join(map(str, effect.lost))}"
    return f" Without {lost}, where not all of these cells have a result."
