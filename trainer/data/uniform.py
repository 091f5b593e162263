"""Uniform draws over the positions of a box, free or among those that hold something."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Bool, Int

PROPOSALS = (16, 64, 256, 1024)
"""Sizes of the chunks in which proposals are tested."""

Accept = Callable[[Int[np.ndarray, "n 3"]], Bool[np.ndarray, " n"]]


def one(rng: np.random.Generator, room: Int[np.ndarray, "3"]) -> Int[np.ndarray, "3"]:
    """A corner uniform in [0, room); the draw is that of `uniform` for one."""
    return np.asarray(one_each([rng], [room])[0])


def one_each(rngs: Sequence[np.random.Generator], rooms: Sequence[Int[np.ndarray, "3"]]) -> Int[np.ndarray, "boxes 3"]:
    """What `one` draws in each box from its own stream; of few boxes Python counts faster than numpy."""
    found = []
    for rng, room in zip(rngs, rooms, strict=True):
        d, h, w = room.tolist()
        rows, column = divmod(int(rng.integers(d * h * w)), w)
        found.append((*divmod(rows, h), column))
    return np.array(found, dtype=np.int64)


def uniform(rng: np.random.Generator, room: Int[np.ndarray, "3"], count: int) -> Int[np.ndarray, "count 3"]:
    """Corners uniform in [0, room), independent of each other."""
    d, h, w = room.tolist()
    flat = rng.integers(d * h * w, size=count)
    corners = np.empty((count, 3), dtype=np.int64)
    rows, corners[:, 2] = np.divmod(flat, w)
    corners[:, 0], corners[:, 1] = np.divmod(rows, h)
    return corners


def reject(rng: np.random.Generator, room: Int[np.ndarray, "3"], accept: Accept, *, tried: int = 0) -> Int[np.ndarray, "3"] | None:
    """The first acceptable of at most sum(PROPOSALS) uniform proposals in [0, room); the first `tried` chunks are behind it."""
    for count in PROPOSALS[tried:]:
        proposals = uniform(rng, room, count)
        accepted = accept(proposals)
        first = int(accepted.argmax())
        if accepted[first]:
            return np.asarray(proposals[first])
    return None


def reject_each(
    rngs: Sequence[np.random.Generator],
    rooms: Int[np.ndarray, "boxes 3"],
    accept: Callable[[Int[np.ndarray, "boxes n 3"]], Bool[np.ndarray, "boxes n"]],
    accept_in: Callable[[int], Accept],
) -> list[Int[np.ndarray, "3"] | None]:
    """What `reject` finds in each box from its own stream; first chunks are tested together, since a call costs more than its work.

    Args:
        rngs: One a box.
        rooms: Their sizes.
        accept: For a row of proposals a box.
        accept_in: The same for one box.
    """
    if not PROPOSALS:
        return [None] * len(rngs)
    flat = np.array([rng.integers(d * h * w, size=PROPOSALS[0]) for rng, (d, h, w) in zip(rngs, rooms.tolist(), strict=True)])
    proposals = np.empty((*flat.shape, 3), dtype=np.int64)
    rows, proposals[..., 2] = np.divmod(flat, rooms[:, 2:])
    proposals[..., 0], proposals[..., 1] = np.divmod(rows, rooms[:, 1:2])
    accepted = accept(proposals)
    firsts = accepted.argmax(axis=1).tolist()
    return [
        proposals[box, at] if accepted[box, at] else reject(rngs[box], rooms[box], accept_in(box), tried=1) for box, at in enumerate(firsts)
    ]


def pick(among: Bool[np.ndarray, "d h w"], rng: np.random.Generator) -> Int[np.ndarray, "3"]:
    """Uniform over the positions that are true (at least one)."""
    flat = np.flatnonzero(among)
    return np.array(np.unravel_index(flat[rng.integers(len(flat))], among.shape))
