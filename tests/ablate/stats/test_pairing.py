"""What pairing removed, against the covariance written by numpy."""

from __future__ import annotations

import math

import numpy as np
import pytest

from ablate.stats.pairing import removed


def test_the_share_removed_is_twice_the_covariance_over_both_variances() -> None:
    draw = np.random.default_rng(0)
    start = draw.standard_normal(40)
    one, other = start + 0.3 * draw.standard_normal(40), start + 0.3 * draw.standard_normal(40)
    found = removed(dict(enumerate(one)), dict(enumerate(other)))
    covariance = np.cov(one, other)
    assert found is not None
    assert found.removed == pytest.approx(2 * covariance[0, 1] / (covariance[0, 0] + covariance[1, 1]))
    assert found.replicates_saved > 5
    against = removed(dict(enumerate(one)), dict(enumerate(-other)))
    assert against is not None
    assert against.removed < 0


def test_too_few_pairs_or_no_spread_say_nothing() -> None:
    assert removed({0: 1.0, 1: 2.0, 2: math.nan}, {0: 1.0, 1: 1.5, 2: 1.0}) is None
    assert removed(dict.fromkeys(range(4), 1.0), dict.fromkeys(range(4), 2.0)) is None


def test_arms_that_differ_by_rounding_only_have_no_pairing() -> None:
    constant = dict.fromkeys(range(4), 0.1)
    assert removed(constant, dict.fromkeys(range(4), 0.1 * 3 / 3)) is None
