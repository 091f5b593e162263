"""Numbers as people read them never say more, or less, than they are."""

from __future__ import annotations

from ablate.stats.intervals import ABOVE_ZERO
from ablate.words import apart, between, ends, probability


def test_an_interval_that_leaves_out_zero_is_not_told_with_a_zero() -> None:
    assert between(ABOVE_ZERO, 0.04) == " (above 0 to 0.04)"
    assert between(-0.04, -ABOVE_ZERO) == " (-0.04 to below 0)"
    assert between(0.0, 0.0) == " (0 to 0)"
    assert between(-0.01, 0.04) == " (-0.01 to 0.04)"
    assert between(None, 0.04) == ""
    assert ends(ABOVE_ZERO, 0.04, signed=True) == ("above 0", "+0.04")


def test_a_value_beside_a_bound_has_as_many_digits_as_tell_them_apart() -> None:
    assert apart(0.19996, [0.2]) == "0.19996"
    assert apart(0.171, [0.2]) == "0.171"
    assert apart(0.2, [0.2]) == "0.2"
    assert apart(3.0, []) == "3"


def test_a_p_just_below_alpha_is_not_told_as_alpha() -> None:
    assert probability(0.0496) == "0.0496"
    assert probability(0.0004) == "< 0.001"
    assert probability(1.0) == "1"
