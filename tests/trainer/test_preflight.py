"""What is said before any training."""

from __future__ import annotations

from trainer.preflight import preflight

SMALL = {"preset": "phantom_cpu", "data.phantom.scans": 4, "data.phantom.size_voxels": 48}


def levels(threshold: float, ratio: float, prob: float = 1.0) -> dict[str, object]:
    return SMALL | {"crops.foreground_threshold": threshold, "crops.min_foreground_ratio": ratio, "crops.foreground_crop_prob": prob}


def test_a_threshold_and_ratio_for_which_no_crop_is_feasible_is_an_error_with_the_fraction() -> None:
    found = preflight(levels(2500.0, 0.9))
    errors = [finding for finding in found if finding["level"] == "error"]
    assert {finding["path"] for finding in errors} == {"crops.min_foreground_ratio"}
    assert all("feasible fraction 0" in str(finding["what"]) and finding["value"] == 0 for finding in errors)
    assert all("Lower" in str(finding["mend"]) for finding in errors)


def test_a_feasible_setting_has_no_finding() -> None:
    assert preflight(levels(-500.0, 0.5)) == []


def test_a_ratio_that_no_crop_must_hold_cannot_be_infeasible() -> None:
    assert preflight(levels(-500.0, 1.0, prob=0.0)) == []


def test_a_threshold_above_the_window_is_warned_of() -> None:
    found = preflight(levels(450.0, 0.0))
    assert [(finding["level"], finding["path"]) for finding in found] == [("warning", "crops.foreground_threshold")]


def test_data_that_cannot_be_read_are_a_finding() -> None:
    found = preflight({"preset": "ct_cpu", "data.source": "no/such/folder"})
    assert found[0]["level"] == "error"
    assert found[0]["path"] == "data.source"
    assert "does not exist" in str(found[0]["what"])
