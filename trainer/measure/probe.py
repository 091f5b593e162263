"""What any network knows of the yardstick's crops (see `yardstick`): the `probe/` measures, by which arms are compared."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Float32, Int

from trainer.config import TrainerConfig
from trainer.data import stream
from trainer.measure.anatomy import anatomy_information, anatomy_nmi, knn_accuracy
from trainer.measure.features import feature_measures
from trainer.measure.intensities import histogram
from trainer.measure.organs import EmbedPatches, OrganProbe
from trainer.measure.prototypes import prototype_measures, softmax
from trainer.measure.retrieval import fresh_views, reciprocal_ranks
from trainer.measure.yardstick import ScanProbe, draw

if TYPE_CHECKING:
    from trainer.data.volumes import Scan

Embed = Callable[[Float32[np.ndarray, "n 1 d h w"]], tuple[Float32[np.ndarray, "n dim"], Float32[np.ndarray, "n prototypes"]]]


class ProbeError(ValueError):
    """No held-out scan offers the crops that the yardstick asks for; the message says what to change."""


class Probe:
    """Draws the probe crops once; `measure` reads any network on them. Images are in memory one scan at a time.

    Args:
        scans: All scans.
        split_indices: Those to probe, not trained on (`measure.split` says which); of more than `measure.scans_at_most` the first ones.
        config: See `yardstick`: only the sizes, the window and `measure.*` matter.

    Raises:
        ProbeError: No held-out scan, or none with two foreground-rich crops.
    """

    def __init__(self, scans: Sequence[Scan], split_indices: Sequence[int], config: TrainerConfig) -> None:
        m = config.measure
        if not len(split_indices):
            raise ProbeError(
                f"measure.split: expected held-out scans in the {m.split} split but it is empty. Raise data.{m.split}_share or add scans."
            )
        drawn = [draw(scans[i], int(i), config) for i in split_indices[: m.scans_at_most]]
        self.scans = tuple(probe for probe, _ in drawn if len(probe.corners) > 1)
        self._config = config
        if not self.scans:
            best = max(share for _, share in drawn)
            raise ProbeError(
                f"measure.rich_ratio: expected at least two crops with a body share of {m.rich_ratio} in a held-out scan but the fullest "
                f"crop of {config.crops.global_size_voxels} voxels has {best:.3f}. Lower measure.rich_ratio or crops.global_size_voxels, "
                "or check measure.foreground_threshold."
            )

    def measure(self, embed: Embed, embed_patches: EmbedPatches | None = None) -> dict[str, float]:
        """All `probe/` measures of a network.

        - `probe/local_to_global_mrr`: see `retrieval.reciprocal_ranks`; mean over all local crops. It decides.
        - `probe/organ_knn`, `probe/organ_linear`, `probe/patch_organ_knn`, `probe/patch_organ_linear`: see `organs`; where held-out
          scans have labels, the last two where patches are given.
        - `probe/raw_...` of all these: the same asked of the voxels' intensities in place of features, the reference of what
          needs no network (the other one is the untrained network, an arm of the study).
        - `probe/knn_accuracy`, `probe/anatomy_nmi`, `probe/anatomy_information`: see `anatomy`; of foreground-rich crops
          with a labelled tissue.
        - `probe/feature_std`, `probe/rankme`, `probe/lidar`: see `features`; foreground-rich crops.
        - the keys of `prototypes.prototype_measures` over all probe crops.

        Args:
            embed: The network in eval mode: images to features (before the head) and logits (before temperature).
            embed_patches: The same network: images to the features of their patches.
        """
        m, features, logits, ranks = self._config.measure, [], [], []
        for probe in self.scans:
            plain_features, plain_logits = embed(probe.globals)
            features.append(plain_features[: len(probe.corners)])
            logits.append(plain_logits)
            ranks.append(self._retrieve(probe, lambda images: embed(images)[0]))
        rich = np.concatenate(features)
        probs = softmax(np.concatenate(logits), m.temperature)
        ratio = np.concatenate([probe.ratio for probe in self.scans])
        is_rich = np.concatenate([np.arange(len(p.ratio)) < len(p.corners) for p in self.scans])
        scan = np.concatenate([np.full(len(p.corners), p.scan) for p in self.scans])
        tissue = np.concatenate([p.tissue for p in self.scans])
        found = {"local_to_global_mrr": float(np.concatenate(ranks).mean()), "raw_local_to_global_mrr": self._raw_retrieval}
        known = {probe.scan: said for probe, said in zip(self.scans, features, strict=True)}
        found |= self._organs.measure(lambda images: embed(images)[0], embed_patches, known)
        found |= prototype_measures(probs, ratio, m.rich_ratio, m.background_ratio)
        found |= feature_measures(rich, scan)
        found |= _anatomy(rich, probs[is_rich], tissue, scan)
        return {f"probe/{name}": value for name, value in found.items()}

    def _retrieve(self, probe: ScanProbe, features: Callable[[np.ndarray], np.ndarray]) -> Float[np.ndarray, " crops"]:
        seed, count = self._config.measure.seed, len(probe.corners)
        parents = features(fresh_views(probe.globals[:count], stream(seed, 0, "probe/noise/global", probe.scan)))
        locals_ = features(fresh_views(probe.locals, stream(seed, 0, "probe/noise/local", probe.scan)))
        return reciprocal_ranks(locals_, parents)

    @cached_property
    def _raw_retrieval(self) -> float:
        return float(np.concatenate([self._retrieve(probe, lambda images: histogram(images[:, 0])) for probe in self.scans]).mean())

    @cached_property
    def _organs(self) -> OrganProbe:
        return OrganProbe(self.scans, self._config)


def _anatomy(
    features: Float32[np.ndarray, "n dim"],
    probs: Float[np.ndarray, "n prototypes"],
    tissue: Int[np.ndarray, " n"],
    scan: Int[np.ndarray, " n"],
) -> dict[str, float]:
    known = tissue > 0
    values = {
        "knn_accuracy": knn_accuracy(features[known], tissue[known], scan[known]),
        "anatomy_nmi": anatomy_nmi(probs[known].argmax(axis=1), tissue[known]),
        "anatomy_information": anatomy_information(probs[known], tissue[known]),
    }
    return {name: value for name, value in values.items() if value is not None}
