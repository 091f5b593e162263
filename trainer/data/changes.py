"""The numbers of augmentation: drawn here from named streams, applied on the device (trainer.augment)."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
from jaxtyping import Bool, Float, Int

from trainer.data.streams import stream

TURNS = 24
"""Rotations that map a cube onto itself."""


@dataclass(frozen=True)
class Changes:
    """What happens to each view of each scan, in units of the settings: `x[rows]` are those of some scans.

    Every kind is drawn whether it is used or not, so switching one leaves the others as they were, and a view's numbers depend on its
    step and place in the batch alone.
    """

    intensity: Float[np.ndarray, "batch views 2"]
    """Standard normal: of the scale, of the shift."""
    flips: Bool[np.ndarray, "batch views 3"]
    turn: Int[np.ndarray, "batch views"]
    affine: Float[np.ndarray, "batch views 5"]
    """A coin in [0, 1); three angles and a size in [-1, 1]."""
    window: Float[np.ndarray, "batch views 3"]
    """A coin in [0, 1); shift and stretch in [-1, 1]."""
    gamma: Float[np.ndarray, "batch views 2"]
    """A coin in [0, 1); log gamma in [-1, 1]."""
    blur: Float[np.ndarray, "batch views 2"]
    """A coin and a width in [0, 1)."""
    noise_seed: Int[np.ndarray, "batch views"]

    def __getitem__(self, rows: slice | list[int]) -> Changes:
        return Changes(**{f.name: getattr(self, f.name)[rows] for f in fields(self)})

    def by_view(self) -> Changes:
        """The same view by view: all scans' first views, then all second ones; arrays are [views x batch, ...]."""
        return Changes(**{f.name: np.swapaxes(values := getattr(self, f.name), 0, 1).reshape(-1, *values.shape[2:]) for f in fields(self)})


def draw_changes(seed: int, step: int, kind: str, batch: int, views: int) -> Changes:
    """The changes of a whole batch's `kind` of crops, `global` or `local`."""

    def rng(what: str) -> np.random.Generator:
        return stream(seed, step, f"augment/{kind}/{what}")

    def coin_and_signed(what: str, numbers: int) -> Float[np.ndarray, "batch views numbers"]:
        drawn = rng(what).random((batch, views, 1 + numbers))
        drawn[..., 1:] = 2 * drawn[..., 1:] - 1
        return drawn

    first = stream(seed, step, f"augment/{kind}")
    return Changes(
        intensity=np.stack([first.standard_normal((batch, views)) for _ in range(2)], axis=-1),
        flips=first.random((batch, views, 3)) < 0.5,
        turn=rng("turn").integers(TURNS, size=(batch, views)),
        affine=coin_and_signed("affine", 4),
        window=coin_and_signed("window", 2),
        gamma=coin_and_signed("gamma", 1),
        blur=rng("blur").random((batch, views, 2)),
        noise_seed=rng("noise").integers(2**63, size=(batch, views)),
    )
