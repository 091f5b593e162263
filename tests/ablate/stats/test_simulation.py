"""The error rates that the verdicts promise, by simulation at small size: seeds fixed, so never a matter of luck."""

from __future__ import annotations

import numpy as np
import pytest
from jaxtyping import Float
from scipy.special import stdtr

from ablate.stats.effects import paired
from ablate.stats.family import better_than_all
from ablate.stats.intervals import Simultaneous, holm, simultaneous
from ablate.stats.looks import Looks

ALPHA = 0.05
STUDIES = 15_000
MARGIN = 3.5 * np.sqrt(ALPHA * (1 - ALPHA) / STUDIES)
"""Standard errors that cover some thirty checks at once: a single arm's interval misses in exactly alpha of the studies."""


def differences(truth: list[float], pairs: int, seed: int) -> Float[np.ndarray, "studies arms pairs"]:
    """Arms that share one baseline, as in a phase, so that their differences correlate by one half; unit noise."""
    noise = np.random.default_rng(seed)
    baseline = noise.standard_normal((STUDIES, 1, pairs))
    arms = noise.standard_normal((STUDIES, len(truth), pairs)) + np.array(truth)[:, None]
    return np.asarray(arms - baseline)


def judged(found: Float[np.ndarray, "studies arms pairs"]) -> Simultaneous:
    pairs = found.shape[-1]
    error = found.std(axis=-1, ddof=1) / np.sqrt(pairs)
    return simultaneous(found.mean(axis=-1), error, np.full(error.shape, pairs - 1.0), ALPHA)


def missed(found: Simultaneous, truth: list[float]) -> float:
    """Share of studies in which any interval misses its true value."""
    inside = (found.low <= np.array(truth)) & (np.array(truth) <= found.high)
    return float((~inside.all(axis=-1)).mean())


@pytest.mark.parametrize("pairs", [3, 4, 6, 8])
def test_with_eight_null_arms_any_false_adoption_is_rarer_than_alpha(pairs: int) -> None:
    found = judged(differences([0.0] * 8, pairs, seed=pairs))
    assert (found.p_adjusted < ALPHA).any(axis=-1).mean() <= ALPHA / 2 + MARGIN
    assert missed(found, [0.0] * 8) <= ALPHA + MARGIN


@pytest.mark.parametrize("pairs", [3, 4, 8])
@pytest.mark.parametrize(
    "truth",
    [[0.0] * 4 + [4.0] * 4, [0.0] * 4 + [20.0] * 4, [3.0] * 8, [-2.0] * 4 + [0.0] * 4, [0.0, 0.3, 1.0, 2.0, 5.0, 10.0], [0.0], [5.0]],
    ids=["mixed", "nulls and large effects", "all better", "worse and null", "graded", "one null", "one better"],
)
def test_all_intervals_hold_at_once_whatever_the_truth(truth: list[float], pairs: int) -> None:
    found = judged(differences(truth, pairs, seed=100 + pairs))
    assert missed(found, truth) <= ALPHA + MARGIN


def test_uncorrected_intervals_would_fail_this_check() -> None:
    found = differences([0.0] * 8, 4, seed=4)
    error = found.std(axis=-1, ddof=1) / 2
    alone = simultaneous(found.mean(axis=-1)[..., None], error[..., None], np.full((*error.shape, 1), 3.0), ALPHA)
    with pytest.raises(AssertionError):
        assert missed(Simultaneous(alone.p_adjusted[..., 0], alone.low[..., 0], alone.high[..., 0]), [0.0] * 8) <= ALPHA + MARGIN


def test_spending_the_informative_share_twice_would_fail_this_check() -> None:
    """Lower bounds at alpha / 2 beside Holm and Bonferroni: what one would do without the proof."""
    truth = [0.0] * 4 + [20.0] * 4
    found = differences(truth, 4, seed=5)
    honest = judged(found)
    single = judged(found[..., :1, :])
    naive = [single] + [judged(found[..., i : i + 1, :]) for i in range(1, 8)]
    low = np.concatenate([one.low for one in naive], axis=-1)
    with pytest.raises(AssertionError):
        assert missed(Simultaneous(honest.p_adjusted, np.maximum(low, honest.low), honest.high), truth) <= ALPHA + MARGIN


def test_large_effects_beside_nulls_get_a_lower_bound_that_says_something() -> None:
    found = judged(differences([0.0] * 4 + [20.0] * 4, 4, seed=6))
    assert (found.low[:, 4:] > 1.0).mean() > 0.95


def references(pairs: int, seed: int) -> tuple[Float[np.ndarray, "studies arms"], Float[np.ndarray, "studies arms"]]:
    """One-sided p against a collapsed baseline (clear) and against a reference that no arm beats."""
    noise = np.random.default_rng(seed)
    arms, reference = noise.standard_normal((STUDIES, 8, pairs)), noise.standard_normal((STUDIES, 1, pairs))
    collapsed = noise.standard_normal((STUDIES, 1, pairs)) - 40

    def p(found: Float[np.ndarray, "studies arms pairs"]) -> Float[np.ndarray, "studies arms"]:
        t = found.mean(axis=-1) / (found.std(axis=-1, ddof=1) / np.sqrt(pairs))
        return np.asarray(stdtr(pairs - 1.0, -t))

    return p(arms - collapsed), p(arms - reference)


@pytest.mark.parametrize("pairs", [3, 4, 8])
def test_arms_that_only_undo_the_collapse_are_rarely_adopted(pairs: int) -> None:
    over_baseline, over_reference = references(pairs, seed=7)
    adopted = 2 * holm(np.maximum(over_baseline, over_reference)) < ALPHA
    assert adopted.any(axis=-1).mean() <= ALPHA / 2 + MARGIN


@pytest.mark.parametrize("pairs", [3, 4, 8])
def test_an_uncorrected_test_against_the_reference_would_adopt_one_study_in_seven(pairs: int) -> None:
    over_baseline, over_reference = references(pairs, seed=7)
    adopted = (2 * holm(over_baseline) < ALPHA) & (over_reference < ALPHA / 2)
    assert adopted.any(axis=-1).mean() > 0.12


def test_better_than_all_takes_the_worst_p_and_corrects_it_over_the_arms() -> None:
    noise = np.random.default_rng(8)
    baseline, reference = noise.normal(0, 0.1, 5), noise.normal(1, 0.1, 5)
    arms = {f"arm {i}": noise.normal(1 + i / 2, 0.1, 5) for i in range(3)}

    def numbered(values: Float[np.ndarray, "replicates"]) -> dict[int, float]:
        return dict(enumerate(values.tolist()))

    benefits = {name: paired(numbered(values), numbered(baseline)) for name, values in arms.items()}
    over = {name: paired(numbered(values), numbered(reference)) for name, values in arms.items()}
    worst = [max(benefits[name].p_greater() or 1.0, over[name].p_greater() or 1.0) for name in arms]
    expected = np.minimum(1.0, 2 * holm(np.array(worst)))
    assert list(better_than_all(benefits, {"untrained": over}, Looks(5, 5)).values()) == pytest.approx(expected.tolist())
