"""Batches: one warning for all scans, memory that is bounded, numbers of augmentation that stay what they were."""

from __future__ import annotations

import importlib
import itertools
import logging

import numpy as np
import pytest

from trainer.config import TrainerConfig, compose
from trainer.data import Scan, batches, draw_changes, load_scans, stream

room = importlib.import_module("trainer.data.batches")  # in the package its name is that of the function


def small(*overrides: str) -> TrainerConfig:
    sizes = ("data.phantom.scans=5", "data.phantom.size_voxels=32", "loop.batch_size=5", "data.prefetch_batches=0")
    return compose([*sizes, *overrides])


@pytest.fixture(scope="module")
def scans() -> list[Scan]:
    return load_scans(small())


def test_ratios_that_no_scan_can_hold_are_said_once_for_all_of_them(scans: list[Scan], caplog: pytest.LogCaptureFixture) -> None:
    settings = small("crops.foreground_crop_prob=1", "crops.min_foreground_ratio=0.99", "crops.foreground_threshold=900")
    with caplog.at_level(logging.WARNING, logger="trainer.data"):
        seen = list(itertools.islice(batches(scans, range(5), settings, 0), 3))
    assert all(batch.violations.all() for batch in seen)
    assert {int(n) for batch in seen for n in batch.scan} == set(range(5))
    assert len(caplog.records) == 1
    assert "Feasible share of its positions: global 0 (ratio 0.99)" in caplog.text


@pytest.mark.parametrize("held", [0, 1, 3])
def test_scans_that_do_not_fit_into_memory_are_opened_again_and_give_the_same_crops(
    scans: list[Scan], held: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = small("crops.foreground_crop_prob=0.5")
    expected = list(itertools.islice(batches(scans, range(5), settings, 0), 3))
    opened: list[int] = []
    most = 0
    source = room._Source(scans, range(5), settings, 0, 1)
    really_open = source._open

    def counted(index: int) -> object:
        nonlocal most
        opened.append(index)
        most = max(most, len(source._held) + 1)
        return really_open(index)

    monkeypatch.setattr(source, "_open", counted)
    monkeypatch.setattr(room, "HELD_BYTES", held * 2 * 4 * scans[0].voxels.size)
    for batch in expected:
        again = source.batch(batch.step)
        np.testing.assert_array_equal(again.globals, batch.globals)
        np.testing.assert_array_equal(again.ratio_own, batch.ratio_own)
    assert most == max(held, 1)
    assert len(opened) > 5


def test_shares_by_the_yardstick_and_by_the_same_rule_of_the_arm_are_equal(scans: list[Scan]) -> None:
    same = next(batches(scans, range(5), small("crops.foreground=body", "crops.foreground_threshold=-500"), 0))
    np.testing.assert_array_equal(same.ratio, same.ratio_own)
    other = next(batches(scans, range(5), small("crops.foreground=body", "crops.foreground_threshold=300"), 0))
    np.testing.assert_array_equal(same.ratio, other.ratio)
    assert (other.ratio != other.ratio_own).any()


def test_intensities_and_mirrors_are_drawn_as_ever() -> None:
    """One stream a kind of crop: scales of all crops, then shifts, then coins of the mirrors."""
    drawn, rng = draw_changes(7, 11, "local", 3, 4), stream(7, 11, "augment/local")
    np.testing.assert_array_equal(drawn.intensity[..., 0].reshape(-1), rng.standard_normal((12, 1, 1, 1, 1)).reshape(-1))
    np.testing.assert_array_equal(drawn.intensity[..., 1].reshape(-1), rng.standard_normal((12, 1, 1, 1, 1)).reshape(-1))
    np.testing.assert_array_equal(drawn.flips.reshape(12, 3), rng.random((12, 3)) < 0.5)
