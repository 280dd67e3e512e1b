"""The same recursion as most would first write it: a production is drawn by numpy's `Generator.choice`."""

import numpy as np

from deltaw.world.grammar import Grammar


class NumpyChoiceSampler:
    """Samples windows of `length` letters from one grammar."""

    def __init__(self, grammar: Grammar, length: int, seed: int) -> None:
        self.grammar, self.length, self.generator = grammar, length, np.random.default_rng(seed)

    def window(self) -> list[int]:
        """One window, as letter numbers."""
        letters = self._expand(self.grammar.start)
        offset = int(self.generator.integers(len(letters) - self.length + 1))
        return letters[offset : offset + self.length]

    def _expand(self, name: str) -> list[int]:
        productions = self.grammar.rules[name]
        chosen = productions[self.generator.choice(len(productions), p=[p.probability for p in productions])]
        letters: list[int] = []
        for symbol in chosen.symbols:
            letters += self._expand(symbol) if isinstance(symbol, str) else [symbol]
        return letters
