"""The teacher: an exponential moving average of the student, never trained itself."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from trainer.model.network import DinoNet


def teacher_of(student: DinoNet) -> DinoNet:
    """A copy of the student's weights that shares no storage and takes no gradient."""
    return copy.deepcopy(student).requires_grad_(False)


def ema_update(teacher: nn.Module, student: nn.Module, momentum: float) -> None:
    """teacher <- momentum teacher + (1 - momentum) student, parameters only.

    Buffers stay: the teacher normalises features by its own batches. Sharded weights move shard by shard.

    Source: Caron et al. 2021, arXiv 2104.14294, section 3.1.
    """
    average(list(teacher.parameters()), list(student.parameters()), momentum)


@torch.no_grad()
def average(kept: Sequence[nn.Parameter], new: Sequence[nn.Parameter], momentum: float) -> None:
    """The same for parameters that were listed before: listing those of a small network takes longer than moving them."""
    if all(type(parameter) is nn.Parameter for parameter in kept):
        torch._foreach_lerp_(list(kept), list(new), 1 - momentum)
    else:
        torch._foreach_lerp_([_own(p) for p in kept], [_own(p) for p in new], 1 - momentum)


def _own(parameter: nn.Parameter) -> Tensor:
    own: Tensor = parameter.to_local() if hasattr(parameter, "to_local") else parameter.data
    return own
