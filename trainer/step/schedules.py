"""What changes from step to step by a rule. Steps are optimizer steps, from 0."""

from __future__ import annotations

import math

from trainer.config import Loop, Loss


def cosine(start: float, end: float, progress: float) -> float:
    """Half a cosine from start (progress 0) to end (1); constant outside."""
    return end + (start - end) * (1 + math.cos(math.pi * min(max(progress, 0.0), 1.0))) / 2


def learning_rate(step: int, loop: Loop) -> float:
    """Linear warm-up that reaches `lr` after `warmup_steps` updates, then a cosine to `lr_end` at the last update."""
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


def takes_anchor(step: int, loss: Loss) -> bool:
    """Whether the Gram teacher is taken from the teacher at this step."""
    since = step - loss.gram_from_step
    return since == 0 or (since > 0 and loss.gram_refresh_steps > 0 and since % loss.gram_refresh_steps == 0)
