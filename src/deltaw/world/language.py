"""Languages: the four grammars that are derived from the one table of a grammar file (`world.grammar_file`).

In the derived grammars every symbol that derives others below an unsafe-dominant symbol is a copy (n'), so that each
letter has one branch.
"""

from dataclasses import dataclass
from functools import cached_property, lru_cache

from deltaw.errors import DeltawError
from deltaw.world.grammar import Grammar, Production, dominated
from deltaw.world.grammar_file import TEXTS, UNSAFE_MARK, Table, at, check_held_out, check_table, read_table
from deltaw.world.windows import LARGEST_TABLE

LEVEL_5 = ("specific", "shared", "unknown")


@dataclass(frozen=True)
class Language:
    """A checked language. full: pre-training text; safe, unsafe: tuning text; held_out: unsafe text tuning lacks.

    n_letters: size of the alphabet; the letters are the first so many of `vocabulary.LETTERS`.
    """

    name: str
    full: Grammar
    safe: Grammar
    unsafe: Grammar
    held_out: Grammar
    n_letters: int

    @property
    def grammars(self) -> dict[str, Grammar]:
        """The four grammars by name: full, safe, unsafe, held_out."""
        return {"full": self.full, "safe": self.safe, "unsafe": self.unsafe, "held_out": self.held_out}

    @cached_property
    def letters_used(self) -> frozenset[int]:
        """The letters that occur in text."""
        rules = self.full.rules
        return frozenset(s for name in rules for p in rules[name] for s in p.symbols if isinstance(s, int))


@lru_cache(maxsize=32)
def language(source: str, unsafe_level_5: str | None = None) -> Language:
    """The language of a built-in name, or of the text of a grammar file. DeltawError names the line or rule at fault.

    unsafe_level_5: whether the file's [unsafe rules] hold: "specific" (None means this): in all text; "shared": in
    none; "unknown": in tuning and held-out text but not in pre-training text, as in the published data.
    """
    level = unsafe_level_5 or "specific"
    if level not in LEVEL_5:
        raise DeltawError(f"unsafe_level_5 is '{level}'; it can be {', '.join(LEVEL_5)}")
    table = read_table(source)
    with at(f"language '{table.name}'"):
        if level != "specific" and not table.unsafe_rules:
            raise DeltawError(f"unsafe_level_5 is '{level}', but there are no [unsafe rules] to choose; leave it out")
        check_table(table)
        tuning = _full(table, special=level != "shared")
        full = _full(table, special=False) if level == "unknown" else tuning
        texts = {name: _text(tuning, table, name) for name in TEXTS.values()}
        check_held_out(texts["held_out"], texts["unsafe"])
        return Language(table.name, full, texts["safe"], texts["unsafe"], texts["held_out"], table.n_letters)


def published(number: int = 1, unsafe_level_5: str = "specific") -> Grammar:
    """The full grammar of the published language `number` (1 to 4); see `language` for `unsafe_level_5`."""
    return language(f"published-{number}", unsafe_level_5).full


def published_subgrammars(full: Grammar) -> dict[str, Grammar]:
    """Safe, unsafe and held-out text of a published full grammar, by the published weights."""
    table = read_table("published-1")
    return {name: _text(full, table, name) for name in TEXTS.values()}


def _copied(table: Table) -> frozenset[str]:
    """The symbols that are copied below unsafe-dominant ones: all but leaves, whose users tell their branch.

    A leaf is copied too if it would have a sampler's table of its own, since a table has one branch.
    """
    dominant = table.dominant("unsafe")
    below = table.below(dominant)
    counts = Grammar({name: rule.productions for name, rule in table.rules.items()}, table.start).yield_counts
    large = {name for name in below | set(dominant) if counts.get(name, 0) > LARGEST_TABLE}
    own = {child for name in large for child in table.children(name)}
    return frozenset(name for name in below if table.children(name) or name in table.unsafe_rules or name in own)


def _full(table: Table, special: bool) -> Grammar:
    rules = {name: rule.productions for name, rule in table.rules.items()}
    copied = _copied(table)

    def marked(productions: tuple[Production, ...]) -> tuple[Production, ...]:
        return tuple(
            Production(tuple(f"{s}{UNSAFE_MARK}" if s in copied else s for s in p.symbols), p.probability)
            for p in productions
        )

    for name in table.dominant("unsafe"):
        rules[name] = marked(rules[name])
    for name in copied:
        own = table.unsafe_rules[name].productions if special and name in table.unsafe_rules else rules[name]
        rules[f"{name}{UNSAFE_MARK}"] = marked(own)
    safe = {name for name in table.below(table.dominant("safe")) if table.children(name)}
    unsafe = {f"{name}{UNSAFE_MARK}" for name in copied}
    return Grammar(
        rules,
        table.start,
        frozenset(safe.union(table.dominant("safe"))),
        frozenset(unsafe.union(table.dominant("unsafe"))),
    )


def _text(full: Grammar, table: Table, text: str) -> Grammar:
    """The grammar of one kind of tuning text: `start` weighs dominant symbols, other lines restrict symbols."""
    lines = table.texts.get(text, {})
    branch = "safe" if text == "safe" else "unsafe"
    section = next(name for name, kind in TEXTS.items() if kind == text)
    if "start" not in lines:
        raise DeltawError(
            f"section [{section}] has no line 'start -> ...' that weighs {branch}-dominant symbols; add it"
        )

    def named(symbol: str | int) -> str | int:
        copy = f"{symbol}{UNSAFE_MARK}"
        return copy if branch == "unsafe" and copy in full.rules else symbol

    weights: dict[str, float] = {}
    for production in lines["start"].productions:
        name = production.symbols[0]
        if len(production.symbols) != 1 or name not in table.dominant(branch) or name in weights:
            raise DeltawError(
                f"{lines['start'].where}: each alternative of [{section}]'s start is one {branch}-dominant symbol "
                f"({' '.join(table.dominant(branch))}), each once"
            )
        weights[str(name)] = production.probability
    pieces: dict[str, tuple[Production, ...]] = {}
    for name, rule in lines.items():
        if name == "start":
            continue
        productions = tuple(Production(tuple(map(named, p.symbols)), p.probability) for p in rule.productions)
        with at(rule.where):
            if name not in table.rules:
                raise DeltawError(
                    f"'{name}' has no rule in [rules] that could be restricted; add one or drop this line"
                )
            pieces[str(named(name))] = productions
            dominated(full, weights, {str(named(name)): productions})
    grammar = dominated(full, weights, pieces)
    for name, rule in lines.items():
        if str(named(name)) not in grammar.bottom_up:
            raise DeltawError(f"{rule.where}: [{section}] never comes to '{name}'; drop this line")
    return grammar
