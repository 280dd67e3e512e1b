"""Operators: bijections on the alphabet, and the aliases that name them a second time."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Operators:
    """`table[t]` is the bijection that operator token t applies, aliases included.

    permutations: (K, A) int64, row 0 the identity. aliases: operator index of each alias token.
    """

    permutations: Ints
    aliases: tuple[int, ...]

    @classmethod
    def published(
        cls, aliases: tuple[int, ...], seed: int = 0, n_operators: int = 10, alphabet: int = 30
    ) -> "Operators":
        """The published bijections: operator k > 0 is numpy's legacy `permutation` under seed `seed + k - 1`."""
        rows = [np.arange(alphabet)]
        rows += [np.random.RandomState(seed + k).permutation(alphabet) for k in range(n_operators - 1)]
        return cls(np.stack(rows).astype(np.int64), aliases)

    @property
    def table(self) -> Ints:
        """(K + aliases, A): the bijection of every operator token."""
        return self.permutations[self.operator_of]

    @property
    def operator_of(self) -> Ints:
        """(K + aliases,): the operator that each operator token stands for."""
        return np.concatenate([np.arange(len(self.permutations)), np.asarray(self.aliases, dtype=np.int64)])

    def apply(self, tokens: Ints, letters: Ints) -> Ints:
        """Apply operator tokens (N, S) one after the other to letters (N, L); letters below 0 are padding."""
        out = letters
        table = self.table
        for slot in range(tokens.shape[1]):
            out = np.where(out >= 0, table[tokens[:, slot, None], np.maximum(out, 0)], out)
        return out

    def inverse(self) -> "Operators":
        """The operators that undo these."""
        return Operators(np.argsort(self.permutations, axis=1), self.aliases)
