"""Opens a network that somebody has trained, whoever built it, as one function from windowed crops to features."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float32
from torch import Tensor, nn

from trainer.checkpoint import SAFETENSORS, Which, contents, fill, trained
from trainer.config import ConfigError, TrainerConfig, from_mapping, leaves, nearest, schema
from trainer.model import DinoNet, build, embed
from trainer.numerics import device_of
from trainer.trained.backbone import load_backbone

Read = Callable[
    [Float32[np.ndarray, "n 1 depth height width"]],
    tuple[Float32[np.ndarray, "n dim"], Float32[np.ndarray, "n prototypes"] | None],
]
"""Windowed crops to features and, where the network has a head, logits before temperature; in evaluation mode."""

CHUNK = 32
"""Crops a forward pass."""
OWN = ("data.", "measure.", "loop.device")
"""Settings that may differ from those of training: what is read, and where."""


class NetworkError(ValueError):
    """A factory or module that does not keep its promise; the message says what was expected."""


@dataclass(frozen=True)
class Network:
    """A network and how to feed it."""

    name: str
    config: TrainerConfig
    read: Read
    untrained: Read | None
    """The same network before training; None where its builder is not ours."""
    checkpoint: Path | None
    """A checkpoint of ours, from which a run may start."""
    settings_known: bool
    """Whether `config` is what it was trained with; else it only says how crops are cut."""


def open_network(path: Path, changes: Mapping[str, object], factory: str | None = None, which: Which = "teacher") -> Network:
    """Open a checkpoint or run folder of ours, an exported backbone, or with `factory` anything else.

    Args:
        changes: Dotted settings: where and how scans are read; for a factory also `preset` and the sizes of crops.
        factory: `package.module:function`. It is given what the file holds (tensors and plain values, nothing is unpickled) and
            returns a module from windowed crops [n, 1, edge, edge, edge] to features [n, dim], or to (features, logits).
        which: Student or teacher, of our checkpoints.

    Raises:
        CheckpointError, ConfigError, NetworkError: Each with its mend.
    """
    if factory is not None:
        preset = changes.get("preset")
        config = changed(schema(str(preset) if preset else None), changes)
        module = _built(factory, contents(path))
        return Network(f"{path.name} by {factory}", config, _reader(module, device_of(config), factory), None, None, settings_known=False)
    if path.suffix == SAFETENSORS:
        backbone = load_backbone(path)
        config = changed(backbone.config, changes, OWN)
        read = _reader(backbone, device_of(config), path.name)
        return Network(path.name, config, read, _untrained(backbone.config, device_of(config)), None, settings_known=True)
    found = trained(path)
    config = changed(found.config, changes, OWN)
    net, device = build(found.config), device_of(config)
    fill(net, found.weights(which), found.path)
    net.to(device)
    name = f"{which} of {found.path} at step {found.step}"
    start = _untrained(found.config, device)
    return Network(name, config, lambda images: embed(net, images, device, CHUNK), start, found.path, settings_known=True)


def changed(config: TrainerConfig, changes: Mapping[str, object], allowed: tuple[str, ...] = ("",)) -> TrainerConfig:
    """The configuration with other settings, by dotted path; those that begin otherwise than `allowed` stay.

    Raises:
        ConfigError: No such setting, or one that belongs to the trained network.
    """
    settings = leaves(config)
    problems = [f"{path}: no such setting.{nearest(path, settings)}" for path in changes if path not in settings]
    problems += [
        f"{path}: is the trained network's own setting. Only data.*, measure.* and loop.device can be set here."
        for path in changes
        if path in settings and not path.startswith(allowed)
    ]
    if problems:
        raise ConfigError("\n".join(problems))
    return from_mapping({**settings, **changes})


def _untrained(config: TrainerConfig, device: torch.device) -> Read:
    return _reader(_Featured(build(config)), device, "the untrained network")


class _Featured(nn.Module):
    """The features of a network as its output."""

    def __init__(self, net: DinoNet) -> None:
        super().__init__()
        self.net = net

    def forward(self, images: Tensor) -> Tensor:
        return self.net.features(images)


def _built(factory: str, state: object) -> nn.Module:
    module_name, _, name = factory.partition(":")
    if not name:
        raise NetworkError(f"--factory: expected package.module:function but got {factory!r}. For example mymodels.vit:from_state.")
    try:
        function = getattr(importlib.import_module(module_name), name)
    except (ImportError, AttributeError) as error:
        raise NetworkError(f"--factory {factory}: cannot be imported ({error}). Run where {module_name} can be imported.") from error
    try:
        module = function(state)
    except Exception as error:  # somebody else's code
        held = ", ".join(map(str, list(state)[:4])) if isinstance(state, Mapping) else type(state).__name__
        raise NetworkError(
            f"--factory {factory}: expected a module built from what the file holds ({held}, ...) but it raised "
            f"{type(error).__name__}: {error}. Take the weights from where they lie in the file."
        ) from error
    if not isinstance(module, nn.Module):
        raise NetworkError(f"--factory {factory}: expected a torch.nn.Module but got {type(module).__name__}. Return the module.")
    return module


def _reader(module: nn.Module, device: torch.device, name: str) -> Read:
    module.to(device).eval()

    @torch.no_grad()
    def read(images: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        said = [_checked(module, torch.from_numpy(images[at : at + CHUNK]).to(device), name) for at in range(0, len(images), CHUNK)]
        features = torch.cat([features for features, _ in said]).numpy()
        logits = [logits for _, logits in said if logits is not None]
        return features, torch.cat(logits).numpy() if logits else None

    return read


def _checked(module: nn.Module, images: Tensor, name: str) -> tuple[Tensor, Tensor | None]:
    """Features and logits of crops, if the module keeps its promise."""
    try:
        said = module(images)
    except Exception as error:  # somebody else's code
        raise NetworkError(
            f"{name}: expected features of crops {list(images.shape)} but the module raised {type(error).__name__}: {error}. "
            "Set crops.global_size_voxels and crops.local_size_voxels to what it takes."
        ) from error
    parts = said if isinstance(said, (tuple, list)) else (said,)
    fits = len(parts) in (1, 2) and all(isinstance(p, Tensor) and p.ndim == 2 and len(p) == len(images) for p in parts)
    if not fits:
        shapes = ", ".join(str(list(p.shape)) if isinstance(p, Tensor) else type(p).__name__ for p in parts)
        raise NetworkError(
            f"{name}: expected features [{len(images)}, dim], or (features, logits), of {len(images)} crops but got {shapes}. "
            "Pool the tokens in a module of your own around it."
        )
    rows = [part.float().cpu() for part in parts]
    return rows[0], rows[1] if len(rows) == 2 else None
