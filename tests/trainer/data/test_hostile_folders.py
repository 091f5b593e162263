"""What lies in real folders beside whole volumes: noisy offsets, lost slices, swept caches, labels of somebody else, a full disk."""

from __future__ import annotations

import os
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from trainer.config import TrainerConfig, from_mapping
from trainer.data import DataError, find_scans, load_scans
from trainer.data.phantom import phantom_scan
from trainer.data.units import judge, value_counts

VOXELS, LABELS = phantom_scan("torso", 32, 15.0, 15.0, 0, 0)


def settings(source: Path | str, tmp_path: Path, **more: object) -> TrainerConfig:
    given = {"data.source": str(source), "data.cache_dir": str(tmp_path / "cache"), "crops.global_size_voxels": 16}
    return from_mapping(given | {"crops.local_size_voxels": 8} | more)


def written(path: Path, voxels: np.ndarray, origin: float = 0.0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = sitk.GetImageFromArray(voxels)
    image.SetOrigin((origin, origin, origin))
    sitk.WriteImage(image, str(path))
    return path


def series(folder: Path, uid: str = "1.2.3.4", name: Callable[[int], str] = lambda k: f"s{k:03d}.dcm") -> Path:
    folder.mkdir(parents=True)
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    for k, plane in enumerate(np.maximum(VOXELS, -1024)):
        image = sitk.GetImageFromArray(plane[None])
        tags = {"0008|0060": "CT", "0020|000d": "1.2.3", "0020|000e": uid, "0008|0018": f"{uid}.{k}", "0020|0013": str(k)}
        tags |= {"0020|0032": f"0\\0\\{2 * k}", "0020|0037": "1\\0\\0\\0\\1\\0", "0028|1052": "-1024", "0028|1053": "1"}
        for tag, value in tags.items():
            image.SetMetaData(tag, value)
        writer.SetFileName(str(folder / "one.dcm"))
        writer.Execute(image)
        (folder / "one.dcm").rename(folder / name(k))
    return folder


def unit_problem(voxels: np.ndarray) -> str | None:
    counts = value_counts(voxels)
    assert counts is not None
    return judge(counts).problem


@pytest.mark.parametrize("air_noise_hu", [0.0, 15.0, 30.0, 60.0])
@pytest.mark.parametrize("offset", [1000, 1024, -1024])
def test_offsets_are_seen_however_noisy_the_air(air_noise_hu: float, offset: int) -> None:
    voxels, _ = phantom_scan("torso", 32, 15.0, air_noise_hu, 1, 0)
    assert unit_problem(voxels) is None
    assert unit_problem(np.maximum(voxels, -1024)) is None
    for shifted in (voxels + offset, np.maximum(voxels, -1024) + offset):
        assert f"offset by {1024 if offset > 0 else -1024:+d}" in str(unit_problem(shifted))


def test_padding_below_the_scale_is_no_offset() -> None:
    padded = VOXELS.copy()
    padded[:, :4, :] = -3024
    assert unit_problem(padded) is None


def spoil(path: Path) -> None:
    path.write_bytes(b"junk" * 500)


def shorten(path: Path) -> None:
    os.truncate(path, 1500)


@pytest.mark.parametrize("harm", [Path.unlink, spoil, shorten])
def test_a_series_without_one_of_its_slices_is_refused_and_the_place_named(tmp_path: Path, harm: Callable[[Path], None]) -> None:
    folder = series(tmp_path / "ct" / "x")
    assert load_scans(settings(tmp_path / "ct", tmp_path))[0].spacing_mm[0] == 2
    harm(folder / "s020.dcm")
    with pytest.raises(DataError, match=r"slices 2 mm apart but got 2 to 4 mm, the widest after s019\.dcm"):
        load_scans(settings(tmp_path / "ct", tmp_path))


def test_a_damaged_slice_file_is_named(tmp_path: Path) -> None:
    series(tmp_path / "ct" / "good")
    (tmp_path / "ct" / "bad").mkdir()
    spoil(tmp_path / "ct" / "bad" / "a.dcm")
    with pytest.raises(DataError, match=r"bad/a\.dcm: expected a readable volume"):
        load_scans(settings(tmp_path / "ct", tmp_path))
    found = find_scans(settings(tmp_path / "ct", tmp_path, **{"data.skip_unreadable": True}))
    assert [scan.name for scan in found.scans] == ["good"]
    assert len(found.skipped) == 1


def test_slices_are_found_by_what_they_hold_where_their_names_do_not_say(tmp_path: Path) -> None:
    series(tmp_path / "ct" / "x", name=lambda k: f"CT.1.2.3.{k}")
    assert load_scans(settings(tmp_path / "ct", tmp_path))[0].voxels.shape == VOXELS.shape


def test_scans_of_one_name_are_told_apart_by_their_folders(tmp_path: Path) -> None:
    written(tmp_path / "ct" / "p1" / "ct.nii.gz", VOXELS)
    written(tmp_path / "ct" / "p2" / "ct.nii.gz", VOXELS + 1)
    series(tmp_path / "ct" / "p3" / "ct")
    assert [scan.name for scan in load_scans(settings(tmp_path / "ct", tmp_path))] == ["p1_ct", "p2_ct", "p3_ct"]


@pytest.mark.parametrize("pattern", ["", "**/*.nii.gz"])
@pytest.mark.parametrize("folder", ["labels", "seg"])
def test_labels_below_the_scans_are_no_scans(tmp_path: Path, folder: str, pattern: str) -> None:
    written(tmp_path / "ct" / "a.nii.gz", VOXELS)
    written(tmp_path / "ct" / folder / "a_seg.nii.gz", LABELS)
    scans = load_scans(settings(tmp_path / "ct" / pattern, tmp_path, **{"data.labels": str(tmp_path / "ct" / folder)}))
    assert [scan.name for scan in scans] == ["a"]
    np.testing.assert_array_equal(scans[0].labels, LABELS)


def test_labels_go_to_the_scan_of_the_longest_name(tmp_path: Path) -> None:
    written(tmp_path / "ct" / "ct.nii.gz", VOXELS)
    written(tmp_path / "ct" / "ct_2.nii.gz", VOXELS + 1)
    written(tmp_path / "seg" / "ct_2_seg.nii.gz", LABELS)
    scans = load_scans(settings(tmp_path / "ct", tmp_path, **{"data.labels": str(tmp_path / "seg")}))
    assert [(scan.name, scan.labels is not None) for scan in scans] == [("ct", False), ("ct_2", True)]


def no_labels(folder: Path) -> None:
    """Nothing is written."""


def broken_labels(folder: Path) -> None:
    spoil(written(folder / "a_seg.nii.gz", LABELS))


def labels_elsewhere(folder: Path) -> None:
    written(folder / "a_seg.nii.gz", LABELS, origin=5000.0)


def two_labels(folder: Path) -> None:
    written(folder / "a_seg.nii.gz", LABELS)
    written(folder / "a_lesions.nii.gz", LABELS)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (no_labels, "found none for any scan"),
        (broken_labels, "header is not one"),
        (labels_elsewhere, "elsewhere"),
        (two_labels, "one label volume"),
    ],
)
def test_labels_that_cannot_be_used_are_named(tmp_path: Path, make: Callable[[Path], None], said: str) -> None:
    written(tmp_path / "ct" / "a.nii.gz", VOXELS)
    make(tmp_path / "seg")
    with pytest.raises(DataError, match=said):
        load_scans(settings(tmp_path / "ct", tmp_path, **{"data.labels": str(tmp_path / "seg")}))


def cut_short(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


@pytest.mark.parametrize("suffix", ["npy", "json"])
@pytest.mark.parametrize("harm", [Path.unlink, cut_short])
def test_a_cache_that_was_swept_or_damaged_is_made_again(tmp_path: Path, suffix: str, harm: Callable[[Path], None]) -> None:
    config = settings(written(tmp_path / "ct" / "a.nii.gz", VOXELS).parent, tmp_path)
    before = np.array(load_scans(config)[0].voxels)
    for file in (tmp_path / "cache").glob(f"*.{suffix}"):
        harm(file)
    np.testing.assert_array_equal(load_scans(config)[0].voxels, before)


@contextmanager
def full_disk() -> Iterator[None]:
    """No file may grow past 20 kB, which fails a write as a full disk does: part of it is written."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("skip", [False, True])
def test_a_full_disk_is_said_leaves_nothing_half_written_and_no_scan_out(tmp_path: Path, skip: bool) -> None:
    config = settings(written(tmp_path / "ct" / "a.nii.gz", VOXELS).parent, tmp_path, **{"data.skip_unreadable": skip})
    with full_disk(), pytest.raises(DataError, match=r"data\.cache_dir: expected to write .*Make room"):
        load_scans(config)
    kept = {file.suffix for file in (tmp_path / "cache").iterdir()}
    assert kept <= {".jsonl", ".lock"}, "no volume, not even a part of one"
    assert load_scans(config)[0].voxels.shape == VOXELS.shape
