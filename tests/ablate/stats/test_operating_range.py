"""Operating ranges: a planted plateau and a planted cliff are found and described; nothing feasible is said."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import qmc
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Matern

from ablate.stats.operating_range import Measured, Threshold, operating_range
from ablate.stats.surrogate import fit

HU = Threshold("foreground_threshold", -700, 300)
RATIO = Threshold("min_foreground_ratio", 0.0, 1.0)


def measured(count: int = 48, noise: float = 0.01) -> list[Measured]:
    """Flat at 1 for ratios from .3 to .7, sloping below, a cliff of 1 above .7; the threshold does nothing."""
    draw = np.random.default_rng(0)
    places = qmc.Halton(2, rng=1).random(count)
    points = []
    for hu, ratio in places:
        truth = 0.0 if ratio > 0.7 else 1.0 - max(0.0, 0.3 - ratio)
        values = {r: truth + noise * draw.standard_normal() for r in range(3)}
        points.append(Measured({HU.name: -700 + 1000 * float(hu), RATIO.name: float(ratio)}, values, True))
    return points


def test_a_planted_plateau_and_a_planted_cliff_are_found_and_described() -> None:
    found = operating_range([HU, RATIO], measured(), 0.1)
    assert found.recommended is not None
    assert found.worst_replicate is not None
    assert 0.3 < found.recommended[RATIO.name] < 0.65
    threshold, ratio = found.spans
    assert 0.1 < ratio.low < 0.35
    assert 0.6 < ratio.high < 0.78
    assert ratio.cliffs == (ratio.high,)
    assert threshold.cliffs == ()
    assert threshold.sensitivity < ratio.sensitivity / 3
    assert found.worst_replicate > 0.85
    assert any(s.startswith("min_foreground_ratio has a cliff just above 0.") for s in found.sentences)


def test_less_is_better_gives_the_same_place() -> None:
    turned = [Measured(p.levels, {r: -v for r, v in p.objective.items()}, True) for p in measured()]
    one, other = operating_range([HU, RATIO], measured(), 0.1), operating_range([HU, RATIO], turned, 0.1, sign=-1)
    assert one.recommended == other.recommended
    assert other.predicted == pytest.approx(-(one.predicted or 0.0))


def test_infeasible_regions_are_left_out() -> None:
    points = [
        Measured(p.levels, p.objective if p.levels[RATIO.name] < 0.5 else {}, p.levels[RATIO.name] < 0.5, "no crop meets the ratio")
        for p in measured()
    ]
    found = operating_range([HU, RATIO], points, 0.1)
    assert found.spans[1].high < 0.6
    none = operating_range([HU, RATIO], [Measured(p.levels, {}, False, "no crop meets the ratio") for p in points], 0.1)
    assert none.recommended is None
    assert none.sentences == ("No operating range: none of 48 points is feasible: no crop meets the ratio.",)


def test_bad_points_are_said() -> None:
    points = measured()
    points[0] = Measured(points[0].levels, {0: math.nan, 1: math.inf}, True)
    points[1] = Measured({HU.name: 0.0}, {0: 1.0}, True)
    points[2] = Measured(points[2].levels, {**points[2].objective, 3: math.nan}, True)
    found = operating_range([HU, RATIO], points, 0.1)
    assert found.dropped == (
        "point 1: no finite objective",
        "point 2: no value of min_foreground_ratio",
        "point 3: 1 of its replicates, NaN or infinite",
    )
    assert "too few" in operating_range([HU, RATIO], points[3:5], 0.1).sentences[0]
    assert operating_range([HU], [], 0.1).sentences == ("No operating range: no point was measured.",)


def test_the_surrogate_equals_scikit_learn_at_the_same_parameters() -> None:
    draw = np.random.default_rng(2)
    at, where = draw.random((20, 2)), draw.random((30, 2))
    values = np.sin(4 * at[:, 0]) + at[:, 1]
    found = fit(at, values, np.full(20, 0.01))
    noise = (found._factor @ found._factor.T).diagonal() - found.amplitude
    peer = GaussianProcessRegressor(ConstantKernel(found.amplitude) * Matern(found.lengths, nu=2.5), alpha=noise, optimizer=None)
    peer.fit(at, values - found.centre)
    mean, deviation = peer.predict(where, return_std=True)
    ours = found.predict(where)
    np.testing.assert_allclose(ours[0], mean + found.centre, atol=1e-6)
    np.testing.assert_allclose(ours[1], deviation, atol=1e-5)


def test_constant_objectives_make_the_whole_range_as_good() -> None:
    points = [Measured(p.levels, dict.fromkeys(range(3), 0.5), True) for p in measured()]
    found = operating_range([HU, RATIO], points, 0.1)
    assert found.share == 1.0
    assert all(span.low_open and span.high_open and not span.cliffs for span in found.spans)


def test_a_range_that_rests_on_predicted_means_alone_says_so() -> None:
    noisy = operating_range([HU, RATIO], measured(8, noise=5.0), 1e-3)
    assert noisy.recommended is not None
    assert noisy.sentences[0].startswith("Nowhere is the objective within the smallest effect of the best with probability 0.9")
    assert "ablate tune STUDY --points N" in noisy.sentences[0]
    assert not any("Nowhere" in sentence for sentence in operating_range([HU, RATIO], measured(), 0.1).sentences)


def test_points_measured_once_leave_the_noise_and_the_level_of_a_replicate_to_the_others() -> None:
    def measured_on(counts: tuple[int, int]) -> list[Measured]:
        level, draw = (0.0, 3.0), np.random.default_rng(2)
        rows = [(p, 0.001 * draw.standard_normal(2)) for p in measured(24, noise=0.0) if p.levels[RATIO.name] < 0.65]
        return [
            Measured(p.levels, {r: p.objective[0] + level[r] + float(noise[r]) for r in range(counts[k % 2])}, True)
            for k, (p, noise) in enumerate(rows)
        ]

    both, halved = (operating_range([HU, RATIO], measured_on(counts), 0.1) for counts in ((2, 2), (2, 1)))
    assert both.deviation is not None
    assert halved.deviation is not None
    assert halved.deviation < 5 * both.deviation, "the level of a replicate that some points lack is no noise"
    assert halved.predicted == pytest.approx(both.predicted, abs=0.02)
