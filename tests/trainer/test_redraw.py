"""Crops are drawn again as they were, and said to be others where they are."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import SimpleITK as sitk
from PIL import Image

from trainer.__main__ import main
from trainer.data.phantom import phantom_scan
from trainer.train import train

TINY: dict[str, object] = {
    "data.phantom.size_voxels": 32,
    "data.phantom.scans": 6,
    "data.rotate_split_below": 0,
    "crops.global_size_voxels": 12,
    "crops.local_size_voxels": 6,
    "crops.foreground_crop_prob": 0.5,
    "model.patch_size_voxels": 3,
    "model.dim": 12,
    "model.depth": 1,
    "model.heads": 2,
    "model.prototypes": 8,
    "loop.steps": 6,
    "loop.warmup_steps": 2,
    "loop.batch_size": 4,
    "measure.crops_per_scan": 4,
    "measure.background_crops_per_scan": 2,
}


class Silent:
    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def report(self, step: int, metrics: Mapping[str, float]) -> bool:
        return True


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("run")
    train(TINY, Silent(directory))
    return directory


def recorded(run: Path, step: int) -> list[dict[str, Any]]:
    return pq.read_table(run / "crops.parquet", filters=[("step", "=", step)]).drop_columns(["loss"]).to_pylist()


def test_the_crops_of_a_trained_step_are_those_on_record(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for step, index in ((0, 0), (5, 3)):
        assert main(["crops", f"run={run}", "--step", str(step), "--index", str(index), "--json", f"out={tmp_path}/a.png"]) == 0
        rows = json.loads(capsys.readouterr().out)
        views = len(rows)
        for row, kept in zip(rows, recorded(run, step)[index * views : (index + 1) * views], strict=True):
            assert {name: row[name] for name in kept} == kept
            assert row["edges_mm"] == [row["size"] * 5.0] * 3
            assert row["window_hu"] == [-400, 400]
        with Image.open(tmp_path / "a.png") as picture:
            assert picture.size[0] > 600


@pytest.mark.parametrize(("column", "change"), [("corner_depth", 1), ("size", 1), ("ratio_own", 0.01), ("iou", 0.01), ("view", 1)])
def test_a_record_that_says_something_else_is_named(
    run: Path, tmp_path: Path, column: str, change: float, capsys: pytest.CaptureFixture[str]
) -> None:
    changed = tmp_path / "run"
    changed.mkdir()
    (changed / "checkpoint.pt").write_bytes((run / "checkpoint.pt").read_bytes())
    table = pq.read_table(run / "crops.parquet")
    at = table.schema.get_field_index(column)
    moved = pa.array([None if v is None else v + change for v in table.column(at).to_pylist()], table.schema.field(at).type)
    pq.write_table(table.set_column(at, column, moved), changed / "crops.parquet")
    assert main(["crops", f"run={changed}", "--step", "2", "--index", "1", f"out={tmp_path}/b.png"]) == 1
    said = capsys.readouterr().err
    assert "step 2, place 1, view 0: drawn again" in said
    assert f"{column} " in said
    assert (tmp_path / "b.png").exists()


def test_a_step_that_is_not_on_record_is_drawn_and_compared_with_nothing(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["crops", f"run={run}", "--step", "40", f"out={tmp_path}/d.png"]) == 0
    assert "no crops of step 40 on record" in capsys.readouterr().err
    assert (tmp_path / "d.png").exists()


def test_any_sampler_settings_can_be_looked_at(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [f"{name}={value}" for name, value in TINY.items()]
    assert main(["crops", *words, "crops.min_global_overlap=0.5", f"out={tmp_path}/c.png"]) == 0
    said = capsys.readouterr().out
    assert "globals share IoU" in said
    assert "24 crops, window -400 to 400 HU" in said
    assert (tmp_path / "c.png").stat().st_size > 1000


def test_crops_of_thick_slices_are_no_cubes_in_millimetres(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "ct scans").mkdir()
    for n in range(3):
        voxels, _ = phantom_scan("torso", 32, 15.0, 15.0, 0, n)
        image = sitk.GetImageFromArray(voxels)
        image.SetSpacing([2.0, 2.0, 5.0])
        sitk.WriteImage(image, str(tmp_path / "ct scans" / f"{n}.nii.gz"))
    words = [f"data.source={tmp_path}/ct scans", f"data.cache_dir={tmp_path}/cache", "loop.batch_size=2", f"out={tmp_path}/a.png"]
    assert main(["crops", *words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["edges_mm"] == [24 * 5.0, 24 * 2.0, 24 * 2.0]
    assert main(["crops", *words]) == 0
    assert "edge 24 voxels, 120 x 48 x 48 mm" in capsys.readouterr().out


def test_the_gallery_over_a_data_set_has_one_row_a_scan(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [f"{name}={value}" for name, value in TINY.items()]
    heights = {}
    for asked, expected in ((["3"], ["torso_000", "torso_002", "torso_005"]), ([], [f"torso_{n:03d}" for n in range(6)])):
        assert main(["crops", *words, "--gallery", *asked, "--json", f"out={tmp_path}/e.png"]) == 0
        rows = json.loads(capsys.readouterr().out)
        assert list(dict.fromkeys(row["scan"] for row in rows)) == expected
        assert len(rows) == 6 * len(expected)
        with Image.open(tmp_path / "e.png") as picture:
            heights[len(expected)] = picture.size[1]
    assert heights[6] > 1.8 * heights[3]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--step", "-1"], "--step: expected at least 0 but got -1"),
        (["--index", "99"], "--index: expected 0 to 15"),
        (["--gallery", "--index", "0"], "--gallery: shows scans of the whole data set"),
        (["--gallery", "0"], "--gallery: expected at least 1 scan"),
        (["run=/nowhere"], "/nowhere"),
        (["run=/nowhere", "seed=3"], "Give one of the two"),
        (["crops.local_crop=3"], "Did you mean crops.local_crops?"),
    ],
)
def test_what_cannot_be_drawn_is_said(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["crops", *words]) == 2
    assert message in capsys.readouterr().err
