"""Which files are scans and which their labels, in folders as people have them."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from scan_files import LABELS, VOXELS, data, slices, volume

from trainer.data import DataError
from trainer.data.finding import found
from trainer.data.index import StoredScans, build


def touched(top: Path, *names: str) -> Path:
    for name in names:
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        (top / name).write_bytes(b"x")
    return top


def owned(source: Path | str, **more: object) -> dict[str, list[str]]:
    """Scans, each with the names of its label files."""
    settings = data(Path(source), **({"cache_dir": str(Path(str(source).split("*")[0]).parent / "cache")} | more))
    return {scan.name: [file.name for file in scan.labels] for scan in found(settings).sources}


def test_labels_beside_their_scans_are_theirs_and_no_scans(tmp_path: Path) -> None:
    top = touched(
        tmp_path / "ct", "a.nii.gz", "a_labels.nii.gz", "b.nrrd", "b_seg.nrrd", "c.mha", "c_mask.nii.gz", "sub/d.nii", "sub/d_Labels.nii"
    )
    assert owned(top) == {"a": ["a_labels.nii.gz"], "b": ["b_seg.nrrd"], "c": ["c_mask.nii.gz"], "d": ["d_Labels.nii"]}


@pytest.mark.parametrize("folder", ["labels", "labelsTr", "segmentations", "masks", "seg"])
def test_a_folder_of_labels_holds_those_of_the_same_names(tmp_path: Path, folder: str) -> None:
    top = touched(tmp_path / "ct", "a.nii.gz", "b.nii.gz", f"{folder}/a.nii.gz", f"{folder}/b_totalseg.nii.gz")
    assert owned(top) == {"a": ["a.nii.gz"], "b": ["b_totalseg.nii.gz"]}


def test_an_other_folder_of_labels_mirrors_that_of_the_scans(tmp_path: Path) -> None:
    top = touched(tmp_path / "ct", "p1/ct.nii.gz", "p2/ct.nii.gz")
    labels = touched(tmp_path / "seg", "p2/ct.nii.gz", "p1/ct.nii.gz")
    settings = data(top, labels=str(labels))
    assert [(scan.name, scan.labels[0].parent.name) for scan in found(settings).sources] == [("p1_ct", "p1"), ("p2_ct", "p2")]


def test_a_mask_for_each_organ_as_totalsegmentator_writes_them(tmp_path: Path) -> None:
    top = touched(
        tmp_path / "ct", *(f"s{n}/{name}.nii.gz" for n in (1, 2) for name in ("ct", "segmentations/liver", "segmentations/spleen"))
    )
    sources = found(data(top)).sources
    assert [(scan.name, scan.organs, [file.name for file in scan.labels]) for scan in sources] == [
        (f"s{n}_ct", True, ["liver.nii.gz", "spleen.nii.gz"]) for n in (1, 2)
    ]
    elsewhere = touched(tmp_path / "out", *(f"s{n}_ct/{name}.nii.gz" for n in (1, 2) for name in ("liver", "spleen")))
    assert [len(scan.labels) for scan in found(data(top, labels=str(elsewhere))).sources] == [2, 2]


def test_organs_become_one_volume_with_the_names_of_their_files(tmp_path: Path) -> None:
    volume(tmp_path / "ct/s1/ct.nii.gz", VOXELS)
    liver, spleen = np.zeros_like(LABELS), np.zeros_like(LABELS)
    liver[4:9, 4:9, 4:9], spleen[8:12, 4:9, 4:9] = 1, 1
    volume(tmp_path / "ct/s1/segmentations/liver.nii.gz", liver)
    volume(tmp_path / "ct/s1/segmentations/spleen.nii.gz", spleen)
    (scan,) = StoredScans(build(data(tmp_path / "ct")).entries, data(tmp_path / "ct"))
    assert scan.label_names == {1: "liver", 2: "spleen"}
    assert scan.labels is not None
    turned = np.where(spleen > 0, 2, np.where(liver > 0, 1, 0))
    np.testing.assert_array_equal(scan.labels, turned)


def test_many_labels_need_more_than_a_byte(tmp_path: Path) -> None:
    volume(tmp_path / "ct/a.nii.gz", VOXELS)
    volume(tmp_path / "ct/a_labels.nii.gz", np.where(VOXELS > 0, 300, 0).astype(np.int16))
    (scan,) = StoredScans(build(data(tmp_path / "ct")).entries, data(tmp_path / "ct"))
    assert scan.labels is not None
    assert scan.labels.dtype == np.int16
    assert scan.label_names == {300: "label 300"}


def test_names_of_labels_come_from_a_table_beside_them(tmp_path: Path) -> None:
    volume(tmp_path / "ct/a.nii.gz", VOXELS)
    volume(tmp_path / "ct/a_labels.nii.gz", (VOXELS > 0).astype(np.uint8))
    first = build(data(tmp_path / "ct")).entries[0].record
    (tmp_path / "ct/a_labels.csv").write_text("id,structure\n1,everything\n2,nothing\n")
    second = build(data(tmp_path / "ct")).entries[0].record
    assert (first.labels, second.labels) == ({1: "label 1"}, {1: "everything"})


def test_names_of_labels_come_from_the_header_as_totalsegmentator_writes_it(tmp_path: Path) -> None:
    volume(tmp_path / "ct/a.nii.gz", VOXELS)
    file = volume(tmp_path / "ct/a_labels.nii", (VOXELS > 0).astype(np.uint8))
    raw = bytearray(file.read_bytes())
    xml = b'<CaretExtension><LabelTable><Label Key="1" Red="0.2"><![CDATA[heart]]></Label></LabelTable></CaretExtension>'
    size = (len(xml) + 8 + 15) // 16 * 16
    note = np.array([size, 0], "<i4").tobytes() + xml.ljust(size - 8, b" ")
    raw[108:112] = np.array([352 + size], "<f4").tobytes()
    raw[348:352] = b"\1\0\0\0"
    file.write_bytes(bytes(raw[:352]) + note + bytes(raw[352:]))
    assert build(data(tmp_path / "ct")).entries[0].record.labels == {1: "heart"}


def test_labels_of_no_scan_are_told(tmp_path: Path) -> None:
    top = touched(tmp_path / "ct", "a.nii.gz", "z_labels.nii.gz")
    there = found(data(top))
    assert [scan.labels for scan in there.sources] == [()]
    assert "z_labels.nii.gz: labels, but of no scan here" in there.notes[0]


@pytest.mark.parametrize("pattern", ["*", "p?", "**", "**/*.nii.gz"])
def test_a_glob_may_name_folders(tmp_path: Path, pattern: str) -> None:
    touched(tmp_path / "ct", "p1/a.nii.gz", "p2/b.nii.gz", "p2/deep/c.nii.gz")
    assert sorted(owned(f"{tmp_path / 'ct'}/{pattern}", cache_dir=str(tmp_path / "cache"))) == ["a", "b", "c"]


def test_links_to_files_and_folders_are_followed_each_folder_once(tmp_path: Path) -> None:
    top = touched(tmp_path / "ct", "a.nii.gz")
    elsewhere = touched(tmp_path / "archive", "deep/b.nii.gz", "c.nii.gz")
    (top / "linked").symlink_to(elsewhere / "deep")
    (top / "again").symlink_to(elsewhere / "deep")
    (top / "c.nii.gz").symlink_to(elsewhere / "c.nii.gz")
    (top / "round").symlink_to(top)
    assert list(owned(top)) == ["a", "b", "c"]


def test_a_single_file_and_a_link_to_a_folder_are_sources_too(tmp_path: Path) -> None:
    top = touched(tmp_path / "ct", "a.nii.gz", "b.nii.gz")
    assert list(owned(top / "a.nii.gz", cache_dir=str(tmp_path / "cache"))) == ["a"]
    (tmp_path / "link").symlink_to(top)
    assert list(owned(tmp_path / "link")) == ["a", "b"]


def test_a_source_that_is_a_broken_link_says_so(tmp_path: Path) -> None:
    (tmp_path / "a.nii.gz").symlink_to(tmp_path / "gone.nii.gz")
    assert "which is not there. Mend the link" in found(data(tmp_path / "a.nii.gz")).problems[0]


def test_what_is_no_scan_is_left_alone(tmp_path: Path) -> None:
    top = touched(tmp_path / "ct", "a.nii.gz", "README", "notes.txt", "table.csv", ".hidden.nii.gz")
    assert list(owned(top)) == ["a"]
    with pytest.raises(DataError, match=r"expected scans \(.nii.gz.*but found none"):
        found(data(touched(tmp_path / "empty", "README")))


def test_series_of_a_folder_are_remembered_while_no_file_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from trainer.data import finding

    top = slices(tmp_path / "ct" / "one", VOXELS[:8]).parent
    first = found(data(top)).sources

    def again(folder: Path, files: object) -> None:
        raise AssertionError("headers were read again")

    monkeypatch.setattr(finding, "series_in", again)
    assert found(data(top)).sources == first
    os.utime(top / "one" / "s003.dcm", (1, 1))
    with pytest.raises(AssertionError, match="again"):
        found(data(top))


def test_ten_thousand_scans_with_labels_are_found_within_seconds(tmp_path: Path) -> None:
    import time

    top = tmp_path / "ct"
    top.mkdir()
    for number in range(10_000):
        (top / f"s{number:05d}.nii.gz").touch()
        (top / f"s{number:05d}_seg.nii.gz").touch()
    began = time.process_time()
    assert all(len(scan.labels) == 1 for scan in found(data(top)).sources)
    assert time.process_time() - began < 10
