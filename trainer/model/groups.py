"""Which parameters learn at which rate."""

from __future__ import annotations

import re
from typing import Any

from torch import nn

from trainer.config import TrainerConfig
from trainer.model.network import DinoNet


def parameter_groups(net: DinoNet, config: TrainerConfig) -> list[dict[str, Any]]:
    """Groups with `decays` (matrices do; biases, norms and every other vector do not) and `lr_factor`.

    The factor is `layer_decay` to the power of the blocks above: heads and the last norm 1, the last block layer_decay, and
    embedding, positions and extra tokens layer_decay^(depth + 1); the patch embedding's times `patch_embedding_lr`.

    Source: layer-wise decay as in Oquab et al. 2023 (DINOv2), arXiv 2304.07193, appendix B (Clark et al. 2020, arXiv 2003.10555).
    """
    groups: dict[tuple[bool, float], list[nn.Parameter]] = {}
    for name, parameter in net.named_parameters():
        if parameter.requires_grad:
            groups.setdefault((parameter.ndim > 1, lr_factor(name, config)), []).append(parameter)
    return [{"params": found, "decays": decays, "lr_factor": factor} for (decays, factor), found in groups.items()]


def lr_factor(name: str, config: TrainerConfig) -> float:
    """Factor of the learning rate of a parameter, by its name."""
    depth, loop = config.model.depth, config.loop
    if "_head." in name or name.startswith("backbone.norm."):
        return 1.0
    block = re.match(r"backbone\.blocks\.(\d+)\.", name)
    factor: float = loop.layer_decay ** (depth - int(block[1]) if block else depth + 1)
    return factor * loop.patch_embedding_lr if name.startswith("backbone.patch_embedding.") else factor
