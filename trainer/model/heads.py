"""The DINO head: optional feature normalisation, an MLP, a unit-norm bottleneck and the prototypes."""

from __future__ import annotations

import itertools

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from trainer.config import Model

MOMENTUM = 0.1
"""Weight of the newest batch in the running statistics, once 1 / MOMENTUM batches were seen; plain averages before."""


class FeatureNorm(nn.Module):
    """Whitens each feature over the batch: zero mean, unit variance, nothing learned.

    In training by the statistics of the batch at hand, all views of one call together; in evaluation by running statistics.
    These start as plain averages over the first batches, so a few batches calibrate an untrained network.

    Source: Ioffe and Szegedy 2015, arXiv 1502.03167, Algorithm 1. Departs: no learned scale and shift.
    """

    def __init__(self, dim: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.mean: Tensor
        self.variance: Tensor
        self.batches: Tensor
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("variance", torch.ones(dim))
        self.register_buffer("batches", torch.zeros(()))

    def forward(self, x: Float[Tensor, "batch dim"]) -> Float[Tensor, "batch dim"]:
        x = x.float()
        if not self.training:
            return (x - self.mean) * (self.variance + self.eps).rsqrt()
        variance, mean = torch.var_mean(x, dim=0, correction=0)
        with torch.no_grad():
            self.batches += 1
            share = torch.clamp(1 / self.batches, min=MOMENTUM)
            self.mean.lerp_(mean, share)
            self.variance.lerp_(variance * (len(x) / max(len(x) - 1, 1)), share)
        return (x - mean) * (variance + self.eps).rsqrt()


class DinoHead(nn.Module):
    """Features -> logits over prototypes, before any temperature.

    Source: Caron et al. 2021, arXiv 2104.14294, appendix C; weight normalisation with its gain fixed to 1.
    """

    def __init__(self, config: Model) -> None:
        super().__init__()
        widths = [config.dim, *[config.head_hidden] * (config.head_layers - 1), config.bottleneck]
        layers: list[nn.Module] = []
        for before, after in itertools.pairwise(widths):
            layers += [nn.Linear(before, after), nn.GELU()]
        self.norm = FeatureNorm(config.dim) if config.feature_norm == "batch" else None
        self.mlp = nn.Sequential(*layers[:-1])
        self.weight_norm = config.weight_norm
        self.prototypes = nn.Parameter(torch.empty(config.prototypes, config.bottleneck))

    def forward(self, features: Float[Tensor, "batch dim"]) -> Float[Tensor, "batch prototypes"]:
        if self.norm is not None:
            features = self.norm(features)
        hidden = self.mlp(features)
        with torch.autocast(features.device.type, enabled=False):  # bf16 cosines over a temperature of .02 are off by up to .2
            rows = F.normalize(self.prototypes, dim=-1) if self.weight_norm else self.prototypes
            return F.linear(F.normalize(hidden.float(), dim=-1), rows)
