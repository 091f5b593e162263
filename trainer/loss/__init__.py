"""The DINO loss over view pairs, its targets, and every proposed cure that acts on pairs."""

from trainer.loss.centering import Centering, sinkhorn, softmax_centered
from trainer.loss.dino import dino_loss, pair_losses, view_losses, weighted_mean
from trainer.loss.gram import gram_loss
from trainer.loss.ibot import draw_masks, ibot_loss
from trainer.loss.koleo import koleo_loss, koleo_over_ranks
from trainer.loss.matching import Geometry, match, needs_local_teacher, reserves_background, teacher_ratio, unmatched_locals
from trainer.loss.weighting import batch_scale, pair_ratio, weight

__all__ = [
    "Centering",
    "Geometry",
    "batch_scale",
    "dino_loss",
    "draw_masks",
    "gram_loss",
    "ibot_loss",
    "koleo_loss",
    "koleo_over_ranks",
    "match",
    "needs_local_teacher",
    "pair_losses",
    "pair_ratio",
    "reserves_background",
    "sinkhorn",
    "softmax_centered",
    "teacher_ratio",
    "unmatched_locals",
    "view_losses",
    "weight",
    "weighted_mean",
]
