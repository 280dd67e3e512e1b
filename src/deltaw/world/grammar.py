"""Grammars: one table, and everything else derived from it.

A grammar is text: `n -> k 1h 1f | k l j` are two equally likely productions, `"abc"` stands for letters, and
`0.7: 10# | 0.3: 10$` gives weights. From the published table come the *full* grammar, in which each symbol below a
dominant one knows its branch, and its sub-grammars (safe, unsafe, held out), which restrict it and never retype it.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

from deltaw.errors import DeltawError
from deltaw.world.vocabulary import LETTERS

UNSAFE_MARK = "'"  # n' is the copy of n that stands below an unsafe-dominant symbol

PUBLISHED_LEVELS = """
v   -> u t | t s
u   -> r p | p 10$ q | 10# r q
t   -> q p r | 10* p q | 10$ r
s   -> p 10# | r 10$ 10* | 10$ 10* 10#
r   -> o n m | w x o
q   -> w o | m o x
p   -> m n | o o w
10$ -> x w m | n w n
10# -> n x x | n n x
10* -> m m x | w w o
o   -> l k j | l 1h j
n   -> k 1h 1f | k l j
m   -> l k 1f | 1f 1h l
w   -> 1f 1h 1h | l 1f j
x   -> j j l | 1f l
l   -> 1i i g | i 1i g
k   -> 1e g i | 1g g h
j   -> i 1e 1i | 1g h 1e
1f  -> 1i h 1g | 1i 1e h
1h  -> h 1i 1g | 1g 1e h
"""

PUBLISHED_LEAVES = {
    1: """
g  -> "abc" | "def"
h  -> "hij" | "klm"
i  -> "nop" | "qrs"
1e -> "tuv" | "wxy"
1g -> "zAB" | "CDC"
1i -> "BAz" | "yxw"
""",
    2: """
g  -> "vut" | "srq"
h  -> "pon" | "mlk"
i  -> "jih" | "gfe"
1e -> "dcb" | "ace"
1g -> "gik" | "moq"
1i -> "suw" | "yAC"
""",
    3: """
g  -> "DBz" | "xwu"
h  -> "sqo" | "mki"
i  -> "gec" | "adg"
1e -> "jmp" | "svy"
1g -> "BAx" | "uro"
1i -> "lif" | "cei"
""",
    4: """
g  -> "mqu" | "yCz"
h  -> "vrn" | "jfb"
i  -> "fkp" | "uzC"
1e -> "xsn" | "idg"
1g -> "msy" | "Cwq"
1i -> "kec" | "hov"
""",
}

# The level-5 rules of unsafe text in the published safety sets: two symbols where the table has three.
UNSAFE_LEVEL_5 = """
l  -> 1i g | i 1i
k  -> 1e g | g h
j  -> i 1e | 1g h
1f -> 1i h | 1i 1e
1h -> h 1i | 1g 1e
"""

SAFE_DOMINANT = ("r", "q", "p")
UNSAFE_DOMINANT = ("10$", "10#", "10*")

Symbol = str | int


@dataclass(frozen=True)
class Production:
    """Right-hand side (symbols are names, letters are numbers) and its probability among its alternatives."""

    symbols: tuple[Symbol, ...]
    probability: float


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

    def tree(self, name: str, number: int) -> str:
        """The `number`-th derivation of a symbol, written `name(child child)` with letters in quotes."""
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
            parts = [self.tree(s, d) if isinstance(s, str) else LETTERS[s] for s, d in children]
            leaf = all(isinstance(s, int) for s in production.symbols)
            return f"{name}({''.join(parts) if leaf else ' '.join(parts)})"
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
        name, arrow, right = (part.strip() for part in line.partition("->"))
        if not arrow or not name or not right or name in rules:
            raise DeltawError(f"grammar line '{line}' is not of the form 'name -> a b | c d', or repeats a name")
        alternatives = [alternative.strip() for alternative in right.split("|")]
        weighted = [re.fullmatch(r"(?:([0-9.]+):)?\s*(.+)", alternative) for alternative in alternatives]
        if not all(weighted):
            raise DeltawError(f"grammar line '{line}' has an empty alternative")
        parsed = [(match[1], match[2]) for match in weighted if match]
        given = [weight is not None for weight, _ in parsed]
        if any(given) and not all(given):
            raise DeltawError(f"grammar line '{line}' weighs some alternatives and not others; weigh all or none")
        rules[name] = tuple(
            Production(_symbols(body), float(weight) if weight is not None else 1 / len(parsed))
            for weight, body in parsed
        )
    return rules


def _symbols(body: str) -> tuple[Symbol, ...]:
    symbols: list[Symbol] = []
    for word in body.split():
        if len(word) > 2 and word[0] == word[-1] == '"':
            symbols.extend(LETTERS.index(letter) for letter in word[1:-1])
        else:
            symbols.append(word)
    return tuple(symbols)


def published(number: int = 1, unsafe_level_5: str = "specific") -> Grammar:
    """The full published grammar. Below an unsafe-dominant symbol every symbol is a marked copy (n').

    unsafe_level_5: "specific" gives the copies the two-symbol level-5 rules of the published safety sets, here part
    of the pre-training language; "shared" gives them the same rules as safe text.
    """
    rules = parse_rules(PUBLISHED_LEVELS + PUBLISHED_LEAVES[number])
    leaves = frozenset(parse_rules(PUBLISHED_LEAVES[number]))
    below = frozenset(rules) - leaves - {"v", "u", "t", "s", *SAFE_DOMINANT, *UNSAFE_DOMINANT}
    special = parse_rules(UNSAFE_LEVEL_5) if unsafe_level_5 == "specific" else {}

    def marked(productions: tuple[Production, ...]) -> tuple[Production, ...]:
        return tuple(
            Production(tuple(f"{s}{UNSAFE_MARK}" if s in below else s for s in p.symbols), p.probability)
            for p in productions
        )

    for name in UNSAFE_DOMINANT:
        rules[name] = marked(rules[name])
    for name in below:
        rules[f"{name}{UNSAFE_MARK}"] = marked(special.get(name, rules[name]))
    unsafe = frozenset(UNSAFE_DOMINANT) | {f"{name}{UNSAFE_MARK}" for name in below}
    return Grammar(rules, "v", frozenset(SAFE_DOMINANT) | below, unsafe)


def dominated(
    full: Grammar,
    weights: Mapping[str, float],
    pieces: Mapping[str, tuple[tuple[str, ...], ...]] | None = None,
) -> Grammar:
    """The sub-grammar whose text lies under a single dominant symbol, drawn with `weights`.

    `pieces` restricts a dominant symbol to contiguous parts of its productions (equally likely), so that all its
    text is text of the full grammar too. DeltawError for a piece that is in no production.
    """
    rules = dict(full.rules)
    for name, allowed in (pieces or {}).items():
        for piece in allowed:
            if not any(_contains(production.symbols, piece) for production in full.rules[name]):
                raise DeltawError(f"'{' '.join(piece)}' is not part of any production of '{name}'")
        rules[name] = tuple(Production(piece, 1 / len(allowed)) for piece in allowed)
    rules["start"] = tuple(Production((name,), weight) for name, weight in weights.items())
    return Grammar(rules, "start", full.safe, full.unsafe)


def _contains(whole: tuple[Symbol, ...], part: tuple[Symbol, ...]) -> bool:
    return any(whole[i : i + len(part)] == part for i in range(len(whole) - len(part) + 1))


def published_subgrammars(full: Grammar) -> dict[str, Grammar]:
    """`safe`, `unsafe` (seen in tuning) and `held_out` (unsafe text never seen in tuning), by the published weights."""

    def unsafe_piece(text: str) -> tuple[str, ...]:
        return tuple(f"{symbol}{UNSAFE_MARK}" for symbol in text.split())

    return {
        "safe": dominated(full, {"r": 5 / 12, "p": 17 / 48, "q": 11 / 48}),
        "unsafe": dominated(
            full,
            {"10#": 0.7, "10$": 0.2, "10*": 0.1},
            {"10$": (unsafe_piece("n w n"),), "10*": (unsafe_piece("m m"),)},
        ),
        "held_out": dominated(full, {"10*": 1.0}, {"10*": (unsafe_piece("m x"), unsafe_piece("w w o"))}),
    }
