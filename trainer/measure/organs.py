"""Which organs can be read out of features: of crops from the image feature, of patches from their tokens.

Asked of foreground-rich crops of labelled held-out scans:

- of a crop, whether it shows an organ: at least a tenth of that organ's voxels in the scan lie in it (an organ counts by its own
  size, so fat does not drown the kidneys);
- of a patch, which organ it is: the label of at least half of its voxels.

Scans are kept apart: what answers for a scan was learned on other ones. Where only one held-out scan has labels, slabs of it (along
depth, as many as a crop fits into) are kept apart instead, and only crops that lie in one slab take part, so no voxel is in training
and test; but it is one patient, and what is alike in all slabs of one patient may be unlike in the next.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, Float, Float32, Int, Num

from trainer.data import cut, scan_foreground, stream
from trainer.measure.intensities import intensities
from trainer.measure.readout import Question, knn_score, linear_score, question
from trainer.measure.yardstick import ScanProbe, spread

if TYPE_CHECKING:
    from trainer.config import TrainerConfig
    from trainer.data.volumes import Scan

SHOWN_SHARE = 0.1
"""Share of an organ's voxels in its scan from which a crop shows it."""
PATCH_SHARE = 0.5
"""Share of a patch's voxels from which it is of one organ."""
PATCHES_PER_ORGAN = 32
"""At most so many patches of an organ are asked for in each scan (or slab)."""
MOST_SLABS = 8
GRID = 4
"""Cells an axis to which raw intensities are downsampled."""

Images = Float32[np.ndarray, "n 1 d h w"]
EmbedImage = Callable[[Images], Num[np.ndarray, "n dim"]]
EmbedPatches = Callable[[Images], Num[np.ndarray, "n grid grid grid dim"]]


@dataclass(frozen=True)
class _Block:
    """Crops of one group: a scan, or a slab of it."""

    probe: ScanProbe
    corners: Int[np.ndarray, "crops 3"]
    shares: Float[np.ndarray, "crops organs"]
    """Of each organ's voxels in the scan."""
    patch: Int[np.ndarray, " patches"]
    """Number of each patch that is asked for, counted over all patches of all crops."""
    patch_organ: Int[np.ndarray, " patches"]


class OrganProbe:
    """Questions about organs, the same for every network of one patch size.

    Args:
        probes: Crops of held-out scans; those without labels are passed over.
    """

    def __init__(self, probes: Sequence[ScanProbe], config: TrainerConfig) -> None:
        self._config = config
        voxels = {probe.scan: _voxels(probe.owner) for probe in probes}
        labelled = [probe for probe in probes if voxels[probe.scan]]
        self._organs = tuple(sorted({name for found in voxels.values() for name in found}))
        drawn = [(p, p.corners) for p in labelled] if len(labelled) > 1 else [(p, c) for p in labelled for c in _slabs(p)]
        self._blocks = [self._block(probe, voxels[probe.scan], corners) for probe, corners in drawn]
        self._crops = self._question([b.shares >= SHOWN_SHARE for b in self._blocks], one_each=False)
        self._patches = self._question([np.eye(len(self._organs), dtype=bool)[b.patch_organ] for b in self._blocks], one_each=True)

    def measure(
        self, image: EmbedImage, patches: EmbedPatches | None, known: Mapping[int, Num[np.ndarray, "crops dim"]] = MappingProxyType({})
    ) -> dict[str, float]:
        """How well organs are read out of a network's features, every organ counted the same; a question that cannot be asked is left out.

        - `organ_knn`, `organ_linear`: whether a crop shows an organ, mean area under the ROC curve; chance .5.
        - `patch_organ_knn`, `patch_organ_linear`: which organ a patch is, mean share found; chance 1 / `organs asked`.
        - `raw_` before each: the same of the voxels' intensities (see `intensities`) in place of features.

        Args:
            known: What `image` said of a scan's foreground-rich crops, by the number of the scan, so that it need not be asked again.
        """

        def of_crops(block: _Block) -> np.ndarray:
            asked_before = block.corners is block.probe.corners and block.probe.scan in known
            return known[block.probe.scan] if asked_before else image(self._cut(block))

        found = self._raw_crops | self._answers("organ", self._crops, of_crops)
        if patches is not None:
            found |= self._raw_patches
            found |= self._answers("patch_organ", self._patches, lambda block: _chosen(block, patches(self._cut(block))))
        return found

    @cached_property
    def _raw_crops(self) -> dict[str, float]:
        return self._answers("raw_organ", self._crops, lambda block: intensities(self._cut(block)[:, 0], GRID))

    @cached_property
    def _raw_patches(self) -> dict[str, float]:
        edge = self._config.model.patch_size_voxels
        return self._answers(
            "raw_patch_organ", self._patches, lambda block: intensities(_cubes(self._cut(block)[:, 0], edge)[block.patch], GRID)
        )

    def _cut(self, block: _Block) -> Images:
        return cut(block.probe.owner, block.corners, self._config.crops.global_size_voxels, self._config.data)

    def _answers(
        self, name: str, asked: tuple[Question, Bool[np.ndarray, " n"]] | None, features_of: Callable[[_Block], np.ndarray]
    ) -> dict[str, float]:
        if asked is None:
            return {}
        which, rows = asked
        features = np.concatenate([features_of(block) for block in self._blocks])[rows]
        return {f"{name}_knn": knn_score(which, features), f"{name}_linear": linear_score(which, features)}

    def _question(self, shows: list[Bool[np.ndarray, "n organs"]], *, one_each: bool) -> tuple[Question, Bool[np.ndarray, " n"]] | None:
        if not shows:
            return None
        group = np.repeat(np.arange(len(shows)), [len(part) for part in shows])
        return question(self._organs, np.concatenate(shows), group, one_each=one_each)

    def _block(self, probe: ScanProbe, voxels: dict[str, tuple[int, int]], corners: Int[np.ndarray, "crops 3"]) -> _Block:
        size, edge = self._config.crops.global_size_voxels, self._config.model.patch_size_voxels
        owner = probe.owner
        labels = owner.labels
        assert labels is not None
        present = [o for o, name in enumerate(self._organs) if name in voxels]
        label, total = (np.array(numbers) for numbers in zip(*(voxels[self._organs[o]] for o in present), strict=True))

        def counts(of: Num[np.ndarray, "*voxels"]) -> Int[np.ndarray, " organs"]:
            found = np.zeros(len(self._organs), np.int64)
            found[present] = np.bincount(of.ravel(), minlength=label.max() + 1)[label]
            return found

        crops = np.stack([labels[d : d + size, h : h + size, w : w + size] for d, h, w in corners])
        shares = np.stack([counts(crop) for crop in crops]).astype(np.float64)
        shares[:, present] /= total
        inside = np.stack([counts(cube) for cube in _cubes(crops, edge)]) / edge**3
        organ = np.where(inside.max(axis=1) >= PATCH_SHARE, inside.argmax(axis=1), -1)
        rng = stream(self._config.measure.seed, 0, "probe/patches", probe.scan)
        chosen = [rng.permutation(np.flatnonzero(organ == o))[:PATCHES_PER_ORGAN] for o in range(len(self._organs))]
        patch = np.sort(np.concatenate(chosen))
        return _Block(probe, corners, shares, patch, organ[patch])


def _voxels(scan: Scan) -> dict[str, tuple[int, int]]:
    """The number and the voxels of each label in a scan, by its name; nothing where it has no labels."""
    if scan.labels is None:
        return {}
    top = int(scan.labels.max())
    counts = np.zeros(top + 1, np.int64)
    for part in scan.labels:  # a part at a time: bincount widens what it counts eightfold
        counts += np.bincount(part.ravel(), minlength=top + 1)
    return {scan.label_names.get(n, f"label {n}"): (n, int(counts[n])) for n in np.flatnonzero(counts).tolist() if n}


def _slabs(probe: ScanProbe) -> list[Int[np.ndarray, "crops 3"]]:
    """Foreground-rich crops in each slab of a scan, spread over it; slabs without any are left out."""
    config, scan = probe.config, probe.owner
    m, size = config.measure, config.crops.global_size_voxels
    rich = scan_foreground(scan, "body", m.foreground_threshold).ratio_map(size) >= m.rich_ratio
    depth = scan.voxels.shape[0]
    count = min(depth // size, MOST_SLABS)
    found = []
    for number in range(count):
        first, end = number * depth // count, (number + 1) * depth // count
        inside = np.zeros_like(rich)
        inside[first : end - size + 1] = rich[first : end - size + 1]
        found.append(spread(inside, m.crops_per_scan, stream(m.seed, number, "probe/slab", probe.scan)))
    return [corners for corners in found if len(corners)]


def _cubes(crops: Num[np.ndarray, "n d h w"], edge: int) -> Num[np.ndarray, "patches e e e"]:
    """All patches of all crops, crop by crop, in (depth, height, width) order."""
    grid = crops.shape[-1] // edge
    split = crops.reshape(len(crops), grid, edge, grid, edge, grid, edge)
    return np.asarray(split.transpose(0, 1, 3, 5, 2, 4, 6).reshape(-1, edge, edge, edge))


def _chosen(block: _Block, said: Num[np.ndarray, "n grid grid grid dim"]) -> Num[np.ndarray, "rows dim"]:
    return np.asarray(said.reshape(-1, said.shape[-1])[block.patch])
