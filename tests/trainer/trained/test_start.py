"""A run starts from the student of another, and is another trial than one from new weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch

from trainer.checkpoint import CheckpointError, trained
from trainer.config import from_mapping, inert
from trainer.train import train


class Silent:
    def __init__(self, directory: Path) -> None:
        directory.mkdir()
        self.directory = directory

    def report(self, step: int, metrics: Mapping[str, float]) -> bool:
        return True


def test_without_a_step_the_run_is_the_checkpoint_as_it_is(tiny_run: Path, tiny_settings: dict[str, object], tmp_path: Path) -> None:
    settings = {**tiny_settings, "loop.start_from": str(tiny_run), "loop.steps": 0, "seed": 4}
    train(settings, Silent(tmp_path / "run"))
    found, started = trained(tiny_run).student, trained(tmp_path / "run")
    backbone = [name for name in found if name.startswith("backbone.")]
    assert all(torch.equal(started.student[name], found[name]) for name in backbone)
    assert all(torch.equal(started.teacher[name], found[name]) for name in backbone)


def test_another_model_is_refused_before_the_first_step(tiny_run: Path, tiny_settings: dict[str, object], tmp_path: Path) -> None:
    run = Silent(tmp_path / "run")
    with pytest.raises(CheckpointError, match=r"model\.depth was 1 and is 2"):
        train({**tiny_settings, "loop.start_from": str(tiny_run), "model.depth": 2}, run)
    assert list(run.directory.iterdir()) == []


def test_a_last_stage_may_see_more_voxels_where_positions_are_in_millimetres(tiny_settings: dict[str, object], tmp_path: Path) -> None:
    first = Silent(tmp_path / "first")
    train({**tiny_settings, "loop.steps": 1, "loop.warmup_steps": 0, "model.positions_unit": "mm"}, first)
    finer = {**tiny_settings, "loop.start_from": str(first.directory), "loop.steps": 0, "crops.global_size_voxels": 15}
    train({**finer, "model.positions_unit": "mm"}, Silent(tmp_path / "finer"))
    before, after = trained(first.directory).student, trained(tmp_path / "finer").student
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items() if name.startswith("backbone."))
    with pytest.raises(CheckpointError, match=r"positions_unit was 'mm' and is 'crop'.*|crops\.global_size_voxels was 12 and is 15"):
        train(finer, Silent(tmp_path / "crop"))


def test_where_a_run_starts_is_never_without_effect(tiny_run: Path, tiny_settings: dict[str, object]) -> None:
    for steps in (0, 3):
        config = from_mapping({**tiny_settings, "loop.steps": steps, "loop.start_from": str(tiny_run), "loop.warmup_steps": 0})
        assert "loop.start_from" not in inert(config)
