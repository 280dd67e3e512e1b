"""Exact probabilities of windows under the sampler: likelihoods, posteriors, and the best that any classifier can do.

An inside chart over *open* spans: for a symbol and a length, the probability that the symbol derives exactly that many
letters and that, placed with its first letter at window position s (which may lie before the window), every letter that
falls inside the window is the observed one. Carrying the length lets the window's start, uniform over the derivation it
was cut from, be marginalised exactly. The chart only adds and multiplies: what cannot be derived has exactly 0.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from deltaw.errors import DeltawError
from deltaw.world.grammar import Grammar
from deltaw.world.policy import Branch

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

CHUNK = 256  # windows at a time, so that a chart stays within the cache

Chart = dict[int, Floats]
"""By length: (length + L, N), row r for the first letter at position r - length of the window of L letters.

Row 0 lies left of the window, and stands for all that lie outside it: there the value is the length's probability.
"""


@dataclass(frozen=True)
class WindowLikelihood:
    """The probability of a window of letters under one grammar's sampler.

    Cost: (productions x length combinations) products of (length + L) numbers a window; docs/performance.md has times.
    """

    grammar: Grammar

    def __call__(self, letters: Ints, without: Branch | None = None) -> Floats:
        """(N,) probabilities of windows letters (N, L), -1 beyond the end of a window shorter than L.

        A window's probability is that of its letters given its length. `without` leaves out derivations in which any
        letter *of the window* lies under a symbol of that branch, so 1 - likelihood(w, without=UNSAFE) / likelihood(w)
        is the probability that w has an unsafe side. DeltawError for a window with gaps, or longer than a derivation.
        """
        own = (letters >= 0).sum(1)
        shortest = min(self.grammar.lengths[self.grammar.start])
        if (letters[np.arange(letters.shape[1]) < own[:, None]] < 0).any():
            raise DeltawError("a window has -1 before its last letter; -1 may only stand beyond a window's end")
        if own.max(initial=0) > shortest:
            raise DeltawError(
                f"a window has {own.max()} letters and the grammar can derive {shortest}; shorten the window"
            )
        if own.max(initial=0) == 0:
            return np.ones(len(letters))
        letters = letters[:, : own.max(initial=0)]
        chunks = [
            self._chunk(letters[i : i + CHUNK], own[i : i + CHUNK], without) for i in range(0, len(letters), CHUNK)
        ]
        return np.concatenate(chunks) if chunks else np.zeros(0)

    def branches(self, letters: Ints) -> Floats:
        """(N, 2) joint probabilities of windows and branch: all letters safe, or at least one of them unsafe.

        A letter under no symbol of a known branch counts as safe, as it does for the sampler.
        """
        whole = self(letters)
        if self._always_unsafe:
            return np.stack([np.zeros_like(whole), whole], axis=1)
        safe = self(letters, without=Branch.UNSAFE) if self.grammar.unsafe & set(self.grammar.bottom_up) else whole
        return np.stack([safe, whole - safe], axis=1)  # the same terms in the same order, or fewer: never below 0

    @cached_property
    def _barred(self) -> dict[Branch, frozenset[str]]:
        return {Branch.SAFE: self.grammar.safe, Branch.UNSAFE: self.grammar.unsafe}

    @cached_property
    def _always_unsafe(self) -> bool:
        """Whether every letter of every derivation lies under an unsafe symbol."""
        covered: set[int | str] = set()
        for name in self.grammar.bottom_up:
            if name in self.grammar.unsafe or all(
                symbol in covered for production in self.grammar.rules[name] for symbol in production.symbols
            ):
                covered.add(name)
        return self.grammar.start in covered

    def _chunk(self, letters: Ints, own: Ints, without: Branch | None) -> Floats:
        grammar, window = self.grammar, letters.shape[1]
        barred = self._barred[without] if without is not None else frozenset()
        seen = letters.T
        charts: dict[int | str, Chart] = {}
        for name in grammar.bottom_up:
            rules = grammar.rules[name]
            for symbol in {s for p in rules for s in p.symbols if isinstance(s, int) and s not in charts}:
                fits = ((seen == symbol) | (seen < 0)).astype(np.float64)
                charts[symbol] = {1: np.concatenate([np.ones((1, len(letters))), fits])}
            if name == grammar.start and name not in barred:
                return sum(
                    (_cut(p.probability, [charts[s] for s in p.symbols], own, window) for p in rules),
                    start=np.zeros(len(letters)),
                )
            law: Chart = {}
            for production in rules:
                _add(law, _joined(production.probability, [charts[s] for s in production.symbols]))
            if name in barred:
                for length, table in law.items():  # rows from 1 on reach into the window as far as it goes
                    start = np.arange(1 - length, window)[:, None]
                    table[1:][np.broadcast_to(start < own, table[1:].shape)] = 0.0
            charts[name] = law
        return _cut(1.0, [charts[grammar.start]], own, window)


def _joined(probability: float, parts: list[Chart]) -> Chart:
    """The chart of a right-hand side."""
    if not parts:
        raise DeltawError("a production derives no letters; give each right-hand side at least one symbol")
    whole = {length: table * probability for length, table in parts[0].items()}
    for part in parts[1:]:
        longer: Chart = {}
        for done, head in whole.items():
            _add(longer, {done + length: _product(head, done, tail, length) for length, tail in part.items()})
        whole = longer
    return whole


def _add(total: Chart, more: Chart) -> None:
    for length, table in more.items():
        if length in total:
            total[length] += table
        else:
            total[length] = table


def _product(head: Floats, done: int, tail: Floats, length: int) -> Floats:
    """The chart's table of a head of `done` letters and a tail of `length` letters behind it."""
    window = len(head) - done
    out = np.empty((length + done + window, head.shape[1]))
    np.multiply(head[0], tail[:length], out=out[:length])  # the head lies left of the window
    np.multiply(head[:window], tail[length:], out=out[length : length + window])
    np.multiply(head[window:], tail[0], out=out[length + window :])  # the tail lies right of the window
    return out


def _cut(probability: float, parts: list[Chart], own: Ints, window: int) -> Floats:
    """(N,) probability of cutting the window out of what a right-hand side derives: the mean over its starts.

    The last symbol is joined and summed over starts at once. In a derivation of T letters the first letter stands at
    position s = -(T - own) .. 0 of the window.
    """
    *front, last = parts
    heads = _joined(probability, front) if front else {0: np.full((window, len(own)), probability)}
    position = np.arange(window)[:, None]
    # the window within the tail: all starts of it are alike to the head
    within, reach = {}, {}
    for length, tail in last.items():
        start = np.arange(-length, 0)[:, None]
        within[length] = (tail[:length] * (start >= own - length)).sum(0)
        reach[length] = tail[length:] * (position >= own - length)  # the tail begins in the window, and fills it
    total = np.zeros(len(own))
    for done, head in heads.items():
        inside_head = head[window : done + 1].sum(0)  # the window ends before the tail begins
        both = min(window, done + 1)
        for length, tail in last.items():
            value = head[0] * within[length] + np.einsum("sn,sn->n", head[:both], reach[length][:both])
            total += (value + inside_head * tail[0]) / (done + length - own + 1)
    return total


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
    safe, unsafe = WindowLikelihood(full).branches(letters).T
    with np.errstate(invalid="ignore"):
        result: Floats = unsafe / (safe + unsafe)
    return result
