"""Summaries of what the crops looked at."""

from __future__ import annotations

import math

import numpy as np
import pytest

from trainer.measure.foreground import mean_share, ratio_summary


def loop_percentile(values: list[float], share: float) -> float:
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (place - low) * (ordered[high] - ordered[low])


def check_tenth(wrong_share: float) -> None:
    values = np.random.default_rng(1).random(37).astype(np.float32)
    found = ratio_summary(values, "foreground_ratio_local")
    assert found["foreground_ratio_local"] == pytest.approx(sum(values.tolist()) / 37)
    assert found["foreground_ratio_local_p10"] == pytest.approx(loop_percentile(values.tolist(), wrong_share))


def test_mean_and_tenth_percentile_equal_loops() -> None:
    check_tenth(0.1)


@pytest.mark.parametrize("wrong", [0.9, 0.01, 0.0])
def test_another_percentile_is_found(wrong: float) -> None:
    with pytest.raises(AssertionError):
        check_tenth(wrong)


def test_without_crops_there_is_no_key() -> None:
    assert ratio_summary(np.empty(0), "r") == {}
    assert mean_share(np.empty(0, bool), "v") == {}


def test_shares_of_yes_and_no_are_means() -> None:
    assert mean_share(np.array([True, False, False, True]), "v") == {"v": 0.5}
