"""What likely led to each kind of collapse, the setting that changes it, and the study that finds out whether it helps."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from trainer.config import TrainerConfig, leaves, sinkhorn_columns

FLAGS, RESCUE = "studies/collapse.yaml", "studies/rescue.yaml"
RESCUE_SETS = ("model.pooling", "model.layer_scale")
"""Settings of the backbone in the baseline of that study: one that starts from a checkpoint must say them as they were trained."""
RESCUE_WITHOUT = "phases.needed.components.no_layer_scale={}"
"""Its component that needs another backbone, left out."""
RESCUE_REFERENCE = "references.untrained.model.layer_scale"
"""Where its reference has a backbone of its own."""
FLOOR_SHARE = 0.3
"""Least entropy of targets, as a share of ln K, from which it counts; .17 in the phantom's preset, which trains well."""
Evidence = Mapping[str, float]
State = Literal["likely", "to check", "unlikely"]


@dataclass(frozen=True)
class Cause:
    """A known way into some kinds of collapse."""

    kinds: frozenset[str]
    what: str
    setting: str
    becomes: str
    study: str
    suspect: Callable[[TrainerConfig, Evidence], bool]
    """Whether settings that are known allow it."""
    shown: Callable[[Evidence], str | None] = lambda _: None
    """What the scans say about it, whatever the settings; None: nothing."""


@dataclass(frozen=True)
class Suspicion:
    """A cause as it stands for one network."""

    state: State
    what: str
    setting: str
    is_now: str | None
    becomes: str
    study: str


def suspicions(kinds: Sequence[str], settings: TrainerConfig | None, evidence: Evidence) -> list[Suspicion]:
    """Causes of these kinds: likely ones first, then those to check because settings are not known, then what is unlikely."""
    found = []
    for cause in CAUSES:
        if not cause.kinds & set(kinds):
            continue
        state: State = "to check" if settings is None else "likely" if cause.suspect(settings, evidence) else "unlikely"
        now = None if settings is None else str(leaves(settings)[cause.setting])
        says = cause.shown(evidence)
        what = f"{cause.what} {says}" if says else cause.what
        found.append(Suspicion(state, what, cause.setting, now, cause.becomes, cause.study))
    order: list[State] = ["likely", "to check", "unlikely"]
    return sorted(found, key=lambda one: order.index(one.state))


def floor_share(settings: TrainerConfig) -> float:
    """Least entropy of targets under Sinkhorn-Knopp over ln K: ln(K / B) / ln K for K prototypes and B columns, at least 0."""
    k = settings.model.prototypes
    return max(math.log(k / sinkhorn_columns(settings)), 0.0) / math.log(k)


def rule_lr(batch_size: int) -> float:
    """DINOv2's peak learning rate of a batch: .004 sqrt(B / 1024) (Oquab et al. 2023, arXiv 2304.07193)."""
    return 0.004 * math.sqrt(batch_size / 1024)


def _random_views(evidence: Evidence) -> str | None:
    if "disjoint_share" not in evidence:
        return None
    return (
        f"In these scans {evidence['disjoint_share']:.0%} of random pairs share no voxel; their mean IoU is {evidence['random_iou']:.2f}."
    )


def _air(evidence: Evidence) -> str | None:
    return f"Here {evidence['air_share']:.0%} of random crops are air." if "air_share" in evidence else None


def _clipped(evidence: Evidence) -> str | None:
    return f"Here {evidence['clipped_share']:.0%} of the voxels of body crops lie at an end." if "clipped_share" in evidence else None


def _of(*kinds: str) -> frozenset[str]:
    return frozenset(kinds)


_SHARED = _of("uniform", "partial", "scan_identity", "nothing_learned")
_HEAD = _of("uniform", "partial")
_START = _of("uniform", "constant", "one_direction", "few_directions")

CAUSES = (
    Cause(
        _SHARED,
        "Global crops that share nothing: the only thing to learn is whose scan it is.",
        "crops.min_global_overlap",
        "0.3",
        FLAGS,
        lambda s, _: s.crops.min_global_overlap < 0.1,
        _random_views,
    ),
    Cause(
        _SHARED,
        "Local crops outside the global ones are asked for what they cannot show.",
        "crops.localcrops_subset_of_globalcrops",
        "true",
        FLAGS,
        lambda s, _: s.crops.local_crops > 0 and not s.crops.localcrops_subset_of_globalcrops,
    ),
    Cause(
        _of("uniform", "partial", "body_against_air"),
        "Crops of air are alike: a share f of them forces targets of at least ln(f K) nats under Sinkhorn-Knopp.",
        "crops.foreground_crop_prob",
        "1.0",
        FLAGS,
        lambda s, e: s.crops.foreground_crop_prob < 0.5 and e.get("air_share", 1.0) > 0.2,
        _air,
    ),
    Cause(
        _HEAD,
        "Many more prototypes K than columns B of Sinkhorn-Knopp: targets have at least ln(K / B) nats.",
        "loss.sinkhorn_queue",
        "at least K, or model.prototypes fewer, or loss.centering=softmax",
        RESCUE,
        lambda s, _: s.loss.centering == "sinkhorn" and floor_share(s) > FLOOR_SHARE,
    ),
    Cause(
        _HEAD,
        "A warm teacher gives targets that say little.",
        "loss.teacher_temperature",
        "0.02 to 0.04",
        RESCUE,
        lambda s, _: s.loss.teacher_temperature > 0.04,
    ),
    Cause(
        _of("single_prototype"),
        "Softmax centering follows slowly: one prototype can win before the centre reaches it.",
        "loss.centering",
        "sinkhorn",
        RESCUE,
        lambda s, _: s.loss.centering == "softmax",
    ),
    Cause(
        _of("single_prototype"),
        "A very cold teacher makes the first prototype that leads the only one.",
        "loss.teacher_temperature",
        "0.04",
        RESCUE,
        lambda s, _: s.loss.teacher_temperature < 0.02,
    ),
    Cause(
        _START,
        "LayerScale so small that the image feature starts equal for all crops (1e-5: cosine 1.000000).",
        "model.layer_scale",
        "null, or 0.1",
        RESCUE,
        lambda s, _: s.model.layer_scale is not None and s.model.layer_scale < 0.05,
    ),
    Cause(
        _HEAD,
        "A prototype layer of small weights without weight norm starts near uniform (.04 nats against .39).",
        "model.weight_norm",
        "true, with model.head_init=orthogonal",
        RESCUE,
        lambda s, _: not s.model.weight_norm,
    ),
    Cause(
        _of("uniform", "constant"),
        "Features that share a large common part reach the head nearly equal.",
        "model.feature_norm",
        "batch",
        RESCUE,
        lambda s, _: s.model.feature_norm == "none",
    ),
    Cause(
        _of("uniform", "single_prototype", "constant", "one_direction"),
        "A teacher that follows a small batch quickly agrees with whatever the student says.",
        "loop.ema",
        "0.996 or more",
        RESCUE,
        lambda s, _: s.loop.ema < 0.99,
    ),
    Cause(
        _of("uniform", "single_prototype", "constant", "one_direction"),
        "A learning rate far above the rule .004 sqrt(B / 1024).",
        "loop.lr",
        "by the rule",
        RESCUE,
        lambda s, _: s.loop.lr > 8 * rule_lr(s.loop.batch_size),
    ),
    Cause(
        _of("one_direction", "few_directions", "single_prototype", "constant"),
        "Nothing keeps features apart.",
        "loss.koleo_weight",
        "0.1",
        RESCUE,
        lambda s, _: s.loss.koleo_weight == 0,
    ),
    Cause(
        _of("scan_identity"),
        "Noise and brightness of the scanner are the same in both views, and easier to match than anatomy.",
        "augment.window_prob",
        "0.5, with augment.noise=0.03",
        RESCUE,
        lambda s, _: s.augment.window_prob == 0 and s.augment.noise == 0,
    ),
    Cause(
        _of("body_against_air", "constant"),
        "A window in which tissues look alike: what lies beyond its ends is one constant.",
        "data.window_high_hu",
        "a window that holds the tissues of interest",
        FLAGS,
        lambda _, e: e.get("clipped_share", 0.0) > 0.5,
        _clipped,
    ),
)
"""From most to least often seen; measured on the phantom, on CT, or published (docs/LOG.md, docs/RECIPE.md)."""
