"""Error rates, power and cost of the sequential rule, by simulation.

    PYTHONPATH=. python benchmarks/sequential.py [STUDIES]

Every arm and the baseline draw a value a replicate; an arm's differences share the baseline's values, as in a phase. Seeds are fixed.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import numpy as np
from jaxtyping import Float

from ablate.stats import looks as rule
from ablate.stats.effects import Paired
from ablate.stats.intervals import simultaneous
from ablate.stats.looks import Looks
from ablate.stats.sequential import repeated
from ablate.stats.stopping import judge
from benchmarks.side import machine

ALPHA = 0.05
Draw = Callable[[np.random.Generator, tuple[int, ...]], Float[np.ndarray, "..."]]

EXCHANGEABLE: dict[str, Draw] = {
    "normal": lambda g, s: g.standard_normal(s),
    "uniform": lambda g, s: g.uniform(-1.7, 1.7, s),
    "two values": lambda g, s: g.integers(0, 2, s) + 0.01 * g.standard_normal(s),
    "Student t, 3 df": lambda g, s: g.standard_t(3, s),
    "exponential": lambda g, s: g.exponential(1.0, s),
    "log-normal": lambda g, s: g.lognormal(0, 1, s),
}
"""Arms and baseline alike, so that each difference is symmetric about 0 without being normal."""


def statistics(values: Float[np.ndarray, "studies arms pairs"], looks: Looks) -> tuple[Float[np.ndarray, "..."], Float[np.ndarray, "..."]]:
    """Mean and standard error at each look."""
    seen = [values[..., : int(n)] for n in looks.pairs]
    mean = np.stack([s.mean(axis=-1) for s in seen], axis=-1)
    return mean, np.stack([s.std(axis=-1, ddof=1) / np.sqrt(s.shape[-1]) for s in seen], axis=-1)


def null(values: Float[np.ndarray, "studies arms pairs"], looks: Looks, truth: float = 0.0) -> tuple[float, float]:
    """Share of studies with any false adoption at any look, and with any interval that misses."""
    found = repeated(*statistics(values, looks), looks, ALPHA)
    missed = (found.low > truth) | (found.high < truth)
    return float((found.p_adjusted < ALPHA).any(axis=-1).mean()), float(missed.any(axis=-1).mean())


def planted(effect: float, looks: Looks, studies: int, arms: int = 8, good: int = 2) -> tuple[float, float, float, float]:
    """Power for each good arm and runs a study: sequential, then fixed with `at_most` replicates at the same error rate.

    An arm stops where it is adopted, or where its interval lies below the smallest effect (half the planted one).
    """
    noise = np.random.default_rng(7)
    truth = np.array([effect] * good + [0.0] * (arms - good))[:, None] * np.sqrt(2)
    values = noise.standard_normal((studies, arms, looks.at_most)) + truth - noise.standard_normal((studies, 1, looks.at_most))
    mean, error = statistics(values, looks)
    smallest = effect * np.sqrt(2) / 2
    open_ = np.ones((studies, arms), dtype=bool)
    adopted = np.zeros_like(open_)
    runs = np.full(studies, looks.start * (arms + 1.0))
    for k in range(len(looks.pairs)):
        seen = np.where(open_[..., None], mean, np.nan) if k == 0 else seen
        if k > 0:
            runs += open_.sum(axis=-1) + open_.any(axis=-1)
            seen[..., k] = np.where(open_, mean[..., k], np.nan)
        now = seen.copy()
        now[..., k + 1 :] = np.nan
        found = repeated(now, error, looks, ALPHA)
        adopted |= open_ & (found.p_adjusted < ALPHA) & (mean[..., k] >= smallest)
        open_ &= ~adopted & ~(found.high < smallest)
    fixed = simultaneous(mean[..., -1], error[..., -1], np.full(error.shape[:-1], looks.at_most - 1.0), ALPHA)
    once = (fixed.p_adjusted < ALPHA) & (mean[..., -1] >= smallest)
    return float(adopted[:, :good].mean()), float(runs.mean()), float(once[:, :good].mean()), float(looks.at_most * (arms + 1))


def main(studies: int) -> None:
    """Print the tables."""
    allowed = ALPHA + 2 * np.sqrt(ALPHA * (1 - ALPHA) / studies)
    print(f"{studies:,} studies of 8 arms without benefit, alpha {ALPHA}; allowed {allowed:.4f}. {machine()}")
    print("Share with any false adoption at any look / with any interval that misses, arms and baseline alike:\n")
    windows = [Looks(3, 3), Looks(3, 5), Looks(4, 6), Looks(3, 8), Looks(8, 8)]
    head = "| values | " + " | ".join(f"{w.start} to {w.at_most}" for w in windows) + " |\n|" + " --- |" * (len(windows) + 1)
    print(head)
    for name, draw in EXCHANGEABLE.items():
        noise = np.random.default_rng(1)
        cells = []
        for w in windows:
            values = draw(noise, (studies, 8, w.at_most)) - draw(noise, (studies, 1, w.at_most))
            cells.append("{:.4f} / {:.4f}".format(*null(values, w)))
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)
    noise = np.random.default_rng(2)
    print("\nOutside the assumption (the arm's noise is not the baseline's; means equal):\n\n" + head)
    odd: dict[str, Callable[[int], Float[np.ndarray, "..."]]] = {
        "arms exponential, baseline constant": lambda n: noise.exponential(1, (studies, 8, n)) - 1,
        "arms minus exponential, baseline constant": lambda n: 1 - noise.exponential(1, (studies, 8, n)),
        "arms minus log-normal, baseline constant": lambda n: np.exp(0.5) - noise.lognormal(0, 1, (studies, 8, n)),
        "noise of an arm 5 x the baseline's": lambda n: 5 * noise.standard_normal((studies, 8, n)) - noise.standard_normal((studies, 1, n)),
        "noise 1 to 8 x by arm": lambda n: (
            np.arange(1.0, 9)[:, None] * noise.standard_normal((studies, 8, n)) - noise.standard_normal((studies, 1, n))
        ),
        "noise differs by replicate (1 or 10 x)": lambda n: (
            noise.choice([1.0, 10.0], (studies, 1, n)) * noise.standard_normal((studies, 8, n))
        ),
    }
    for name, values_of in odd.items():
        print(f"| {name} | " + " | ".join("{:.4f} / {:.4f}".format(*null(values_of(w.at_most), w)) for w in windows) + " |", flush=True)
    print("\nPower for each of 2 good arms of 8, and runs (trials) a study; effect in standard deviations of a difference.\n")
    print("| looks | effect | power | runs | fixed: power | fixed: runs | share of runs |\n|" + " --- |" * 7)
    for w in (Looks(3, 8), Looks(4, 8), Looks(4, 6)):
        for effect in (1.5, 2.5, 4.0, 8.0):
            power, runs, fixed, all_ = planted(effect, w, max(1000, studies // 10))
            print(
                f"| {w.start} to {w.at_most} | {effect} | {power:.2f} | {runs:.1f} | {fixed:.2f} | {all_:.0f} | {runs / all_:.2f} |",
                flush=True,
            )


def futility(studies: int) -> None:
    """Power and trials with the futility stop: the whole of `judge`, as a phase of 2 good arms and 6 null ones would call it."""
    looks = Looks(3, 8)
    for effect in (2.5, 4.0, 8.0):
        noise = np.random.default_rng(7)
        truth = effect * np.sqrt(2) * (np.arange(8) < 2)[:, None]
        runs, found = 0, 0
        for _ in range(studies):
            values = truth + noise.standard_normal((8, 8)) - noise.standard_normal((1, 8))
            held = dict.fromkeys(range(8), 3)
            runs += 9 * 3
            for _ in range(3, 9):
                arms = {str(a): Paired(dict(enumerate(values[a, :n].tolist())), (), 10.0) for a, n in held.items()}
                judged = judge(arms, looks, ALPHA, effect * np.sqrt(2) / 2)
                more = [a for a in held if judged[str(a)].decision == "go on"]
                runs += len(more) + bool(more)
                held |= {a: held[a] + 1 for a in more}
            found += sum(judged[str(a)].decision == "adopt" for a in (0, 1))
        print(f"effect {effect}: power {found / studies / 2:.2f}, {runs / studies:.1f} of 72 trials", flush=True)


def growth(studies: int) -> None:
    """How the weights of looks were chosen."""
    for value in (0.0, 1.0, 2.0, 3.0, 4.0, 6.0):
        rule.GROWTH = value
        rule._table.cache_clear()
        print(value, [tuple(round(x, 2) for x in planted(effect, Looks(3, 8), studies)[:2]) for effect in (1.5, 2.5, 4.0, 8.0)], flush=True)


if __name__ == "__main__":
    if sys.argv[1:] == ["growth"]:
        growth(2000)
    elif sys.argv[1:] == ["futility"]:
        futility(100)
    else:
        main(int(sys.argv[1]) if len(sys.argv) > 1 else 20_000)
