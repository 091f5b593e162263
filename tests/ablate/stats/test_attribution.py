"""Attribution: a planted useless component can go, needed ones are named, nothing unmeasured is claimed."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from ablate.stats.attribution import Components, attribute

NAMES = ["bias", "overlap", "weighting"]


def measured(seed: int, replicates: int = 5, noise: float = 0.02) -> dict[Components, dict[int, float]]:
    """Bias gives 1, overlap another 2 where bias is on, weighting nothing."""
    draw = np.random.default_rng(seed)
    block = draw.normal(0, 1, replicates)
    subsets = [frozenset(c) for size in range(4) for c in itertools.combinations(NAMES, size)]
    return {
        on: {r: block[r] + ("bias" in on) + 2.0 * ({"bias", "overlap"} <= on) + noise * draw.standard_normal() for r in range(replicates)}
        for on in subsets
    }


def test_the_path_the_needed_and_the_useless_component() -> None:
    found = attribute(NAMES, measured(1), 0.05, 0.3)
    assert [step.name for step in found.path] == ["bias", "overlap", "weighting"]
    assert dict(found.needs) == {"bias": "needed", "overlap": "needed", "weighting": "can go"}
    assert found.path_stops is None
    assert any(s.startswith("weighting can go") for s in found.sentences)


def test_shapley_values_equal_the_average_over_all_orders_and_add_up() -> None:
    cells = measured(2)
    means = {on: np.mean(list(values.values())) for on, values in cells.items()}
    orders = list(itertools.permutations(NAMES))
    found = {share.name: share.mean for share in attribute(NAMES, cells, 0.05, 0.3).shapley}
    for name in NAMES:
        gains = [means[frozenset(o[: o.index(name) + 1])] - means[frozenset(o[: o.index(name)])] for o in orders]
        assert found[name] == pytest.approx(np.mean(gains))
    assert math.fsum(v for v in found.values() if v is not None) == pytest.approx(means[frozenset(NAMES)] - means[frozenset()])


def test_shapley_intervals_hold_at_once() -> None:
    truth = {"bias": 2.0, "overlap": 1.0, "weighting": 0.0}
    missed = sum(
        any(
            s.low is None or s.high is None or not s.low <= truth[s.name] <= s.high
            for s in attribute(NAMES, measured(seed, 4, 1.0), 0.05, 0.3).shapley
        )
        for seed in range(400)
    )
    assert missed / 400 <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / 400)


def test_what_was_not_measured_is_said() -> None:
    cells = measured(3)
    del cells[frozenset({"bias", "overlap"})]
    cells[frozenset(NAMES)][0] = math.nan
    found = attribute(NAMES, cells, 0.05, 0.3)
    assert found.shapley == ()
    assert found.missing == (frozenset({"bias", "overlap"}),)
    assert found.needs["weighting"] == "not measured"
    assert {share.dropped for share in found.without if share.pairs} == {(0,)}
    assert attribute(["a", "b"], {frozenset(): {0: 1.0}, frozenset({"a", "b"}): {0: 2.0}}, 0.05, 0.3).path_stops is not None


def test_one_replicate_decides_nothing() -> None:
    found = attribute(NAMES, measured(4, replicates=1), 0.05, 0.3)
    assert set(found.needs.values()) == {"open"}
    assert any("3 with some spread are needed" in s for s in found.sentences)
