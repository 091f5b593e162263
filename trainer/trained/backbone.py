"""What is kept after training: a backbone without heads, as one safetensors file that says how to feed it."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from jaxtyping import Float, Float32, Shaped
from torch import Tensor, nn

from trainer.checkpoint import MASK_TOKEN, SAFETENSORS, CheckpointError, Trained, Which, fill, read_tensors, trained, write_tensors
from trainer.config import TrainerConfig, from_mapping, leaves
from trainer.model import Tokens, Vit3d, pooled, spacing_mm

FORMAT = "1"
_PLACES = ("data.cache_dir", "data.labels", "loop.start_from")
"""Settings that name folders of the machine of training (and so, often, patients or hospitals); they stay there."""


class Backbone(nn.Module):
    """Windowed cubes to image features, as the network was trained with.

    Attributes:
        config: All settings of the training, but for the names of its folders. `config.crops.global_size_voxels` is the edge
            of a cube, `config.data.spacing_mm` the edge of its voxels (None: as scanned).
    """

    def __init__(self, config: TrainerConfig) -> None:
        super().__init__()
        self.config = config
        self.vit = Vit3d(config.model, config.crops.global_size_voxels, spacing_mm(config))

    def windowed(self, hu: Shaped[Tensor, "*shape"]) -> Float32[Tensor, "*shape"]:
        """HU as the network takes them: clipped to the window of training, which maps to [-1, 1]."""
        low, high = self.config.data.window_low_hu, self.config.data.window_high_hu
        return ((hu.float() - low) * (2 / (high - low)) - 1).clamp(-1, 1)

    def tokens(self, images: Float[Tensor, "n 1 edge edge edge"]) -> Tokens:
        """CLS (where there is one) and patches in (depth, height, width) order. Edges: multiples of `model.patch_size_voxels`."""
        found: Tokens = self.vit([images])[0]
        return found

    def forward(self, images: Float[Tensor, "n 1 edge edge edge"]) -> Float[Tensor, "n features"]:
        """Image features by `model.pooling`. Raises: ValueError: Images that are no cubes of whole patches."""
        patch = self.config.model.patch_size_voxels
        edges = set(images.shape[2:])
        if images.ndim != 5 or images.shape[1] != 1 or len(edges) != 1 or images.shape[-1] % patch:
            raise ValueError(
                f"images: expected [n, 1, edge, edge, edge] with an edge that is a multiple of {patch} but got {list(images.shape)}. "
                f"Cut cubes of {self.config.crops.global_size_voxels} voxels."
            )
        return pooled(self.tokens(images), self.config.model.pooling)


def export(found: Trained, destination: Path, which: Which = "teacher") -> None:
    """Write the backbone in float32, with its settings in the file's metadata.

    Raises:
        CheckpointError: The destination is no `.safetensors` file.
    """
    if destination.suffix != SAFETENSORS:
        raise CheckpointError(
            f"{destination}: expected a file that ends in {SAFETENSORS}. Name it {destination.with_suffix(SAFETENSORS).name}."
        )
    backbone = backbone_of(found, which)
    metadata = {"format": FORMAT, "config": json.dumps(leaves(backbone.config)), "weights": which, "step": str(found.step)}
    destination.parent.mkdir(parents=True, exist_ok=True)
    write_tensors(destination, backbone.vit.state_dict(), metadata)


def load_backbone(path: str | Path) -> Backbone:
    """The backbone of an exported file, or the teacher's of a checkpoint or run folder; on the CPU, in evaluation mode.

    Nothing in the file is run. For example::

        backbone = trainer.load_backbone("backbone.safetensors")
        features = backbone(backbone.windowed(hu))  # hu: [n, 1, edge, edge, edge]

    Raises:
        CheckpointError: It is missing, unreadable, or of another model.
    """
    path = Path(path)
    if path.suffix != SAFETENSORS:
        return backbone_of(trained(path), "teacher")
    tensors, metadata = read_tensors(path)
    if metadata.get("format") != FORMAT or "config" not in metadata:
        raise CheckpointError(
            f"{path}: expected a backbone that `python -m trainer export` wrote, format {FORMAT}, but its metadata say "
            f"{metadata or 'nothing'}. Export it again, or name the function that builds it: --factory package.module:function."
        )
    try:
        config = from_mapping(json.loads(metadata["config"]))
    except ValueError as error:  # ConfigError, or no JSON
        raise CheckpointError(f"{path}: expected settings of this trainer but got others ({error}). Export it again.") from error
    return _filled(config, tensors, path)


def backbone_of(found: Trained, which: Which) -> Backbone:
    """The backbone of a run's student or teacher."""
    weights = {
        name.removeprefix("backbone."): tensor.float()
        for name, tensor in found.weights(which).items()
        if name.startswith("backbone.") and name != MASK_TOKEN
    }
    return _filled(_portable(found.config), weights, found.path)


def _filled(config: TrainerConfig, weights: dict[str, Tensor], source: Path) -> Backbone:
    with torch.random.fork_rng(devices=[]):  # torch's layers draw weights that are replaced at once
        backbone = Backbone(config)
    fill(backbone.vit, weights, source)
    return backbone.eval()


def _portable(config: TrainerConfig) -> TrainerConfig:
    """The settings without names of folders; the spacing as the network saw it."""
    settings = leaves(config) | dict.fromkeys(_PLACES)
    if config.data.source == "phantom":
        settings["data.spacing_mm"] = spacing_mm(config)
    settings["data.source"] = "scans"
    return from_mapping(settings)
