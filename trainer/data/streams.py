"""Named random streams: a draw depends on its name alone, never on what else was drawn."""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.random.bit_generator import ISeedSequence


class _Words(ISeedSequence):
    """A digest as the seed words of a bit generator (numpy's own seed sequence costs four times as much a stream)."""

    def __init__(self, digest: bytes) -> None:
        self._digest = digest

    def generate_state(self, n_words: int, dtype: object = np.uint32) -> np.ndarray:
        return np.frombuffer(self._digest, dtype=np.dtype(dtype), count=n_words)  # type: ignore[call-overload]


def stream(seed: int, step: int, purpose: str, index: int = 0) -> np.random.Generator:
    """The generator that belongs to a name; equal names give equal draws, different names independent ones.

    Args:
        seed: The replicate.
        step: Optimizer step (or any counter that the purpose defines).
        purpose: What is drawn, for example `crop/global0`.
        index: Position in the batch.

    Source: seeded by a 512-bit BLAKE2b hash of the name (RFC 7693); PCG64 (O'Neill 2014).
    """
    words = _Words(hashlib.blake2b(f"{seed}/{step}/{index}/{purpose}".encode()).digest())
    return np.random.Generator(np.random.PCG64(words))  # type: ignore[arg-type]  # its stub leaves the protocol out
