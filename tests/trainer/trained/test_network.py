"""Anybody's network is opened as one function from crops to features, and says plainly where it does not keep its promise."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from trainer.checkpoint import CheckpointError, trained
from trainer.config import ConfigError
from trainer.trained.arguments import split
from trainer.trained.backbone import export
from trainer.trained.network import NetworkError, open_network

MODELS = """
import torch
from torch import nn

class Mean(nn.Module):
    def __init__(self, state):
        super().__init__()
        self.weight = nn.Parameter(state["model"]["weight"])
    def forward(self, images):
        assert not self.training
        return images.mean(dim=(2, 3, 4)) * self.weight

class Headed(Mean):
    def forward(self, images):
        features = super().forward(images)
        return features, features[:, :2] * 3

class Tokens(Mean):
    def forward(self, images):
        return super().forward(images)[:, None].expand(-1, 7, -1)

class Wrong(Mean):
    def forward(self, images):
        raise RuntimeError("expected 96 voxels")

def fails(state):
    return state["teacher"]

def nothing(state):
    return "a module"
"""


@pytest.fixture
def foreign(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "theirs.py").write_text(MODELS)
    monkeypatch.syspath_prepend(str(tmp_path))
    torch.save({"model": {"weight": torch.arange(1.0, 4.0)}, "epoch": 7}, tmp_path / "theirs.pth")
    return tmp_path / "theirs.pth"


def crops(count: int = 5) -> np.ndarray:
    return np.random.default_rng(0).uniform(-1, 1, (count, 1, 4, 4, 4)).astype(np.float32)


def test_a_module_that_a_factory_builds_is_read(foreign: Path) -> None:
    network = open_network(foreign, {"data.source": "phantom"}, "theirs:Mean")
    features, logits = network.read(crops(40))
    wanted = crops(40).mean(axis=(2, 3, 4)) * np.arange(1.0, 4.0)
    assert np.allclose(features, wanted, atol=1e-6)
    assert logits is None
    assert network.untrained is None
    assert not network.settings_known


def test_logits_are_taken_where_the_module_gives_them(foreign: Path) -> None:
    features, logits = open_network(foreign, {}, "theirs:Headed").read(crops())
    assert logits is not None
    assert np.allclose(logits, features[:, :2] * 3)


@pytest.mark.parametrize(
    ("factory", "said"),
    [
        ("theirs", "expected package.module:function but got 'theirs'"),
        ("nowhere:Mean", "cannot be imported"),
        ("theirs:Median", "cannot be imported"),
        ("theirs:fails", r"module built from what the file holds \(model, epoch, ...\) but it raised KeyError: 'teacher'"),
        ("theirs:nothing", "expected a torch.nn.Module but got str"),
    ],
)
def test_a_factory_that_fails_is_named(foreign: Path, factory: str, said: str) -> None:
    with pytest.raises(NetworkError, match=said):
        open_network(foreign, {}, factory)


@pytest.mark.parametrize(
    ("factory", "said"),
    [
        ("theirs:Tokens", r"expected features \[5, dim\], or \(features, logits\), of 5 crops but got \[5, 7, 3\]. Pool the tokens"),
        ("theirs:Wrong", "the module raised RuntimeError: expected 96 voxels. Set crops.global_size_voxels"),
    ],
)
def test_a_module_that_breaks_its_promise_is_named(foreign: Path, factory: str, said: str) -> None:
    with pytest.raises(NetworkError, match=said):
        open_network(foreign, {}, factory).read(crops())


def test_a_factory_never_sees_an_unpickled_object(foreign: Path) -> None:
    torch.save(nn.Linear(2, 2), foreign)
    with pytest.raises(CheckpointError, match="holds objects"):
        open_network(foreign, {}, "theirs:Mean")


def test_our_own_networks_come_with_their_untrained_twin(tiny_run: Path, tmp_path: Path) -> None:
    export(trained(tiny_run), tmp_path / "b.safetensors")
    images = np.random.default_rng(0).uniform(-1, 1, (4, 1, 12, 12, 12)).astype(np.float32)
    whole, alone = open_network(tiny_run, {}), open_network(tmp_path / "b.safetensors", {})
    assert np.allclose(whole.read(images)[0], alone.read(images)[0], atol=1e-6)
    assert whole.read(images)[1] is not None
    assert alone.read(images)[1] is None
    assert whole.untrained is not None
    assert alone.untrained is not None
    assert np.allclose(whole.untrained(images)[0], alone.untrained(images)[0], atol=1e-6)
    assert not np.array_equal(whole.untrained(images)[0], whole.read(images)[0])


def test_only_what_is_read_may_change_for_a_trained_network(tiny_run: Path) -> None:
    network = open_network(tiny_run, {"data.phantom.scans": 3, "measure.crops_per_scan": 9})
    assert (network.config.data.phantom.scans, network.config.measure.crops_per_scan) == (3, 9)
    with pytest.raises(ConfigError) as error:
        open_network(tiny_run, {"model.dim": 24, "data.sorce": "x"})
    assert "model.dim: is the trained network's own setting" in str(error.value)
    assert "data.sorce: no such setting. Did you mean data.source?" in str(error.value)


def test_words_of_the_command_line_are_paths_or_settings() -> None:
    words: list[Any] = ["a.pt", "--json", "loop.lr=1e-3", "data.spacing_mm=null", "crops.global_scale_mm=[90, 120]", "C:=x", "dir/a=b"]
    assert split(words) == (
        ["a.pt", "--json", "C:=x", "dir/a=b"],
        {"loop.lr": 0.001, "data.spacing_mm": None, "crops.global_scale_mm": [90, 120]},
    )
    with pytest.raises(ConfigError, match=r"data\.source: expected a value"):
        split(["data.source=[1"])
