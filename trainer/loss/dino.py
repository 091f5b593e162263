"""Cross-entropy between the teacher's assignment of one view and the student's of another."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from trainer.numerics import at_least_single, ranks, total


def pair_losses(
    student_logits: Float[Tensor, "student_views batch prototypes"],
    teacher_probs: Float[Tensor, "teacher_views batch prototypes"],
    *,
    student_temp: float,
) -> Float[Tensor, "teacher_views student_views batch"]:
    """Cross-entropy of every (teacher view, student view, scan), in nats; softmax at least in float32.

    Args:
        student_logits: Before softmax; gradients flow.
        teacher_probs: Sums to 1 over prototypes; detached.
    """
    log_probs = torch.log_softmax(at_least_single(student_logits) / student_temp, dim=-1)
    return -torch.einsum("tbk,sbk->tsb", teacher_probs.detach().to(log_probs.dtype), log_probs)


def weighted_mean(
    losses: Float[Tensor, "teacher_views student_views batch"], pair_weights: Float[Tensor, "teacher_views student_views batch"]
) -> Float[Tensor, ""]:
    """Mean of the pairs' losses by weight; over several ranks this rank's share of it (see trainer.numerics).

    Raises:
        ValueError: All pair weights are 0.
    """
    weights = total(pair_weights.sum())
    if weights <= 0:
        raise ValueError("dino_loss: expected a pair with a positive weight but got none. Skip the batch, or weaken weighting or matching.")
    return (losses * pair_weights).sum() / weights * ranks()


def dino_loss(
    student_logits: Float[Tensor, "student_views batch prototypes"],
    teacher_probs: Float[Tensor, "teacher_views batch prototypes"],
    pair_weights: Float[Tensor, "teacher_views student_views batch"],
    *,
    student_temp: float,
) -> Float[Tensor, ""]:
    """Weighted cross-entropy over (teacher, student) view pairs, in nats.

    Args:
        student_logits: Before softmax; gradients flow.
        teacher_probs: Sums to 1 over prototypes; detached.
        pair_weights: Non-negative; 0 leaves a pair out. Renormalised by their sum.

    Raises:
        ValueError: All pair weights are 0.

    Source: Caron et al. 2021, arXiv 2104.14294, Eq. 3. Departs: the weights.
    """
    return weighted_mean(pair_losses(student_logits, teacher_probs, student_temp=student_temp), pair_weights)


def view_losses(
    losses: Float[Tensor, "teacher_views student_views batch"], pair_weights: Float[Tensor, "teacher_views student_views batch"]
) -> Float[Tensor, "student_views batch"]:
    """Weighted mean over teachers of each student view's pairs, in nats; NaN where a view has no pair."""
    return (losses * pair_weights).sum(dim=0) / pair_weights.sum(dim=0)
