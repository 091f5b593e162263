"""One optimizer step: the schedules, the batch's loss, and the update of student, teacher and centre."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float32
from torch import Tensor

from trainer.config import Loop, Loss, TrainerConfig
from trainer.data import Batch
from trainer.loss import (
    Centering,
    Geometry,
    batch_scale,
    koleo_loss,
    match,
    needs_local_teacher,
    pair_losses,
    pair_ratio,
    reserves_background,
    unmatched_locals,
    view_losses,
    weight,
    weighted_mean,
)
from trainer.model import build, decay_groups, ema_update, teacher_of

GLOBALS = 2
LEAST_SCALE = 1.0
"""An fp16 loss scale that fell below this can no longer save a step: the gradient itself is not finite."""


class NotFinite(ArithmeticError):
    """The loss or its gradient is not finite; nothing was updated."""


def cosine(start: float, end: float, progress: float) -> float:
    """Half a cosine from start (progress 0) to end (1); constant outside."""
    return end + (start - end) * (1 + math.cos(math.pi * min(max(progress, 0.0), 1.0))) / 2


def learning_rate(step: int, loop: Loop) -> float:
    """Linear warm-up that reaches `lr` after `warmup_steps` updates, then a cosine to `lr_end` at the last update. Steps count from 0."""
    if step < loop.warmup_steps:
        return loop.lr * (step + 1) / (loop.warmup_steps + 1)
    return cosine(loop.lr, loop.lr_end, (step - loop.warmup_steps) / max(loop.steps - 1 - loop.warmup_steps, 1))


def weight_decay(step: int, loop: Loop) -> float:
    """Cosine from `weight_decay` to `weight_decay_end` over the run."""
    return cosine(loop.weight_decay, loop.weight_decay_end, step / max(loop.steps - 1, 1))


def teacher_momentum(step: int, loop: Loop) -> float:
    """Cosine from `ema` to `ema_end` over the run."""
    return cosine(loop.ema, loop.ema_end, step / max(loop.steps - 1, 1))


def teacher_temperature(step: int, loss: Loss) -> float:
    """Linear from `teacher_temperature_start` to `teacher_temperature` over the warm-up, then constant."""
    if step >= loss.teacher_temperature_warmup_steps:
        return loss.teacher_temperature
    progress = step / loss.teacher_temperature_warmup_steps
    return loss.teacher_temperature_start + (loss.teacher_temperature - loss.teacher_temperature_start) * progress


@dataclass(frozen=True)
class StepResult:
    """What one step did and saw. Arrays of global crops are view by view: all first views, then all second ones."""

    applied: bool
    losses: dict[str, float]
    """`loss_total`, `loss_global`, `loss_local` in nats; empty where the batch had no pair, a part without pairs left out."""
    crop_losses: Float32[np.ndarray, "batch views"]
    """Mean over each student crop's pairs; NaN where it has none."""
    unmatched_locals: int
    logits: Float[Tensor, "global_crops prototypes"] | None
    features: Float[Tensor, "global_crops dim"] | None


@dataclass(frozen=True)
class Pairs:
    """Which pairs a batch compares and how much each counts."""

    weights: Float[Tensor, "teacher_views student_views batch"]
    scale: Float[Tensor, ""]
    local_teacher: bool
    unmatched_locals: int
    ratio: Float[Tensor, "views batch"]


def pairs_of(batch: Batch, config: TrainerConfig, device: torch.device) -> Pairs:
    """Matching and weighting of a batch; they depend on where its crops lie, not on the network."""
    ratio = torch.from_numpy(batch.ratio_own.T.copy()).float()
    geometry = Geometry(
        torch.from_numpy(batch.global_corners),
        torch.from_numpy(batch.local_corners),
        config.crops.global_size_voxels,
        config.crops.local_size_voxels,
        ratio,
    )
    mask = match(geometry, config.loss)
    weights, scale = mask, torch.ones(())
    if config.loss.foreground_weighting_scope == "pair":
        weights = mask * weight(pair_ratio(ratio[: len(mask)], ratio), config.loss)
    else:
        scale = batch_scale(ratio, config.loss)
    return Pairs(weights.to(device), scale.to(device), needs_local_teacher(weights), unmatched_locals(mask), ratio.to(device))


class Learner:
    """Student, teacher, optimizer and centres: all that a step changes."""

    def __init__(self, config: TrainerConfig, device: torch.device) -> None:
        self.config, self.device = config, device
        self.student = build(config).to(device)
        self.teacher = teacher_of(self.student)
        self.optimizer = torch.optim.AdamW(decay_groups(self.student), lr=0.0, betas=(0.9, 0.999), fused=True)
        self.global_centering = Centering(config.loss, config.model.prototypes, device)
        self.local_centering = Centering(config.loss, config.model.prototypes, device)
        precision = config.loop.precision if device.type == "cuda" else "float32"
        self.autocast_dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision)
        self.scaler = torch.amp.GradScaler("cuda", enabled=precision == "fp16")

    def step(self, batch: Batch, step: int) -> StepResult:
        """Update once. A batch without any pair changes nothing: no weight, no teacher, no centre.

        Raises:
            NotFinite: Before anything was updated by it.
        """
        pairs = pairs_of(batch, self.config, self.device)
        if not bool(pairs.weights.any()):
            nothing = np.full(batch.ratio_own.shape, np.nan, np.float32)
            return StepResult(False, {}, nothing, pairs.unmatched_locals, None, None)
        globals_, locals_ = self._views(batch.globals), self._views(batch.locals)
        with torch.autocast(self.device.type, self.autocast_dtype, enabled=self.autocast_dtype is not None):
            targets = self._targets(globals_, locals_, pairs, step)
            features, logits = self._student(globals_, locals_)
        views = batch.ratio_own.shape[1]
        losses = pair_losses(logits.float().view(views, len(batch.scan), -1), targets, student_temp=self.config.loss.student_temperature)
        total = weighted_mean(losses, pairs.weights) * pairs.scale
        if self.config.loss.koleo_weight:
            total = total + self.config.loss.koleo_weight * sum(koleo_loss(view) for view in features[: len(globals_)].chunk(GLOBALS))
        applied = self._update(total, step)
        detached = losses.detach()
        return StepResult(
            applied,
            _parts(total, detached, pairs.weights),
            view_losses(detached, pairs.weights).T.cpu().numpy(),
            pairs.unmatched_locals,
            logits.detach()[: len(globals_)],
            features.detach()[: len(globals_)],
        )

    @torch.no_grad()
    def calibrate(self, batch: Batch) -> None:
        """Let the feature norm's running statistics see a batch, and change nothing else."""
        self._student(self._views(batch.globals), self._views(batch.locals))

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain values only."""
        return {
            "student": self.student.state_dict(),
            "teacher": self.teacher.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "centers": [self.global_centering.center, self.local_centering.center],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict()`, to the bit."""
        self.student.load_state_dict(state["student"])
        self.teacher.load_state_dict(state["teacher"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        for centering, center in zip((self.global_centering, self.local_centering), state["centers"], strict=True):
            centering.center.copy_(center)

    def is_finite(self) -> bool:
        """Whether every weight and statistic of student and teacher is finite."""
        return all(bool(torch.isfinite(t).all()) for net in (self.student, self.teacher) for t in net.state_dict().values())

    def _views(self, images: Float32[np.ndarray, "batch views 1 depth height width"]) -> Float[Tensor, "crops 1 depth height width"]:
        """Crops view by view: all scans' first views, then all second ones."""
        return torch.from_numpy(images).to(self.device, non_blocking=True).transpose(0, 1).flatten(0, 1)

    def _student(
        self, globals_: Float[Tensor, "global_crops 1 d h w"], locals_: Float[Tensor, "local_crops 1 d h w"]
    ) -> tuple[Float[Tensor, "crops dim"], Float[Tensor, "crops prototypes"]]:
        """One backbone pass a crop size, one head pass over all views."""
        features = self.student.features(globals_)
        if len(locals_):
            features = torch.cat([features, self.student.features(locals_)])
        return features, self.student.head(features)

    @torch.no_grad()
    def _targets(
        self, globals_: Float[Tensor, "global_crops 1 d h w"], locals_: Float[Tensor, "local_crops 1 d h w"], pairs: Pairs, step: int
    ) -> Float[Tensor, "teacher_views batch prototypes"]:
        """The teacher's assignments: the globals balanced together, locals (only where a pair needs them) among themselves."""
        batch = pairs.weights.shape[2]
        temperature = teacher_temperature(step, self.config.loss)
        background = None
        if reserves_background(self.config.loss):
            background = (pairs.ratio[:GLOBALS] < self.config.loss.matching_threshold).flatten()
        logits = self.teacher.head(self.teacher.features(globals_))
        targets = self.global_centering.targets(logits, temperature, background).view(GLOBALS, batch, -1)
        if len(pairs.weights) == GLOBALS:
            return targets
        local_views = len(pairs.weights) - GLOBALS
        if not pairs.local_teacher:
            return torch.cat([targets, targets.new_zeros(local_views, batch, targets.shape[2])])
        logits = self.teacher.head(self.teacher.features(locals_))
        return torch.cat([targets, self.local_centering.targets(logits, temperature).view(local_views, batch, -1)])

    def _update(self, total: Float[Tensor, ""], step: int) -> bool:
        """Backward, clip, AdamW, EMA. False where fp16 gradients overflowed and the loss scale backed off instead."""
        if not bool(torch.isfinite(total.detach())):
            raise NotFinite(f"the loss is {float(total.detach())}")
        loop = self.config.loop
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(total).backward()  # type: ignore[no-untyped-call]
        self.scaler.unscale_(self.optimizer)
        if step < loop.freeze_last_layer_steps:
            self.student.dino_head.prototypes.grad = None
        parameters = [p for p in self.student.parameters() if p.grad is not None]
        norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        finite = bool(torch.isfinite(norm))
        if not finite and (not self.scaler.is_enabled() or self.scaler.get_scale() < LEAST_SCALE):
            raise NotFinite("the gradient is not finite")
        if finite and loop.clip_norm:
            torch.nn.utils.clip_grads_with_norm_(parameters, loop.clip_norm, norm)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(step, loop)
            group["weight_decay"] = weight_decay(step, loop) if group["decays"] else 0.0
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if finite:
            ema_update(self.teacher, self.student, teacher_momentum(step, loop))
        return finite


def _parts(
    total: Tensor, losses: Float[Tensor, "teacher_views student_views batch"], weights: Float[Tensor, "teacher_views student_views batch"]
) -> dict[str, float]:
    """The loss as optimised, and its weighted means over pairs whose student crop is global or local, in nats."""
    parts = {"loss_total": float(total.detach())}
    for name, views in (("loss_global", slice(0, GLOBALS)), ("loss_local", slice(GLOBALS, None))):
        if bool(weights[:, views].any()):
            parts[name] = float(weighted_mean(losses[:, views], weights[:, views]))
    return parts
