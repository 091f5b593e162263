"""The projection head: optional feature normalisation, an MLP, a unit-norm bottleneck and the prototypes."""

from __future__ import annotations

import itertools
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from trainer.config import Model
from trainer.numerics import at_least_single, ranks, total
from trainer.products import Linear, linear

MOMENTUM = 0.1
"""Weight of the newest batch in the running statistics, once 1 / MOMENTUM batches were seen; plain averages before."""


class FeatureNorm(nn.Module):
    """Whitens each feature over the batch: zero mean, unit variance, nothing learned.

    In training by the statistics of the rows at hand on all ranks, all views of one call together; in evaluation by running
    statistics. These start as plain averages over the first batches, so a few batches calibrate an untrained network.

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
        x = at_least_single(x)
        if not self.training:
            return (x - self.mean) * (self.variance + self.eps).rsqrt()
        if ranks() == 1 and len(x) > 1 and x.device.type == "cpu":  # in one operation instead of twenty; a GPU would wait for the share
            self.batches += 1
            newest = max(1 / float(self.batches), MOMENTUM)
            return F.batch_norm(x, self.mean, self.variance, training=True, momentum=newest, eps=self.eps)
        rows = total(x.new_tensor(float(len(x))))
        mean = total(x.sum(dim=0)) / rows
        centred = x - mean
        variance = total(centred.square().sum(dim=0)) / rows
        with torch.no_grad():
            self.batches += 1
            share = torch.clamp(1 / self.batches, min=MOMENTUM)
            self.mean.lerp_(mean.to(self.mean.dtype), share)
            self.variance.lerp_((variance * (rows / (rows - 1).clamp_min(1))).to(self.mean.dtype), share)
        return centred * (variance + self.eps).rsqrt()


class Projection(NamedTuple):
    """What a head says."""

    logits: Float[Tensor, "batch prototypes"]
    """Before any temperature."""
    prototypes: Float[Tensor, "prototypes bottleneck"]
    """As they were used: of unit norm with `model.weight_norm`."""


class DinoHead(nn.Module):
    """Features -> logits over prototypes, before any temperature.

    Source: Caron et al. 2021, arXiv 2104.14294, appendix C; weight normalisation with its gain fixed to 1.
    """

    def __init__(self, config: Model, features: int, prototypes: int) -> None:
        super().__init__()
        widths = [features, *[config.head_hidden] * (config.head_layers - 1), config.bottleneck]
        layers: list[nn.Module] = []
        for before, after in itertools.pairwise(widths):
            layers += [Linear(before, after), nn.GELU()]
        self.norm = FeatureNorm(features) if config.feature_norm == "batch" else None
        self.mlp = nn.Sequential(*layers[:-1])
        self.weight_norm = config.weight_norm
        self.prototypes = nn.Parameter(torch.empty(prototypes, config.bottleneck))

    def forward(self, features: Float[Tensor, "batch features"]) -> Projection:
        if self.norm is not None:
            features = self.norm(features)
        hidden = self.mlp(features)
        with torch.autocast(features.device.type, enabled=False):  # bf16 cosines over a temperature of .02 are off by up to .2
            rows = F.normalize(self.prototypes, dim=-1) if self.weight_norm else self.prototypes
            return Projection(linear(F.normalize(at_least_single(hidden), dim=-1), rows), rows)
