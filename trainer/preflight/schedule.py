"""What batch size, schedules and temperatures alone say, without looking at data."""

from __future__ import annotations

import math

from trainer.config import TrainerConfig, inert, leaves, schema, sinkhorn_columns
from trainer.preflight.finding import Finding, finding

FLOOR_SHARE = 0.3
"""Least possible target entropy, share of ln K, from which targets count as flat."""
HALF_LIFE_STEPS = 5
TEACHER_MOVES = 0.05
TEACHER_SAMPLES = 64_000
"""Least memory of a published teacher, in scans: 1 / (1 - .992) steps of 512 (3DINO); DINO's .996 at 1024 are 256,000."""
TEACHER_TIMES, TEACHER_RUN = 16, 20
"""A memory so many times shorter than published is told, where the run is so many times longer than it: a slower teacher would fit in."""
LR_TIMES = 20
REFERENCE_LR, REFERENCE_BATCH = 4e-3, 1024


def findings(settings: TrainerConfig) -> list[Finding]:
    """All of them."""
    if settings.loop.steps == 0:
        return []
    return [*_floor(settings), *_temperature(settings), *_teacher(settings), *_rate(settings), *_window(settings)]


def masked_columns(settings: TrainerConfig) -> int:
    """Columns of iBOT's head: masked patches of a step's global crops, on average; it has no queue."""
    loss = settings.loss
    patches = (settings.crops.global_size_voxels // settings.model.patch_size_voxels) ** 3
    share = loss.ibot_mask_prob * (loss.ibot_mask_ratio_min + loss.ibot_mask_ratio_max) / 2
    return max(round(2 * settings.loop.batch_size * patches * share), 1)


def _floor(settings: TrainerConfig) -> list[Finding]:
    if settings.loss.centering != "sinkhorn":
        return []
    heads = [("model.prototypes", settings.model.prototypes, sinkhorn_columns(settings), "set loss.sinkhorn_queue, ")]
    if settings.loss.ibot_weight:
        heads.append(("model.ibot_prototypes", settings.model.ibot_prototypes, masked_columns(settings), "raise loss.ibot_mask_prob, "))
    return [found for head in heads for found in _floor_of(*head)]


def _floor_of(path: str, prototypes: int, held: int, more: str) -> list[Finding]:
    share = math.log(max(prototypes / held, 1.0)) / math.log(prototypes)
    if share < FLOOR_SHARE:
        return []
    return [
        finding(
            "warning",
            path,
            f"Sinkhorn-Knopp sees {held} columns for {prototypes} prototypes: targets cannot fall below {share:.2f} of ln K.",
            share,
            "A column gives a prototype at most B / K, so its entropy is at least ln(K / B) and mutual information at most ln B "
            "(Caron et al. 2020, arXiv 2006.09882, Eq. 3). Accumulating gradients alone does not enlarge B.",
            f"Lower {path}, raise loop.batch_size (loop.micro_batch_size saves the memory), {more}or set loss.centering=softmax.",
        )
    ]


def _temperature(settings: TrainerConfig) -> list[Finding]:
    loss = settings.loss
    teacher = max(loss.teacher_temperature, loss.teacher_temperature_start if loss.teacher_temperature_warmup_steps else 0.0)
    if teacher < loss.student_temperature:
        return []
    return [
        finding(
            "warning",
            "loss.teacher_temperature",
            f"the teacher's temperature {teacher:g} is not below the student's {loss.student_temperature:g}.",
            teacher,
            "Targets are then flatter than what is compared with them, and each step flattens further, to uniform (Caron et al. 2021, "
            "arXiv 2104.14294, section 5.3: sharpening prevents it).",
            "Lower loss.teacher_temperature, for example to 0.04.",
        )
    ]


def _teacher(settings: TrainerConfig) -> list[Finding]:
    loop, found = settings.loop, []
    half_life = math.inf if loop.ema >= 1 else 0.0 if loop.ema <= 0 else math.log(0.5) / math.log(loop.ema)
    moves = loop.steps * (1 - (loop.ema + loop.ema_end) / 2)
    if half_life < HALF_LIFE_STEPS:
        found.append(
            finding(
                "warning",
                "loop.ema",
                f"the teacher forgets half of itself in {half_life:.1f} steps.",
                half_life,
                "A teacher that is nearly the student follows it into collapse; small batches need a slower one (.996 and more).",
                "Raise loop.ema.",
            )
        )
    else:
        found += _memory(settings)
    if moves < TEACHER_MOVES:
        found.append(
            finding(
                "warning",
                "loop.ema",
                f"over the whole run the teacher moves by {moves:.2g} of the way to the student.",
                moves,
                "The student then learns to say what an untrained network says.",
                "Lower loop.ema, or train longer (loop.steps).",
            )
        )
    return found


def _memory(settings: TrainerConfig) -> list[Finding]:
    """A teacher that averages over far fewer scans than any published one, though the run is long enough for a slower one."""
    loop = settings.loop
    steps = 1 / (1 - loop.ema) if loop.ema < 1 else math.inf
    samples = steps * loop.batch_size
    if samples * TEACHER_TIMES >= TEACHER_SAMPLES or steps * TEACHER_RUN >= loop.steps:
        return []
    usual = 1 - max(loop.batch_size / TEACHER_SAMPLES, TEACHER_RUN / loop.steps)
    return [
        finding(
            "info",
            "loop.ema",
            f"the teacher averages over {samples:,.0f} scans ({steps:,.0f} steps of {loop.batch_size}), published ones over "
            f"{TEACHER_SAMPLES:,} and more.",
            samples,
            "What a teacher remembers is counted in scans: momentum m at one batch is m^k at one k times as large (Busbridge et al. 2023, "
            "arXiv 2307.13813), so small batches ask for a slower teacher: .992 at 512 in 3DINO; DINO advises .9995 at 256 for .996 at "
            "1024. The phantom trained alike with .9 to .995 (batch 8, 2,000 steps): worth an arm, not a belief.",
            f"Try loop.ema={usual:.5g}, or a larger loop.batch_size.",
        )
    ]


def _rate(settings: TrainerConfig) -> list[Finding]:
    loop, found = settings.loop, []
    usual = REFERENCE_LR * math.sqrt(loop.batch_size / REFERENCE_BATCH)
    if loop.lr > LR_TIMES * usual:
        found.append(
            finding(
                "warning",
                "loop.lr",
                f"{loop.lr:g} is {loop.lr / usual:.0f} times the usual rate at a batch of {loop.batch_size}, {usual:.2g}.",
                loop.lr / usual,
                "DINOv2's rule is .004 sqrt(B / 1024) (Oquab et al. 2023, arXiv 2304.07193, appendix B); far above it features collapse.",
                "Lower loop.lr or raise loop.batch_size.",
            )
        )
    return found


def _window(settings: TrainerConfig) -> list[Finding]:
    """Warm-ups that take most of the run."""
    loop, loss, found = settings.loop, settings.loss, []
    for path, steps in (
        ("loop.warmup_steps", loop.warmup_steps),
        ("loss.teacher_temperature_warmup_steps", loss.teacher_temperature_warmup_steps),
        ("loop.freeze_last_layer_steps", loop.freeze_last_layer_steps),
    ):
        if steps > loop.steps / 2:
            found.append(
                finding(
                    "warning",
                    path,
                    f"{steps} of {loop.steps} steps.",
                    steps / loop.steps,
                    "Most of the run is then preparation, and a comparison sees what happens during it.",
                    f"Lower {path} or raise loop.steps.",
                )
            )
    if loss.gram_weight and loss.gram_from_step >= loop.steps:
        found.append(
            finding(
                "warning",
                "loss.gram_from_step",
                f"Gram anchoring would begin at step {loss.gram_from_step} of {loop.steps}.",
                float(loss.gram_from_step),
                "It never takes part.",
                "Lower loss.gram_from_step.",
            )
        )
    return found


def without_effect(settings: TrainerConfig) -> list[Finding]:
    """Settings that were changed from their preset and have no effect under the others."""
    usual, now = leaves(schema(settings.preset)), leaves(settings)
    skipped = ("preset", "expected_trial_s", "data.cache_dir", "data.prefetch_batches")
    carried_out = ("loop.micro_batch_size", "loop.shard_weights", "model.compile", "model.checkpoint_activations")
    return [
        finding(
            "info",
            path,
            f"{path}={now[path]} has no effect under the other settings.",
            None,
            "Two configurations that differ in it alone train the same network.",
            f"Leave {path} out, or change what switches it on.",
        )
        for path in inert(settings)
        if path not in (*skipped, *carried_out) and now[path] != usual[path]
    ]
