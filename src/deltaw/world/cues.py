"""Surface cues: how well the branch of a window can be told from how often one letter, or one leaf, occurs in it.

A language whose branch such a cue tells asks nothing of the model but to look for a letter; the design allows 0.75.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deltaw.world.grammar import Grammar, Symbol
from deltaw.world.language import Language
from deltaw.world.vocabulary import LETTERS

Floats = NDArray[np.float64]

MOST_COUNTED = 5  # occurrences; this many or more are one case
_Chart = dict[int, Floats]  # by length: (cues, starts, counts)


def single_letter_accuracy(language: Language, length: int) -> dict[str, float]:
    """For each letter and leaf, the best accuracy of a classifier of the branch that knows only its count.

    language: its safe and unsafe text, equal priors. length: letters of a window. A leaf is a production of letters
    alone, and counts where the window holds it whole. Counts of five and more are told apart from smaller ones only.
    Exact: 1/2 Σ_k max(P(k | safe), P(k | unsafe)), with offset and derivation length marginalised. Some seconds.
    """
    both = (language.safe, language.unsafe)
    letters = sorted({s for g in both for name in g.bottom_up for p in g.rules[name] for s in p.symbols if _letter(s)})
    leaves = sorted({p.symbols for g in both for name in g.bottom_up for p in g.rules[name] if _is_leaf(p.symbols)})
    cues = _Cues(tuple(int(s) for s in letters), tuple(leaves))
    laws = [count_laws(grammar, length, cues) for grammar in both]
    accuracy = np.maximum(*laws).sum(1) / 2
    names = [LETTERS[s] for s in cues.letters] + ["".join(LETTERS[int(s)] for s in leaf) for leaf in cues.leaves]
    return dict(zip(names, map(float, accuracy), strict=True))


@dataclass(frozen=True)
class _Cues:
    letters: tuple[int, ...]
    leaves: tuple[tuple[Symbol, ...], ...]  # of two letters or more

    @property
    def number(self) -> int:
        return len(self.letters) + len(self.leaves)


def count_laws(grammar: Grammar, length: int, cues: _Cues) -> Floats:
    """(cues, MOST_COUNTED + 1) the probability of each count of each cue in a window of `length` letters.

    An inside chart whose entries are polynomials in the count: `chart[symbol][n][cue, s, k]` is the probability that
    the symbol derives n letters and that, begun at window position s, k occurrences of the cue lie in the window.
    """
    longest = max(grammar.lengths[grammar.start])
    starts = np.arange(-longest, length + longest)
    inside = (starts >= 0) & (starts < length)
    charts: dict[str, _Chart] = {}
    for name in grammar.bottom_up:
        law: _Chart = {}
        for production in grammar.rules[name]:
            head = np.zeros((cues.number, len(starts), MOST_COUNTED + 1))
            head[:, :, 0] = production.probability
            partial = {0: head}
            for symbol in production.symbols:
                step = charts[symbol] if isinstance(symbol, str) else {1: _letter_law(symbol, inside, cues)}
                partial = _append(partial, step)
            for n, value in partial.items():
                if production.symbols in cues.leaves:
                    row = len(cues.letters) + cues.leaves.index(production.symbols)
                    whole = (starts >= 0) & (starts + n <= length)
                    value[row, whole] = np.roll(value[row, whole], 1, axis=1)
                law[n] = law[n] + value if n in law else value
        charts[name] = law
    total = np.zeros((cues.number, MOST_COUNTED + 1))
    for n, value in charts[grammar.start].items():
        offsets = np.arange(n - length + 1)
        total += value[:, longest - offsets].sum(1) / len(offsets)
    return total


def _letter_law(letter: int, inside: NDArray[np.bool_], cues: _Cues) -> Floats:
    """One for the count that a letter at each position adds to each cue."""
    law = np.zeros((cues.number, len(inside), MOST_COUNTED + 1))
    law[:, :, 0] = 1
    row = cues.letters.index(letter)
    law[row, inside, 0], law[row, inside, 1] = 0, 1
    return law


def _append(partial: _Chart, step: _Chart) -> _Chart:
    out: _Chart = {}
    for done, head in partial.items():
        for n, table in step.items():
            shifted = np.concatenate([table[:, done:], np.repeat(table[:, -1:], done, axis=1)], axis=1)
            value = np.zeros_like(head)
            for k in range(MOST_COUNTED + 1):
                value[..., k:] += head[..., k : k + 1] * shifted[..., : MOST_COUNTED + 1 - k]
                value[..., -1] += head[..., k] * shifted[..., MOST_COUNTED + 1 - k :].sum(-1)
            out[done + n] = out[done + n] + value if done + n in out else value
    return out


def _letter(symbol: Symbol) -> bool:
    return isinstance(symbol, int)


def _is_leaf(symbols: tuple[Symbol, ...]) -> bool:
    return len(symbols) > 1 and all(map(_letter, symbols))
