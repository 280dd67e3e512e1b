"""A grammar without its shortest texts, for windows that these could not fill.

Held-out unsafe text of the published grammars can have 30 letters, and the published windows up to 35; the published
tables leave out the one production that makes it so short. This does the same for any grammar.
"""

from dataclasses import replace

from deltaw.errors import DeltawError
from deltaw.world.grammar import Grammar, Production


def long_enough(grammar: Grammar, length: int) -> Grammar:
    """The grammar whose every derivation has at least `length` letters, by leaving out as little as it can.

    At the lowest symbol for which that helps, the alternatives that can be shortest are left out and the others keep
    their weights among themselves; and so on. A grammar that is long enough stays as it is. DeltawError if none is.
    """
    while (shortest := min(grammar.lengths[grammar.start])) < length:
        for name in grammar.bottom_up:
            longer = _without_shortest(grammar, name)
            if longer is not None and min(longer.lengths[longer.start]) > shortest:
                grammar = longer
                break
        else:
            raise DeltawError(
                f"the grammar can derive {shortest} letters, fewer than a window of {length}, and without that nothing "
                "is left; shorten the window"
            )
    return grammar


def _without_shortest(grammar: Grammar, name: str) -> Grammar | None:
    """Without the alternatives of `name` that can be as short as it gets; None if that leaves none."""
    productions = grammar.rules[name]
    least = [sum(min(grammar.lengths[s]) if isinstance(s, str) else 1 for s in p.symbols) for p in productions]
    kept = [p for p, letters in zip(productions, least, strict=True) if letters > min(least)]
    if not kept:
        return None
    total = sum(p.probability for p in kept)
    shares = tuple(Production(p.symbols, p.probability / total) for p in kept)
    return replace(grammar, rules={**grammar.rules, name: shares})
