"""What the trainer tells a study beside its schema: settings without effect, expected time, what a report shows."""

from __future__ import annotations

import dataclasses

from trainer.config.composing import schema
from trainer.config.fields import Loop, Loss, Phantom, TrainerConfig

OFFERS = {
    "inert": "trainer.config:inert",
    "preflight": "trainer.preflight:preflight",
    "data_hash": "trainer.data:data_hash",
    "expected_seconds": "trainer.config:expected_seconds",
    "headlines": "trainer.config:headlines",
    "export": "trainer.trained.export:backbone_file",
}
"""What this trainer offers beside its schema, by name; a study may name others."""


def expected_seconds(config: TrainerConfig) -> float | None:
    """Seconds one trial takes, where the preset states a measurement; scaled by its steps."""
    if config.expected_trial_s is None:
        return None
    reference = schema(config.preset).loop.steps
    return config.expected_trial_s * (0.2 + 0.8 * config.loop.steps / max(reference, 1))


def headlines() -> dict[str, list[object]]:
    """What tables and reports of a study of this trainer show: columns, the questions that the cures promised to answer, and the probes
    beside the same probes on raw intensities."""

    def question(ask: str, metric: str, direction: str) -> dict[str, str]:
        return {"ask": ask, "metric": metric, "direction": direction}

    return {
        "columns": [
            "probe/prototype_entropy_foreground",
            "probe/foreground_mutual_information",
            "train/loss_stability",
            "train/foreground_ratio_global",
            "train/foreground_ratio_local",
        ],
        "questions": [
            question("Are the prototypes less uniform?", "probe/prototype_entropy_foreground", "minimize"),
            question(
                "Does the loss fall more steadily? (a collapsed run's flat line counts as steady)", "train/loss_stability", "maximize"
            ),
            question("Is it anatomy that is learned, not body against air?", "probe/anatomy_information", "maximize"),
            question("Are the features more discriminative?", "probe/local_to_global_mrr", "maximize"),
        ],
        "floors": [
            {"metric": f"probe/{name}", "floor": f"probe/raw_{name}"}
            for name in ("local_to_global_mrr", "organ_knn", "organ_linear", "patch_organ_knn", "patch_organ_linear")
        ],
    }


def inert(config: TrainerConfig) -> tuple[str, ...]:
    """Settings without effect on training or on `probe/` measures under the other settings.

    Two configurations that differ only in inert settings train the same network.
    """
    crops, loss, loop = config.crops, config.loss, config.loop
    quiet: list[str] = ["expected_trial_s", "preset", "data.cache_dir", "data.cache_limit_gb", "data.prefetch_batches"]
    # How the step is carried out, not what it computes:
    quiet += ["loop.micro_batch_size", "loop.shard_weights", "model.compile", "model.checkpoint_activations"]
    weighted = loss.foreground_weighting != "none"
    matched = loss.matching in ("hierarchical", "foreground_only", "background_prototype")
    biased = crops.foreground_crop_prob > 0
    if not biased:
        quiet += ["crops.min_foreground_ratio", "crops.min_foreground_ratio_global", "crops.min_foreground_ratio_local"]
    elif crops.min_foreground_ratio_global is not None and crops.min_foreground_ratio_local is not None:
        quiet += ["crops.min_foreground_ratio"]
    if not (weighted or matched or biased):
        quiet += ["crops.foreground_threshold", "crops.foreground"]
    if not weighted:
        quiet += ["loss.foreground_weighting_scope"]
    if loss.foreground_weighting not in ("threshold", "sigmoid"):
        quiet += ["loss.weighting_threshold"]
    if loss.foreground_weighting != "sigmoid":
        quiet += ["loss.weighting_width"]
    if not matched:
        quiet += ["loss.matching_threshold"]
    if loss.matching != "hierarchical":
        quiet += ["loss.local_pair_min_iou"]
    if loss.centering == "sinkhorn":
        quiet += ["loss.center_momentum"]
    else:
        quiet += ["loss.sinkhorn_iterations"]
    if loss.centering != "sinkhorn":
        quiet += ["loss.sinkhorn_queue"]
    if loss.ibot_weight == 0:
        quiet += ["loss.ibot_mask_prob", "loss.ibot_mask_ratio_min", "loss.ibot_mask_ratio_max", "model.ibot_prototypes"]
    if loss.gram_weight == 0:
        quiet += ["loss.gram_from_step", "loss.gram_refresh_steps"]
    if config.model.positions != "rotary":
        quiet += ["model.positions_unit"]
    quiet += [
        f"augment.{name}"
        for prob, names in {
            "affine_prob": ("affine_rotation_degrees", "affine_scale"),
            "window_prob": ("window_shift_hu", "window_stretch"),
            "gamma_prob": ("gamma",),
            "blur_prob": ("blur_voxels",),
        }.items()
        if getattr(config.augment, prob) == 0
        for name in names
    ]
    if loss.teacher_temperature_warmup_steps == 0:
        quiet += ["loss.teacher_temperature_start"]
    if config.data.source == "phantom":
        quiet += ["data.labels", "data.spacing_mm", "data.skip_unreadable"]
    else:
        quiet += [f"data.phantom.{f.name}" for f in dataclasses.fields(Phantom)]
    if loop.steps == 0:
        # An untrained network reads only its initial weights, its normalisation statistics and the yardstick.
        quiet += [f"loss.{f.name}" for f in dataclasses.fields(Loss)]
        quiet += [
            f"loop.{f.name}" for f in dataclasses.fields(Loop) if f.name not in ("steps", "batch_size", "start_from", "device", "precision")
        ]
    return tuple(dict.fromkeys(quiet))
