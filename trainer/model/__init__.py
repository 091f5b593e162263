"""The 3-D vision transformer, its DINO head, and the EMA teacher."""

from trainer.model.network import DinoNet, build, decay_groups, embed
from trainer.model.teacher import ema_update, teacher_of
from trainer.model.vit3d import Vit3d

__all__ = ["DinoNet", "Vit3d", "build", "decay_groups", "ema_update", "embed", "teacher_of"]
