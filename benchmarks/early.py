"""What stopping early costs and spares: arms without prospect, arms that a rung gives up. Whole phases, as the runner plays them.

    PYTHONPATH=. python benchmarks/early.py [PHASES]

Seeds are fixed; values are in standard deviations of the noise of a trial.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ablate.allocation import Allocation, allocate
from ablate.conclusion import Conclusion, Evidence, Metrics
from ablate.study import BASELINE, Arm, Study
from ablate.verdict import conclude
from benchmarks.side import machine

Draw = Callable[[str, int], Metrics | None]
"""Arm and replicate to final metrics; none: it failed."""

Early = Callable[[str, int, int], Metrics]
"""Arm, replicate and step to what it shows at a rung."""


def study(*, rungs: list[int] | None = None, name: str = "toy", **replicates: Any) -> Study:
    """A phase with a guard (`health` at least .2), a reference and a smallest effect of .02; by its name arms are checked."""
    return Study.model_validate(
        {
            "rungs": rungs or [],
            "study": name,
            "question": "Which?",
            "trainer": {"callable": "a:b"},
            "baseline": {"x": 0},
            "references": {"untrained": {"steps": 0}},
            "objective": {"metric": "score", "smallest_effect": 0.02},
            "guards": [{"metric": "health", "at_least": 0.2}],
            "replicates": {"start": 4, "at_most": 6, **replicates},
            "phases": [{"name": "first", "design": "factorial", "factors": {"x": [0, 1]}}],
        }
    )


def played(found: Study, names: list[str], draw: Draw, early: Early | None = None) -> tuple[Conclusion, dict[str, int], list[Allocation]]:
    """A phase as the runner plays it: its conclusion, the replicates that each arm ran to its end, and what was asked for in turn."""
    phase, given, taken = found.phases[0], dict[str, int](), list[Allocation]()
    results: dict[str, dict[int, Metrics]] = {}
    at_rungs: dict[int, Evidence] = {}
    arms = [Arm(name=name, levels={"x": index}) for index, name in enumerate(names)]
    while True:
        evidence: Evidence = {name: results.get(name, {}) for name in names}
        references: Evidence = {"untrained": results.get("untrained", {})}
        decided = allocate(found, phase, names, given, evidence, references, (), at_rungs)
        if not decided.more(given):
            break
        taken.append(decided)
        if decided.until is not None:
            assert early is not None
            rows = decided.replicates.items()
            at_rungs[decided.until] = {name: {r: early(name, r, decided.until) for r in range(count)} for name, count in rows}
            continue
        given = {name: max(count, given.get(name, 0)) for name, count in decided.replicates.items()}
        for name, count in [*given.items(), ("untrained", given[BASELINE])]:
            known = results.setdefault(name, {})
            known |= {r: made for r in range(count) if r not in known and (made := draw(name, r)) is not None}
    concluded = conclude(
        found,
        phase,
        arms,
        evidence,
        origin=results[BASELINE],
        references=references,
        collapse={},
        stops=decided.stops,
        asked={name: range(count) for name, count in given.items()},
    )
    return concluded, given, taken


def spent(given: Mapping[str, int], taken: list[Allocation], length: float) -> float:
    """Trials of full length that a phase took, those that ended at its one rung (`length` of the whole) among them."""
    paused = next((one.replicates for one in taken if one.until is not None), {})
    return sum(max(count, length * paused.get(arm, 0) + (1 - length) * count) for arm, count in given.items())


@dataclass(frozen=True)
class Noise:
    """Of an arm's trials; replicates share nothing here, so that a difference has that of the arm and of the baseline."""

    spread: Mapping[str, float]
    alike: float = 0.0
    """Correlation of a trial's noise at the rung with its noise at the end."""


def simulated(
    found: Study, seed: int, final: Mapping[str, float], noise: Noise, at_rung: Mapping[str, float] | None = None
) -> tuple[Conclusion, dict[str, int], list[Allocation]]:
    """A phase of normal noise whose guard never breaks; `final` has the arms' effects, the reference's among them."""
    source = np.random.default_rng(seed)
    drawn: dict[tuple[str, int, str], float] = {}

    def own(name: str, replicate: int, when: str) -> float:
        return drawn.setdefault((name, replicate, when), float(source.standard_normal())) * noise.spread.get(name, 1.0)

    def draw(name: str, replicate: int) -> Metrics:
        return {"score": final.get(name, 0.0) + own(name, replicate, "end"), "health": 1.0}

    def early(name: str, replicate: int, step: int) -> Metrics:
        mixed = noise.alike * own(name, replicate, "end") + math.sqrt(1 - noise.alike**2) * own(name, replicate, f"at {step}")
        return {"score": (at_rung or {}).get(name, 0.0) + mixed}

    return played(found, [BASELINE, *(name for name in final if name != "untrained")], draw, early)


FAR = {"untrained": -40.0}
NULL = {f"null {i}": 0.0 for i in range(6)}
RACE = {"null 0": 0.0, "null 1": 0.0, "null 2": 0.0, "bad 0": -8.0, "bad 1": -8.0, "bad 2": -8.0, "good": 8.0, **FAR}


@dataclass(frozen=True)
class Outcome:
    """Of many phases."""

    power: float
    """Share of good arms that are adopted."""
    wrong: float
    """Share of phases that adopt any arm without benefit."""
    trials: float
    """Of full length, a phase."""


def prospects(phases: int, effect: float, noise: Noise, futile: int | None) -> Outcome:
    """Two arms that gain `effect` and six that gain nothing, with or without the early stop."""
    final = {"good 0": effect, "good 1": effect, **NULL, **FAR}
    found = study(futile=futile)
    outcomes = [simulated(found, seed, final, noise) for seed in range(phases)]
    adopted = [{arm.name for arm in concluded.arms if arm.verdict == "adopt"} for concluded, _, _ in outcomes]
    good = [len(one & {"good 0", "good 1"}) / 2 for one in adopted]
    wrong = [bool(one - ({"good 0", "good 1"} if effect > 0 else set())) for one in adopted]
    return Outcome(float(np.mean(good)), float(np.mean(wrong)), float(np.mean([sum(given.values()) for _, given, _ in outcomes])))


@dataclass(frozen=True)
class Raced:
    """Of many phases with a rung."""

    stopped: float
    """Share in which the good arm was stopped at the rung."""
    adopted: float
    wrong: float
    spared: float
    """Training steps beside the same phases without the rung."""


def raced(phases: int, at_rung: Mapping[str, float], check: float, who: str = "worse", length: float = 0.5) -> Raced:
    """A baseline and seven arms of which one gains, three gain nothing and three lose, and one rung; `who` stops there, by `at_rungs`."""
    noise = Noise({}, 0.6)
    stopped, adopted, wrong, spared = [], [], [], []
    for seed in range(phases):
        concluded, given, taken = simulated(study(rungs=[20], check=check, at_rungs=who, name=f"toy-{seed}"), seed, RACE, noise, at_rung)
        _, without, plain = simulated(study(), seed, RACE, noise)
        won = {arm.name for arm in concluded.arms if arm.verdict == "adopt"}
        stopped.append("Stopped at step" in concluded.arm("good").reason)
        adopted.append("good" in won)
        wrong.append(bool(won - {"good"}))
        spared.append(1 - spent(given, taken, length) / spent(without, plain, length))
    return Raced(*(float(np.mean(some)) for some in (stopped, adopted, wrong, spared)))


def guarded(phases: int, health: Callable[[float, str], float], length: float = 0.5) -> tuple[float, float, float]:
    """Seven arms of which two are good and five ill for good; what the guard's metric is at the rung, `health` says.

    Returns:
        Share of good arms adopted, share of phases that adopt an ill one, and steps beside the same phase without a rung.
    """
    final = {"good 0": 8.0, "good 1": 8.0, **{f"ill {i}": 0.0 for i in range(5)}, **FAR}
    adopted, wrong, spared = [], [], []
    for seed in range(phases):
        source = np.random.default_rng([seed, 1])
        drawn: dict[tuple[str, int], float] = {}

        def draw(name: str, replicate: int, drawn: dict[tuple[str, int], float] = drawn, source: Any = source) -> Metrics:
            own = drawn.setdefault((name, replicate), float(source.standard_normal()))
            return {"score": final.get(name, 0.0) + own, "health": 0.1 if name.startswith("ill") else 0.4}

        def early(name: str, replicate: int, step: int, source: Any = source) -> Metrics:
            return {"score": float(source.standard_normal()), "health": health(float(source.standard_normal()), name)}

        names = [BASELINE, *(name for name in final if name != "untrained")]
        concluded, given, taken = played(study(rungs=[20], name=f"toy-{seed}"), names, draw, early)
        _, without, plain = played(study(), names, draw)
        won = {arm.name for arm in concluded.arms if arm.verdict == "adopt"}
        adopted.append(len(won & {"good 0", "good 1"}) / 2)
        wrong.append(bool(won - {"good 0", "good 1"}))
        spared.append(1 - spent(given, taken, length) / spent(without, plain, length))
    return float(np.mean(adopted)), float(np.mean(wrong)), float(np.mean(spared))


def main(phases: int) -> None:
    """Print the tables."""
    print(f"{phases} phases each, looks 4 to 6, `check` .125 where not said otherwise. {machine()}\n")
    print("No prospect: 8 arms of which two gain the effect (in standard deviations of a trial), a guard that never breaks.\n")
    print("| noise of the arms | effect | `futile` | good arms adopted | phases that adopt another | trials |\n|" + " --- |" * 6)
    alike, unequal = Noise({}), Noise({"good 0": 3.0, "null 0": 3.0, "null 1": 2.0, "null 2": 0.5})
    for noise, said in ((alike, "alike"), (unequal, "a good arm's 3 x")):
        for effect in (0.0, 4.0, 8.0):
            for futile in (None, 3, 2):
                one = prospects(phases, effect, noise, futile)
                shown = "-" if effect == 0 else f"{one.power:.2f}"
                print(f"| {said} | {effect:g} | {futile or 'from start on'} | {shown} | {one.wrong:.3f} | {one.trials:.1f} |", flush=True)
    print("\nA rung at half of the training: one arm gains 8 in the end, three gain nothing, three lose 8; noise there goes with that of")
    print("the end by .6.\n")
    print("| effects at the rung | who stops | `check` | good arm stopped | good arm adopted | wrong | spared |\n|" + " --- |" * 7)
    half, quarter = ({arm: effect / by for arm, effect in RACE.items()} for by in (2, 4))
    most = {arm: 0.75 * effect for arm, effect in RACE.items()}
    cases: list[tuple[str, Mapping[str, float], str, float]] = [
        ("half of those at the end", half, "worse", 0.125),
        ("a quarter", quarter, "worse", 0.125),
        ("none yet", {}, "worse", 0.125),
        ("a quarter, but the good arm loses 2 there", quarter | {"good": -2.0}, "worse", 0.125),
        ("the same", quarter | {"good": -2.0}, "worse", 0.0),
        ("the same", quarter | {"good": -2.0}, "worse", 1.0),
        ("a quarter, but the good arm loses 8 there", quarter | {"good": -8.0}, "worse", 0.125),
        ("three quarters", most, "unlikely", 0.125),
        ("half", half, "unlikely", 0.125),
        ("a quarter", quarter, "unlikely", 0.125),
        ("none yet", {}, "unlikely", 0.125),
        ("the same", {}, "unlikely", 1.0),
    ]
    for said, at_rung, who, check in cases:
        found = raced(phases, at_rung, check, who)
        print(
            f"| {said} | {who} | {check} | {found.stopped:.0%} | {found.adopted:.0%} | {found.wrong:.1%} | {found.spared:.0%} |", flush=True
        )
    print("\nA guard at that rung: two good arms and five that break it in the end, always.\n")
    print("| the guard's metric at the rung (bound .2) | good arms adopted | wrong | spared |\n|" + " --- |" * 4)
    kinds: dict[str, Callable[[float, str], float]] = {
        "as at the end": lambda z, name: 0.1 if name.startswith("ill") else 0.4,
        "good arms .3 +- .1": lambda z, name: 0.1 if name.startswith("ill") else 0.3 + 0.1 * z,
        "good arms .2 +- .1: at the bound": lambda z, name: 0.1 if name.startswith("ill") else 0.2 + 0.1 * z,
        "all arms below it": lambda z, name: 0.1,
    }
    for said, health in kinds.items():
        power, false, less = guarded(phases, health)
        print(f"| {said} | {power:.2f} | {false:.3f} | {less:.0%} |", flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 400)
