"""Backbone and head as one network, with initial weights that only the replicate's seed decides."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float32
from torch import Tensor, nn

from trainer.config import Model, TrainerConfig
from trainer.model.heads import DinoHead
from trainer.model.vit3d import Vit3d


class DinoNet(nn.Module):
    """`features` gives what is kept after training, `head` the logits that are trained against prototypes."""

    def __init__(self, config: Model, global_size: int) -> None:
        super().__init__()
        self.backbone = Vit3d(config, global_size)
        self.dino_head = DinoHead(config)

    def features(self, images: Float[Tensor, "batch 1 depth height width"]) -> Float[Tensor, "batch dim"]:
        """Pooled features of cubes of one size."""
        features: Tensor = self.backbone(images)
        return features

    def head(self, features: Float[Tensor, "batch dim"]) -> Float[Tensor, "batch prototypes"]:
        """Logits before temperature; in training mode the statistics of feature_norm are those of this call."""
        logits: Tensor = self.dino_head(features)
        return logits


def build(config: TrainerConfig) -> DinoNet:
    """A network on the CPU, initialised.

    Every parameter draws from its own stream, named by (seed, parameter), so arms that differ in loss or crops start from
    equal weights, and a part that is added changes no other part.
    """
    with torch.random.fork_rng(devices=[]):  # torch's layers draw weights that are drawn again below
        net = DinoNet(config.model, config.crops.global_size_voxels)
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            _initialise(name, parameter, config)
    return net


def _initialise(name: str, parameter: nn.Parameter, config: TrainerConfig) -> None:
    digest = hashlib.sha256(f"{config.seed}/{name}".encode()).digest()
    random = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
    in_head = name.startswith("dino_head.")
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


@torch.no_grad()
def embed(
    net: DinoNet, images: Float32[np.ndarray, "n 1 depth height width"], device: torch.device, chunk: int = 128
) -> tuple[Float32[np.ndarray, "n dim"], Float32[np.ndarray, "n prototypes"]]:
    """Features and logits (before temperature) in evaluation mode: running statistics, no gradient.

    Args:
        chunk: Crops a forward pass; the result does not depend on it beyond rounding.
    """
    training = net.training
    net.eval()
    features, logits = [], []
    for start in range(0, len(images), chunk):
        found = net.features(torch.from_numpy(images[start : start + chunk]).to(device))
        features.append(found.float().cpu())
        logits.append(net.head(found).float().cpu())
    net.train(training)
    return torch.cat(features).numpy(), torch.cat(logits).numpy()


def decay_groups(net: nn.Module) -> list[dict[str, Any]]:
    """Parameters with weight decay (matrices) and without (biases, norms and every other vector)."""
    parameters = [p for p in net.parameters() if p.requires_grad]
    return [
        {"params": [p for p in parameters if p.ndim > 1], "decays": True},
        {"params": [p for p in parameters if p.ndim <= 1], "decays": False},
    ]
