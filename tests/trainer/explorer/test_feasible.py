"""What the sliders say equals what the sampler says, at every threshold and ratio of theirs."""

from __future__ import annotations

import numpy as np
import pytest

from trainer.config import TrainerConfig, compose
from trainer.data import CropSampler, Scan, load_scans
from trainer.data.foreground import Foreground, foreground_mask
from trainer.explorer.feasible import RATIOS, THRESHOLDS_HU, Feasible, feasible
from trainer.preflight import feasible_map
from trainer.preflight.feasible import RATIOS as MAPPED_RATIOS

NONE = np.zeros((0, 4), dtype=np.int64)


def sampler_share(scan: Scan, config: TrainerConfig, threshold: float, ratio: float) -> dict[str, float]:
    config.crops.min_foreground_ratio = ratio
    of = Foreground.of(foreground_mask(scan.voxels, config.crops.foreground, threshold))
    return CropSampler(of, config.crops, config.model.patch_size_voxels, scan.spacing_mm[0]).feasible_fraction()


@pytest.mark.parametrize("foreground", ["threshold", "body"])
def test_shares_equal_the_samplers_own(planted: Scan, settings: TrainerConfig, foreground: str) -> None:
    settings.crops.foreground = foreground
    found = feasible(planted, settings.crops, NONE, thresholds_hu=(-500, 500))
    for row, threshold in enumerate(found.thresholds_hu):
        for column in range(0, len(found.ratios), 5):
            said = sampler_share(planted, settings, threshold, found.ratios[column])
            assert {name: shares[row, column] for name, shares in found.shares.items()} == {n: said[n] for n in ("global", "local")}


def test_shares_equal_the_samplers_own_for_crops_of_a_range_of_scales(planted: Scan, settings: TrainerConfig) -> None:
    settings.crops.global_scale_mm, settings.crops.local_scale_mm = [16.0, 40.0], [8.0, 24.0]
    found = feasible(planted, settings.crops, NONE, thresholds_hu=(0,))
    row = found.thresholds_hu.index(0)
    for column in range(0, len(found.ratios), 10):
        said = sampler_share(planted, settings, 0, found.ratios[column])
        assert found.shares["global"][row, column] == pytest.approx(said["global"], abs=1e-12)
        assert found.shares["local"][row, column] == pytest.approx(said["local"], abs=1e-12)
    assert [kind.shown_edge for kind in found.kinds] == [14, 8], "the middle of the range in voxels of 2 mm"


def test_shares_equal_those_of_preflight() -> None:
    config = compose(["data.phantom.scans=6", "data.phantom.size_voxels=48", "measure.rungs=[]"])
    found = [feasible(scan, config.crops, NONE, thresholds_hu=(-500, 300)) for scan in load_scans(config)]
    for row in feasible_map(config):
        if row["threshold_hu"] not in (-500.0, 300.0):
            continue
        at = found[0].thresholds_hu.index(float(str(row["threshold_hu"])))
        own = np.mean([one.shares[str(row["kind"])][at] for one in found], axis=0)
        assert [round(own[found[0].ratios.index(ratio)], 4) for ratio in MAPPED_RATIOS] == row["shares"]


def test_a_place_of_the_map_is_feasible_where_the_crop_there_is(planted: Scan, settings: TrainerConfig) -> None:
    found = feasible(planted, settings.crops, NONE, thresholds_hu=(-500, 500))
    for row, threshold in enumerate(found.thresholds_hu):
        of = Foreground.of(foreground_mask(planted.voxels, "threshold", threshold))
        for kind in found.kinds:
            assert [len(along) for along in kind.corners] == [min(40, 40 - kind.shown_edge + 1)] * 3, "small: every position is on it"
            whole = of.ratio_map(kind.shown_edge)
            for column in (1, 35, 100):
                assert ((found.maps[kind.name][row] >= column) == (whole >= found.ratios[column])).all()


def test_only_bone_is_left_above_500_hu(planted: Scan, settings: TrainerConfig) -> None:
    settings.crops.foreground_threshold = 500.0
    found = feasible(planted, settings.crops, NONE, thresholds_hu=(-500,))
    low, high = found.thresholds_hu.index(-500), found.thresholds_hu.index(500)
    assert found.tissues[high] == (("bone", 1.0),)
    assert dict(found.tissues[low])["tissue"] == pytest.approx(1 - 16**3 / 32**3)
    assert found.foreground_share == (32**3 / 40**3, 16**3 / 40**3)
    full = found.ratios.index(1.0)
    corners = np.argwhere(found.maps["global"][high] >= full)
    assert (corners.min(), corners.max()) == (20, 24), "crops wholly in bone, and nowhere else"
    assert found.shares["global"][high, full] == 5**3 / 29**3


def test_the_settings_own_threshold_and_ratios_are_among_the_sliders_steps(planted: Scan, settings: TrainerConfig) -> None:
    settings.crops.foreground_threshold, settings.crops.min_foreground_ratio_local = -428.5, 0.413
    found: Feasible = feasible(planted, settings.crops, NONE)
    assert set(found.thresholds_hu) == {*THRESHOLDS_HU, -428.5}
    assert set(found.ratios) == {*RATIOS, 0.413}
    assert [kind.ratio for kind in found.kinds] == [0.35, 0.413]


def test_a_drawn_crop_has_its_ratio_at_every_threshold(planted: Scan, settings: TrainerConfig) -> None:
    drawn = np.array([[20, 20, 20, 12], [8, 8, 8, 6], [14, 20, 20, 12]])
    found = feasible(planted, settings.crops, drawn, thresholds_hu=(-500, 500))
    assert found.crops[found.thresholds_hu.index(500)].tolist() == [1.0, 0.0, 0.5]
    assert found.crops[found.thresholds_hu.index(-500)].tolist() == [1.0, 1.0, 1.0]
