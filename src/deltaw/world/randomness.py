"""Counter-based random numbers: draw k of sample i is a pure function of (seed, split, i, k).

Threefry-2x64 with 20 rounds (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011), vectorised:
any sample can be made alone, in any order, in any batch, on any machine, and is the same.
"""

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Words = NDArray[np.uint64]
Floats = NDArray[np.float64]

_ROTATIONS = tuple(np.uint64(r) for r in (16, 42, 12, 31, 16, 32, 24, 21))
_PARITY = np.uint64(0x1BD11BDAA9FC1A22)
_WORD = np.uint64(64)


def threefry(key: tuple[int, int], counter_0: Words, counter_1: Words) -> tuple[Words, Words]:
    """Threefry-2x64-20 of two arrays of counters (any one shape) under one key."""
    schedule = (np.uint64(key[0]), np.uint64(key[1]), _PARITY ^ np.uint64(key[0]) ^ np.uint64(key[1]))
    with np.errstate(over="ignore"):
        x, y = counter_0 + schedule[0], counter_1 + schedule[1]
        for step in range(20):
            rotation = _ROTATIONS[step % 8]
            x = x + y
            y = ((y << rotation) | (y >> (_WORD - rotation))) ^ x
            if step % 4 == 3:
                inject = step // 4 + 1
                x = x + schedule[inject % 3]
                y = y + schedule[(inject + 1) % 3] + np.uint64(inject)
    return x, y


def content_uniform(rows: NDArray[np.int64]) -> Floats:
    """(N,) one uniform in [0, 1) for the content of each row (N, K): equal rows, equal numbers."""
    state = np.full(len(rows), 0xCBF29CE484222325, dtype=np.uint64)
    with np.errstate(over="ignore"):
        for column in rows.T.astype(np.uint64):  # FNV-1a, then a full mix of its weak high bits
            state = (state ^ column) * np.uint64(0x100000001B3)
    word, _ = threefry((0, 0), state, np.zeros_like(state))
    return (word >> np.uint64(11)).astype(np.float64) * 2.0**-53


@dataclass(frozen=True)
class Key:
    """The source of all draws of one split under one seed."""

    seed: int
    split: str

    @property
    def words(self) -> tuple[int, int]:
        """The two 64-bit words that stand for (seed, split)."""
        digest = hashlib.blake2b(f"{self.seed}/{self.split}".encode(), digest_size=16).digest()
        return int.from_bytes(digest[:8], "little"), int.from_bytes(digest[8:], "little")

    def uniform(self, index: NDArray[np.int64], draw: int, width: int = 1) -> Floats:
        """(N, width) uniforms in [0, 1) for samples `index` (N,); `draw` < 2**32 tells the uses apart."""
        slots = (np.uint64(draw) << np.uint64(32)) + np.arange(width, dtype=np.uint64)
        counter = np.broadcast_to(index.astype(np.uint64)[:, None], (len(index), width))
        word, _ = threefry(self.words, counter, np.broadcast_to(slots, counter.shape))
        return (word >> np.uint64(11)).astype(np.float64) * 2.0**-53
