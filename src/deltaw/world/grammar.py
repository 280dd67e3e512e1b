"""Context-free grammars of bounded depth, and how their rules are written.

A rule is a line: `n -> k 1h 1f | k l j` are two equally likely productions, `"abc"` stands for letters, and
`0.7: 10# | 0.3: 10$` or `1/3: a | 2/3: b` gives probabilities, which must sum to exactly 1 as written.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property

from deltaw.errors import DeltawError
from deltaw.world.vocabulary import LETTERS

MOST_LEVELS = 64  # symbols on a path from the start to a letter

Symbol = str | int


@dataclass(frozen=True)
class Production:
    """Right-hand side (symbols are names, letters are numbers) and its probability among its alternatives."""

    symbols: tuple[Symbol, ...]
    probability: float


@dataclass(frozen=True)
class Tree:
    """A derivation, or the part of one that a window touches: a symbol and what it derives, trees and letters."""

    symbol: str
    children: "tuple[Tree | int, ...]"

    def __str__(self) -> str:
        """Written `name(child child)`; letters that stand alone below a symbol form a word."""
        leaf = all(isinstance(child, int) for child in self.children)
        parts = [LETTERS[child] if isinstance(child, int) else str(child) for child in self.children]
        return f"{self.symbol}({''.join(parts) if leaf else ' '.join(parts)})"

    @property
    def letters(self) -> tuple[int, ...]:
        """What it derives, from left to right."""
        return tuple(s for child in self.children for s in ((child,) if isinstance(child, int) else child.letters))


@dataclass(frozen=True)
class Grammar:
    """A context-free grammar of bounded depth. `unsafe` and `safe` name the symbols of a known branch."""

    rules: Mapping[str, tuple[Production, ...]]
    start: str
    safe: frozenset[str] = frozenset()
    unsafe: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        for name, productions in self.rules.items():
            for production in productions:
                for symbol in production.symbols:
                    if isinstance(symbol, str) and symbol not in self.rules:
                        raise DeltawError(
                            f"grammar rule '{name}' uses '{symbol}', which has no rule of its own; "
                            "define it or quote it as letters"
                        )
            total = sum(production.probability for production in productions)
            if abs(total - 1) > 1e-9:
                raise DeltawError(f"the probabilities of grammar rule '{name}' sum to {total:.6g}, not to 1")
        _ = self.bottom_up  # raises on recursion

    @cached_property
    def bottom_up(self) -> tuple[str, ...]:
        """The symbols reachable from the start, each after all that it uses. DeltawError on recursion."""
        order: dict[str, None] = {}
        open_symbols: list[str] = []

        def visit(name: str) -> None:
            if name in order:
                return
            if name in open_symbols:
                raise DeltawError(
                    f"grammar symbol '{name}' can derive itself, so text has no bounded length; break the loop"
                )
            if len(open_symbols) == MOST_LEVELS:
                raise DeltawError(
                    f"grammar symbol '{name}' lies {MOST_LEVELS + 1} levels deep; a grammar has at most {MOST_LEVELS}"
                )
            open_symbols.append(name)
            for production in self.rules[name]:
                for symbol in production.symbols:
                    if isinstance(symbol, str):
                        visit(symbol)
            open_symbols.pop()
            order[name] = None

        visit(self.start)
        return tuple(order)

    @cached_property
    def lengths(self) -> dict[str, dict[int, float]]:
        """For each symbol the lengths in letters that it can derive, and their probabilities."""
        known: dict[str, dict[int, float]] = {}
        for name in self.bottom_up:
            law: dict[int, float] = {}
            for production in self.rules[name]:
                partial = {0: production.probability}
                for symbol in production.symbols:
                    step = known[symbol] if isinstance(symbol, str) else {1: 1.0}
                    partial = _convolve(partial, step)
                for length, probability in partial.items():
                    law[length] = law.get(length, 0.0) + probability
            known[name] = law
        return known

    @cached_property
    def above_branches(self) -> frozenset[str]:
        """The symbols without a branch of their own that derive a symbol of a known branch."""
        marked, above = self.safe | self.unsafe, set[str]()
        for name in self.bottom_up:
            children = {s for p in self.rules[name] for s in p.symbols if isinstance(s, str)}
            if name not in marked and children & (marked | above):
                above.add(name)
        return frozenset(above)

    @cached_property
    def yield_counts(self) -> dict[str, int]:
        """For each symbol the number of its derivations."""
        counts: dict[str, int] = {}
        for name in self.bottom_up:
            total = 0
            for production in self.rules[name]:
                product = 1
                for symbol in production.symbols:
                    product *= counts[symbol] if isinstance(symbol, str) else 1
                total += product
            counts[name] = total
        return counts

    def yields(self, name: str) -> Iterator[tuple[tuple[int, ...], float]]:
        """Every derivation of a symbol as (letters, probability), in the order that `tree` numbers them."""
        for production in self.rules[name]:
            partial: list[tuple[tuple[int, ...], float]] = [((), production.probability)]
            for symbol in production.symbols:
                step = list(self.yields(symbol)) if isinstance(symbol, str) else [((symbol,), 1.0)]
                partial = [(head + tail, p * q) for head, p in partial for tail, q in step]
            yield from partial

    def tree(self, name: str, number: int) -> Tree:
        """The `number`-th derivation of a symbol."""
        for production in self.rules[name]:
            sizes = [self.yield_counts[s] if isinstance(s, str) else 1 for s in production.symbols]
            total = 1
            for size in sizes:
                total *= size
            if number >= total:
                number -= total
                continue
            digits = []
            for size in reversed(sizes):
                number, digit = divmod(number, size)
                digits.append(digit)
            children = zip(production.symbols, reversed(digits), strict=True)
            return Tree(name, tuple(self.tree(s, d) if isinstance(s, str) else s for s, d in children))
        raise ValueError(f"'{name}' has {self.yield_counts[name]} derivations")


def _convolve(a: Mapping[int, float], b: Mapping[int, float]) -> dict[int, float]:
    out: dict[int, float] = {}
    for length_a, p in a.items():
        for length_b, q in b.items():
            out[length_a + length_b] = out.get(length_a + length_b, 0.0) + p * q
    return out


def parse_rules(text: str) -> dict[str, tuple[Production, ...]]:
    """Read rules written `name -> a b | 0.3: "xyz" c`. DeltawError names the line that cannot be read."""
    rules: dict[str, tuple[Production, ...]] = {}
    for line in filter(None, (raw.split(";")[0].strip() for raw in text.splitlines())):
        name, productions = parse_rule(line)
        if name in rules:
            raise DeltawError(f"grammar symbol '{name}' has two rules; write one, with '|' between alternatives")
        rules[name] = productions
    return rules


def parse_rule(line: str) -> tuple[str, tuple[Production, ...]]:
    """Read one rule, as (name, productions). DeltawError says what is wrong with it."""
    name, arrow, right = (part.strip() for part in line.partition("->"))
    if not arrow or not right or not _NAME.fullmatch(name):
        raise DeltawError(f"grammar line '{line}' is not of the form 'name -> a b | c d'")
    parsed = []
    for alternative in right.split("|"):
        match = re.fullmatch(r"(?:([^\s:]+)\s*:)?\s*(.*)", alternative.strip())
        if match is None or not match[2]:
            raise DeltawError(f"grammar line '{line}' has an empty alternative; write symbols or letters in it")
        parsed.append((match[1], _symbols(match[2])))
    weights = [weight for weight, _ in parsed if weight is not None]
    if not weights:
        return name, tuple(Production(symbols, 1 / len(parsed)) for _, symbols in parsed)
    if len(weights) < len(parsed):
        raise DeltawError(f"grammar line '{line}' weighs some alternatives and not others; weigh all or none")
    exact = [_probability(weight) for weight in weights]
    if sum(exact) != 1:
        raise DeltawError(
            f"the probabilities of grammar rule '{name}' sum to {float(sum(exact)):.6g}, not to 1; "
            "thirds are written 1/3, and alternatives without weights are equally likely"
        )
    return name, tuple(Production(symbols, float(p)) for (_, symbols), p in zip(parsed, exact, strict=True))


def _probability(weight: str) -> Fraction:
    if (
        len(weight) > 30
        or re.fullmatch(r"(\d+\.?\d*|\.\d+)|\d+/0*[1-9]\d*", weight, re.ASCII) is None
        or Fraction(weight) <= 0
    ):
        raise DeltawError(f"'{weight}' is not a probability; write a short number such as 0.25 or 1/3, above 0")
    return Fraction(weight)


_NAME = re.compile(r"[^\s\"|:;\[\]]+")


def _symbols(body: str) -> tuple[Symbol, ...]:
    symbols: list[Symbol] = []
    for word in body.split():
        if len(word) > 2 and word[0] == word[-1] == '"':
            foreign = next((letter for letter in word[1:-1] if letter not in LETTERS), None)
            if foreign is not None:
                raise DeltawError(f"'{foreign}' in {word} is not a letter of the alphabet; letters are {LETTERS}")
            symbols.extend(LETTERS.index(letter) for letter in word[1:-1])
        elif _NAME.fullmatch(word):
            symbols.append(word)
        else:
            raise DeltawError(f"'{word}' is neither a symbol nor letters in double quotes")
    return tuple(symbols)


def dominated(
    full: Grammar, weights: Mapping[str, float], pieces: Mapping[str, tuple[Production, ...]] | None = None
) -> Grammar:
    """The sub-grammar whose text lies under a single dominant symbol, drawn with `weights`.

    `pieces` restricts symbols to contiguous parts of their productions, so that all the text is text of the full
    grammar too. DeltawError for a piece that is in no production.
    """
    rules = dict(full.rules)
    for name, allowed in (pieces or {}).items():
        for piece in allowed:
            if not any(contains(production.symbols, piece.symbols) for production in full.rules[name]):
                spelled = " ".join(s if isinstance(s, str) else f'"{LETTERS[s]}"' for s in piece.symbols)
                raise DeltawError(f"'{spelled}' is not part of any production of '{name}'")
        rules[name] = allowed
    rules["start"] = tuple(Production((name,), weight) for name, weight in weights.items())
    return Grammar(rules, "start", full.safe, full.unsafe)


def contains(whole: tuple[Symbol, ...], part: tuple[Symbol, ...]) -> bool:
    """Whether `part` stands in `whole`, contiguously."""
    return any(whole[i : i + len(part)] == part for i in range(len(whole) - len(part) + 1))
