"""The common yardstick: fixed crops of held-out scans, drawn once, the same for every arm.

What is drawn depends on the scans, the crop sizes of the network's input, and `measure.*`, never on how an arm draws
its own crops. Body share is always by the yardstick's mask: kind `body` at `measure.foreground_threshold`. For each held-out scan:

- `measure.crops_per_scan` foreground-rich global-size crops (body share >= `measure.rich_ratio`), spread over the scan: each is the
  farthest from the earlier ones among 16 random feasible positions (best candidate, Mitchell 1991), because near-duplicate
  parents would make the target of retrieval a matter of luck;
- inside each of them one local-size crop, on no grid, with the same least body share where there is one;
- `measure.background_crops_per_scan` global-size crops with body share <= `measure.background_ratio`, where there are any.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, Float, Float32, Int

from trainer.config import TrainerConfig
from trainer.data import Foreground, cut, scan_foreground, stream
from trainer.measure.anatomy import majority_label

if TYPE_CHECKING:
    from trainer.data.volumes import Scan

_CANDIDATES = 16  # positions among which the farthest is taken
_PROPOSALS = 64  # positions of a local crop tried inside its parent


@dataclass(frozen=True)
class ScanProbe:
    """The probe crops of one held-out scan: corners in voxels, body shares, tissues (0: none). Images are cut when they are asked for."""

    scan: int
    corners: Int[np.ndarray, "crops 3"]
    local_corners: Int[np.ndarray, "crops 3"]
    background_corners: Int[np.ndarray, "background 3"]
    ratio: Float[np.ndarray, " crops_and_background"]
    tissue: Int[np.ndarray, " crops"]
    owner: Scan = field(repr=False, compare=False)
    config: TrainerConfig = field(repr=False, compare=False)

    @property
    def globals(self) -> Float32[np.ndarray, "crops_and_background 1 d h w"]:
        """Windowed, not augmented: the foreground-rich crops, then the background ones."""
        everywhere = np.concatenate([self.corners, self.background_corners])
        return cut(self.owner, everywhere, self.config.crops.global_size_voxels, self.config.data)

    @property
    def locals(self) -> Float32[np.ndarray, "crops 1 d h w"]:
        """The local crop inside each foreground-rich one."""
        return cut(self.owner, self.local_corners, self.config.crops.local_size_voxels, self.config.data)


def draw(scan: Scan, index: int, config: TrainerConfig) -> tuple[ScanProbe, float]:
    """Crops of one scan, and the greatest body share of any global-size crop in it.

    Args:
        index: Number of the scan; names its random streams.
    """
    m, size, local_size = config.measure, config.crops.global_size_voxels, config.crops.local_size_voxels
    body = scan_foreground(scan, "body", m.foreground_threshold)
    shares = body.ratio_map(size)
    corners = spread(shares >= m.rich_ratio, m.crops_per_scan, stream(m.seed, 0, "probe/global", index))
    background = spread(shares <= m.background_ratio, m.background_crops_per_scan, stream(m.seed, 0, "probe/background", index))
    rng = stream(m.seed, 0, "probe/local", index)
    locals_ = np.array([_inside(corner, body, size, local_size, m.rich_ratio, rng) for corner in corners], np.int64).reshape(-1, 3)
    probe = ScanProbe(
        scan=index,
        corners=corners,
        local_corners=locals_,
        background_corners=background,
        ratio=body.ratio(np.concatenate([corners, background]), size),
        tissue=_tissues(scan, corners, size),
        owner=scan,
        config=config,
    )
    return probe, float(shares.max())


def spread(feasible: Bool[np.ndarray, "d h w"], count: int, rng: np.random.Generator) -> Int[np.ndarray, "n 3"]:
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


def _tissues(scan: Scan, corners: Int[np.ndarray, "n 3"], size: int) -> Int[np.ndarray, " n"]:
    labels = scan.labels
    if labels is None:
        return np.zeros(len(corners), np.int64)
    return np.array([majority_label(labels[d : d + size, h : h + size, w : w + size]) for d, h, w in corners], np.int64)
