"""Exact probabilities of windows under the sampler: likelihoods, and the posterior of the branch.

An inside chart over *open* spans: `inside[symbol][length][s]` is the probability that the symbol derives exactly
`length` letters and that, placed with its first letter at window position s (which may lie before the window), every
letter that falls inside the window is the observed one. Carrying the length lets the window's start, uniform over the
derivation it was cut from, be marginalised exactly.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from deltaw.world.grammar import Grammar
from deltaw.world.policy import Branch

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

CHUNK = 256  # windows at a time, so that a chart stays within the cache


@dataclass(frozen=True)
class WindowLikelihood:
    """The probability of a window of letters under one grammar's sampler.

    Cost: (productions x length combinations x longest derivation) multiplications a window; under a millisecond for the
    published sub-grammars, a few for the full grammar.
    """

    grammar: Grammar

    def __call__(self, letters: Ints, without: Branch | None = None) -> Floats:
        """(N,) probabilities of windows letters (N, L).

        `without` leaves out derivations in which any letter *of the window* lies under a symbol of that branch, so
        1 - likelihood(w, without=UNSAFE) / likelihood(w) is the probability that w has an unsafe side.
        """
        chunks = [self._chunk(letters[i : i + CHUNK], without) for i in range(0, len(letters), CHUNK)]
        return np.concatenate(chunks) if chunks else np.zeros(0)

    @cached_property
    def _barred(self) -> dict[Branch, frozenset[str]]:
        return {Branch.SAFE: self.grammar.safe, Branch.UNSAFE: self.grammar.unsafe}

    def _chunk(self, letters: Ints, without: Branch | None) -> Floats:
        n, window = letters.shape
        grammar = self.grammar
        longest = max(grammar.lengths[grammar.start])
        starts = np.arange(-longest, window)  # chart column c is start position c - longest
        padded = np.concatenate([np.full((n, longest), -1), letters, np.full((n, longest), -1)], axis=1)
        barred = self._barred[without] if without is not None else frozenset()
        inside: dict[str, dict[int, Floats]] = {}
        for name in grammar.bottom_up:
            law: dict[int, Floats] = {}
            for production in grammar.rules[name]:
                partial = {0: np.full((n, len(starts)), production.probability)}
                for symbol in production.symbols:
                    partial = _extend(partial, inside[symbol] if isinstance(symbol, str) else symbol, padded)
                for length, value in partial.items():
                    law[length] = law[length] + value if length in law else value
            if name in barred:
                for length, value in law.items():
                    law[length] = np.where((starts + length > 0) & (starts < window), 0.0, value)
            inside[name] = law
        total = np.zeros(n)
        for length, value in inside[grammar.start].items():
            offsets = np.arange(length - window + 1)
            total += value[:, longest - offsets].sum(1) / len(offsets)
        return total


def _extend(partial: dict[int, Floats], step: dict[int, Floats] | int, padded: Ints) -> dict[int, Floats]:
    """Append one symbol (its inside table) or one letter (its number) to a partly read right-hand side."""
    out: dict[int, Floats] = {}
    for done, head in partial.items():
        columns = head.shape[1]
        if isinstance(step, int):
            seen = padded[:, done : done + columns]
            out[done + 1] = head * ((seen == step) | (seen < 0))
            continue
        for length, table in step.items():
            # right of the window nothing is observed, as in column 0, left of it: the probability of the length alone
            unseen = np.broadcast_to(table[:, :1], (len(table), min(done, columns)))
            shifted = np.concatenate([table[:, done:], unseen], axis=1)
            value = head * shifted
            out[done + length] = out[done + length] + value if done + length in out else value
    return out


@dataclass(frozen=True)
class BranchPosterior:
    """The Bayes posterior of a window's branch, for text that lies under one branch or the other.

    prior_unsafe: probability of the unsafe branch before the window is seen.
    """

    safe: Grammar
    unsafe: Grammar
    prior_unsafe: float = 0.5

    def __call__(self, letters: Ints) -> Floats:
        """(N,) probability that each window (N, L) is of the unsafe branch. NaN where neither branch derives it."""
        unsafe = self.prior_unsafe * WindowLikelihood(self.unsafe)(letters)
        safe = (1 - self.prior_unsafe) * WindowLikelihood(self.safe)(letters)
        with np.errstate(invalid="ignore"):
            posterior: Floats = unsafe / (unsafe + safe)
        return posterior


def unsafe_side_probability(full: Grammar, letters: Ints) -> Floats:
    """(N,) probability, under the full grammar's sampler, that a window (N, L) has at least one unsafe letter."""
    likelihood = WindowLikelihood(full)
    result: Floats = 1 - likelihood(letters, without=Branch.UNSAFE) / likelihood(letters)
    return result
