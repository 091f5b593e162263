"""A backbone leaves the trainer as one file and comes back the same, in a process that has never seen the run."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open

import trainer
from trainer.checkpoint import CheckpointError, read_tensors, trained, write_tensors
from trainer.data.window import normalise
from trainer.model import build, embed
from trainer.trained.backbone import export
from trainer.trained.export import backbone_file, main

CPU = torch.device("cpu")


@pytest.fixture
def images() -> np.ndarray:
    return np.random.default_rng(0).uniform(-1, 1, (5, 1, 12, 12, 12)).astype(np.float32)


@pytest.mark.parametrize("which", ["student", "teacher"])
def test_an_exported_backbone_says_what_the_network_said(tiny_run: Path, tmp_path: Path, images: np.ndarray, which: str) -> None:
    assert main([str(tiny_run), str(tmp_path / "b.safetensors"), f"--{which}"]) == 0
    found = trained(tiny_run)
    net = build(found.config)
    net.load_state_dict(found.weights(which))  # type: ignore[arg-type]
    wanted, _ = embed(net, images, CPU)
    backbone = trainer.load_backbone(tmp_path / "b.safetensors")
    assert not backbone.training
    with torch.no_grad():
        assert np.allclose(backbone(torch.from_numpy(images)).numpy(), wanted, atol=1e-6)


def test_student_and_teacher_differ(tiny_run: Path, tmp_path: Path) -> None:
    for which in ("student", "teacher"):
        export(trained(tiny_run), tmp_path / f"{which}.safetensors", which)  # type: ignore[arg-type]
    assert (tmp_path / "student.safetensors").read_bytes() != (tmp_path / "teacher.safetensors").read_bytes()


def test_a_checkpoint_loads_as_its_teachers_backbone(tiny_run: Path, tmp_path: Path, images: np.ndarray) -> None:
    export(trained(tiny_run), tmp_path / "b.safetensors")
    crops = torch.from_numpy(images)
    with torch.no_grad():
        exported, direct = trainer.load_backbone(tmp_path / "b.safetensors"), trainer.load_backbone(tiny_run)
        assert torch.equal(exported(crops), direct(crops))


def test_the_file_is_plain_float32_with_its_settings_and_no_folder_names(tiny_run: Path, tmp_path: Path) -> None:
    export(trained(tiny_run), tmp_path / "b.safetensors")
    with safe_open(tmp_path / "b.safetensors", "pt") as file:
        metadata = file.metadata()
        assert {str(file.get_tensor(name).dtype) for name in file.keys()} == {"torch.float32"}  # noqa: SIM118
    config = json.loads(metadata["config"])
    assert (metadata["weights"], metadata["step"]) == ("teacher", "3")
    assert config["model.dim"] == 12
    assert (config["data.source"], config["data.spacing_mm"]) == ("scans", 5.0)
    assert [config[name] for name in ("data.cache_dir", "data.labels", "loop.start_from")] == [None] * 3


def test_windowing_is_that_of_training(tiny_run: Path) -> None:
    backbone = trainer.load_backbone(tiny_run)
    hu = np.random.default_rng(0).integers(-1100, 1500, (3, 4, 4)).astype(np.int16)
    assert np.allclose(backbone.windowed(torch.from_numpy(hu)).numpy(), normalise(hu, backbone.config.data), atol=1e-6)


def test_loading_needs_neither_the_training_loop_nor_the_run(tiny_run: Path, tmp_path: Path) -> None:
    export(trained(tiny_run), tmp_path / "b.safetensors")
    code = (
        "import sys, trainer; assert 'torch' not in sys.modules; "
        f"net = trainer.load_backbone({str(tmp_path / 'b.safetensors')!r}); "
        "assert 'trainer.train' not in sys.modules; print(sum(p.numel() for p in net.parameters()))"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(said.stdout) == sum(p.numel() for p in trainer.load_backbone(tiny_run).parameters())


@pytest.mark.parametrize("shape", [(2, 1, 12, 12, 10), (2, 1, 13, 13, 13), (2, 12, 12, 12), (2, 3, 12, 12, 12)])
def test_images_that_are_no_cubes_of_patches_are_named(tiny_run: Path, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"expected \[n, 1, edge, edge, edge\] with an edge that is a multiple of 3 but got"):
        trainer.load_backbone(tiny_run)(torch.zeros(shape))


def test_files_that_are_no_backbone_say_what_to_do(tiny_run: Path, tmp_path: Path) -> None:
    path = tmp_path / "b.safetensors"
    with pytest.raises(CheckpointError, match="no such file"):
        trainer.load_backbone(path)
    write_tensors(path, {"w": torch.ones(2)}, {})
    with pytest.raises(CheckpointError, match=r"metadata say nothing.*--factory"):
        trainer.load_backbone(path)
    export(trained(tiny_run), path)
    tensors, metadata = read_tensors(path)
    write_tensors(path, tensors, metadata | {"config": metadata["config"].replace('"model.dim": 12', '"model.dim": 24')})
    with pytest.raises(CheckpointError, match=r"expected weights that fit its own settings but [0-9]+ do not, such as blocks"):
        trainer.load_backbone(path)
    write_tensors(path, tensors, metadata | {"config": json.dumps({"model.width": 3})})
    with pytest.raises(CheckpointError, match=r"model\.width: no such setting"):
        trainer.load_backbone(path)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(CheckpointError, match="expected a safetensors file but it cannot be read"):
        trainer.load_backbone(path)


def test_a_destination_of_another_kind_is_refused(tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tiny_run), str(tmp_path / "b.pt")]) == 2
    assert "expected a file that ends in .safetensors. Name it b.safetensors." in capsys.readouterr().err


def test_a_study_gets_the_teachers_backbone_of_a_run_as_a_file(tiny_run: Path, tmp_path: Path, images: np.ndarray) -> None:
    name = backbone_file({"run": str(tiny_run), "folder": str(tmp_path)})
    found, teacher = trainer.load_backbone(tmp_path / name), trainer.load_backbone(tiny_run)
    assert torch.equal(found(torch.from_numpy(images)), teacher(torch.from_numpy(images)))


def test_the_package_has_only_what_it_names() -> None:
    assert trainer.__all__ == ["load_backbone"]
    with pytest.raises(AttributeError, match="no attribute 'load_network'"):
        _ = trainer.load_network
