"""How the teacher's logits become targets that use all prototypes. At least float32, over all ranks."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from trainer.config import Loss
from trainer.numerics import at_least_single, log_softmax_rows, total


def sinkhorn(logits: Float[Tensor, "batch prototypes"], temperature: float, iterations: int) -> Float[Tensor, "batch prototypes"]:
    """Soft assignments whose rows sum to 1 and which give each prototype an equal share of the batch (of all ranks).

    Each iteration scales every prototype to the share 1 / prototypes, then every sample to 1 / batch; the balance over
    prototypes is therefore approximate. At most batch / prototypes of a sample goes to one prototype once converged.

    Source: Caron et al. 2020 (SwAV), arXiv 2006.09882, Eq. 5 and Algorithm 1. Departs: in logarithms, so that a sample far
    below the largest logit does not underflow to zero (at temperature .02 cosines span a factor e^100).
    """
    log_plan = at_least_single(logits) / temperature
    for _ in range(iterations):  # the shares themselves are constants, which the next softmax does not see
        log_plan = torch.log_softmax(log_softmax_rows(log_plan), dim=1)
    return torch.exp(log_plan)


def softmax_centered(
    logits: Float[Tensor, "batch prototypes"], center: Float[Tensor, " prototypes"], temperature: float
) -> Float[Tensor, "batch prototypes"]:
    """softmax((logits - center) / temperature).

    Source: Caron et al. 2021, arXiv 2104.14294, Eq. 1 and section 3.1.
    """
    return torch.softmax((at_least_single(logits) - center) / temperature, dim=-1)


class Centering:
    """Targets from teacher logits, with what is remembered of earlier steps: the running centre, or the queue.

    With `foreground`, the last prototype is reserved for background: only the given rows are balanced, over the other ones.
    """

    def __init__(self, config: Loss, prototypes: int, device: torch.device, *, queue: int = 0, dtype: torch.dtype = torch.float32) -> None:
        """`queue`: earlier steps whose rows Sinkhorn-Knopp balances too; whole steps, so that every number of ranks keeps the same rows."""
        self.config = config
        self.center = torch.zeros(prototypes, device=device, dtype=dtype)
        self._steps, self._queue = queue, list[Tensor]()

    @torch.no_grad()
    def targets(
        self, logits: Float[Tensor, "batch prototypes"], temperature: float, foreground: Bool[Tensor, " batch"] | None = None
    ) -> Float[Tensor, "batch prototypes"]:
        """Assignments, rows sum to 1 (rows that are not `foreground` are 0).

        With softmax the previous steps' centre is applied, then this step updates it: once for an optimizer step. With Sinkhorn-Knopp
        the queued rows of earlier steps take part with the logits that they had (SwAV keeps features instead, and reads them with
        the newest prototypes; the teacher's prototypes move slowly).

        Sources: Caron et al. 2021, arXiv 2104.14294, Eq. 4; queue: Caron et al. 2020, arXiv 2006.09882, section 4.
        """
        if foreground is None:
            return self._balanced(logits, self.center, temperature)
        targets = torch.zeros_like(logits, dtype=self.center.dtype)
        targets[foreground, :-1] = self._balanced(logits[foreground][:, :-1], self.center[:-1], temperature)
        return targets

    def _balanced(
        self, logits: Float[Tensor, "batch prototypes"], center: Float[Tensor, " prototypes"], temperature: float
    ) -> Float[Tensor, "batch prototypes"]:
        if self.config.centering == "sinkhorn":
            return self._sinkhorn(at_least_single(logits), temperature)
        targets = softmax_centered(logits, center, temperature)
        rows = total(center.new_tensor(float(len(logits))))
        if rows > 0:
            center.lerp_(total(at_least_single(logits).sum(dim=0)) / rows, 1 - self.config.center_momentum)
        return targets

    def _sinkhorn(self, logits: Float[Tensor, "batch prototypes"], temperature: float) -> Float[Tensor, "batch prototypes"]:
        found = sinkhorn(torch.cat([logits, *self._queue]), temperature, self.config.sinkhorn_iterations)[: len(logits)]
        self._queue = [logits, *self._queue][: self._steps]
        return found

    def state_dict(self) -> dict[str, Any]:
        """Tensors only."""
        return {"center": self.center, "queue": self._queue}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict()`."""
        self.center.copy_(state["center"])
        self._queue = [step.to(self.center) for step in state["queue"]]
