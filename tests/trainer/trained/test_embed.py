"""Features of a folder as a table: every crop with its place, and nothing written unless all of it is."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.data import cut, foreground_mask, load_scans
from trainer.trained.embed import main, random_corners, sliding_corners, write_features
from trainer.trained.network import open_network


@settings(max_examples=40)
@given(st.tuples(*[st.integers(4, 14)] * 3), st.integers(2, 4), st.integers(1, 6))
def test_sliding_crops_reach_every_voxel_unless_they_leave_gaps(shape: tuple[int, int, int], size: int, stride: int) -> None:
    corners = sliding_corners(shape, size, stride)
    seen = np.zeros(shape, bool)
    for d, h, w in corners:
        seen[d : d + size, h : h + size, w : w + size] = True
    assert (corners >= 0).all()
    assert (corners + size <= np.array(shape)).all()
    assert len(np.unique(corners, axis=0)) == len(corners)
    assert seen[-1, -1, -1]
    assert seen[0, 0, 0]
    assert stride > size or seen.all()


def test_random_crops_are_the_same_for_the_same_seed_and_reach_every_corner() -> None:
    first = random_corners((5, 6, 7), 4, 200, seed=1, index=0)
    assert np.array_equal(first, random_corners((5, 6, 7), 4, 200, seed=1, index=0))
    assert not np.array_equal(first, random_corners((5, 6, 7), 4, 200, seed=1, index=1))
    assert first.min(axis=0).tolist() == [0, 0, 0]
    assert first.max(axis=0).tolist() == [1, 2, 3]


def test_each_row_holds_what_the_network_says_of_its_crop(tiny_run: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "f.parquet"
    assert main([str(tiny_run), "phantom", str(out), "--per-scan", "3", "data.phantom.scans=3"]) == 0
    table = pq.read_table(out)
    network = open_network(tiny_run, {"data.phantom.scans": 3})
    scans = {scan.name: scan for scan in load_scans(network.config)}
    assert table.column_names == ["scan", "corner", "foreground_ratio", "features", "logits"]
    assert len(table) == 9
    for row in table.to_pylist():
        scan, (d, h, w) = scans[row["scan"]], row["corner"]
        features, logits = network.read(cut(scan, np.array([row["corner"]]), 12, network.config.data))
        assert np.allclose(row["features"], features[0], atol=1e-5)
        assert logits is not None
        assert np.allclose(row["logits"], logits[0], atol=1e-5)
        body = foreground_mask(scan.voxels, "body", -500.0)[d : d + 12, h : h + 12, w : w + 12]
        assert row["foreground_ratio"] == pytest.approx(body.mean(), abs=1e-6)
    reading = json.loads(table.schema.metadata[b"reading"])
    assert reading == {"edge_voxels": 12, "spacing_mm": None, "window_hu": [-400.0, 400.0]}
    assert table.schema.metadata[b"network"].startswith(b"teacher of ")


def test_sliding_crops_tile_each_scan(tiny_run: Path, tmp_path: Path) -> None:
    network = open_network(tiny_run, {"data.phantom.scans": 3})
    scans = load_scans(network.config)
    assert write_features(network, scans[:2], tmp_path / "f.parquet") == 2 * 3**3  # 32 voxels: corners 0, 12 and 20
    assert write_features(network, scans[:1], tmp_path / "f.parquet", stride=4) == 6**3


def test_an_interrupted_table_leaves_the_old_one(tiny_run: Path, tmp_path: Path) -> None:
    network = open_network(tiny_run, {"data.phantom.scans": 3})
    scans = load_scans(network.config)
    out = tmp_path / "f.parquet"
    write_features(network, scans[:1], out)
    before = out.read_bytes()
    with pytest.raises(AttributeError):
        write_features(network, [scans[0], None], out)  # type: ignore[list-item]
    assert out.read_bytes() == before
    assert [found.name for found in tmp_path.iterdir()] == ["f.parquet"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["missing.pt", "phantom", "f.parquet"], "no such file"),
        (["{run}", "phantom", "f.parquet", "--stride", "0"], "expected at least 1"),
        (["{run}", "{run}/nowhere", "f.parquet"], "nowhere"),
        (["{run}", "phantom", "f.parquet", "model.dim=24"], "model.dim: is the trained network's own setting"),
    ],
)
def test_bad_calls_say_their_mend_and_write_nothing(
    tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([word.replace("{run}", str(tiny_run)) for word in words]) == 2
    assert said in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
