"""The common yardstick: fixed crops of held-out scans, drawn once, the same for every arm.

What is drawn depends on the scans, the crop and patch sizes of the network's input, and `measure.*`, never on how an arm draws
its own crops. Body share is always by the yardstick's mask: kind `body` at `measure.foreground_threshold`. For each held-out scan:

- `measure.crops_per_scan` foreground-rich global-size crops (body share >= `measure.rich_ratio`), spread over the scan: each is the
  farthest from the earlier ones among 16 random feasible positions (best candidate, Mitchell 1991), because near-duplicate
  parents would make the target of retrieval a matter of luck;
- inside each of them one local-size crop, on no grid, with the same least body share where there is one;
- `measure.background_crops_per_scan` global-size crops with body share <= `measure.background_ratio`, where there are any.

Retrieval looks at augmented copies, the globals and the locals apart, always the same ones (`VIEWS`): the scanner's noise inside a local
crop is also inside its parent, so without new noise a network could match noise instead of anatomy. All else looks at plain crops.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Float32, Int, UInt8

from trainer.config import Augment, TrainerConfig
from trainer.data.augment import augment
from trainer.data.batches import cut
from trainer.data.foreground import Foreground, foreground_mask
from trainer.data.streams import stream
from trainer.measure.anatomy import anatomy_information, anatomy_nmi, knn_accuracy, majority_label
from trainer.measure.features import feature_measures
from trainer.measure.prototypes import prototype_measures, softmax
from trainer.measure.retrieval import reciprocal_ranks

if TYPE_CHECKING:
    from trainer.data.volumes import Scan

VIEWS = Augment(intensity_shift=0.02, intensity_scale=0.1, noise=0.03, flip=False)
"""How retrieval changes both views, in the window's unit; no setting, so that no arm can move it."""

_CANDIDATES = 16  # positions among which the farthest is taken
_PROPOSALS = 64  # positions of a local crop tried inside its parent

Embed = Callable[[Float32[np.ndarray, "n 1 d h w"]], tuple[Float32[np.ndarray, "n dim"], Float32[np.ndarray, "n prototypes"]]]


class ProbeError(ValueError):
    """No held-out scan offers the crops that the yardstick asks for; the message says what to change."""


@dataclass(frozen=True)
class ScanProbe:
    """The probe crops of one held-out scan: corners in voxels, images windowed and not augmented, body shares, tissues (0: none)."""

    scan: int
    corners: Int[np.ndarray, "crops 3"]
    local_corners: Int[np.ndarray, "crops 3"]
    background_corners: Int[np.ndarray, "background 3"]
    ratio: Float[np.ndarray, " crops_and_background"]
    tissue: Int[np.ndarray, " crops"]
    globals: Float32[np.ndarray, "crops_and_background 1 d h w"]
    locals: Float32[np.ndarray, "crops 1 d h w"]


class Probe:
    """Draws and cuts the probe crops once; `measure` reads any network on them.

    Args:
        scans: All scans.
        split_indices: Those to probe, not trained on (`measure.split` says which).
        config: See the module: only the sizes, the window and `measure.*` matter.

    Raises:
        ProbeError: No held-out scan, or none with two foreground-rich crops.
    """

    def __init__(self, scans: Sequence[Scan], split_indices: Sequence[int], config: TrainerConfig) -> None:
        m = config.measure
        if not len(split_indices):
            raise ProbeError(
                f"measure.split: expected held-out scans in the {m.split} split but it is empty. Raise data.{m.split}_share or add scans."
            )
        drawn = [_draw(scans[i], int(i), config) for i in split_indices]
        self.scans = tuple(probe for probe, _ in drawn if len(probe.corners) > 1)
        self._measure = m
        if not self.scans:
            best = max(share for _, share in drawn)
            raise ProbeError(
                f"measure.rich_ratio: expected at least two crops with a body share of {m.rich_ratio} in a held-out scan but the fullest "
                f"crop of {config.crops.global_size_voxels} voxels has {best:.3f}. Lower measure.rich_ratio or crops.global_size_voxels, "
                "or check measure.foreground_threshold."
            )

    def measure(self, embed: Embed) -> dict[str, float]:
        """All `probe/` measures of a network.

        - `probe/local_to_global_mrr`: see `retrieval.reciprocal_ranks`; mean over all local crops.
        - `probe/knn_accuracy`, `probe/anatomy_nmi`, `probe/anatomy_information`: see `anatomy`; of foreground-rich crops
          with a labelled tissue.
        - `probe/feature_std`, `probe/rankme`: see `features`; foreground-rich crops.
        - the keys of `prototypes.prototype_measures` over all probe crops.

        Args:
            embed: The network in eval mode: images to features (before the head) and logits (before temperature).
        """
        features, logits, ranks = [], [], []
        for probe in self.scans:
            plain_features, plain_logits = embed(probe.globals)
            features.append(plain_features[: len(probe.corners)])
            logits.append(plain_logits)
            ranks.append(self._retrieve(probe, embed))
        rich = np.concatenate(features)
        probs = softmax(np.concatenate(logits), self._measure.temperature)
        ratio = np.concatenate([probe.ratio for probe in self.scans])
        is_rich = np.concatenate([np.arange(len(p.ratio)) < len(p.corners) for p in self.scans])
        scan = np.concatenate([np.full(len(p.corners), p.scan) for p in self.scans])
        tissue = np.concatenate([p.tissue for p in self.scans])
        found = {"local_to_global_mrr": float(np.concatenate(ranks).mean())}
        found |= prototype_measures(probs, ratio, self._measure.rich_ratio, self._measure.background_ratio)
        found |= feature_measures(rich)
        found |= _anatomy(rich, probs[is_rich], tissue, scan)
        return {f"probe/{name}": value for name, value in found.items()}

    def _retrieve(self, probe: ScanProbe, embed: Embed) -> Float[np.ndarray, " crops"]:
        seed, count = self._measure.seed, len(probe.corners)
        parents, _ = embed(augment(probe.globals[:count], stream(seed, 0, "probe/noise/global", probe.scan), VIEWS))
        locals_, _ = embed(augment(probe.locals, stream(seed, 0, "probe/noise/local", probe.scan), VIEWS))
        return reciprocal_ranks(locals_, parents)


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


def _draw(scan: Scan, index: int, config: TrainerConfig) -> tuple[ScanProbe, float]:
    """Crops of one scan, and the greatest body share of any global-size crop in it."""
    m, size, local_size = config.measure, config.crops.global_size_voxels, config.crops.local_size_voxels
    body = Foreground.of(foreground_mask(scan.voxels, "body", m.foreground_threshold))
    shares = body.ratio_map(size)
    corners = _spread(shares >= m.rich_ratio, m.crops_per_scan, stream(m.seed, 0, "probe/global", index))
    background = _spread(shares <= m.background_ratio, m.background_crops_per_scan, stream(m.seed, 0, "probe/background", index))
    rng = stream(m.seed, 0, "probe/local", index)
    locals_ = np.array([_inside(corner, body, size, local_size, m.rich_ratio, rng) for corner in corners], np.int64).reshape(-1, 3)
    everywhere = np.concatenate([corners, background])
    probe = ScanProbe(
        scan=index,
        corners=corners,
        local_corners=locals_,
        background_corners=background,
        ratio=body.ratio(everywhere, size),
        tissue=_tissues(scan.labels, corners, size),
        globals=cut(scan, everywhere, size, config.data),
        locals=cut(scan, locals_, local_size, config.data),
    )
    return probe, float(shares.max())


def _spread(feasible: np.ndarray, count: int, rng: np.random.Generator) -> Int[np.ndarray, "n 3"]:
    """Up to `count` different feasible corners, far from each other: the best of 16 random candidates, one after the other."""
    places = np.flatnonzero(feasible)
    if len(places) <= count:
        return np.stack(np.unravel_index(places, feasible.shape), axis=1)
    taken: list[int] = []
    corners = np.empty((count, 3), np.int64)
    for n in range(count):
        options = rng.integers(len(places), size=_CANDIDATES)
        options = options[~np.isin(options, taken)]
        while not len(options):
            options = np.setdiff1d(rng.integers(len(places), size=_CANDIDATES), taken)
        where = np.stack(np.unravel_index(places[options], feasible.shape), axis=1)
        distance = ((where[:, None] - corners[None, :n]) ** 2).sum(axis=2).min(axis=1, initial=np.iinfo(np.int64).max)
        best = int(distance.argmax())
        taken.append(int(options[best]))
        corners[n] = where[best]
    return corners


def _inside(
    corner: Int[np.ndarray, "3"], body: Foreground, size: int, local_size: int, rich_ratio: float, rng: np.random.Generator
) -> Int[np.ndarray, "3"]:
    """A local corner anywhere inside the global crop: the first proposal that is rich enough, else the fullest."""
    proposals = corner + rng.integers(size - local_size + 1, size=(_PROPOSALS, 3))
    share = body.ratio(proposals, local_size)
    rich = share >= rich_ratio
    return np.asarray(proposals[rich.argmax() if rich.any() else share.argmax()])


def _tissues(labels: UInt8[np.ndarray, "d h w"] | None, corners: Int[np.ndarray, "n 3"], size: int) -> Int[np.ndarray, " n"]:
    if labels is None:
        return np.zeros(len(corners), np.int64)
    return np.array([majority_label(labels[d : d + size, h : h + size, w : w + size]) for d, h, w in corners], np.int64)
