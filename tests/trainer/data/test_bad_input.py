"""Whatever lies in a folder: each bad thing is named with its mend before the first step, and costs no other scan."""

from __future__ import annotations

import gzip
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from scan_files import LABELS, VOXELS, data, slices, volume

from trainer.config import from_mapping
from trainer.data import DataError, find_scans, load_scans
from trainer.data.command import main
from trainer.data.finding import found
from trainer.data.index import build

Make = Callable[[Path], Path]


def corrupt(folder: Path) -> Path:
    file = volume(folder / "bad.nii.gz", VOXELS)
    whole = bytearray(file.read_bytes())
    whole[len(whole) // 2 : len(whole) // 2 + 40] = bytes(40)
    file.write_bytes(whole)
    return file


def corrupt_inside_compressed_metaimage(folder: Path) -> Path:
    """ITK reads such a file without a word."""
    file = folder / "bad.mha"
    sitk.WriteImage(sitk.GetImageFromArray(VOXELS), str(file), useCompression=True)
    whole = bytearray(file.read_bytes())
    whole[len(whole) // 2] ^= 0xFF
    file.write_bytes(whole)
    return file


def cut(suffix: str) -> Make:
    def make(folder: Path) -> Path:
        file = volume(folder / f"bad{suffix}", VOXELS)
        os.truncate(file, file.stat().st_size * 2 // 3)
        return file

    make.__name__ = f"cut{suffix}"
    return make


def empty(folder: Path) -> Path:
    file = folder / "bad.nii.gz"
    file.write_bytes(b"")
    return file


def empty_gzip(folder: Path) -> Path:
    file = folder / "bad.nii.gz"
    file.write_bytes(gzip.compress(b""))
    return file


def no_volume(folder: Path) -> Path:
    file = folder / "bad.nrrd"
    file.write_text("this is a letter\n" * 50)
    return file


def flat(folder: Path) -> Path:
    return volume(folder / "bad.nii.gz", VOXELS[10])


def one_slice(folder: Path) -> Path:
    return volume(folder / "bad.nii.gz", VOXELS[:1])


def in_time(folder: Path) -> Path:
    file = folder / "bad.nii.gz"
    sitk.WriteImage(sitk.JoinSeries([sitk.GetImageFromArray(VOXELS)] * 2), str(file))
    return file


def colours(folder: Path) -> Path:
    return volume(folder / "bad.nii.gz", np.repeat(VOXELS[..., None].clip(0, 255).astype(np.uint8), 3, axis=-1), vector=True)


def not_a_number(suffix: str) -> Make:
    def make(folder: Path) -> Path:
        voxels = VOXELS.astype(np.float32)
        voxels[3, 4, 5] = np.nan
        return volume(folder / f"bad{suffix}", voxels)

    make.__name__ = f"nan{suffix}"
    return make


def constant(folder: Path) -> Path:
    return volume(folder / "bad.nii.gz", np.full_like(VOXELS, -1000))


def missing_slice(folder: Path) -> Path:
    slices(folder / "bad", VOXELS)
    (folder / "bad" / "s020.dcm").unlink()
    return folder / "bad"


def damaged_slice(folder: Path) -> Path:
    file = slices(folder / "bad", VOXELS) / "s020.dcm"
    os.truncate(file, 1500)
    return file


def mixed_series(folder: Path) -> Path:
    slices(folder / "bad", VOXELS)
    return slices(folder / "bad", VOXELS[:20], uid="1.2.3.5", prefix="t")


def mixed_sizes(folder: Path) -> Path:
    """A scout view in the same series: one number for both."""
    slices(folder / "bad", VOXELS)
    scout = sitk.ReadImage(str(folder / "bad" / "s031.dcm"))[:, :20]
    for key, value in {"0008|0018": "1.2.3.4.99", "0020|000e": "1.2.3.4", "0020|000d": "1.2.3", "0020|0032": "0\\0\\64"}.items():
        scout.SetMetaData(key, value)
    scout.SetMetaData("0020|0037", "1\\0\\0\\0\\1\\0")
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    writer.SetFileName(str(folder / "bad" / "scout.dcm"))
    writer.Execute(scout)
    return folder / "bad" / "scout.dcm"


def colour_slices(folder: Path) -> Path:
    (folder / "bad").mkdir()
    pixels = np.repeat(VOXELS[:1, ..., None].clip(0, 255).astype(np.uint8), 3, axis=-1)
    return volume(folder / "bad" / "s.dcm", pixels, vector=True)


def broken_link(folder: Path) -> Path:
    (folder / "bad.nii.gz").symlink_to(folder / "gone.nii.gz")
    return folder / "bad.nii.gz"


def labels_of_another_shape(folder: Path) -> Path:
    volume(folder / "bad.nii.gz", VOXELS + 1)
    return volume(folder / "bad_labels.nii.gz", LABELS[:-4])


def labels_of_another_spacing(folder: Path) -> Path:
    volume(folder / "bad.nii.gz", VOXELS + 1)
    return volume(folder / "bad_seg.nii.gz", LABELS, (2.0, 2.0, 3.0))


def labels_that_are_intensities(folder: Path) -> Path:
    volume(folder / "bad.nii.gz", VOXELS + 1)
    return volume(folder / "bad_labels.nii.gz", VOXELS)


def labels_cut_short(folder: Path) -> Path:
    volume(folder / "bad.nii.gz", VOXELS + 1)
    file = volume(folder / "bad_labels.nii.gz", LABELS)
    os.truncate(file, 1500)
    return file


CASES: list[tuple[Make, str]] = [
    (corrupt, r"(expected whole compressed data but they are damaged|ends too early|header is not one)"),
    (corrupt_inside_compressed_metaimage, "expected whole compressed data but they are damaged"),
    *((cut(suffix), "cut short. Copy it again") for suffix in (".nii", ".nii.gz", ".mha", ".nrrd")),
    (empty, "the file is empty"),
    (empty_gzip, "its header is not one"),
    (no_volume, "its header is not one"),
    (flat, r"expected a 3-D grid but got a single plane \(32 x 32\)"),
    (one_slice, r"expected a 3-D grid but got a single plane \(32 x 32 x 1\)"),
    (in_time, r"expected a 3-D grid but got 4-D \(32 x 32 x 32 x 2\). Save each volume in a file of its own"),
    (colours, r"expected one value at each place of a 3-D grid but got 3 .*Colours are no CT"),
    *((not_a_number(suffix), "expected finite values but got NaN") for suffix in (".nii.gz", ".nrrd", ".mha")),
    (constant, "all voxels are -1000"),
    (missing_slice, r"slices 2 mm apart but got 2 to 4 mm, the widest after s019\.dcm. A slice is missing"),
    (damaged_slice, r"slices 2 mm apart but got 2 to 4 mm"),
    (mixed_series, r"expected one DICOM series in a folder but got 2 \(1.2.3.4: 32 files.*Move each into a folder of its own"),
    (mixed_sizes, r"scout\.dcm: expected slices of one kind \(32 x 32 pixels.*Series are mixed"),
    (colour_slices, "colours are no CT|Colours are no CT"),
    (broken_link, r"the link leads to .*gone\.nii\.gz, which is not there. Mend the link"),
    (labels_of_another_shape, r"expected labels on the grid of bad \(32 x 32 x 32 voxels.*but got 28 x 32 x 32.*Resample them"),
    (labels_of_another_spacing, r"expected labels on the grid of bad .* but got .* of 3 x 2 x 2 mm"),
    (labels_that_are_intensities, r"expected whole labels from 0 to 32767 but got values from -"),
    (labels_cut_short, "cut short|header is not one"),
]


@pytest.mark.parametrize(("make", "said"), CASES, ids=[make.__name__ for make, _ in CASES])
def test_what_is_bad_is_named_with_its_mend_by_check_and_before_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], make: Make, said: str
) -> None:
    folder = tmp_path / "ct"
    folder.mkdir()
    volume(folder / "good.nii.gz", VOXELS)
    make(folder)
    small = ["crops.global_size_voxels=16", "crops.local_size_voxels=8"]
    assert main(["check", str(folder), f"data.cache_dir={tmp_path / 'cache'}", *small]) == 1
    printed = capsys.readouterr().out
    assert "bad" in printed
    settings = {"data.source": str(folder), "data.cache_dir": str(tmp_path / "cache"), "crops.global_size_voxels": 16}
    settings |= {"crops.local_size_voxels": 8}
    with pytest.raises(DataError, match=said) as caught:
        load_scans(from_mapping(settings))
    assert all(problem.endswith("skip_unreadable=true.") for problem in caught.value.problems)
    assert all(problem.split(" Or leave")[0] in printed for problem in caught.value.problems)
    left = find_scans(from_mapping(settings | {"data.skip_unreadable": True}))
    assert [scan.name for scan in left.scans] == ["good"]


@contextmanager
def nobody() -> Iterator[None]:
    """Root may read everything: become somebody who may not."""
    if os.geteuid() == 0:
        os.seteuid(65534)
        try:
            yield
        finally:
            os.seteuid(0)
    else:
        yield


def reachable(folder: Path) -> None:
    """Open the way to it: pytest's folders are for their owner alone, however many there are above."""
    for above in (folder, *folder.parents):
        if above.is_relative_to(tempfile.gettempdir()) and above != Path(tempfile.gettempdir()):
            above.chmod(above.stat().st_mode | 0o055)


def test_a_source_in_a_folder_that_may_not_be_entered_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "closed"
    volume(folder / "ct" / "good.nii.gz", VOXELS)
    reachable(tmp_path)
    folder.chmod(0o000)
    try:
        with nobody(), pytest.raises(DataError, match=r"data\.source: expected .* that can be read but .*Permission denied"):
            found(data(folder / "ct"))
    finally:
        folder.chmod(0o755)


def test_a_file_that_may_not_be_read_is_named_and_asked_for_again_next_time(tmp_path: Path) -> None:
    folder = tmp_path / "ct"
    file = volume(folder / "bad.nii.gz", VOXELS)
    reachable(tmp_path)
    file.chmod(0o000)
    (tmp_path / "cache").mkdir()
    if os.geteuid() == 0:
        os.chown(tmp_path / "cache", 65534, -1)
    with nobody():
        index = build(data(folder))
        assert [problem for problem in index.problems if "Permission denied" in problem and "right to read" in problem]
    file.chmod(0o644)
    with nobody():
        assert [entry.source.name for entry in build(data(folder)).entries] == ["bad"]


def test_a_folder_that_may_not_be_read_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "ct"
    volume(folder / "good.nii.gz", VOXELS)
    closed = volume(folder / "closed" / "a.nii.gz", VOXELS + 1).parent
    reachable(tmp_path)
    (tmp_path / "cache").mkdir()
    if os.geteuid() == 0:
        os.chown(tmp_path / "cache", 65534, -1)
    closed.chmod(0o000)
    try:
        with nobody():
            index = build(data(folder))
        assert [entry.source.name for entry in index.entries] == ["good"]
        assert [problem for problem in index.problems if "closed: expected a folder that can be read" in problem]
    finally:
        closed.chmod(0o755)


def test_every_problem_comes_at_once(tmp_path: Path) -> None:
    for number, (make, _) in enumerate(CASES[:8]):
        (tmp_path / "ct" / str(number)).mkdir(parents=True)
        make(tmp_path / "ct" / str(number))
    assert len(build(data(tmp_path / "ct"), workers=1).problems) == 8


def test_a_second_series_in_the_first_is_no_list_of_hundreds(tmp_path: Path) -> None:
    slices(tmp_path / "ct", VOXELS)
    slices(tmp_path / "ct", VOXELS[:12, :28, :28], prefix="t")
    with pytest.raises(DataError) as caught:
        load_scans(from_mapping({"data.source": str(tmp_path / "ct"), "data.cache_dir": str(tmp_path / "cache")}))
    assert len(caught.value.problems) == 4
    assert "t002.dcm: expected slices of one kind" in caught.value.problems[2]
    assert "9 more are of another. Move each series into a folder of its own." in caught.value.problems[3]
