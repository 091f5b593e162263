"""Phantom, files, splits and batches."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk

from trainer.config import CHECKPOINT, TrainerConfig, compose
from trainer.data import DataError, batches, cut, data_hash, find_scans, load_scans, split_scans
from trainer.data.anatomy import LABEL
from trainer.data.phantom import phantom_scan

CT = Path(os.environ.get("ABLATE_CT_DIR", Path(__file__).parents[3].parent / "shared/ct"))


def config(*overrides: str) -> TrainerConfig:
    return compose(["preset=phantom_cpu", *overrides])


def small(*overrides: str) -> TrainerConfig:
    return config("data.phantom.scans=6", "data.phantom.size_voxels=40", "loop.batch_size=4", *overrides)


def files(folder: Path, *overrides: str) -> TrainerConfig:
    sizes = ("crops.global_size_voxels=16", "crops.local_size_voxels=8")
    return compose(
        ["preset=ct_cpu", f"data.source={folder}", f"data.cache_dir={folder.parent / 'cache'}", "data.spacing_mm=null", *sizes, *overrides]
    )


def ct_like(seed: int = 0, edge: int = 24) -> np.ndarray:
    """Air around a block of tissue with fat around and bone inside."""
    rng = np.random.default_rng(seed)
    voxels = rng.normal(-1000, 10, (edge, edge, edge))
    voxels[4:-4, 4:-4, 4:-4] = -100
    voxels[6:-6, 6:-6, 6:-6] = rng.normal(40, 15, (edge - 12,) * 3)
    voxels[10:12, 10:12, 10:12] = 900
    return voxels.round().astype(np.int16)


def write(path: Path, voxels: np.ndarray, spacing: tuple[float, float, float] = (2.0, 2.0, 2.0)) -> None:
    image = sitk.GetImageFromArray(voxels)
    image.SetSpacing(spacing)
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(image, str(path))


def write_dicom(folder: Path, voxels: np.ndarray) -> None:
    """A CT series with rescale slope 1 and intercept -1024."""
    folder.mkdir(parents=True)
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    for z, plane in enumerate(voxels):
        image = sitk.GetImageFromArray(plane.astype(np.int16)[None])  # the writer stores (value - intercept) / slope
        image.SetSpacing((2.0, 2.0, 2.0))
        tags = {
            "0008|0060": "CT",
            "0020|000e": "1.2.826.0.1.3680043.2.1125.1",
            "0020|000d": "1.2.826.0.1.3680043.2.1125.2",
            "0020|0032": f"0\\0\\{2 * z}",
            "0020|0037": "1\\0\\0\\0\\1\\0",
            "0020|0013": str(z),
            "0008|0018": f"1.2.826.0.1.3680043.2.1125.3.{z}",
            "0028|1052": "-1024",
            "0028|1053": "1",
        }
        for key, value in tags.items():
            image.SetMetaData(key, value)
        writer.SetFileName(str(folder / f"{z:03d}.dcm"))
        writer.Execute(image)


@pytest.mark.parametrize("family", ["torso", "stocky"])
def test_the_phantom_is_mostly_air_with_exact_labels(family: str) -> None:
    voxels, labels = phantom_scan(family, 64, 15.0, 15.0, 0, 0)
    assert 0.5 <= np.mean(labels == LABEL["air"]) <= 0.8
    assert np.median(voxels[labels == LABEL["air"]]) == pytest.approx(-1000, abs=5)
    assert np.median(voxels[labels == LABEL["fat"]]) == pytest.approx(-105, abs=25)
    assert np.median(voxels[labels == LABEL["lung_left"]]) < -700
    for tissue in ("muscle", "liver", "kidney_cortex", "heart", "rib", "trabecular_bone", "table", "lung_vessel"):
        assert (labels == LABEL[tissue]).any(), tissue


def test_phantoms_are_seeded_and_differ_between_scans_and_families() -> None:
    one, _ = phantom_scan("torso", 40, 15.0, 15.0, 0, 0)
    again, _ = phantom_scan("torso", 40, 15.0, 15.0, 0, 0)
    np.testing.assert_array_equal(one, again)
    for other in (("torso", 0, 1), ("torso", 1, 0), ("stocky", 0, 0)):
        assert (phantom_scan(other[0], 40, 15.0, 15.0, other[1], other[2])[0] != one).any()


def test_scans_are_split_once_and_rotate_only_where_they_are_few() -> None:
    many = [split_scans(config(f"seed={seed}"), 24) for seed in range(3)]
    assert many[0] == many[1] == many[2]
    assert sorted(many[0].train + many[0].select + many[0].test) == list(range(24))
    few = [split_scans(config(f"seed={seed}"), 5) for seed in range(5)]
    assert {split.select for split in few} == {(i,) for i in range(5)}
    assert all(len(set(s.train) | set(s.select) | set(s.test)) == 5 for s in few)
    with pytest.raises(DataError, match=r"at least \d+ scans"):
        split_scans(config(), 2)


def test_a_batch_depends_on_its_step_alone() -> None:
    settings = small("crops.foreground_crop_prob=0.5", "crops.localcrops_subset_of_globalcrops=true")
    scans = load_scans(settings)
    feed = batches(scans, (0, 2, 3), settings, 0)
    straight = [next(feed) for _ in range(4)]
    resumed = next(batches(scans, (0, 2, 3), settings, 3))
    np.testing.assert_array_equal(straight[3].globals, resumed.globals)
    np.testing.assert_array_equal(straight[3].locals, resumed.locals)
    assert set(np.concatenate([b.scan for b in straight]).tolist()) == {0, 2, 3}


@pytest.mark.parametrize("prefetch", [0, 3])
def test_ranks_share_the_batch_that_one_process_draws(prefetch: int) -> None:
    settings = small("crops.foreground_crop_prob=0.5", "loop.batch_size=4", f"data.prefetch_batches={prefetch}")
    scans = load_scans(settings)
    whole = batches(scans, (0, 2, 3), settings, 5)
    shares = [batches(scans, (0, 2, 3), settings, 5, rank, 2) for rank in range(2)]
    for _ in range(2):
        expected, found = next(whole), [next(share) for share in shares]
        for name in ("globals", "locals", "scan", "local_corners", "ratio_own"):
            np.testing.assert_array_equal(np.concatenate([getattr(b, name) for b in found]), getattr(expected, name))
        np.testing.assert_array_equal(np.concatenate([b.local_changes.noise_seed for b in found]), expected.local_changes.noise_seed)
    for feed in (whole, *shares):
        feed.close()
    assert not any(thread.name == "batches" for thread in threading.enumerate())


def test_what_goes_wrong_while_preparing_ahead_reaches_the_reader() -> None:
    settings = small("data.prefetch_batches=2")
    with pytest.raises(IndexError):
        next(batches(load_scans(settings), (99,), settings, 0))


def test_several_draws_of_a_scan_come_in_a_row() -> None:
    settings = small("loop.batch_size=4", "data.draws_per_scan=2", "data.prefetch_batches=0")
    feed = batches(load_scans(settings), (0, 2, 3), settings, 0)
    order = np.concatenate([next(feed).scan for _ in range(3)])
    np.testing.assert_array_equal(order[0::2], order[1::2])
    assert sorted(order[:6:2].tolist()) == [0, 2, 3]
    assert sorted(order[6::2].tolist()) == [0, 2, 3]


def test_a_batch_says_where_its_crops_lie_and_cuts_them_there() -> None:
    settings = small("augment.intensity_shift=0", "augment.intensity_scale=0", "crops.localcrops_subset_of_globalcrops=true")
    scans = load_scans(settings)
    batch = next(batches(scans, (0, 1, 2), settings, 0))
    for row in range(4):
        for view, (d, h, w) in enumerate(batch.global_corners[row].tolist()):
            expected = scans[int(batch.scan[row])].voxels[d : d + 24, h : h + 24, w : w + 24]
            np.testing.assert_array_equal(batch.globals[row, view, 0], expected)
        windowed = cut(scans[int(batch.scan[row])], batch.global_corners[row], 24, settings.data)
        np.testing.assert_allclose(np.clip(batch.globals[row] / 400, -1, 1), windowed, atol=1e-6)
        one, other = batch.global_corners[row]
        shared = np.prod(np.maximum(24 - np.abs(one - other), 0))
        assert batch.global_iou[row] == pytest.approx(shared / (2 * 24**3 - shared))
    assert (batch.local_containment == 1).all()


@pytest.mark.parametrize("suffix", [".nii.gz", ".nii", ".nrrd", ".mha"])
def test_volume_files_come_back_as_they_were(tmp_path: Path, suffix: str) -> None:
    for seed in range(3):
        write(tmp_path / "ct" / f"scan{seed}{suffix}", ct_like(seed))
    scans = load_scans(files(tmp_path / "ct"))
    assert [s.name for s in scans] == ["scan0", "scan1", "scan2"]
    np.testing.assert_array_equal(np.sort(scans[1].voxels, axis=None), np.sort(ct_like(1).clip(-1024, 3071), axis=None))
    assert scans[0].spacing_mm == (2.0, 2.0, 2.0)
    assert isinstance(scans[0].voxels, np.memmap)


def test_dicom_series_are_read_with_their_rescale_intercept(tmp_path: Path) -> None:
    for seed in range(3):
        write_dicom(tmp_path / "ct" / f"patient{seed}", ct_like(seed))
    scans = load_scans(files(tmp_path / "ct"))
    assert [s.name for s in scans] == ["patient0", "patient1", "patient2"]
    np.testing.assert_array_equal(np.sort(scans[2].voxels, axis=None), np.sort(ct_like(2).clip(-1024, 3071), axis=None))


def test_orientation_is_the_same_whatever_the_file_says(tmp_path: Path) -> None:
    image = sitk.GetImageFromArray(ct_like())
    image.SetSpacing((2.0, 2.0, 2.0))
    for number, code in enumerate(("LPS", "RAS", "SPL")):
        (tmp_path / "ct").mkdir(exist_ok=True)
        sitk.WriteImage(sitk.DICOMOrient(image, code), str(tmp_path / "ct" / f"{number}.nii.gz"))
    first, *others = load_scans(files(tmp_path / "ct"))
    for other in others:
        np.testing.assert_array_equal(first.voxels, other.voxels)


def test_resampling_keeps_extent_and_mean(tmp_path: Path) -> None:
    for seed in range(3):
        write(tmp_path / "ct" / f"{seed}.nii.gz", ct_like(seed, 32), (2.0, 2.0, 3.0))
    scan = load_scans(files(tmp_path / "ct", "data.spacing_mm=3.0", "crops.global_size_voxels=16"))[0]
    assert scan.voxels.shape == (32, 21, 21)
    assert scan.spacing_mm == pytest.approx((3.0, 3.0, 3.0))
    assert scan.voxels.mean() == pytest.approx(ct_like(0, 32).mean(), abs=15)


def test_labels_lie_on_the_grid_of_their_scan_with_their_names(tmp_path: Path) -> None:
    for seed in range(3):
        write(tmp_path / "ct" / f"s{seed}.nii.gz", ct_like(seed))
    masks = np.zeros((24, 24, 24), np.uint8)
    masks[6:-6, 6:-6, 6:-6] = 7
    write(tmp_path / "ct/labels/s0_masks.nii.gz", masks)
    (tmp_path / "ct/labels/s0_structures.csv").write_text("structure,id\nliver,7\n")
    scans = load_scans(files(tmp_path / "ct", f"data.labels={tmp_path / 'ct/labels'}"))
    assert scans[0].labels is not None
    assert scans[0].label_names[7] == "liver"
    assert (scans[0].labels == 7).sum() == (masks == 7).sum()
    assert np.median(scans[0].voxels[scans[0].labels == 7]) == pytest.approx(40, abs=5)
    assert scans[1].labels is None


def test_the_data_hash_follows_contents_not_names_of_folders(tmp_path: Path) -> None:
    for folder in ("a", "b", "c"):
        for seed in range(3):
            write(tmp_path / folder / f"{seed}.nii.gz", ct_like(seed + (folder == "c")))
    a, b, c = (data_hash(files(tmp_path / folder)) for folder in "abc")
    assert a == b != c
    assert data_hash(config()) == data_hash(config("seed=3", "loop.steps=5", "loop.warmup_steps=1"))
    assert data_hash(config()) != data_hash(config("data.phantom.air_noise_hu=30"))


def test_the_data_hash_covers_the_checkpoint_that_a_run_starts_from(tmp_path: Path) -> None:
    """Trained anew under the same name, its trials are others."""
    file = tmp_path / CHECKPOINT
    file.write_bytes(b"first")
    of_file, of_folder = (f"loop.start_from={path}" for path in (file, tmp_path))
    first = data_hash(config(of_file))
    assert first == data_hash(config(of_folder)) != data_hash(config())
    file.write_bytes(b"second")
    assert data_hash(config(of_folder)) != first
    file.unlink()
    with pytest.raises(DataError, match=r"loop\.start_from: expected a checkpoint"):
        data_hash(config(of_file))


def offset(voxels: np.ndarray) -> np.ndarray:
    return voxels.clip(-1024, None) + 1024


def ramp(voxels: np.ndarray) -> np.ndarray:
    return np.linspace(0, 255, voxels.size).reshape(voxels.shape).astype(np.int16)


def constant(voxels: np.ndarray) -> np.ndarray:
    return np.zeros_like(voxels)


@pytest.mark.parametrize(
    ("spoil", "said"), [(offset, r"offset by \+1024.*Subtract 1024"), (ramp, "not like CT"), (constant, "all voxels are 0")]
)
def test_values_that_are_not_hu_name_the_file_and_the_mend(tmp_path: Path, spoil: Any, said: str) -> None:
    for seed in range(4):
        write(tmp_path / "ct" / f"{seed}.nii.gz", spoil(ct_like(seed)) if seed == 2 else ct_like(seed))
    with pytest.raises(DataError, match=said) as caught:
        load_scans(files(tmp_path / "ct"))
    assert "2.nii.gz" in str(caught.value)


def test_floats_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    for seed in range(4):
        voxels = ct_like(seed).astype(np.float32)
        voxels[0, 0, 0] = np.nan if seed == 1 else voxels[0, 0, 0]
        write(tmp_path / "ct" / f"{seed}.nrrd", voxels)  # reading NIfTI, ITK turns NaN into 0 by itself
    with pytest.raises(DataError, match=r"1\.nrrd: expected finite values"):
        load_scans(files(tmp_path / "ct"))


@pytest.mark.parametrize("suffix", [".nii.gz", ".nii", ".nrrd", ".mha"])
def test_one_truncated_volume_is_named_and_left_out_only_when_asked(tmp_path: Path, suffix: str) -> None:
    for seed in range(4):
        write(tmp_path / "ct" / f"{seed}{suffix}", ct_like(seed))
    file = tmp_path / f"ct/1{suffix}"
    file.write_bytes(file.read_bytes()[: file.stat().st_size * 2 // 3])
    with pytest.raises(DataError, match=rf"1\{suffix}.*skip_unreadable=true"):
        load_scans(files(tmp_path / "ct"))
    inventory = find_scans(files(tmp_path / "ct", "data.skip_unreadable=true"))
    assert [s.name for s in inventory.scans] == ["0", "2", "3"]
    assert f"1{suffix}" in inventory.skipped[0]


def test_all_problems_of_a_folder_come_at_once(tmp_path: Path) -> None:
    for seed in range(3):
        write(tmp_path / "ct" / f"{seed}.nii.gz", ct_like(seed))
    (tmp_path / "ct/1.nii.gz").write_bytes(b"nothing")
    write(tmp_path / "ct/2.nii.gz", offset(ct_like(2)))
    with pytest.raises(DataError) as caught:
        load_scans(files(tmp_path / "ct"))
    assert len(caught.value.problems) == 2


def test_a_volume_smaller_than_a_crop_says_what_to_change(tmp_path: Path) -> None:
    for seed in range(3):
        write(tmp_path / "ct" / f"{seed}.nii.gz", ct_like(seed, 20 if seed else 24))
    with pytest.raises(DataError, match=r"at least 24 voxels along each axis \(crops.global_size_voxels\) but got 20 x 20 x 20"):
        load_scans(files(tmp_path / "ct", "crops.global_size_voxels=24"))


@pytest.mark.parametrize("make", [True, False], ids=["empty", "missing"])
def test_an_empty_or_missing_folder_is_said(tmp_path: Path, make: bool) -> None:
    if make:
        (tmp_path / "ct").mkdir()
    with pytest.raises(DataError, match=r"^data\.source: expected"):
        load_scans(files(tmp_path / "ct"))


def test_a_four_dimensional_file_is_refused(tmp_path: Path) -> None:
    for seed in range(3):
        write(tmp_path / "ct" / f"{seed}.nii.gz", ct_like(seed))
    sitk.WriteImage(sitk.JoinSeries([sitk.GetImageFromArray(ct_like())] * 2), str(tmp_path / "ct/9.nii.gz"))
    with pytest.raises(DataError, match="3-D grid"):
        load_scans(files(tmp_path / "ct"))


@pytest.mark.skipif(not CT.is_dir(), reason=f"no real CT in {CT}; set ABLATE_CT_DIR")
def test_real_ct_is_read_in_hu_with_its_labels(tmp_path: Path) -> None:
    settings = compose(["preset=ct_cpu", f"data.source={CT}", f"data.labels={CT / 'labels'}", f"data.cache_dir={tmp_path}"])
    scans = load_scans(settings)
    assert len(scans) == 5
    for scan in scans:
        assert scan.spacing_mm == pytest.approx((5.0, 5.0, 5.0))
        assert 0.4 < np.mean(scan.voxels < -500) < 0.8
    labelled = next(s for s in scans if s.labels is not None)
    assert labelled.labels is not None
    assert labelled.name == "chest_lidc_idri_0001"
    liver = next(i for i, name in labelled.label_names.items() if name == "liver")
    assert np.median(labelled.voxels[labelled.labels == liver]) == pytest.approx(100, abs=80)
