"""Checkpoints: written whole or not at all, of tensors and plain values only, and never read for another configuration."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from trainer.config import TrainerConfig, inert, leaves

NAME = "checkpoint.pt"
FORMAT = 1


class CheckpointError(ValueError):
    """A checkpoint that cannot be gone on from; the message says what to do."""


def save(directory: Path, config: TrainerConfig, state: Mapping[str, Any]) -> None:
    """Write beside, fsync, rename: a kill at any moment leaves the old checkpoint or the new one."""
    beside = directory / f".{NAME}.{os.getpid()}"
    try:
        with beside.open("wb") as file:
            torch.save({"format": FORMAT, "config": _identity(config), "state": pack(state)}, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, directory / NAME)
    finally:
        beside.unlink(missing_ok=True)
    folder = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def load(directory: Path, config: TrainerConfig, device: torch.device) -> dict[str, Any] | None:
    """The state that `save` was given, or None where there is no checkpoint.

    Raises:
        CheckpointError: It cannot be read, or belongs to another configuration.
    """
    path = directory / NAME
    if not path.exists():
        return None
    try:
        found = torch.load(path, map_location=device, weights_only=True)
        known = found["format"] == FORMAT
    except Exception as error:  # a torn or foreign file raises anything from EOFError to UnpicklingError
        raise CheckpointError(
            f"{path}: expected a checkpoint but it cannot be read ({error}). Remove it to train from the start."
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
