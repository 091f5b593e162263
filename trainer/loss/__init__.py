"""The DINO loss over view pairs, its targets, and every proposed cure that acts on pairs."""

from trainer.loss.centering import Centering, sinkhorn, softmax_centered
from trainer.loss.dino import dino_loss, pair_losses, view_losses, weighted_mean
from trainer.loss.koleo import koleo_loss
from trainer.loss.matching import Geometry, match, needs_local_teacher, reserves_background, unmatched_locals
from trainer.loss.weighting import batch_scale, pair_ratio, weight

__all__ = [
    "Centering",
    "Geometry",
    "batch_scale",
    "dino_loss",
    "koleo_loss",
    "match",
    "needs_local_teacher",
    "pair_losses",
    "pair_ratio",
    "reserves_background",
    "sinkhorn",
    "softmax_centered",
    "unmatched_locals",
    "view_losses",
    "weight",
    "weighted_mean",
]
