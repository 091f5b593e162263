"""Which components of a winner did it, from measured cells only."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from ablate.stats.effects import Paired, paired

Components = frozenset[str]
"""The components that are on."""
Need = Literal["needed", "needed for a guard", "breaks a guard", "can go", "open", "not measured"]
Guards = Mapping[str, bool]
"""Guard to whether it holds; one that was not measured is absent."""


@dataclass(frozen=True)
class Share:
    """A paired mean benefit with its interval, simultaneous over the list that it stands in."""

    name: str
    mean: float | None
    low: float | None
    high: float | None
    pairs: int
    dropped: tuple[int, ...]
    """Replicates that not all of its cells have."""


@dataclass(frozen=True)
class Attribution:
    """From baseline to winner and back."""

    path: tuple[Share, ...]
    """Greedy: at each step the measured component that adds most. The replicates that choose also measure, so early steps flatter."""
    path_stops: str | None
    """Why the path does not reach the winner."""
    without: tuple[Share, ...]
    """What the winner loses without each component; positive: it is missed."""
    needs: Mapping[str, Need]
    shapley: tuple[Share, ...]
    """Mean gain over all orders of switching on; they add up to winner - baseline. Empty where a cell is missing."""
    missing: tuple[Components, ...]
    """Cells that the Shapley values would need."""
    sentences: tuple[str, ...]


def attribute(
    components: Sequence[str],
    cells: Mapping[Components, Mapping[int, float]],
    alpha: float,
    smallest_effect: float,
    sign: int = 1,
    guards: Mapping[Components, Guards] | None = None,
    start: str = "the baseline",
) -> Attribution:
    """Path, leave-one-out and Shapley values of a winner that has all of `components` on.

    Args:
        cells: Components that are on to replicate to value.
        sign: -1 where less is better.
        guards: Of each cell.
        start: What the cell without any of them is called.

    Intervals are t intervals over replicates (blocks) at alpha / (2 k) for the k members of each list (Bonferroni).

    breaks a guard: the winner breaks one that the cell without it keeps, whatever the objective says there. needed for a guard: the cell
    without it breaks one that the winner keeps. can go: its loss is shown to be below the smallest effect. needed: it is not, and shown to
    be above 0.

    Source: Fawcett & Hoos 2016, J. Heuristics 22, 431-458 (ablation path); Shapley 1953.
    """
    everything = frozenset(components)
    missing = tuple(c for c in _subsets(components) if not any(math.isfinite(v) for v in cells.get(c, {}).values()))
    path, stops = _path(components, cells, alpha, sign, start)
    known = guards or {}
    guarded = Guarded(known.get(everything, {}), {name: known.get(everything - {name}, {}) for name in components})
    without, needs = losses(
        cells.get(everything, {}),
        {name: cells.get(everything - {name}, {}) for name in components},
        alpha,
        smallest_effect,
        sign,
        guarded,
    )
    shapley = () if missing else tuple(_shapley(name, components, cells, alpha, sign) for name in components)
    said = _sentences(path, stops, losses_in_words(without, needs, "the winner", guarded), shapley, missing, start)
    return Attribution(path, stops, without, needs, shapley, missing, tuple(said))


@dataclass(frozen=True)
class Guarded:
    """The guards of a whole, and of it without each of its components."""

    whole: Guards
    without: Mapping[str, Guards]

    @property
    def broken(self) -> list[str]:
        """Those that the whole breaks."""
        return [guard for guard, holds in self.whole.items() if not holds]

    def mended(self, name: str) -> list[str]:
        """Those that the whole breaks and keeps without a component."""
        return [guard for guard in self.broken if self.without.get(name, {}).get(guard)]

    def lost(self, name: str) -> list[str]:
        """Those that the whole keeps and breaks without a component."""
        return [guard for guard, holds in self.without.get(name, {}).items() if not holds and self.whole.get(guard)]


UNGUARDED = Guarded({}, {})


def losses(
    whole: Mapping[int, float],
    without: Mapping[str, Mapping[int, float]],
    alpha: float,
    smallest_effect: float,
    sign: int = 1,
    guarded: Guarded = UNGUARDED,
) -> tuple[tuple[Share, ...], dict[str, Need]]:
    """What a whole loses without each of its components, and whether that one is needed, by the rule of `attribute`.

    Args:
        without: Component to what was measured without it.
    """
    shares = tuple(_share(name, paired(whole, found, sign), alpha / len(without)) for name, found in without.items())
    return shares, {share.name: _need(share, smallest_effect, guarded) for share in shares}


def _subsets(components: Sequence[str]) -> list[Components]:
    return [frozenset(c) for size in range(len(components) + 1) for c in itertools.combinations(components, size)]


def _path(
    components: Sequence[str], cells: Mapping[Components, Mapping[int, float]], alpha: float, sign: int, start: str
) -> tuple[tuple[Share, ...], str | None]:
    here: Components = frozenset()
    steps: list[Share] = []
    while len(here) < len(components):
        found = {name: paired(cells.get(here | {name}, {}), cells.get(here, {}), sign) for name in components if name not in here}
        known = {name: pairs for name, pairs in found.items() if pairs.mean is not None}
        if not known:
            return tuple(steps), f"no cell with one more component than {_named(here, start)} shares a replicate with it"
        best = max(known, key=lambda name: (known[name].mean or 0.0, -components.index(name)))
        steps.append(_share(best, known[best], alpha / len(components)))
        here |= {best}
    return tuple(steps), None


def _shapley(name: str, components: Sequence[str], cells: Mapping[Components, Mapping[int, float]], alpha: float, sign: int) -> Share:
    """Per replicate over all cells, so that the noise that cells share in a replicate cancels."""
    everywhere = [set(found) for found in cells.values()]
    subsets = _subsets(components)
    common = sorted(r for r in set.union(*everywhere) if all(math.isfinite(cells[c].get(r, math.nan)) for c in subsets))
    dropped = tuple(sorted(set.union(*(set(cells[c]) for c in subsets)) - set(common)))
    k = len(components)
    values = {
        r: sign
        * math.fsum(
            math.factorial(len(c)) * math.factorial(k - len(c) - 1) / math.factorial(k) * (cells[c | {name}][r] - cells[c][r])
            for c in subsets
            if name not in c
        )
        for r in common
    }
    scale = max((abs(cells[c][r]) for c in subsets for r in common), default=0.0)
    return _share(name, Paired(values, dropped, scale), alpha / k)


def _share(name: str, pairs: Paired, alpha: float) -> Share:
    low, high = pairs.interval(1 - alpha) or (None, None)
    return Share(name, pairs.mean, low, high, pairs.pairs, pairs.dropped)


def _need(share: Share, smallest_effect: float, guarded: Guarded) -> Need:
    if guarded.mended(share.name):
        return "breaks a guard"
    if guarded.lost(share.name):
        return "needed for a guard"
    if share.mean is None:
        return "not measured"
    if share.low is None or share.high is None:
        return "open"
    return "can go" if share.high < smallest_effect else "needed" if share.low > 0 else "open"


def _named(components: Components, start: str) -> str:
    return start if not components else " + ".join(sorted(components))


def losses_in_words(without: Sequence[Share], needs: Mapping[str, Need], whole: str, guarded: Guarded = UNGUARDED) -> list[str]:
    """A sentence for each component of what is called `whole`, after one for each guard that it breaks itself."""
    said = []
    for guard in guarded.broken:
        if not any(guard in guarded.mended(share.name) for share in without):
            said.append(f"{whole[0].upper()}{whole[1:]} breaks a guard itself, {guard}; no measured removal of one component mends it.")
    for share in without:
        figures = "" if share.low is None else f" ({share.mean:+.3g}, {share.low:+.3g} to {share.high:+.3g})"
        said.append(
            {
                "needed": f"{share.name} is needed: without it {whole} loses{figures}.",
                "needed for a guard": f"{share.name} is needed: without it {whole} breaks a guard, {', '.join(guarded.lost(share.name))}.",
                "breaks a guard": f"{share.name} breaks a guard, {', '.join(guarded.mended(share.name))}: {whole} keeps it only without it."
                + (f" But without it {whole} breaks {', '.join(guarded.lost(share.name))}." if guarded.lost(share.name) else ""),
                "can go": f"{share.name} can go: what {whole} loses without it is below the smallest effect{figures}.",
                "open": f"Whether {share.name} is needed is open{figures}"
                + (f": {share.pairs} pairs, 3 with some spread are needed." if share.low is None else "."),
                "not measured": f"Whether {share.name} is needed was not measured: no run of {whole} without it.",
            }[needs[share.name]]
        )
    return said


def _sentences(
    path: Sequence[Share],
    stops: str | None,
    losses: Sequence[str],
    shapley: Sequence[Share],
    missing: Sequence[Components],
    start: str,
) -> list[str]:
    said = []
    if path:
        steps = ", then ".join(f"{s.name} {s.mean:+.3g}" for s in path)
        said.append(
            f"From {start} towards the winner: {steps}. The replicates that chose the winner and this order also measure it: it flatters."
        )
    if stops is not None:
        said.append(f"The path ends there: {stops}.")
    said += losses
    if missing:
        said.append(f"No Shapley values: {len(missing)} of the cells were not measured, first {_named(missing[0], start)}.")
    elif shapley:
        known = [s for s in shapley if s.mean is not None]
        told = ", ".join(f"{s.name} {s.mean:+.3g}" for s in sorted(known, key=lambda s: -(s.mean or 0.0)))
        said.append(f"Mean gain over all orders (Shapley): {told}." if known else "No Shapley values: no replicate has all cells.")
    return said
