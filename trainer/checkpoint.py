"""Checkpoints: written whole or not at all, of tensors and plain values only, and never gone on from under another configuration.

What comes from elsewhere is read by `contents`, which runs nothing that a file holds.
"""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from trainer.config import CHECKPOINT, ConfigError, TrainerConfig, from_mapping, inert, leaves
from trainer.model import build

SAFETENSORS = ".safetensors"
FORMAT = 1
_LOG = logging.getLogger("trainer.checkpoint")

Which = Literal["student", "teacher"]

MASK_TOKEN = "backbone.mask_token"
"""What only iBOT reads of a backbone."""
BACKBONE = (
    *(f"model.{name}" for name in ("patch_size_voxels", "dim", "depth", "heads", "mlp_ratio", "registers", "pooling", "layer_scale")),
    *("model.positions", "model.positions_unit", "crops.global_size_voxels"),
)
"""Settings without which the weights of a backbone do not fit or mean something else."""


class CheckpointError(ValueError):
    """A checkpoint that cannot be gone on from; the message says what to do."""


def save(directory: Path, config: TrainerConfig, state: Mapping[str, Any]) -> None:
    """Write it whole or not at all."""
    with replacing(directory / CHECKPOINT) as beside:
        torch.save({"format": FORMAT, "config": _identity(config), "state": pack(state)}, beside)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A file beside the wanted one that takes its place when the block ends well: a kill at any moment leaves the old one or the new."""
    beside = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        yield beside
        _sync(beside)
        os.replace(beside, path)
        _sync(path.parent)
    finally:
        beside.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def load(directory: Path, config: TrainerConfig, device: torch.device) -> dict[str, Any] | None:
    """The state that `save` was given, or None where there is no checkpoint.

    Raises:
        CheckpointError: It cannot be read, or belongs to another configuration.
    """
    path = directory / CHECKPOINT
    if not path.exists():
        return None
    try:
        found = torch.load(path, map_location=device, weights_only=True)
        known = found["format"] == FORMAT
    except Exception as error:  # a torn or foreign file raises anything from EOFError to UnpicklingError
        raise CheckpointError(
            f"{path}: expected a checkpoint but it cannot be read ({_cause(error)}). Remove it to train from the start."
        ) from error
    if not known:
        raise CheckpointError(f"{path}: expected format {FORMAT} but got {found['format']}. Remove it to train from the start.")
    differing = _differences(json.loads(found["config"]), config)
    if differing:
        raise CheckpointError(
            f"{path}: expected a checkpoint of this configuration but got one of another: {'; '.join(differing)}. "
            "Use another directory, the same settings, or remove it to train from the start."
        )
    state = unpack(found["state"])
    assert isinstance(state, dict)
    return state


def contents(path: Path) -> Any:
    """What a file of torch.save or safetensors from anywhere holds, on the CPU: tensors and plain values; no code in it is run.

    Raises:
        CheckpointError: It is missing, unreadable, or holds other objects, which only running its code could bring back.
    """
    if path.suffix == SAFETENSORS:
        return read_tensors(path)[0]
    _exists(path)
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a torn or foreign file raises anything from EOFError to UnpicklingError
        foreign = _foreign(error)
        if foreign is None:
            raise CheckpointError(
                f"{path}: expected a file of torch.save or safetensors but it cannot be read ({type(error).__name__}). "
                "Copy it again, or save it again where it was made."
            ) from error
        raise CheckpointError(
            f"{path}: expected tensors and plain values only but it holds objects ({foreign}), and reading these would run code from "
            "the file. Save the weights alone where it was made: torch.save(model.state_dict(), ...)."
        ) from error


def _foreign(error: Exception) -> str | None:
    """The object that torch's reader of plain values met, by name; None: something else is wrong."""
    found = re.search(r"GLOBAL (\S+)", str(error))
    return None if found is None else found[1]


def _cause(error: Exception) -> str:
    """In a few words: torch's own advice is pages long, and how to run what a file holds."""
    foreign = _foreign(error)
    return type(error).__name__ if foreign is None else f"it holds objects, {foreign}, whose reading would run code from the file"


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors of a safetensors file, on the CPU, and its metadata.

    Raises:
        CheckpointError: It is missing or unreadable.
    """
    _exists(path)
    try:
        with safe_open(path, "pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118  # no mapping
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: expected a safetensors file but it cannot be read ({error}). Copy or write it again.") from error


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """A safetensors file, whole or not at all."""
    with replacing(path) as beside:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, beside, dict(metadata))


def _exists(path: Path) -> None:
    if not path.is_file():
        raise CheckpointError(f"{path}: expected a checkpoint but there is no such file. Give the path of one, or of the folder of a run.")


@dataclass(frozen=True)
class Trained:
    """A run's networks, and under which settings they were trained."""

    path: Path
    config: TrainerConfig
    step: int
    student: dict[str, Tensor]
    teacher: dict[str, Tensor]

    def weights(self, which: Which) -> dict[str, Tensor]:
        """The state of one of the two."""
        return self.student if which == "student" else self.teacher


def trained(path: Path) -> Trained:
    """Networks and settings of a checkpoint of this trainer.

    Args:
        path: The file, or the folder of the run.

    Raises:
        CheckpointError: It is unreadable, of something else, or of settings that this trainer does not have.
    """
    path = path / CHECKPOINT if path.is_dir() else path
    found = contents(path)
    ours = isinstance(found, Mapping) and found.keys() >= {"format", "config", "state"}
    if not ours or found["format"] != FORMAT:
        held = ", ".join(map(str, list(found)[:4])) if isinstance(found, Mapping) else type(found).__name__
        raise CheckpointError(
            f"{path}: expected a checkpoint of this trainer, format {FORMAT}, but it holds {held or 'nothing'}. "
            "For another model name the function that builds it: --factory package.module:function."
        )
    try:
        config = from_mapping(json.loads(found["config"])["settings"])
        state = unpack(found["state"])
        learner = state["learner"]
        return Trained(path, config, int(state["progress"]["step"]), learner["student"], learner["teacher"])
    except (ConfigError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{path}: expected the state of a run but got one of another version of this trainer ({error}). Read it with that version."
        ) from error


def fill(module: nn.Module, weights: Mapping[str, Tensor], source: Path) -> None:
    """Give a module these weights, all of them.

    Raises:
        CheckpointError: Some do not fit, or are not there.
    """
    own = module.state_dict()
    wrong = [
        name for name in own.keys() | weights.keys() if name not in own or name not in weights or own[name].shape != weights[name].shape
    ]
    if wrong:
        raise CheckpointError(
            f"{source}: expected weights that fit its own settings but {len(wrong)} do not, such as {min(wrong)}. "
            "It is of another version of this trainer, or was changed: read it with the version that wrote it."
        )
    module.load_state_dict(dict(weights))


def starting_weights(path: Path, config: TrainerConfig) -> dict[str, Tensor]:
    """A student's whole state for a run that starts from the student of another: what `loop.start_from` names.

    The backbone must be the same. A head of another shape (another number of prototypes, say) starts from the initial weights of
    the seed, with a warning: so a study may vary it.

    Raises:
        CheckpointError: It is unreadable, or its backbone is another; the message names the settings that differ.
    """
    found = trained(path)
    theirs, ours = found.student, build(config).state_dict()
    before, now = leaves(found.config), leaves(config)
    differing = [f"{name} was {before[name]!r} and is {now[name]!r}" for name in BACKBONE if _other(name, before, now)]
    if differing:
        raise CheckpointError(
            f"loop.start_from: expected the backbone of this configuration but {found.path} has another: {'; '.join(differing)}. "
            "Set these as they were, or start from another checkpoint."
        )
    fresh = {_part(name) for name, own in ours.items() if name not in theirs or theirs[name].shape != own.shape}
    lost = [name for name in sorted(fresh) if name.startswith("backbone.") and name != MASK_TOKEN]
    if lost:
        raise CheckpointError(
            f"loop.start_from: expected the backbone of this configuration but {found.path} lacks {lost[0]}. "
            "It is of another version of this trainer: train it again, or start from another checkpoint."
        )
    if fresh:
        _LOG.warning("loop.start_from: %s starts anew, as it has no counterpart of its shape in %s.", ", ".join(sorted(fresh)), found.path)
    return {name: own if _part(name) in fresh else theirs[name] for name, own in ours.items()}


def _part(name: str) -> str:
    """What fits or starts anew as one: a whole head; of the backbone, which is known to be the same, the mask token of iBOT."""
    return name if name.startswith("backbone.") else name.split(".")[0]


def _other(name: str, before: Mapping[str, object], now: Mapping[str, object]) -> bool:
    """Whether weights of one value mean something else under the other.

    Of LayerScale whether there is any; of a crop's voxels, what positions in millimetres ask of it: nothing.
    """
    if name == "model.layer_scale":
        return (before[name] is None) != (now[name] is None)
    if name == "crops.global_size_voxels" and now["model.positions"] == "rotary" and now["model.positions_unit"] == "mm":
        return False
    return before[name] != now[name]


def pack(state: Any) -> Any:
    """Numpy arrays become tensors (marked), numpy scalars plain numbers, tuples lists: what `weights_only` loading accepts."""
    if isinstance(state, np.ndarray):
        return {"numpy": torch.from_numpy(np.ascontiguousarray(state))}
    if isinstance(state, np.generic):
        return state.item()
    if isinstance(state, Mapping):
        return {key: pack(value) for key, value in state.items()}
    if isinstance(state, (list, tuple)):
        return [pack(value) for value in state]
    return state


def unpack(state: Any) -> Any:
    """What `pack` was given, but for tuples and numpy scalars."""
    if isinstance(state, Mapping):
        if state.keys() == {"numpy"}:
            return state["numpy"].cpu().numpy()
        return {key: unpack(value) for key, value in state.items()}
    if isinstance(state, list):
        return [unpack(value) for value in state]
    return state


def _identity(config: TrainerConfig) -> str:
    return json.dumps({"inert": list(inert(config)), "settings": leaves(config)})


def _differences(found: Mapping[str, Any], config: TrainerConfig) -> list[str]:
    """Settings that differ and matter: inert ones under both configurations train the same network."""
    now = json.loads(_identity(config))
    quiet = set(found["inert"]) & set(now["inert"])
    before, after = found["settings"], now["settings"]
    return [
        f"{path} was {before.get(path)!r} and is {after.get(path)!r}"
        for path in sorted(before.keys() | after.keys())
        if path not in quiet and before.get(path) != after.get(path)
    ]
