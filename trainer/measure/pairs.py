"""Measures of the two global crops of a scan as a pair: what depends on how much of the scan they share."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Num

from trainer.measure.prototypes import entropy, group_measures, kl_divergence

OVERLAPPING = 0.3
"""IoU from which a pair is told apart from a merely touching one."""


def pair_measures(
    probs: Num[np.ndarray, "crops prototypes"],
    student: Num[np.ndarray, "crops prototypes"],
    teacher: Num[np.ndarray, "crops prototypes"] | None,
    iou: Num[np.ndarray, " pairs"],
) -> dict[str, float]:
    """By the IoU of the pair that a crop belongs to: `apart` (0), `touching` (above 0, below .3) and `overlapping` (.3 or more).

    - `prototype_entropy_<bin>`, `<bin>_mutual_information`, `<bin>_information_share`: see `prototypes.group_measures`.
    - `kl_teacher_student` and `kl_teacher_student_<bin>`: mean KL(teacher of one crop || student of the other one), both ways, in
      nats: what is left to learn of the cross-entropy, which is this plus the teacher's entropy.
    - `teacher_entropy`: mean entropy of the teacher's assignments, share of ln K in [0, 1].

    A bin without crops leaves its keys out; without a teacher the last two are left out.

    Args:
        probs: Of the student at the yardstick's temperature; all first crops of the pairs, then all second ones.
        student: The same at the temperature of the loss.
        teacher: Its assignments, in the same order.
        iou: Of each pair, in [0, 1].

    Raises:
        ValueError: The crops are not twice the pairs.
    """
    if len(probs) != 2 * len(iou):
        raise ValueError(f"iou: expected one for each of {len(probs) / 2:g} pairs of crops but got {len(iou)}. Pass two crops a scan.")
    bins = {"apart": iou <= 0, "touching": (iou > 0) & (iou < OVERLAPPING), "overlapping": iou >= OVERLAPPING}
    found = group_measures(probs, {name: np.tile(pairs, 2) for name, pairs in bins.items()})
    if teacher is not None:
        divergence = _crossed(teacher, student)
        found["kl_teacher_student"] = float(divergence.mean())
        found |= {f"kl_teacher_student_{name}": float(divergence[pairs].mean()) for name, pairs in bins.items() if pairs.any()}
        found["teacher_entropy"] = float(entropy(teacher).mean() / np.log(teacher.shape[1]))
    return found


def _crossed(teacher: Num[np.ndarray, "crops prototypes"], student: Num[np.ndarray, "crops prototypes"]) -> Float[np.ndarray, " pairs"]:
    """Mean of both directions, for each pair."""
    other = np.roll(student, len(student) // 2, axis=0)
    return np.asarray(kl_divergence(teacher, other).reshape(2, -1).mean(axis=0))
