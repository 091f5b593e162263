"""The teacher: an exponential moving average of the student, never trained itself."""

from __future__ import annotations

import copy

from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from trainer.model.network import DinoNet


def teacher_of(student: DinoNet) -> DinoNet:
    """A copy of the student's weights that shares no storage and takes no gradient."""
    return copy.deepcopy(student).requires_grad_(False)


def ema_update(teacher: nn.Module, student: nn.Module, momentum: float) -> None:
    """teacher <- momentum teacher + (1 - momentum) student, parameters only.

    Buffers stay: the teacher normalises features by its own batches.

    Source: Caron et al. 2021, arXiv 2104.14294, section 3.1.
    """
    average = get_ema_multi_avg_fn(momentum)  # type: ignore[no-untyped-call]  # one fused loop over all tensors
    average([p.data for p in teacher.parameters()], [p.data for p in student.parameters()], 0)
