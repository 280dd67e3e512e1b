"""Counter-based random numbers: draw k of sample i is a pure function of (seed, split, i, k).

Threefry-2x64 with 20 rounds (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011), vectorised:
any sample can be made alone, in any order, in any batch, on any machine, and is the same.
"""

import hashlib
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

Words = NDArray[np.uint64]
Floats = NDArray[np.float64]

_ROTATIONS = tuple(np.uint64(r) for r in (16, 42, 12, 31, 16, 32, 24, 21))
_PARITY = np.uint64(0x1BD11BDAA9FC1A22)
_WORD = np.uint64(64)
_BLOCK = 4096  # words at a time: three arrays of them stay within the cache


def threefry(key: tuple[int, int], counter_0: Words, counter_1: Words) -> tuple[Words, Words]:
    """Threefry-2x64-20 of two arrays of counters (any one shape) under one key."""
    schedule = (np.uint64(key[0]), np.uint64(key[1]), _PARITY ^ np.uint64(key[0]) ^ np.uint64(key[1]))
    first, second = np.ravel(counter_0) + schedule[0], np.ravel(counter_1) + schedule[1]
    for start in range(0, len(first), _BLOCK):
        _rounds(first[start : start + _BLOCK], second[start : start + _BLOCK], schedule)
    return first.reshape(counter_0.shape), second.reshape(counter_0.shape)


def _rounds(x: Words, y: Words, schedule: tuple[np.uint64, np.uint64, np.uint64]) -> None:
    """The twenty rounds, in place."""
    spill = np.empty_like(y)
    for step in range(20):
        rotation = _ROTATIONS[step % 8]
        x += y
        np.right_shift(y, _WORD - rotation, out=spill)
        y <<= rotation
        y |= spill
        y ^= x
        if step % 4 == 3:
            inject = step // 4 + 1
            x += schedule[inject % 3]
            y += schedule[(inject + 1) % 3]
            y += np.uint64(inject)


def content_uniform(rows: NDArray[np.int64]) -> Floats:
    """(N,) one uniform in [0, 1) for the content of each row (N, K): equal rows, equal numbers."""
    state = np.full(len(rows), 0xCBF29CE484222325, dtype=np.uint64)
    with np.errstate(over="ignore"):
        for column in rows.T.astype(np.uint64):  # FNV-1a, then a full mix of its weak high bits
            state = (state ^ column) * np.uint64(0x100000001B3)
    word, _ = threefry((0, 0), state, np.zeros_like(state))
    return _unit(word)


def _unit(words: Words) -> Floats:
    return (words >> np.uint64(11)).astype(np.float64) * 2.0**-53


@dataclass(frozen=True)
class Key:
    """The source of all draws of one split under one seed."""

    seed: int
    split: str

    @cached_property
    def words(self) -> tuple[int, int]:
        """The two 64-bit words that stand for (seed, split)."""
        digest = hashlib.blake2b(f"{self.seed}/{self.split}".encode(), digest_size=16).digest()
        return int.from_bytes(digest[:8], "little"), int.from_bytes(digest[8:], "little")

    def uniform(self, index: NDArray[np.int64], draw: int, width: int = 1) -> Floats:
        """(N, width) uniforms in [0, 1) for samples `index` (N,); `draw` < 2**32 tells the uses apart."""
        columns = np.broadcast_to(np.arange(width), (len(index), width))
        return self.uniform_at(np.broadcast_to(index[:, None], columns.shape), draw, columns)

    def uniform_at(self, index: NDArray[np.int64], draw: int, column: NDArray[np.int64]) -> Floats:
        """Elementwise, any one shape: what `uniform(index, draw)` has in that column; only what is needed is drawn."""
        slots = (np.uint64(draw) << np.uint64(32)) + column.astype(np.uint64)
        word, _ = threefry(self.words, index.astype(np.uint64), slots)
        return _unit(word)
