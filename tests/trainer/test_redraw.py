"""Crops are drawn again as they were, and said to be others where they are."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from trainer.__main__ import main
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


def test_the_crops_of_a_trained_step_are_those_on_record(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for step, index in ((0, 0), (5, 3)):
        assert main(["crops", "--run", str(run), "--step", str(step), "--index", str(index), "--json", f"out={tmp_path}/a.png"]) == 0
        rows = json.loads(capsys.readouterr().out)
        views = len(rows)
        recorded = pq.read_table(run / "crops.parquet", filters=[("step", "=", step)]).to_pylist()[index * views : (index + 1) * views]
        for row, kept in zip(rows, recorded, strict=True):
            assert row["scan"] == kept["scan"]
            assert row["corner"] == [kept["corner_depth"], kept["corner_height"], kept["corner_width"]]
            assert row["body_ratio"] == pytest.approx(kept["ratio"], abs=1e-4)
            assert row["below_ratio"] == kept["violation"]
        with Image.open(tmp_path / "a.png") as picture:
            assert picture.size[0] > 600


def test_a_record_that_says_something_else_is_named(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    changed = tmp_path / "run"
    changed.mkdir()
    (changed / "checkpoint.pt").write_bytes((run / "checkpoint.pt").read_bytes())
    table = pq.read_table(run / "crops.parquet")
    at = table.schema.get_field_index("corner_depth")
    moved = pa.array([(value + 1) for value in table.column(at).to_pylist()], table.schema.field(at).type)
    pq.write_table(table.set_column(at, "corner_depth", moved), changed / "crops.parquet")
    assert main(["crops", "--run", str(changed), "--step", "2", "--index", "1", f"out={tmp_path}/b.png"]) == 1
    assert "step 2, place 0, view 0: drawn again" in capsys.readouterr().err


def test_any_sampler_settings_can_be_looked_at(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [f"{name}={value}" for name, value in TINY.items()]
    assert main(["crops", *words, "crops.min_global_overlap=0.5", f"out={tmp_path}/c.png"]) == 0
    said = capsys.readouterr().out
    assert "globals share IoU" in said
    assert (tmp_path / "c.png").stat().st_size > 1000


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--step", "-1"], "--step: expected at least 0 but got -1"),
        (["--index", "99"], "--index: expected 0 to 15"),
        (["--run", "/nowhere"], "/nowhere"),
        (["crops.local_crop=3"], "Did you mean crops.local_crops?"),
    ],
)
def test_what_cannot_be_drawn_is_said(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["crops", *words]) == 2
    assert message in capsys.readouterr().err
