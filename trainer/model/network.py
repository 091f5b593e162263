"""Backbone and heads as one network, with initial weights that only the replicate's seed decides."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float, Float32
from torch import Tensor, nn

from trainer.config import TrainerConfig
from trainer.model.heads import DinoHead
from trainer.model.vit3d import Tokens, Vit3d


class DinoNet(nn.Module):
    """`features` gives what is kept after training, `head` the logits that are trained against prototypes."""

    def __init__(self, config: TrainerConfig) -> None:
        super().__init__()
        model, masks = config.model, config.loss.ibot_weight > 0
        self.pooling = model.pooling
        self.backbone = Vit3d(model, config.crops.global_size_voxels, spacing_mm(config), masks=masks)
        self.dino_head = DinoHead(model, feature_dim(config), model.prototypes)
        self.ibot_head = DinoHead(model, model.dim, model.ibot_prototypes) if masks else None

    def pool(self, tokens: Tokens) -> Float[Tensor, "crops features"]:
        """The image feature that `model.pooling` names."""
        return pooled(tokens, self.pooling)

    def features(self, images: Float[Tensor, "batch 1 depth height width"]) -> Float[Tensor, "batch features"]:
        """Pooled features of cubes of one size."""
        return self.pool(self.backbone([images])[0])

    def head(self, features: Float[Tensor, "batch features"]) -> Float[Tensor, "batch prototypes"]:
        """Logits before temperature; in training mode the statistics of feature_norm are those of this call."""
        logits: Tensor = self.dino_head(features).logits
        return logits


def pooled(tokens: Tokens, pooling: str) -> Float[Tensor, "crops features"]:
    """CLS, the mean of patches, or both side by side."""
    if tokens.cls is None:
        return tokens.patches.mean(dim=1)
    if pooling == "cls":
        return tokens.cls
    return torch.cat([tokens.cls, tokens.patches.mean(dim=1)], dim=1)


def feature_dim(config: TrainerConfig) -> int:
    """Length of the image feature."""
    return config.model.dim * (2 if config.model.pooling == "both" else 1)


def spacing_mm(config: TrainerConfig) -> float:
    """Edge of a voxel as the network sees it; 1 where scans keep their native spacing (positions in mm are refused there)."""
    if config.data.spacing_mm is not None:
        return config.data.spacing_mm
    return config.data.phantom.spacing_mm if config.data.source == "phantom" else 1.0


def build(config: TrainerConfig) -> DinoNet:
    """A network on the CPU, initialised.

    Every parameter draws from its own stream, named by (seed, parameter), so arms that differ in loss or crops start from
    equal weights, and a part that is added changes no other part.
    """
    with torch.random.fork_rng(devices=[]):  # torch's layers draw weights that are drawn again below
        net = DinoNet(config)
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            _initialise(name, parameter, config)
    return net


def _initialise(name: str, parameter: nn.Parameter, config: TrainerConfig) -> None:
    digest = hashlib.sha256(f"{config.seed}/{name}".encode()).digest()
    random = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
    in_head = "_head." in name
    if name.split(".")[-1].startswith("scale_"):
        nn.init.constant_(parameter, config.model.layer_scale or 0.0)
    elif parameter.ndim == 1:
        nn.init.constant_(parameter, 1.0 if ".norm" in name and name.endswith("weight") else 0.0)
    elif in_head and config.model.head_init == "orthogonal":
        nn.init.orthogonal_(parameter, generator=random)
    elif in_head or name.endswith(("extra_tokens", "positions")):
        nn.init.trunc_normal_(parameter, std=0.02, generator=random)
    else:
        nn.init.xavier_uniform_(parameter, generator=random)


def embed(
    net: DinoNet, images: Float32[np.ndarray, "n 1 depth height width"], device: torch.device, chunk: int = 128
) -> tuple[Float32[np.ndarray, "n features"], Float32[np.ndarray, "n prototypes"]]:
    """Features and logits (before temperature) in evaluation mode: running statistics, no gradient.

    Args:
        chunk: Crops a forward pass; the result does not depend on it beyond rounding.
    """

    def both(crops: Tensor) -> tuple[Tensor, Tensor]:
        found = net.features(crops)
        return found, net.head(found)

    features, logits = _in_evaluation(net, images, device, chunk, both)
    return features, logits


def embed_patches(
    net: DinoNet, images: Float32[np.ndarray, "n 1 depth height width"], device: torch.device, chunk: int = 128
) -> Float32[np.ndarray, "n grid grid grid dim"]:
    """Features of patches, in (depth, height, width) order, in evaluation mode."""
    grid = images.shape[-1] // net.backbone.config.patch_size_voxels
    (patches,) = _in_evaluation(net, images, device, chunk, lambda crops: (net.backbone([crops])[0].patches,))
    return patches.reshape(len(images), grid, grid, grid, -1)


@torch.no_grad()
def _in_evaluation(
    net: DinoNet,
    images: Float32[np.ndarray, "n 1 depth height width"],
    device: torch.device,
    chunk: int,
    read: Callable[[Tensor], tuple[Tensor, ...]],
) -> tuple[np.ndarray, ...]:
    training, dtype = net.training, next(net.parameters()).dtype
    net.eval()
    found = [read(torch.from_numpy(images[start : start + chunk]).to(device, dtype)) for start in range(0, len(images), chunk)]
    net.train(training)
    return tuple(torch.cat([part.float().cpu() for part in parts]).numpy() for parts in zip(*found, strict=True))
