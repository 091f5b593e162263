"""Checkpoints come back as they were, whole, and only for their own configuration."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.checkpoint import (
    CheckpointError,
    contents,
    fill,
    load,
    pack,
    replacing,
    save,
    starting_weights,
    trained,
    unpack,
    write_tensors,
)
from trainer.config import CHECKPOINT, TrainerConfig, from_mapping
from trainer.model import build

CPU = torch.device("cpu")
STATE: dict[str, Any] = {
    "weights": torch.arange(6.0).reshape(2, 3),
    "table": {"corner": np.arange(12, dtype=np.int16).reshape(3, 4), "seen": np.array([True, False]), "none": np.empty((0, 3), np.float32)},
    "losses": [1.0, 2.5],
    "stopped": None,
    "step": 7,
    "share": np.float32(0.25),
}


def test_state_comes_back_as_it_was(tmp_path: Path) -> None:
    save(tmp_path, TrainerConfig(), STATE)
    found = load(tmp_path, TrainerConfig(), CPU)
    assert found is not None
    assert torch.equal(found["weights"], STATE["weights"])
    for name, array in STATE["table"].items():
        assert found["table"][name].dtype == array.dtype
        assert np.array_equal(found["table"][name], array)
    assert (found["losses"], found["stopped"], found["step"], found["share"]) == ([1.0, 2.5], None, 7, 0.25)


nested = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**40), 2**40) | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(min_size=1, max_size=3), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=50)
@given(nested)
def test_plain_values_survive_packing(state: object) -> None:
    assert unpack(pack(state)) == state


def test_no_checkpoint_is_no_state(tmp_path: Path) -> None:
    assert load(tmp_path, TrainerConfig(), CPU) is None


def test_a_checkpoint_of_another_configuration_is_refused_by_the_settings_that_differ(tmp_path: Path) -> None:
    save(tmp_path, TrainerConfig(), STATE)
    other = TrainerConfig(seed=3)
    other.loop.lr = 0.5
    with pytest.raises(CheckpointError, match=r"loop\.lr was 0\.002 and is 0\.5; seed was 0 and is 3\. Use another directory"):
        load(tmp_path, other, CPU)


def test_settings_without_effect_do_not_stand_in_the_way(tmp_path: Path) -> None:
    save(tmp_path, TrainerConfig(), STATE)
    other = TrainerConfig(expected_trial_s=12.0)
    other.loss.matching_threshold = 0.7
    assert load(tmp_path, other, CPU) is not None


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", None])
def test_a_torn_checkpoint_is_an_error_that_says_what_to_do(tmp_path: Path, content: bytes | None) -> None:
    save(tmp_path, TrainerConfig(), STATE)
    path = tmp_path / CHECKPOINT
    path.write_bytes(path.read_bytes()[:500] if content is None else content)
    with pytest.raises(CheckpointError, match="Remove it to train from the start"):
        load(tmp_path, TrainerConfig(), CPU)


def test_code_in_a_checkpoint_is_not_run(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "sprung",))

    torch.save({"format": 1, "config": "{}", "state": Trap()}, tmp_path / CHECKPOINT)
    with pytest.raises(CheckpointError):
        load(tmp_path, TrainerConfig(), CPU)
    assert not (tmp_path / "sprung").exists()


def test_a_failed_write_leaves_the_old_checkpoint_and_no_litter(tmp_path: Path) -> None:
    save(tmp_path, TrainerConfig(), STATE)
    before = (tmp_path / CHECKPOINT).read_bytes()
    with pytest.raises(Exception, match="pickle"):
        save(tmp_path, TrainerConfig(), {"unsaveable": lambda: None})
    assert (tmp_path / CHECKPOINT).read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == [CHECKPOINT]


class Trap:
    """Touches a file when it is unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.file,))


@pytest.mark.parametrize("where", ["whole", "inside", "beside weights"])
def test_a_foreign_checkpoint_is_never_unpickled(tmp_path: Path, where: str) -> None:
    trap, file = Trap(tmp_path / "sprung"), tmp_path / "model.pth"
    held = {"whole": trap, "inside": {"hyper_parameters": {"a": [trap]}}, "beside weights": {"w": torch.ones(2), "callback": trap}}
    torch.save(held[where], file)
    with pytest.raises(CheckpointError, match=r"model\.pth: expected tensors and plain values only but it holds objects \(.*state_dict"):
        contents(file)
    assert not (tmp_path / "sprung").exists()
    torch.load(file, weights_only=False)  # the planted error: read without care, the trap springs
    assert (tmp_path / "sprung").exists()


def test_a_foreign_checkpoint_of_tensors_is_read_whatever_its_format(tmp_path: Path) -> None:
    torch.save({"epoch": 3, "model": {"w": torch.ones(2)}}, tmp_path / "a.pth")
    write_tensors(tmp_path / "b.safetensors", {"w": torch.ones(2)}, {"note": "x"})
    assert torch.equal(contents(tmp_path / "a.pth")["model"]["w"], torch.ones(2))
    assert torch.equal(contents(tmp_path / "b.safetensors")["w"], torch.ones(2))


@pytest.mark.parametrize("name", ["model.pth", "model.safetensors"])
@pytest.mark.parametrize("content", [b"", b"\x80\x04garbage", b"PK\x03\x04 torn", None])
def test_a_file_that_is_no_checkpoint_says_so(tmp_path: Path, name: str, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=r"cannot be read|no such file"):
        contents(tmp_path / name)


def test_the_networks_of_a_run_come_back_with_their_settings(tiny_run: Path, tiny_settings: dict[str, object]) -> None:
    found = trained(tiny_run)
    assert (found.step, found.config.model.dim) == (3, 12)
    assert found.config == from_mapping(tiny_settings)
    build(found.config).load_state_dict(found.weights("teacher"))
    assert any(not torch.equal(found.student[name], found.teacher[name]) for name in found.student)


def test_what_is_no_checkpoint_of_ours_asks_for_a_factory(tmp_path: Path) -> None:
    torch.save({"model": {"w": torch.ones(2)}}, tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match=r"but it holds model\. For another model name the function that builds it: --factory"):
        trained(tmp_path / "other.pth")


def test_a_run_starts_from_the_student_of_another(tiny_run: Path, tiny_settings: dict[str, object]) -> None:
    config = from_mapping({**tiny_settings, "seed": 5, "loop.lr": 0.1})
    weights = starting_weights(tiny_run, config)
    student = trained(tiny_run).student
    assert weights.keys() == student.keys()
    assert all(torch.equal(weights[name], student[name]) for name in student)


def test_a_head_of_another_shape_starts_anew_and_says_so(
    tiny_run: Path, tiny_settings: dict[str, object], caplog: pytest.LogCaptureFixture
) -> None:
    config = from_mapping({**tiny_settings, "model.prototypes": 16, "loss.ibot_weight": 1.0, "seed": 5})
    weights, own, student = starting_weights(tiny_run, config), build(config).state_dict(), trained(tiny_run).student
    assert weights.keys() == own.keys()
    fresh = {name for name in own if torch.equal(weights[name], own[name]) and name not in student}
    assert {"backbone.mask_token", "ibot_head.prototypes"} <= fresh
    assert all(torch.equal(weights[name], own[name]) for name in own if name.startswith("dino_head."))
    assert all(torch.equal(weights[name], student[name]) for name in student if name.startswith("backbone."))
    assert "backbone.mask_token, dino_head, ibot_head starts anew" in caplog.text


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"model.dim": 24}, "model.dim was 12 and is 24"),
        ({"model.heads": 1}, "model.heads was 2 and is 1"),
        (
            {"model.layer_scale": 0.1, "model.pooling": "cls"},
            "model.pooling was 'mean' and is 'cls'; model.layer_scale was None and is 0.1",
        ),
    ],
)
def test_another_backbone_is_refused_by_the_settings_that_differ(
    tiny_run: Path, tiny_settings: dict[str, object], change: dict[str, object], said: str
) -> None:
    with pytest.raises(CheckpointError) as error:
        starting_weights(tiny_run, from_mapping({**tiny_settings, **change}))
    assert said in str(error.value)
    assert str(error.value).startswith("loop.start_from: expected the backbone of this configuration")


def test_a_file_takes_its_place_only_when_it_was_written_well(tmp_path: Path) -> None:
    path = tmp_path / "out.txt"
    with replacing(path) as beside:
        beside.write_text("one")
    with suppress(RuntimeError), replacing(path) as beside:
        beside.write_text("half")
        raise RuntimeError
    assert path.read_text() == "one"
    assert [found.name for found in tmp_path.iterdir()] == ["out.txt"]


def test_a_backbone_of_another_version_is_refused_by_the_weight_that_is_missing(
    tiny_run: Path, tiny_settings: dict[str, object], tmp_path: Path
) -> None:
    held = torch.load(tiny_run / CHECKPOINT, weights_only=True)
    del held["state"]["learner"]["student"]["backbone.blocks.0.mlp.0.weight"]
    torch.save(held, tmp_path / CHECKPOINT)
    with pytest.raises(CheckpointError, match=r"lacks backbone\.blocks\.0\.mlp\.0\.weight\. It is of another version"):
        starting_weights(tmp_path, from_mapping(tiny_settings))
    with pytest.raises(
        CheckpointError, match=r"expected weights that fit its own settings but 1 do not, such as backbone\.blocks\.0\.mlp\.0\.weight"
    ):
        fill(build(from_mapping(tiny_settings)), trained(tmp_path).student, tmp_path)
