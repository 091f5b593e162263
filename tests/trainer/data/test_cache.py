"""The cache: bounded, whole or absent, never from under whoever holds a part of it."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from scan_files import VOXELS, data, volume

from trainer.data import cache as room
from trainer.data.cache import Cache, Journal, Kept
from trainer.data.errors import CacheError
from trainer.data.index import StoredScans, build

KB = np.arange(1000, dtype=np.int8)


def kept(cache: Cache, name: str) -> None:
    cache.keep_array(name, KB.shape, np.int8, [KB[:300], KB[300:]])


def names(cache: Cache) -> set[str]:
    return {file.name for file in cache.folder.glob("*.npy")}


def age(cache: Cache, name: str, seconds: int) -> None:
    os.utime(cache.folder / name, (1e9 - seconds, 1e9 - seconds))


def test_an_array_comes_back_as_it_went_part_by_part(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    kept(cache, "a.npy")
    found = cache.array("a.npy")
    assert found is not None
    np.testing.assert_array_equal(found, KB)
    assert not found.flags.writeable
    assert cache.array("b.npy") is None


def test_the_oldest_use_goes_first(tmp_path: Path) -> None:
    cache = Cache(tmp_path, limit_bytes=3600)
    for seconds, name in enumerate(("a.npy", "b.npy", "c.npy")):
        kept(cache, name)
        age(cache, name, 100 - seconds)
    assert cache.array("a.npy") is not None, "used now, so b is the oldest"
    cache._size = None
    kept(cache, "d.npy")
    assert names(cache) == {"a.npy", "c.npy", "d.npy"}


def test_what_is_held_is_never_removed(tmp_path: Path) -> None:
    cache = Cache(tmp_path, limit_bytes=2500)
    for name in ("a.npy", "b.npy"):
        kept(cache, name)
    held = cache.array("a.npy")
    age(cache, "a.npy", 1000)
    kept(cache, "c.npy")
    assert names(cache) == {"a.npy", "c.npy"}
    assert held is not None
    del held
    kept(cache, "d.npy")
    assert names(cache) == {"c.npy", "d.npy"}, "let go, it goes"


def test_a_limit_below_a_single_array_keeps_that_array(tmp_path: Path) -> None:
    cache = Cache(tmp_path, limit_bytes=10)
    kept(cache, "a.npy")
    kept(cache, "b.npy")
    assert names(cache) == {"b.npy"}


def test_without_a_limit_nothing_goes(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    for number in range(5):
        kept(cache, f"{number}.npy")
    assert len(names(cache)) == 5


def test_few_maps_stay_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "OPEN_MAPS", 2)
    cache = Cache(tmp_path)
    for number in range(5):
        kept(cache, f"{number}.npy")
        assert cache.array(f"{number}.npy") is not None
    assert set(cache._held) == {"3.npy", "4.npy"}


def test_scans_of_a_bounded_cache_are_read_again_when_they_were_removed(tmp_path: Path) -> None:
    folder = tmp_path / "ct"
    for number in range(4):
        volume(folder / f"{number}.nii.gz", VOXELS + number)
    settings = data(folder, cache_limit_gb=2.5 * VOXELS.nbytes / 1e9)
    scans = StoredScans(build(settings).entries, settings)
    for _ in range(2):
        assert [int(scan.voxels[0, 0, 0]) - int(scans[0].voxels[0, 0, 0]) for scan in scans] == [0, 1, 2, 3]
    assert sum(file.stat().st_size for file in (tmp_path / "cache").glob("*.npy")) <= 2.5 * VOXELS.nbytes


def test_what_is_computed_from_a_scan_is_computed_once(tmp_path: Path) -> None:
    calls = []

    def parts() -> Iterator[np.ndarray]:
        calls.append(1)
        yield KB

    scan = Kept(Cache(tmp_path), "key")
    for _ in range(3):
        np.testing.assert_array_equal(scan.array("what", KB.shape, np.int8, parts), KB)
    assert len(calls) == 1


def test_a_write_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def parts() -> Iterator[np.ndarray]:
        yield KB
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Cache(tmp_path).keep_array("a.npy", (2000,), np.int8, parts())
    assert list(tmp_path.iterdir()) == []


def test_threads_may_ask_at_once(tmp_path: Path) -> None:
    cache = Cache(tmp_path, limit_bytes=4000)
    problems: list[BaseException] = []

    def work(which: int) -> None:
        try:
            for number in range(20):
                kept(cache, f"{which}-{number}.npy")
                found = cache.array(f"{which}-{number}.npy")
                assert found is None or (found == KB).all()
        except BaseException as error:
            problems.append(error)

    threads = [threading.Thread(target=work, args=(which,)) for which in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []


def test_a_journal_survives_a_torn_line_and_another_writer(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    one = Journal(file)
    one.put("a", 1)
    with file.open("a") as handle:
        handle.write(json.dumps(["torn", 2])[:-3])
    one.put("b", {"deep": [1]})
    other = Journal(file)
    assert (other.get("a"), other.get("torn"), other.get("b")) == (1, None, {"deep": [1]})
    other.put("a", 3)
    assert one.get("a") == 1
    one.refresh()
    assert one.get("a") == 3


def test_a_folder_that_cannot_be_written_is_named_with_its_mend_and_still_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = Cache(tmp_path)
    kept(cache, "a.npy")
    (tmp_path / "index.lock").mkdir()  # what any user, root too, cannot open for writing
    with (
        pytest.raises(CacheError, match=r"data\.cache_dir: expected to write .*index\.lock but got: .* Set another folder\."),
        cache.alone("index"),
    ):
        pass

    def refused(path: Path) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(room.os, "utime", refused)
    assert Cache(tmp_path).array("a.npy") is not None


def test_a_journal_that_cannot_be_written_says_what_to_set(tmp_path: Path) -> None:
    with pytest.raises(CacheError, match=r"data\.cache_dir: expected to write .*set another folder"):
        Journal(tmp_path / "gone" / "a.jsonl").put("a", 1)
