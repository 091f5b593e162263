"""How the teacher's logits become targets that use all prototypes. Everything in float32."""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from trainer.config import Loss


def sinkhorn(logits: Float[Tensor, "batch prototypes"], temperature: float, iterations: int) -> Float[Tensor, "batch prototypes"]:
    """Soft assignments whose rows sum to 1 and which give each prototype an equal share of the batch.

    Each iteration scales every prototype to the share 1 / prototypes, then every sample to 1 / batch; the balance over
    prototypes is therefore approximate. At most batch / prototypes of a sample goes to one prototype once converged.

    Source: Caron et al. 2020 (SwAV), arXiv 2006.09882, Eq. 5 and Algorithm 1. Departs: in logarithms, so that a sample far
    below the largest logit does not underflow to zero (at temperature .02 cosines span a factor e^100).
    """
    log_plan = logits.float() / temperature
    samples, prototypes = log_plan.shape
    for _ in range(iterations):
        log_plan = log_plan - torch.logsumexp(log_plan, dim=0, keepdim=True) - math.log(prototypes)
        log_plan = log_plan - torch.logsumexp(log_plan, dim=1, keepdim=True) - math.log(samples)
    return torch.exp(log_plan + math.log(samples))


def softmax_centered(
    logits: Float[Tensor, "batch prototypes"], center: Float[Tensor, " prototypes"], temperature: float
) -> Float[Tensor, "batch prototypes"]:
    """softmax((logits - center) / temperature).

    Source: Caron et al. 2021, arXiv 2104.14294, Eq. 1 and section 3.1.
    """
    return torch.softmax((logits.float() - center) / temperature, dim=-1)


class Centering:
    """Targets from teacher logits, with the running centre where there is one.

    With `background`, the last prototype is reserved: background crops are assigned to it alone, and foreground crops are
    balanced among themselves over the others.
    """

    def __init__(self, config: Loss, prototypes: int, device: torch.device) -> None:
        self.config = config
        self.center = torch.zeros(prototypes, device=device)

    @torch.no_grad()
    def targets(
        self, logits: Float[Tensor, "batch prototypes"], temperature: float, background: Bool[Tensor, " batch"] | None = None
    ) -> Float[Tensor, "batch prototypes"]:
        """Assignments, rows sum to 1; with softmax the previous batches' centre is applied, then this batch updates it.

        Source of the centre's update: Caron et al. 2021, arXiv 2104.14294, Eq. 4.
        """
        if background is None:
            return self._balanced(logits, self.center, temperature)
        targets = torch.zeros_like(logits, dtype=torch.float32)
        targets[background, -1] = 1.0
        if not bool(background.all()):
            targets[~background, :-1] = self._balanced(logits[~background][:, :-1], self.center[:-1], temperature)
        return targets

    def _balanced(
        self, logits: Float[Tensor, "batch prototypes"], center: Float[Tensor, " prototypes"], temperature: float
    ) -> Float[Tensor, "batch prototypes"]:
        if self.config.centering == "sinkhorn":
            return sinkhorn(logits, temperature, self.config.sinkhorn_iterations)
        targets = softmax_centered(logits, center, temperature)
        center.lerp_(logits.float().mean(dim=0), 1 - self.config.center_momentum)
        return targets
