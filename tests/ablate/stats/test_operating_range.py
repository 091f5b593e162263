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


def test_regions_over_the_two_thresholds_that_matter_most_hold_what_was_planted() -> None:
    """Everything right of .5 is planted as not feasible; the third threshold does nothing and has no axis."""
    idle = Threshold("idle", 1, 100, log=True)
    points = [
        Measured({**p.levels, idle.name: float(10 ** (2 * u))}, p.objective, p.levels[RATIO.name] < 0.5, "planted")
        for p, u in zip(measured(), np.random.default_rng(1).random(48), strict=True)
    ]
    found = operating_range([idle, RATIO, HU], points, 0.1)
    assert found.regions is not None
    assert "idle" not in (found.regions.x, found.regions.y) or found.spans[0].sensitivity > found.spans[2].sensitivity
    assert RATIO.name in (found.regions.x, found.regions.y)
    two = operating_range([HU, RATIO], points, 0.1).regions
    assert two is not None
    assert (two.x, two.y, two.xs[0], two.xs[-1], two.ys[0], two.ys[-1]) == (HU.name, RATIO.name, -700, 300, 0, 1)
    by_ratio = {ratio: set(row) for ratio, row in zip(two.ys, two.rows, strict=True)}
    assert all(letters <= {"x", "u"} for ratio, letters in by_ratio.items() if ratio > 0.65)
    assert all("x" not in letters for ratio, letters in by_ratio.items() if ratio < 0.35)
    assert "g" in by_ratio[0.35]
    lowest = min(ratio for ratio, letters in by_ratio.items() if letters != {"u"})
    assert by_ratio[lowest] == {"f", "u"}, "feasible, and .3 worse than the best; nothing was measured beyond the outermost threshold"


def test_one_threshold_has_no_map_and_what_is_not_sure_is_not_called_good() -> None:
    assert operating_range([RATIO], measured(), 0.1).regions is None
    unsure = operating_range([HU, RATIO], measured(12, noise=1.0), 0.01)
    assert unsure.regions is not None
    assert not any("g" in row for row in unsure.regions.rows)


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
    assert found.share > 0.9
    assert all(span.low_open and span.high_open and not span.cliffs for span in found.spans)
    assert [span.measured for span in found.spans] == [(span.low, span.high) for span in found.spans]


def test_nothing_is_said_of_settings_beyond_the_outermost_measured_points() -> None:
    """As CMA-ES leaves it: all points in the middle of the ranges, all alike. What lies outside may be as bad as can be."""
    middle = [p for p in measured(96) if 0.35 <= p.levels[RATIO.name] <= 0.65 and -400 <= p.levels[HU.name] <= 0]
    found = operating_range([HU, RATIO], middle, 0.1)
    assert len(middle) >= 8
    for span in found.spans:
        inside = [p.levels[span.name] for p in middle]
        assert span.low == pytest.approx(min(inside), abs=1e-2)
        assert span.high == pytest.approx(max(inside), abs=1e-2)
        assert span.low_open
        assert span.high_open
    assert found.share < 0.15
    regions = found.regions
    assert regions is not None
    hus, ratios = ([p.levels[name] for p in middle] for name in (HU.name, RATIO.name))
    for ratio, row in zip(regions.ys, regions.rows, strict=True):
        for hu, letter in zip(regions.xs, row, strict=True):
            measured_there = min(hus) <= hu <= max(hus) and min(ratios) <= ratio <= max(ratios)
            assert (letter == "u") == (not measured_there), (hu, ratio, letter)
    assert any("g" in row for row in regions.rows)
    assert "from 0.3" in found.sentences[2]
    assert "as far as points were measured" in found.sentences[2]


def test_a_prediction_above_all_that_was_measured_makes_no_setting_sure() -> None:
    """A rise towards a cliff: the surrogate overshoots between the last good point and the first bad one, where nothing was measured."""
    levels = [0.1, 0.2, 0.3, 0.4, 0.5, 0.55, 0.62, 0.8]
    points = [
        Measured({RATIO.name: x}, {r: (x if x < 0.6 else -2.0) + 0.01 * (-1) ** (r + k) for r in range(2)}, True)
        for k, x in enumerate(levels)
    ]
    found = operating_range([RATIO], points, 0.1)
    assert found.recommended is not None
    assert 0.45 < found.recommended[RATIO.name] < 0.6
    assert found.predicted is not None
    assert found.predicted < 0.65
    assert found.spans[0].high < 0.6


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
