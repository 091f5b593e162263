"""What is said before any training."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy.signal import fftconvolve

from trainer.config import from_mapping
from trainer.data import load_scans
from trainer.preflight import feasible_map, preflight
from trainer.preflight.finding import data_key, scans_of

SMALL = {"preset": "phantom_cpu", "data.phantom.scans": 4, "data.phantom.size_voxels": 48}


def levels(threshold: float, ratio: float, prob: float = 1.0) -> dict[str, object]:
    return SMALL | {"crops.foreground_threshold": threshold, "crops.min_foreground_ratio": ratio, "crops.foreground_crop_prob": prob}


def test_a_threshold_and_ratio_for_which_no_crop_is_feasible_is_an_error_with_the_fraction() -> None:
    found = preflight(levels(2500.0, 0.9))
    errors = [finding for finding in found if finding["level"] == "error"]
    assert {finding["path"] for finding in errors} == {"crops.min_foreground_ratio"}
    assert all("feasible fraction 0" in str(finding["what"]) and finding["value"] == 0 for finding in errors)
    assert all("Lower" in str(finding["mend"]) for finding in errors)


def about(path: str, config: dict[str, object]) -> list[object]:
    return [finding["level"] for finding in preflight(config) if str(finding["path"]).startswith(path) and finding["level"] != "info"]


def test_a_feasible_setting_has_no_finding() -> None:
    assert about("crops.min_foreground", levels(-500.0, 0.5)) == []


def test_a_ratio_that_no_crop_must_hold_cannot_be_infeasible() -> None:
    assert about("crops.min_foreground", levels(-500.0, 1.0, prob=0.0)) == []


def test_the_map_gives_the_share_of_positions_for_each_threshold_and_ratio() -> None:
    rows = feasible_map(from_mapping(SMALL))
    assert {(row["threshold_hu"], row["kind"]) for row in rows} >= {(-500.0, "global"), (-500.0, "local")}
    for row in rows:
        shares = row["shares"]
        assert isinstance(shares, list)
        assert all(0 <= after <= before <= 1 for before, after in itertools.pairwise(shares))
    row = next(row for row in rows if (row["threshold_hu"], row["kind"]) == (-500.0, "local"))
    held = []
    for scan in load_scans(from_mapping(SMALL)):
        counts = fftconvolve((scan.voxels > -500).astype(float), np.ones((16, 16, 16)), mode="valid").round()
        held.append((counts >= 0.5 * 16**3).mean())
    assert dict(zip(row["ratios"], row["shares"], strict=True))[0.5] == pytest.approx(np.mean(held), abs=1e-3)  # type: ignore[call-overload]


def test_every_configuration_that_trains_gets_the_map_also_where_no_crop_is_feasible() -> None:
    for ratio in (0.3, 1.0):
        found = preflight(levels(-500.0, ratio))
        maps = {str(finding["path"]): finding for finding in found if "map" in finding}
        assert list(maps) == ["crops.min_foreground_ratio_global", "crops.min_foreground_ratio_local"]
        for kind in ("global", "local"):
            finding = maps[f"crops.min_foreground_ratio_{kind}"]
            drawn = finding["map"]
            assert isinstance(drawn, dict)
            rows = [row["shares"] for row in feasible_map(from_mapping(levels(-500.0, ratio))) if row["kind"] == kind]
            assert drawn["rows"] == rows
            if ratio == 0.3:
                assert finding["value"] == pytest.approx(rows[drawn["ys"].index(-500.0)][drawn["xs"].index(0.3)], abs=1e-4)
    assert not any("map" in finding for finding in preflight(SMALL | {"loop.steps": 0}))


def test_a_look_stays_short_however_many_scans_there_are() -> None:
    many = from_mapping(SMALL | {"data.phantom.scans": 100})
    assert 12 <= len(scans_of(data_key(many))) <= 16


def test_crops_of_a_scale_are_judged_by_the_edges_that_they_will_have() -> None:
    """Of 60 mm in 5 mm voxels, 12 voxels: not of the 24 that the network sees."""
    scale = {"crops.global_scale_mm": [60.0, 60.0], "crops.local_scale_mm": [30.0, 30.0]}
    plain = SMALL | {"crops.global_size_voxels": 12, "crops.local_size_voxels": 6, "model.patch_size_voxels": 2}
    assert feasible_map(from_mapping(SMALL | scale)) == feasible_map(from_mapping(plain))
    assert feasible_map(from_mapping(SMALL | scale)) != feasible_map(from_mapping(SMALL))
    hard = levels(100.0, 0.4) | {"crops.localcrops_subset_of_globalcrops": True}
    assert "error" in about("crops.min_foreground_ratio", hard)
    assert "error" not in about("crops.min_foreground_ratio", hard | scale)


def test_a_threshold_above_the_window_is_warned_of() -> None:
    found = preflight(levels(450.0, 0.0))
    assert ("warning", "crops.foreground_threshold") in [(finding["level"], finding["path"]) for finding in found]


def test_data_that_cannot_be_read_are_a_finding() -> None:
    found = preflight({"preset": "ct_cpu", "data.source": "no/such/folder"})
    assert found[0]["level"] == "error"
    assert found[0]["path"] == "data.source"
    assert "does not exist" in str(found[0]["what"])
