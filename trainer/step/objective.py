"""The losses of a whole batch, from what student and teacher say of its crops. Computed once an optimizer step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from trainer.config import Loss, TrainerConfig, sinkhorn_columns
from trainer.loss import (
    Centering,
    gram_loss,
    ibot_loss,
    koleo_loss,
    koleo_over_ranks,
    pair_losses,
    reserves_background,
    weighted_mean,
)
from trainer.model import DinoNet, Projection
from trainer.numerics import total
from trainer.step.pairs import Pairs
from trainer.step.schedules import teacher_temperature
from trainer.step.window import GLOBALS, Outputs

Head = Callable[[Float[Tensor, "rows features"]], Projection]


@dataclass(frozen=True)
class Targets:
    """What the student should say."""

    views: Float[Tensor, "teacher_views batch prototypes"]
    masked: Float[Tensor, "masked prototypes"]


class Balance:
    """How teacher logits become targets, with what each kind of output remembers of earlier steps."""

    def __init__(self, config: TrainerConfig, device: torch.device, dtype: torch.dtype) -> None:
        self.config = config
        queue = sinkhorn_columns(config) // (GLOBALS * config.loop.batch_size) - 1
        k, patches = config.model.prototypes, config.model.ibot_prototypes
        self.globals = Centering(config.loss, k, device, queue=queue, dtype=dtype)
        self.locals = Centering(config.loss, k, device, dtype=dtype)
        self.masked = Centering(config.loss, patches if config.loss.ibot_weight else 0, device, dtype=dtype)

    @torch.no_grad()
    def targets(self, teacher: DinoNet, said: Outputs, pairs: Pairs, step: int) -> Targets:
        """The teacher's assignments: the globals balanced together, locals (only where a pair needs them) and masked patches apart."""
        temperature = teacher_temperature(step, self.config.loss)
        batch = pairs.weights.shape[2]
        foreground = None
        if reserves_background(self.config.loss):
            foreground = (pairs.ratio[:GLOBALS] >= self.config.loss.matching_threshold).flatten()
        logits = teacher.head(said.features[:GLOBALS].flatten(0, 1))
        views = [self.globals.targets(logits, temperature, foreground).view(GLOBALS, batch, -1)]
        if reserves_background(self.config.loss):
            background = torch.zeros_like(views[0][:1])
            background[..., -1] = 1.0
            views.append(background)
        elif pairs.local_teacher:
            logits = teacher.head(said.features[GLOBALS:].flatten(0, 1))
            views.append(self.locals.targets(logits, temperature).view(-1, batch, logits.shape[1]))
        elif len(pairs.weights) > GLOBALS:
            views.append(torch.zeros_like(views[0][:1]).expand(len(pairs.weights) - GLOBALS, -1, -1))
        masked = said.masked
        if teacher.ibot_head is not None:
            masked = self.masked.targets(teacher.ibot_head(masked).logits, temperature)
        return Targets(torch.cat(views), masked)

    def state_dict(self) -> dict[str, Any]:
        """Tensors only."""
        return {name: getattr(self, name).state_dict() for name in ("globals", "locals", "masked")}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict()`."""
        for name, found in state.items():
            getattr(self, name).load_state_dict(found)


@dataclass(frozen=True)
class Objective:
    """The loss of a batch and its parts."""

    loss: Float[Tensor, ""]
    """This rank's share, to go backward from."""
    pairs: Float[Tensor, "teacher_views student_views batch"]
    """Cross-entropy of every pair, in nats; detached."""
    logits: Float[Tensor, "views batch prototypes"]
    parts: dict[str, Float[Tensor, ""]]
    """Unweighted; this rank's shares, detached."""


def objective(
    said: Outputs,
    targets: Targets,
    pairs: Pairs,
    mask: Bool[Tensor, "global_crops tokens"] | None,
    anchor: Outputs | None,
    dino_head: Head,
    ibot_head: Head | None,
    config: Loss,
) -> Objective:
    """DINO over pairs of views, and whatever else has a weight: KoLeo on features and on prototypes, iBOT, Gram anchoring."""
    views, batch = said.features.shape[:2]
    logits, prototypes = dino_head(said.features.flatten(0, 1))
    logits = logits.view(views, batch, -1)
    losses = pair_losses(logits, targets.views, student_temp=config.student_temperature)
    terms: dict[str, tuple[float | Tensor, Tensor]] = {"dino": (pairs.scale, weighted_mean(losses, pairs.weights.to(losses.dtype)))}
    if config.koleo_weight:
        terms["koleo"] = (config.koleo_weight, sum((koleo_over_ranks(v) for v in said.features[:GLOBALS]), torch.zeros(())))
    if config.koleo_prototypes_weight:
        terms["koleo_prototypes"] = (config.koleo_prototypes_weight, koleo_loss(prototypes))
    if ibot_head is not None and mask is not None and float(total(mask.sum().float())) > 0:
        found = ibot_loss(ibot_head(said.masked).logits, targets.masked, mask, student_temp=config.student_temperature)
        terms["ibot"] = (config.ibot_weight, found)
    if anchor is not None:
        terms["gram"] = (config.gram_weight, gram_loss(said.patches.flatten(0, 1), anchor.patches.flatten(0, 1)))
    loss = sum((weight * term for weight, term in terms.values()), torch.zeros((), device=logits.device))
    return Objective(loss, losses.detach(), logits.detach(), {name: term.detach() for name, (_, term) in terms.items() if name != "dino"})
