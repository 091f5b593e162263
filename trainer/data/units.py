"""Whether values are Hounsfield units, judged by how often each value occurs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float64, Int64

LOWEST, HIGHEST = -32768, 32767
"""Values beyond are counted at the end: no scale of CT reaches them."""


_BLEND = 100
"""Padding that was smoothed or resampled has its blends beside it: values up to so far above are padding where they are few."""


@dataclass(frozen=True)
class Verdict:
    """What speaks against Hounsfield units; both None: nothing."""

    problem: str | None = None
    """The volume cannot be used as it is."""
    warning: str | None = None
    """It can, but somebody should look at it."""


def value_counts(slabs: Iterable[np.ndarray[Any, Any]]) -> Int64[np.ndarray, "65536"] | None:
    """How often each whole value from -32768 to 32767 occurs; None where a value is not finite."""
    counts = np.zeros(HIGHEST - LOWEST + 1, dtype=np.int64)
    for slab in slabs:
        if slab.dtype != np.int16:
            if not np.isfinite(slab).all():
                return None
            slab = np.rint(np.clip(slab, LOWEST, HIGHEST)).astype(np.int16)
        # Read as unsigned, the negative values come after the positive ones: no shift, no second array of eight bytes a voxel.
        counts += np.bincount(np.ascontiguousarray(slab).view(np.uint16).ravel(), minlength=len(counts))
    return np.roll(counts, -LOWEST)


def judge(counts: Int64[np.ndarray, "65536"]) -> Verdict:
    """Whether these counts look like a CT in HU.

    The least value says nothing where many voxels have it (padding, or air that was clamped). A CT has air, lung or gas, then
    little until fat, then most of its tissue within 200 HU of 0, then bone spread thinly.

    - +1024: tissue near 1024 that no bone leads up to, and little below -300.
    - -1024: hardly anything around 0 and much below any air; where that was clamped away, bone between lung and fat.
    - twice HU: a peak far below air.
    - no air, lung or gas: a tight field of view passes with a warning where nearly all is tissue and some is fat; else it is no CT.
    - another modality on a signed scale: its background in a peak where only lung may be, or as much between lung and fat as around 0.
    """
    share, low, high = _Shares.of(counts), _least(counts), _greatest(counts)
    if low == high:
        return Verdict(f"expected a CT but all voxels are {low}. Leave the volume out.")
    wanted = f"expected Hounsfield units but values from {low} to {high}"
    dark, shallow, soft = share.between(LOWEST, -300), share.between(-600, -300), share.between(-200, 200)
    near_1024 = share.between(874, 1274)
    if near_1024 > max(0.02, 2 * share.between(474, 774), dark):
        seen = f"look offset by +1024 ({100 * near_1024:.0f} % near 1024, {100 * dark:.1f} % like air or lung)"
        return Verdict(f"{wanted} {seen}. Subtract 1024, or set the rescale intercept to -1024.")
    sunken = share.between(LOWEST, -1300) > 0.02 or share.with_padding(LOWEST, -1300) > 0.3
    if (soft < 0.05 and sunken) or share.with_padding(-300, HIGHEST + 1) < 5e-3:
        return Verdict(f"{wanted} look offset by -1024 (hardly any tissue near 0). Add 1024.")
    if share.peak(LOWEST, -1300) > 0.1 or share.between(LOWEST, -1300) > 0.2:
        seen = "look stretched (many far below air, which is -1000)"
        return Verdict(f"{wanted} {seen}. Check the rescale slope: it was applied twice, or is not 1.")
    if dark < 1e-3:
        if soft < 0.7 or share.between(LOWEST, -30) < 1e-3:
            return Verdict(f"{wanted} are not like CT (none like fat, lung or air). Convert to HU, or leave it out.")
        wanted = f"expected some air, lung or gas but values from {low} to {high} hold none"
        return Verdict(warning=f"{wanted}: a tight field of view? Check the unit yourself: it was judged by tissue alone.")
    between = f"{100 * shallow:.0f} % between lung and fat, {100 * soft:.0f} % around 0"
    if shallow > max(0.01, 1.2 * soft):
        seen = f"look offset by -1024, or are not like CT ({between})"
        return Verdict(f"{wanted} {seen}. Add 1024, or leave it out.")
    if share.peak(-700, -300) > 0.35 or shallow > max(0.01, 1.5 * share.between(-1200, -600)):
        seen = f"are not like CT (no air near -1000; {between})"
        return Verdict(f"{wanted} {seen}. Convert to HU, or leave it out.")
    if share.with_padding(-1100, -930) < 1e-3:
        wanted = f"expected some air near -1000 but values from {low} to {high} hold none"
        return Verdict(warning=f"{wanted}: only lung in view, or no CT? Check the unit yourself.")
    air = share.peak_at(-1300, -900)
    if share.peak(-1300, -900) > 0.1 and not -1060 <= air <= -940:
        return Verdict(warning=f"expected air near -1000 but most of it lies near {air}: another scale, or no CT? Check the unit yourself.")
    return Verdict()


@dataclass(frozen=True)
class _Shares:
    counts: Int64[np.ndarray, "65536"]
    inner: Float64[np.ndarray, "65536"]
    """Shares without the padding."""

    @classmethod
    def of(cls, counts: Int64[np.ndarray, "65536"]) -> _Shares:
        inner = counts.astype(np.float64)
        least = _least(counts) - LOWEST
        if counts[least] > 0.01 * counts.sum():
            beside = slice(least, least + 1 + _BLEND)
            near_it = counts[beside].sum() < 2 * counts[least]  # noisy air that was clamped keeps more above
            inner[beside if near_it else least] = 0
        return cls(counts, inner / max(inner.sum(), 1))

    def between(self, low: int, high: int) -> float:
        """Share of the values in [low, high), padding left out."""
        return float(self.inner[low - LOWEST : high - LOWEST].sum())

    def with_padding(self, low: int, high: int) -> float:
        """The same with the padding."""
        return float(self.counts[low - LOWEST : high - LOWEST].sum() / self.counts.sum())

    def peak(self, low: int, high: int) -> float:
        """Greatest share that lies within 50 units anywhere in [low, high), padding left out."""
        return float(self._within_50(low, high).max())

    def peak_at(self, low: int, high: int) -> int:
        """The middle of those 50 units."""
        return low + 25 + int(self._within_50(low, high).argmax())

    def _within_50(self, low: int, high: int) -> Float64[np.ndarray, " starts"]:
        sums = np.concatenate([[0.0], np.cumsum(self.inner[low - LOWEST : high - LOWEST])])
        return np.asarray(sums[50:] - sums[:-50])


def _least(counts: Int64[np.ndarray, "65536"]) -> int:
    return int(np.flatnonzero(counts)[0]) + LOWEST


def _greatest(counts: Int64[np.ndarray, "65536"]) -> int:
    return int(np.flatnonzero(counts)[-1]) + LOWEST
