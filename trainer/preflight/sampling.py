"""What the sampler will draw: overlaps, identical crops, pairs that are left; from crops drawn as training draws them."""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import Float32, Float64

from trainer.config import TrainerConfig, from_mapping
from trainer.data import CropSampler, Foreground, scan_foreground
from trainer.data.boxes import global_iou, local_containment
from trainer.data.window import normalise
from trainer.preflight.finding import Finding, data_key, finding, scans_of

DRAWS = 144
"""Places in a batch that are drawn: 288 global crops; a share is then known to within .03."""
LEAST_IOU = 0.1
"""Mean IoU of global crops below which they share too little: independent ones of a body scan reach .03 to .09, cures .3 and more."""
LEAST_CONTAINED = 0.5
MOST_IDENTICAL = 0.35
SAME = 0.1
"""Root mean square difference, in the window's unit (its full width is 2), below which two crops are practically the same."""
_SIDE = 6
FEW_PAIRS = 0.1


@dataclass(frozen=True)
class Drawn:
    """Crops of step 0 onward of the first replicate."""

    iou: Float64[np.ndarray, " draws"]
    containment: Float64[np.ndarray, "draws local_views"]
    ratio: Float64[np.ndarray, "draws views"]
    images: Float32[np.ndarray, "crops voxels"]
    """Global crops, windowed, shrunk to block means."""


def draw(settings: TrainerConfig) -> Drawn:
    """As a batch of training is drawn, over all scans in turn; once for all arms that draw alike."""
    read = dataclasses.asdict(settings.crops), data_key(settings), settings.model.patch_size_voxels, settings.seed, settings.preset
    return _drawn(json.dumps(read))


@lru_cache(maxsize=64)
def _drawn(key: str) -> Drawn:
    crops, data, patch, seed, preset = json.loads(key)
    settings = from_mapping(
        {"preset": preset, "seed": seed, "crops": crops, "data": json.loads(data)[0], "model.patch_size_voxels": patch, "measure.rungs": []}
    )
    c, scans = settings.crops, scans_of(data)
    samplers = [_sampler(settings, n) for n in range(len(scans))]
    iou, containment, ratios, images = [], [], [], []
    for n in range(DRAWS):
        of, sampler = samplers[n % len(scans)]
        crop = sampler.draw(settings.seed, n // len(scans), n)
        edges = crop.edges[None]
        iou.append(global_iou(crop.global_corners[None], edges[:, :2])[0])
        containment.append(local_containment(crop.global_corners[None], crop.local_corners[None], edges[:, :2], edges[:, 2:])[0])
        corners = np.concatenate([crop.global_corners, crop.local_corners])
        ratios.append([of.counts(at[None], int(edge))[0] / edge**3 for at, edge in zip(corners, crop.edges, strict=True)])
        voxels = scans[n % len(scans)].voxels
        for (z, y, x), edge in zip(crop.global_corners.tolist(), crop.edges[:2].tolist(), strict=True):
            images.append(_shrunk(normalise(voxels[z : z + edge, y : y + edge, x : x + edge], settings.data)))
    return Drawn(np.array(iou), np.array(containment).reshape(DRAWS, c.local_crops), np.array(ratios), np.stack(images))


def _sampler(settings: TrainerConfig, index: int) -> tuple[Foreground, CropSampler]:
    c = settings.crops
    scan = scans_of(data_key(settings))[index]
    of = scan_foreground(scan, c.foreground, c.foreground_threshold)
    return of, CropSampler(of, c, settings.model.patch_size_voxels, scan.spacing_mm[0])


def _shrunk(crop: Float32[np.ndarray, "edge edge edge"]) -> Float32[np.ndarray, " voxels"]:
    edges = np.linspace(0, len(crop), min(_SIDE, len(crop)) + 1).astype(int)[:-1]
    for axis in range(3):
        crop = np.add.reduceat(crop, edges, axis=axis) / np.diff([*edges, crop.shape[axis]]).reshape(
            [-1 if a == axis else 1 for a in range(3)]
        )
    return crop.reshape(-1).astype(np.float32)


def identical_share(images: Float32[np.ndarray, "crops voxels"]) -> float:
    """f: the largest share of crops that are practically the same as one crop."""
    squares = np.square(images).sum(axis=1)
    distance = np.maximum(squares[:, None] + squares[None] - 2 * images @ images.T, 0) / images.shape[1]
    return float((np.sqrt(distance) < SAME).mean(axis=1).max())


def findings(settings: TrainerConfig, drawn: Drawn) -> list[Finding]:
    """All that is said of the drawn crops."""
    return [*_overlap(drawn), *_containment(settings, drawn), *_identical(settings, drawn), *_pairs(settings, drawn)]


def _overlap(drawn: Drawn) -> list[Finding]:
    mean = float(drawn.iou.mean())
    if mean >= LEAST_IOU:
        return []
    return [
        finding(
            "warning",
            "crops.min_global_overlap",
            f"two global crops of a scan have a mean IoU of {mean:.2f}; {float((drawn.iou == 0).mean()):.0%} of the pairs share nothing.",
            mean,
            "What two views do not share cannot be learned from them: the one common signal is whose scan it is, and outputs go uniform. "
            "In 2-D DINOv2 two global crops have a mean IoU of about .6.",
            "Set crops.min_global_overlap, for example to 0.3.",
        )
    ]


def _containment(settings: TrainerConfig, drawn: Drawn) -> list[Finding]:
    if not settings.crops.local_crops:
        return []
    inside = float((drawn.containment >= 1).mean())
    if inside >= LEAST_CONTAINED:
        return []
    return [
        finding(
            "warning",
            "crops.localcrops_subset_of_globalcrops",
            f"{inside:.0%} of the local crops lie inside a global crop of their scan.",
            inside,
            "A local crop is to be told from the global view of the same place; elsewhere in the scan there is nothing to tell it from.",
            "Set crops.localcrops_subset_of_globalcrops=true.",
        )
    ]


def _identical(settings: TrainerConfig, drawn: Drawn) -> list[Finding]:
    share, prototypes = identical_share(drawn.images), settings.model.prototypes
    if settings.loss.centering == "sinkhorn":
        floor, formula = math.log(max(share * prototypes, 1.0)), "ln(f K)"
    else:
        floor, formula = (
            share * math.log(prototypes),
            "about f ln K: a centre made of them takes away the share f of what they have in common",
        )
    if share < MOST_IDENTICAL:
        return []
    return [
        finding(
            "warning",
            "crops.foreground_crop_prob",
            f"{share:.0%} of the global crops are practically identical (differ by less than {SAME / 2:.0%} of the window).",
            share,
            f"Their targets cannot fall below an entropy of {floor:.2f} nats of {math.log(prototypes):.2f} ({formula}): uniform over the "
            "prototypes is what is learned of them (Caron et al. 2020, arXiv 2006.09882: every prototype takes an equal share).",
            "Raise crops.foreground_crop_prob and crops.min_foreground_ratio, or widen the window.",
        )
    ]


def _pairs(settings: TrainerConfig, drawn: Drawn) -> list[Finding]:
    """Thresholds of matching and weighting that hardly any drawn crop reaches."""
    loss, found = settings.loss, []
    asked = []
    if loss.matching in ("hierarchical", "foreground_only", "background_prototype"):
        asked.append(("loss.matching_threshold", loss.matching_threshold, f"loss.matching={loss.matching}"))
    if loss.foreground_weighting == "threshold":
        asked.append(("loss.weighting_threshold", loss.weighting_threshold, "loss.foreground_weighting=threshold"))
    for path, threshold, who in asked:
        share = float((drawn.ratio[:, :2].min(axis=1) >= threshold).mean())
        if share >= FEW_PAIRS:
            continue
        never = bool((drawn.ratio < threshold).all())
        found.append(
            finding(
                "error" if never and loss.matching != "hierarchical" else "warning",
                path,
                f"{share:.0%} of the pairs of global crops have a foreground ratio of at least {threshold:g} in both.",
                share,
                f"{who} leaves out what lies below, so that hardly anything is left to learn from.",
                f"Lower {path} or crops.foreground_threshold, or raise crops.foreground_crop_prob.",
            )
        )
    return found
