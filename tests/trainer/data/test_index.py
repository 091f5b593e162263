"""The index: built once, resumable, parallel, and a second start that reads no volume."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from scan_files import LABELS, VOXELS, data, slices, volume

from trainer.config.fields import Data
from trainer.data import reading
from trainer.data.finding import Source
from trainer.data.index import Index, StoredScans, build
from trainer.data.workers import Answer, Workers


def folder_of(scans: int, top: Path) -> Path:
    for number in range(scans):
        volume(top / f"{number:03d}.nii.gz", VOXELS + number)
    return top


def no_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    def read(files: Sequence[Path], series: bool) -> None:
        raise AssertionError(f"{files[0]} was read again")

    monkeypatch.setattr(reading, "image", read)


def names(index: Index) -> list[str]:
    return [entry.source.name for entry in index.entries]


def test_a_second_start_reads_no_volume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = folder_of(3, tmp_path / "ct")
    slices(folder / "series", VOXELS + 9)
    volume(folder / "000_labels.nii.gz", LABELS)
    (folder / "bad.nii.gz").write_bytes(b"nothing at all")
    first = build(data(folder))
    assert first.read == 5
    no_reading(monkeypatch)
    second = build(data(folder))
    assert second.read == 0
    assert (second.entries, second.problems) == (first.entries, first.problems)
    assert len(second.problems) == 1


def test_a_changed_file_is_read_again_and_the_others_are_not(tmp_path: Path) -> None:
    folder = folder_of(3, tmp_path / "ct")
    build(data(folder))
    volume(folder / "001.nii.gz", VOXELS - 7)
    index = build(data(folder))
    assert index.read == 1
    assert StoredScans(index.entries, data(folder))[1].voxels.max() == (VOXELS - 7).max()


def test_a_bad_file_that_was_mended_is_in(tmp_path: Path) -> None:
    folder = folder_of(1, tmp_path / "ct")
    (folder / "bad.nii.gz").write_bytes(b"nothing at all")
    assert names(build(data(folder))) == ["000"]
    volume(folder / "bad.nii.gz", VOXELS - 5)
    assert names(build(data(folder))) == ["000", "bad"]


def test_other_processes_make_the_same_index(tmp_path: Path) -> None:
    folder = folder_of(5, tmp_path / "ct")
    (folder / "bad.nii.gz").write_bytes(b"nothing at all")
    volume(folder / "004_labels.nii.gz", LABELS)
    told: list[tuple[int, int, int]] = []
    here = build(data(folder, cache_dir=str(tmp_path / "a")), workers=1)
    there = build(data(folder, cache_dir=str(tmp_path / "b")), workers=2, progress=lambda *numbers: told.append(numbers))
    assert here == there
    assert [done for done, _, _ in told] == [1, 2, 3, 4, 5, 6]
    assert told[-1] == (6, 6, 1)
    for file in (tmp_path / "a").glob("*.npy"):
        assert (tmp_path / "b" / file.name).read_bytes() == file.read_bytes()


_KILLED = """
import os, signal, sys
from trainer.config.fields import Data
from trainer.data.index import build
def progress(done, count, bad):
    if done == 3:
        os.kill(os.getpid(), signal.SIGKILL)
build(Data(source=sys.argv[1], cache_dir=sys.argv[2]), workers=1, progress=progress)
"""


def test_killed_in_the_middle_it_goes_on_where_it_was(tmp_path: Path) -> None:
    folder = folder_of(6, tmp_path / "ct")
    done = subprocess.run([sys.executable, "-c", _KILLED, str(folder), str(tmp_path / "cache")], check=False)
    assert done.returncode == -signal.SIGKILL
    index = build(data(folder))
    assert (len(index.entries), index.read) == (6, 3)


def test_an_index_torn_while_it_was_written_loses_the_torn_line_only(tmp_path: Path) -> None:
    folder = folder_of(4, tmp_path / "ct")
    first = build(data(folder))
    (journal,) = (tmp_path / "cache").glob("index-*.jsonl")
    os.truncate(journal, journal.stat().st_size - 20)
    script = "import sys; from trainer.config.fields import Data; from trainer.data.index import build;"
    script += "print(build(Data(source=sys.argv[1], cache_dir=sys.argv[2])).read)"
    for read in (1, 0):
        asked = [sys.executable, "-c", script, str(folder), str(tmp_path / "cache")]
        assert subprocess.run(asked, check=True, capture_output=True, text=True).stdout == f"{read}\n"
    assert build(data(folder)).entries == first.entries


def test_a_file_that_ends_its_reader_costs_no_other(tmp_path: Path) -> None:
    file = volume(tmp_path / "ct" / "a.nii.gz", VOXELS)
    with Workers(data(tmp_path / "ct"), inside=False) as workers:
        assert workers.read(Source("a", (file,))).record is not None
        workers._process().send_signal(signal.SIGKILL)
        lost = workers.read(Source("a", (file,)))
        assert lost == Answer(None, lost.problems, lasting=False)
        assert "its reader ended (signal 9)" in lost.problems[0]
        assert workers.read(Source("a", (file,))).record is not None


def test_a_cache_that_cannot_be_written_ends_the_index_not_the_scan(tmp_path: Path) -> None:
    from trainer.data.errors import CacheError

    folder = folder_of(2, tmp_path / "ct")
    (tmp_path / "cache").write_text("a file where the folder should be")
    with pytest.raises(CacheError, match=r"data\.cache_dir"):
        build(data(folder), workers=2)


def test_scans_are_mapped_when_they_are_asked_for(tmp_path: Path) -> None:
    """The files of 300 open scans would pass the limit on open files that is set here."""
    import resource

    folder = folder_of(2, tmp_path / "ct")
    for number in range(2, 300):
        shutil.copy(folder / "001.nii.gz", folder / f"{number:03d}.nii.gz")
    index = build(data(folder), workers=1)
    assert len(index.entries) == 300
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 160, hard))
    try:
        scans = StoredScans(index.entries, data(folder))
        assert [int(scan.voxels[0, 0, 0] - scans[0].voxels[0, 0, 0]) for scan in scans] == [0] + [1] * 299
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_copies_are_told_because_they_may_lie_on_both_sides_of_the_split(tmp_path: Path) -> None:
    folder = folder_of(2, tmp_path / "ct")
    shutil.copy(folder / "000.nii.gz", folder / "copy.nii.gz")
    assert [note for note in build(data(folder)).notes if "copy and 000" in note and "held out" in note]


def test_a_part_of_the_scans_is_scans_again(tmp_path: Path) -> None:
    folder = folder_of(4, tmp_path / "ct")
    scans = StoredScans(build(data(folder)).entries, data(folder))
    assert [scan.name for scan in scans[1:3]] == ["001", "002"]
    assert scans[-1].name == "003"


_WATCHED = """
import sys, threading, time
import numpy, scipy.sparse, SimpleITK
from trainer.config.fields import Data
from trainer.data.index import build
def memory():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmRSS"))
Data, before, most, done = Data, memory(), 0, threading.Event()
def watch():
    global most
    while not done.wait(0.002):
        most = max(most, memory())
threading.Thread(target=watch, daemon=True).start()
index = build(Data(source=sys.argv[1], cache_dir=sys.argv[2], spacing_mm=float(sys.argv[3]) if sys.argv[3] else None), workers=1)
done.set()
assert not index.problems, index.problems
print(most - before)
"""


@pytest.mark.parametrize("spacing_mm", ["", "1.5"], ids=["as stored", "resampled"])
@pytest.mark.parametrize("suffix", [".nii.gz", ".mha"])
def test_a_scan_is_never_held_more_than_twice(tmp_path: Path, suffix: str, spacing_mm: str) -> None:
    voxels = np.tile(VOXELS, (6, 8, 8))
    volume(tmp_path / "ct" / f"a{suffix}", voxels, (1.0, 1.0, 1.0))
    volume(tmp_path / "ct" / "a_labels.nii.gz", np.tile(LABELS, (6, 8, 8)), (1.0, 1.0, 1.0))
    asked = [sys.executable, "-c", _WATCHED, str(tmp_path / "ct"), str(tmp_path / "cache"), spacing_mm]
    grown_kb = int(subprocess.run(asked, check=True, capture_output=True, text=True).stdout)
    assert grown_kb * 1024 < 2 * voxels.nbytes


def test_settings_of_a_worker_are_those_of_its_parent(tmp_path: Path) -> None:
    folder = folder_of(1, tmp_path / "ct")
    settings = Data(source=str(folder), cache_dir=str(tmp_path / "cache"), spacing_mm=4.0)
    index = build(settings, workers=1)
    with Workers(settings, inside=False) as workers:
        assert workers.read(index.entries[0].source).record == index.entries[0].record
