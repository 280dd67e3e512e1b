"""The plain way to sample windows: expand the whole derivation recursively, then cut a window from it.

The baseline of `sampling.py`, and an independent implementation of the same law for the tests. It is written as one
would by hand, without waste: rules are prepared once, and a symbol costs one `random.random()` and a comparison or two.
"""

import random

from deltaw.world.grammar import Grammar


class RecursiveSampler:
    """Samples windows of `length` letters from one grammar; randomness is Python's own generator."""

    def __init__(self, grammar: Grammar, length: int, seed: int) -> None:
        self.start, self.length, self.random = grammar.start, length, random.Random(seed)
        self.rules = {}
        for name, productions in grammar.rules.items():
            edge, rule = 0.0, []
            for production in productions:
                edge += production.probability
                rule.append((edge, production.symbols))
            rule[-1] = (1.0, rule[-1][1])
            self.rules[name] = tuple(rule)

    def window(self) -> list[int]:
        """One window, as letter numbers."""
        letters: list[int] = []
        self._expand(self.start, letters)
        offset = int(self.random.random() * (len(letters) - self.length + 1))
        return letters[offset : offset + self.length]

    def _expand(self, name: str, letters: list[int]) -> None:
        u = self.random.random()
        for edge, symbols in self.rules[name]:
            if u < edge:
                for symbol in symbols:
                    if isinstance(symbol, int):
                        letters.append(symbol)
                    else:
                        self._expand(symbol, letters)
                return
