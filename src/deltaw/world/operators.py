"""Operators: bijections on the alphabet, one set for all grammars or one for each, and aliases that name them twice."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from deltaw.errors import DeltawError

Ints = NDArray[np.int64]


def bijections(seed: int, n_operators: int = 10, alphabet: int = 30) -> Ints:
    """(K, A) the published bijections: operator k > 0 is numpy's legacy `permutation` under seed `seed + k - 1`.

    DeltawError if two of them are equal, which a small alphabet makes likely.
    """
    rows = [np.arange(alphabet)]
    rows += [np.random.RandomState(seed + k).permutation(alphabet) for k in range(n_operators - 1)]
    if len({tuple(row.tolist()) for row in rows}) < n_operators:
        raise DeltawError(
            f"two of {n_operators} operators on {alphabet} letters are the same bijection under operator_seed {seed}; "
            "choose another seed, fewer operators or a larger alphabet"
        )
    return np.stack(rows).astype(np.int64)


@dataclass(frozen=True)
class Operators:
    """What each operator token does to a letter, in each grammar.

    permutations: (S, K, A) int64, S sets of K bijections on A letters; row 0 of each is the identity. set_of: the set
    that each grammar number uses. aliases: operator index of each alias token.
    """

    permutations: Ints
    set_of: Mapping[int, int]
    aliases: tuple[int, ...]

    @classmethod
    def published(
        cls, seeds: Mapping[int, int], aliases: tuple[int, ...] = (), n_operators: int = 10, alphabet: int = 30
    ) -> "Operators":
        """The published bijections (see `bijections`) under each grammar number's seed; equal seeds share a set."""
        distinct = list(dict.fromkeys(seeds.values()))
        tables = np.stack([bijections(seed, n_operators, alphabet) for seed in distinct])
        return cls(tables, {number: distinct.index(seed) for number, seed in seeds.items()}, aliases)

    @cached_property
    def table(self) -> Ints:
        """(S, K + aliases, A): the bijection of every operator token, set by set."""
        return np.ascontiguousarray(self.permutations[:, self.operator_of])

    @cached_property
    def operator_of(self) -> Ints:
        """(K + aliases,): the operator that each operator token stands for."""
        return np.concatenate([np.arange(self.permutations.shape[1]), np.asarray(self.aliases, dtype=np.int64)])

    @cached_property
    def _set_of_number(self) -> Ints:
        sets = np.zeros(max(self.set_of) + 1, dtype=np.int64)
        sets[list(self.set_of)] = list(self.set_of.values())
        return sets

    def apply(self, grammar: Ints, tokens: Ints, letters: Ints) -> Ints:
        """Apply operator tokens (N, S) of grammars (N,) one after the other to letters (N, L); below 0 is padding."""
        flat, (_, n_tokens, alphabet) = self.table.ravel(), self.table.shape
        first = (self._set_of_number[grammar] * n_tokens)[:, None]
        padding = letters < 0
        out = np.where(padding, 0, letters)
        for slot in range(tokens.shape[1]):
            out = flat.take((first + tokens[:, slot, None]) * alphabet + out)
        out[padding] = letters[padding]
        return out

    def inverse(self) -> "Operators":
        """The operators that undo these."""
        return Operators(np.argsort(self.permutations, axis=-1), self.set_of, self.aliases)
