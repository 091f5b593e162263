"""The 3-D vision transformer, its heads, and the EMA teacher."""

from trainer.model.groups import parameter_groups
from trainer.model.heads import Projection
from trainer.model.network import DinoNet, build, embed, embed_patches, feature_dim, pooled, spacing_mm
from trainer.model.teacher import average, ema_update, teacher_of
from trainer.model.vit3d import Cut, Tokens, Vit3d, cut

__all__ = [
    "Cut",
    "DinoNet",
    "Projection",
    "Tokens",
    "Vit3d",
    "average",
    "build",
    "cut",
    "ema_update",
    "embed",
    "embed_patches",
    "feature_dim",
    "parameter_groups",
    "pooled",
    "spacing_mm",
    "teacher_of",
]
