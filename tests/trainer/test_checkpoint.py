"""Checkpoints come back as they were, whole, and only for their own configuration."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.checkpoint import NAME, CheckpointError, load, pack, save, unpack
from trainer.config import TrainerConfig

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


@settings(max_examples=50, deadline=None)
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
    path = tmp_path / NAME
    path.write_bytes(path.read_bytes()[:500] if content is None else content)
    with pytest.raises(CheckpointError, match="Remove it to train from the start"):
        load(tmp_path, TrainerConfig(), CPU)


def test_code_in_a_checkpoint_is_not_run(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "sprung",))

    torch.save({"format": 1, "config": "{}", "state": Trap()}, tmp_path / NAME)
    with pytest.raises(CheckpointError):
        load(tmp_path, TrainerConfig(), CPU)
    assert not (tmp_path / "sprung").exists()


def test_a_failed_write_leaves_the_old_checkpoint_and_no_litter(tmp_path: Path) -> None:
    save(tmp_path, TrainerConfig(), STATE)
    before = (tmp_path / NAME).read_bytes()
    with pytest.raises(Exception, match="pickle"):
        save(tmp_path, TrainerConfig(), {"unsaveable": lambda: None})
    assert (tmp_path / NAME).read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == [NAME]
