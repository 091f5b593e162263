"""The first phase of `studies/collapse.yaml` decided by several methods: same arms, same trials, each choosing which to run and how far.

    PYTHONPATH=. python benchmarks/verdicts.py [PHASES]
    PYTHONPATH=. python benchmarks/verdicts.py --keep RUNS STUDY    # writes the curves of an exhaustive run, once it has been run

First the trials that were really run, replayed; then phases drawn with their means and noise, and with no arm better than the baseline. The
pruners are Optuna's own. They adopt nobody, so that each is given the rule that a user would write: an arm is adopted where its mean over
what it completed lies above the baseline's by more than a margin, and that margin is set by simulation so that with no arm better it adopts
one as often as ours may (alpha / 2). Guards are held against every method's arms.
"""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import optuna
from jaxtyping import Float

from ablate.conclusion import Metrics
from ablate.results import Results
from ablate.study import BASELINE, Study
from benchmarks.early import played, spent, study
from benchmarks.side import machine

KEPT = Path(__file__).resolve().parents[1] / "studies/reports/collapse_curves.json"
OBJECTIVE, GUARD = "probe/local_to_global_mrr", "probe/foreground_mutual_information"
RUNG, END = 30, 100
"""Steps at which the trials were measured: `rungs` of the study, and its trials' length. Hyperband also sees the half."""

MOST, HEALTHY, RATE = 6, 0.2, 0.025
"""Replicates of the exhaustive design, bound of the guard, and the one-sided rate of false adoptions in a phase."""

SEEN = (30, 50, 100)

Trials = Mapping[str, Mapping[int, Mapping[int, tuple[float, float]]]]
"""Arm to replicate to step to objective and guard."""


@dataclass(frozen=True)
class Decided:
    """What a method found in one phase."""

    adopted: frozenset[str]
    steps: float
    """Training steps, all arms and the baseline together."""


@dataclass(frozen=True)
class Shown:
    """What a pruner's run leaves: for each arm that completed any, how far its mean lies above the baseline's."""

    above: Mapping[str, float]
    steps: float

    def decided(self, margin: float) -> Decided:
        """By the rule that a user would write."""
        return Decided(frozenset(arm for arm, gain in self.above.items() if gain > margin), self.steps)


def ours(found: Study, trials: Trials) -> Decided:
    """As `ablate` plays a phase under this study's rules."""

    def draw(name: str, replicate: int) -> Metrics:
        value, guard = trials[name][replicate][0 if name == "untrained" else END]
        return {"score": value, "health": guard}

    def early(name: str, replicate: int, step: int) -> Metrics:
        value, guard = trials[name][replicate][step]
        return {"score": value, "health": guard}

    names = [BASELINE, *(name for name in trials if name not in (BASELINE, "untrained"))]
    concluded, given, taken = played(found, names, draw, early)
    adopted = frozenset(arm.name for arm in concluded.arms if arm.verdict == "adopt")
    return Decided(adopted, END * spent(given, taken, RUNG / END))


def hyperband(trials: Trials, seed: int) -> Shown:
    """One Optuna trial for each arm and replicate, replicate by replicate, pruned at the steps where it is measured."""
    pruner = optuna.pruners.HyperbandPruner(min_resource=RUNG, max_resource=END, reduction_factor=2)
    asked = optuna.create_study(
        direction="maximize", pruner=pruner, sampler=optuna.samplers.RandomSampler(seed), study_name=f"phase {seed}"
    )
    order = np.random.default_rng(seed)
    completed: dict[str, list[float]] = {}
    steps = 0
    for replicate in range(MOST):
        for arm in order.permutation(_arms(trials)):
            trial = asked.ask()
            for step in SEEN:
                trial.report(trials[arm][replicate][step][0], step)
                # Nobody would let the pruner take the baseline, which all else is compared with.
                if step < END and arm != BASELINE and trial.should_prune():
                    asked.tell(trial, state=optuna.trial.TrialState.PRUNED)
                    break
            else:
                asked.tell(trial, trials[arm][replicate][END][0])
                completed.setdefault(str(arm), []).append(trials[arm][replicate][END][0])
            steps += step
    other = float(np.mean(completed[BASELINE]))
    return Shown({arm: float(np.mean(values)) - other for arm, values in completed.items() if _eligible(trials, arm)}, steps)


def wilcoxon(trials: Trials, seed: int) -> Shown:
    """One Optuna trial for each arm, the baseline first, with its replicates at full length as the instances; Optuna's defaults."""
    asked = optuna.create_study(direction="maximize", pruner=optuna.pruners.WilcoxonPruner(), sampler=optuna.samplers.RandomSampler(seed))
    rivals = np.random.default_rng(seed).permutation([arm for arm in _arms(trials) if arm != BASELINE])
    above, steps = {}, 0
    for arm in [BASELINE, *map(str, rivals)]:
        trial = asked.ask()
        values: list[float] = []
        pruned = False
        for replicate in range(MOST):
            values.append(trials[arm][replicate][END][0])
            trial.report(values[-1], replicate)
            steps += END
            pruned = arm != BASELINE and trial.should_prune()
            if pruned:
                break
        asked.tell(trial, float(np.mean(values)))  # as Optuna's manual has it: the mean so far, also of a pruned one
        if not pruned and _eligible(trials, arm):
            other = [trials[BASELINE][replicate][END][0] for replicate in range(MOST)]
            above[arm] = float(np.mean(values) - np.mean(other))
    return Shown(above, steps)


def _arms(trials: Trials) -> list[str]:
    return [arm for arm in trials if arm != "untrained"]


def _eligible(trials: Trials, arm: str) -> bool:
    """Whether it competes and keeps its guard in the end."""
    return arm != BASELINE and float(np.mean([trials[arm][r][END][1] for r in range(MOST)])) >= HEALTHY


@dataclass(frozen=True)
class Model:
    """Means of arms and noise of trials, as the real phase had them."""

    arms: Sequence[str]
    mean: Float[np.ndarray, "arms steps"]
    guard: Float[np.ndarray, "arms steps"]
    level: Float[np.ndarray, "steps steps"]
    """Root of the covariance over steps of what the trials of one replicate share."""
    noise: Float[np.ndarray, "steps steps"]
    """The same of what each has for itself."""

    def drawn(self, seed: int, *, null: bool) -> Trials:
        """A phase; with `null` every arm has the baseline's mean, and keeps its guard."""
        source = np.random.default_rng(seed)
        mean = np.broadcast_to(self.mean[self.arms.index(BASELINE)], self.mean.shape) if null else self.mean
        shared = source.standard_normal((1, MOST, len(SEEN))) @ self.level.T
        values = mean[:, None, :] + shared + source.standard_normal((len(self.arms), MOST, len(SEEN))) @ self.noise.T
        found: dict[str, dict[int, dict[int, tuple[float, float]]]] = {}
        for a, arm in enumerate(self.arms):
            health = np.ones(len(SEEN)) if null else self.guard[a]
            found[arm] = {r: {s: (float(values[a, r, k]), float(health[k])) for k, s in enumerate(SEEN)} for r in range(MOST)}
        # It is beaten by whoever learns; a reference that shields from wrong adoptions would flatter our rate.
        reference = float(mean.min()) - 1.0 if null else self.mean[self.arms.index(BASELINE), -1] + 0.02
        found["untrained"] = {r: {0: (reference + 0.01 * float(source.standard_normal()), 1.0)} for r in range(MOST)}
        return found


def fitted(trials: Trials) -> Model:
    """The noise is what arms and replicates leave, pooled over arms; the level is what replicates share beyond that noise."""
    arms = _arms(trials)
    table = np.array([[[trials[arm][r][s] for s in SEEN] for r in range(MOST)] for arm in arms])
    values, mean = table[..., 0], table[..., 0].mean(axis=1)
    centred = values - mean[:, None, :]
    shared = centred.mean(axis=0)
    left = (centred - shared).reshape(-1, len(SEEN))
    noise = left.T @ left / ((len(arms) - 1) * (MOST - 1))
    level = shared.T @ shared / (MOST - 1) - noise / len(arms)
    return Model(arms, mean, table[..., 1].mean(axis=1), _root(level), _root(noise))


def _root(covariance: Float[np.ndarray, "steps steps"]) -> Float[np.ndarray, "steps steps"]:
    values, vectors = np.linalg.eigh(covariance)
    return np.asarray(vectors * np.sqrt(np.maximum(values, 0.0)))


Pruner = Callable[[Trials, int], Shown]
PRUNERS: dict[str, Pruner] = {"Optuna HyperbandPruner": hyperband, "Optuna WilcoxonPruner": wilcoxon}

RULES: dict[str, Study] = {
    "exhaustive: every arm, six replicates, full length": study(start=MOST, at_most=MOST, condemn=None, futile=None),
    "ablate without rungs": study(),
    f"ablate as in collapse.yaml: a rung at {RUNG}, unlikely arms stop": study(rungs=[RUNG], at_rungs="unlikely"),
}


def margins(model: Model, phases: int) -> dict[str, float]:
    """For each pruner the margin with which it adopts any arm in `RATE` of the phases where none is better."""
    drawn = [model.drawn(10_000 + seed, null=True) for seed in range(phases)]
    found = {}
    for name, pruner in PRUNERS.items():
        best = [max(pruner(trials, seed).above.values(), default=-np.inf) for seed, trials in enumerate(drawn)]
        found[name] = float(np.quantile(best, 1 - RATE))
    return found


def methods(margin: Mapping[str, float]) -> dict[str, Callable[[Trials, int], Decided]]:
    """Name to what decides a phase, given a seed."""

    def by_rules(rules: Study, trials: Trials, seed: int) -> Decided:
        return ours(rules, trials)

    def by_pruner(pruner: Pruner, least: float, trials: Trials, seed: int) -> Decided:
        return pruner(trials, seed).decided(least)

    return {name: partial(by_rules, rules) for name, rules in RULES.items()} | {
        name: partial(by_pruner, pruner, margin[name]) for name, pruner in PRUNERS.items()
    }


def kept(path: Path = KEPT) -> Trials:
    """The curves of the exhaustive run's first phase."""
    rows = json.loads(path.read_text())["trials"]
    found: dict[str, dict[int, dict[int, tuple[float, float]]]] = {}
    for arm, replicate, step, value, guard in rows:
        found.setdefault(arm, {}).setdefault(replicate, {})[step] = (value, guard)
    return found


def keep(runs: Path, name: str, path: Path = KEPT) -> None:
    """Write the objective and the guard of the first phase's trials, at the steps where both were measured."""
    results = Results(runs, name)
    phase = results.conclusions[0]
    frame = results.curves([OBJECTIVE, GUARD])
    arms = {arm.name for arm in phase.arms if not arm.same_trials_as_baseline}
    frame = frame[
        ((frame["phase"] == phase.phase) & frame["arm"].isin(arms)) | ((frame["phase"] == "references") & (frame["arm"] == "untrained"))
    ]
    frame = frame[frame["replicate"] < MOST]
    wide = frame.pivot_table(index=["arm", "replicate", "step"], columns="metric", values="value").reset_index()
    rows = [
        [a, int(r), int(s), round(v, 6), round(g, 6)] for a, r, s, v, g in wide[["arm", "replicate", "step", OBJECTIVE, GUARD]].to_numpy()
    ]
    lines = ",\n".join(json.dumps(row) for row in rows)
    head = json.dumps(
        {
            "study": name,
            "phase": phase.phase,
            "code_version": results.code_version,
            "columns": ["arm", "replicate", "step", OBJECTIVE, GUARD],
        }
    )
    path.write_text(f'{head[:-1]}, "trials": [\n{lines}\n]}}\n')


def main(phases: int) -> None:
    """Print the tables."""
    trials = kept()
    model = fitted(trials)
    margin = margins(model, 2 * phases)
    every = methods(margin)
    whole = END * MOST * len(_arms(trials))
    truly = every[next(iter(RULES))](trials, 0).adopted
    print(
        f"{len(_arms(trials))} arms with the baseline, {MOST} replicates of {END} steps at most; {phases} simulated phases. {machine()}\n"
    )
    columns = ("method", "steps", "adopts", "simulated: steps", "adopts both good arms", "adopts another", "none better: adopts any")
    print("| " + " | ".join(columns) + " |")
    print("|" + " --- |" * 7)
    for name, method in every.items():
        real = method(trials, 0)
        same = (
            "the same arms"
            if real.adopted == truly
            else f"{len(real.adopted & truly)} of these {len(truly)}, {len(real.adopted - truly)} other"
        )
        same = f"{len(truly)} arms" if name == next(iter(RULES)) else same
        planted = [method(model.drawn(seed, null=False), seed) for seed in range(phases)]
        null = [method(model.drawn(20_000 + seed, null=True), seed) for seed in range(phases)]
        found = np.mean([truly <= one.adopted for one in planted])
        other = np.mean([bool(one.adopted - truly) for one in planted])
        false = np.mean([bool(one.adopted) for one in null])
        steps = float(np.mean([one.steps for one in planted]))
        print(
            f"| {name} | {real.steps:,.0f} ({real.steps / whole:.0%}) | {same} | {steps:,.0f} ({steps / whole:.0%}) | {found:.0%} "
            f"| {other:.1%} | {false:.1%} |",
            flush=True,
        )
    told = ", ".join(f"{value:.3f} for {name}" for name, value in margin.items())
    print(f"\nMargins by which a mean must lie above the baseline's, set on {2 * phases} other phases: {told}.")


if __name__ == "__main__":
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    if sys.argv[1:2] == ["--keep"]:
        keep(Path(sys.argv[2]), sys.argv[3])
    else:
        main(int(sys.argv[1]) if len(sys.argv) > 1 else 200)
