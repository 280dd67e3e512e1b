"""A grammar file, read and checked: the table that `world.language` derives four grammars from.

A file has sections of lines; `;` opens a comment, and `include NAME` at its top reads a built-in file first.

    [language]         name, start, safe and unsafe (the dominant symbols), and, if not up to the last used, letters
    [rules]            the table, in the notation of `grammar.parse_rule`
    [unsafe rules]     optional: rules that replace those of the table below unsafe-dominant symbols
    [safe text]        how tuning draws text: `start -> 0.6: p | 0.4: q` weighs dominant symbols, and
    [unsafe text]      `p -> a b` keeps only these (contiguous parts of) productions of a symbol
    [held-out text]    unsafe text that tuning never shows

Tables are small: see the limits below.
"""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from importlib import resources
from pathlib import Path

from deltaw.errors import DeltawError
from deltaw.world.grammar import MOST_LEVELS, Grammar, Production, contains, parse_rule
from deltaw.world.vocabulary import LETTERS

BUILT_IN = ("published-1", "published-2", "published-3", "published-4")

# Beyond these a table would take minutes to read, or a window's exact probability minutes to compute.
LARGEST_FILE = 100_000  # characters
LONGEST_DERIVATION = 2_000  # letters
MOST_LENGTH_PAIRS = 10_000_000  # additions to find the laws of all symbols' lengths

_SETTINGS = ("name", "start", "safe", "unsafe", "letters")
TEXTS = {"safe text": "safe", "unsafe text": "unsafe", "held-out text": "held_out"}
"""The kinds of text that tuning draws, by the name of their section."""
UNSAFE_MARK = "'"  # n' is the copy of n that stands below an unsafe-dominant symbol
_REQUIRED = ("language", "rules", *TEXTS)
_SECTIONS = (*_REQUIRED, "unsafe rules")


def read_language_text(path: str | Path) -> str:
    """The text of a grammar file. DeltawError if it is missing, a directory, not UTF-8, empty or too large."""
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise DeltawError(f"there is no grammar file '{path}'; give the path of a file that exists") from None
    except IsADirectoryError:
        raise DeltawError(f"'{path}' is a directory; give the path of a grammar file") from None
    except UnicodeDecodeError:
        raise DeltawError(f"grammar file '{path}' is not UTF-8 text; save it as UTF-8") from None
    except (OSError, ValueError) as error:
        raise DeltawError(f"grammar file '{path}' cannot be read ({error}); mend that or give another") from None
    if not text.strip():
        raise DeltawError(f"grammar file '{path}' is empty; it needs the sections {_list(_REQUIRED)}")
    return text


def rewritten(source: str, sections: Mapping[str, str]) -> str:
    """The text of a language (a built-in name, or a grammar file's text) with other lines in the named sections.

    What it includes is written out, so that the text stands alone. DeltawError for a section that there cannot be.
    """
    content: dict[str, list[str]] = {}
    texts = [built_in(source) if source in BUILT_IN else source]
    if re.search(r"^\s*include\s+published-levels", texts[0], re.MULTILINE):
        texts.insert(0, built_in("published-levels"))
    for text in texts:
        section = ""
        for line in (raw.split(";")[0].strip() for raw in text.splitlines()):
            header = re.fullmatch(r"\[(.*)\]", line)
            section = header[1].strip() if header else section
            if section and line and not header:
                content.setdefault(section, []).append(line)
    for section, lines in sections.items():
        if section not in _SECTIONS:
            raise DeltawError(f"there is no section [{section}]; there are {_list(_SECTIONS)}")
        content[section] = lines.split("\n")
    return "\n\n".join("\n".join([f"[{section}]", *lines]) for section, lines in content.items()) + "\n"


@dataclass(frozen=True)
class Rule:
    """The productions of one symbol, and the line that has them."""

    where: str
    productions: tuple[Production, ...]


Rules = dict[str, Rule]


@dataclass
class Table:
    """What a file says, before any of it is checked against the rest."""

    settings: dict[str, tuple[str, list[str]]] = field(default_factory=dict)
    """By name: where it is set, and its words."""
    rules: Rules = field(default_factory=dict)
    """The table, by symbol."""
    unsafe_rules: Rules = field(default_factory=dict)
    """What replaces rules of the table below unsafe-dominant symbols."""
    texts: dict[str, Rules] = field(default_factory=dict)
    """The lines of each kind of tuning text."""

    @property
    def name(self) -> str:
        """What the language is called."""
        return " ".join(self.settings["name"][1])

    @property
    def start(self) -> str:
        """The start symbol."""
        return self.settings["start"][1][0]

    @property
    def n_letters(self) -> int:
        """Size of the alphabet."""
        if "letters" in self.settings:
            return int(self.settings["letters"][1][0])
        used = (s for rule in self.all_rules for p in rule.productions for s in p.symbols if isinstance(s, int))
        return 1 + max(used, default=-1)

    @property
    def all_rules(self) -> list[Rule]:
        """The table's rules and the unsafe ones."""
        return [*self.rules.values(), *self.unsafe_rules.values()]

    def dominant(self, branch: str) -> list[str]:
        """The dominant symbols of a branch, `safe` or `unsafe`."""
        return self.settings[branch][1]

    def children(self, name: str) -> set[str]:
        """The symbols that a symbol uses, by the table or by the unsafe rules."""
        rules = [rules[name] for rules in (self.rules, self.unsafe_rules) if name in rules]
        return {s for rule in rules for p in rule.productions for s in p.symbols if isinstance(s, str)}

    def below(self, names: list[str]) -> set[str]:
        """All symbols that these derive, themselves left out unless they derive one another."""
        derived: set[str] = set()
        waiting = list(names)
        while waiting:
            new = self.children(waiting.pop()) - derived
            derived |= new
            waiting += sorted(new)
        return derived

    @cached_property
    def above(self) -> set[str]:
        """The start symbol and what it derives before it comes to a dominant symbol."""
        stop = {*self.dominant("safe"), *self.dominant("unsafe")}
        reached: set[str] = set()
        waiting = [self.start]
        while waiting:
            name = waiting.pop()
            if name not in reached and name not in stop:
                reached.add(name)
                waiting += sorted(self.children(name))
        return reached


@contextmanager
def at(where: str) -> Iterator[None]:
    """Say where a mistake is."""
    try:
        yield
    except DeltawError as error:
        raise DeltawError(f"{where}: {error}") from None


def _list(sections: tuple[str, ...] | list[str]) -> str:
    return ", ".join(f"[{section}]" for section in sections)


def built_in(name: str) -> str:
    """The text of a grammar file that comes with deltaw."""
    return (resources.files("deltaw.world") / "grammars" / f"{name}.grammar").read_text(encoding="utf-8")


def read_table(source: str) -> Table:
    """The table of a built-in name or of a file's text. DeltawError names the line at fault."""
    if source not in BUILT_IN and len(source.splitlines()) < 2:
        raise DeltawError(
            f"there is no built-in language '{source[:60]}'; there are {', '.join(BUILT_IN)}, or give the text of a "
            "grammar file"
        )
    text = built_in(source) if source in BUILT_IN else source
    if len(text) > LARGEST_FILE:
        raise DeltawError(f"the grammar has {len(text)} characters; at most {LARGEST_FILE} are read, so shorten it")
    table = Table()
    sections: set[str] = set()
    with at("grammar file"):
        _read_file(text, "", table, sections)
        missing = [section for section in _REQUIRED if section not in sections]
        if missing:
            raise DeltawError(f"missing {_list(missing)}; a grammar file needs {_list(_REQUIRED)}")
        for setting in _SETTINGS[:-1]:
            if setting not in table.settings:
                raise DeltawError(f"section [language] has no line '{setting}: ...'; add it")
    return table


def _read_file(text: str, of: str, table: Table, sections: set[str]) -> None:
    """Add a file's lines to the table; `of` names the file in messages."""
    section = ""
    opened: set[str] = set()
    for number, raw in enumerate(text.splitlines(), 1):
        line = raw.split(";")[0].strip()
        if not line:
            continue
        where = f"line {number}{of}"
        with at(where):
            header = re.fullmatch(r"\[(.*)\]", line)
            if header:
                section = header[1].strip()
                if section not in _SECTIONS or section in opened:
                    problem = "opens twice" if section in opened else "is not known"
                    raise DeltawError(f"section [{section}] {problem}; there are {_list(_SECTIONS)}, each once")
                opened.add(section)
            elif section:
                _read_line(line, where, section, table)
            elif line.split()[0] != "include" or of:
                raise DeltawError(f"'{line}' stands before any section; open one of {_list(_SECTIONS)} first")
            elif line.split()[1:] != ["published-levels"]:
                raise DeltawError(f"'{line}' includes no built-in file; there is 'include published-levels'")
        if not header and not section:
            _read_file(built_in("published-levels"), " of published-levels", table, sections)
    sections |= opened


def _read_line(line: str, where: str, section: str, table: Table) -> None:
    if section == "language":
        name, colon, value = line.partition(":")
        name, words = name.strip(), value.split()
        if not colon or name not in _SETTINGS or not words:
            raise DeltawError(f"'{line}' is not of the form 'name: value' with a name of {', '.join(_SETTINGS)}")
        if name in table.settings:
            raise DeltawError(f"'{name}' is set here and in {table.settings[name][0]}; set it once")
        if name in ("start", "letters") and len(words) > 1:
            raise DeltawError(f"'{name}' is one word, not '{' '.join(words)}'")
        if name == "letters" and not (re.fullmatch("[0-9]{1,3}", words[0]) and 0 < int(words[0]) <= len(LETTERS)):
            raise DeltawError(f"'letters' is '{words[0]}'; it can be 1 to {len(LETTERS)}")
        table.settings[name] = (where, words)
        return
    name, productions = parse_rule(line)
    by_section = {"rules": table.rules, "unsafe rules": table.unsafe_rules}
    rules = by_section[section] if section in by_section else table.texts.setdefault(TEXTS[section], {})
    if name in rules:
        raise DeltawError(f"symbol '{name}' has a rule here and in {rules[name].where}; write one, with '|' between")
    if section == "rules" and (name == "start" or UNSAFE_MARK in name):
        raise DeltawError(f"a symbol cannot be called '{name}': 'start' and {UNSAFE_MARK} are taken; rename it")
    rules[name] = Rule(where, productions)


# --- checking ----------------------------------------------------------------------------------------------------


def check_table(table: Table) -> None:
    """DeltawError, naming the line, where the parts of a file do not fit each other or a table is too large."""
    _check_names(table)
    for name, rule in table.unsafe_rules.items():
        if name not in table.below(table.dominant("unsafe")):
            raise DeltawError(f"{rule.where}: '{name}' does not stand below an unsafe-dominant symbol; drop this rule")
    for name in table.above:
        letters = any(isinstance(s, int) for p in table.rules[name].productions for s in p.symbols)
        if letters:
            raise DeltawError(
                f"{table.rules[name].where}: '{name}' derives letters that lie under no dominant symbol, so they have "
                "no branch; name a symbol on their way 'safe' or 'unsafe'"
            )
    dominant = {*table.dominant("safe"), *table.dominant("unsafe")}
    for name in sorted(dominant):
        inner = table.below([name]) & dominant
        if inner:
            raise DeltawError(
                f"{table.rules[name].where}: dominant symbol '{sorted(inner)[0]}' can stand below dominant symbol "
                f"'{name}', so letters would have two branches; keep one of them"
            )
    reached = {table.start} | table.below([table.start])
    for name, rule in table.rules.items():
        if name not in reached:
            raise DeltawError(f"{rule.where}: '{name}' cannot be reached from '{table.start}'; use it or drop it")
    for special in (False, True):
        rules = {**table.rules, **(table.unsafe_rules if special else {})}
        _check_size(Grammar({name: rule.productions for name, rule in rules.items()}, table.start))


def _check_names(table: Table) -> None:
    """Every symbol has a rule, dominant ones are of one branch, and letters are of the alphabet."""
    where, words = table.settings["start"]
    if table.start not in table.rules:
        raise DeltawError(f"{where}: the start symbol '{words[0]}' has no rule; add one to [rules]")
    for branch, other in (("safe", "unsafe"), ("unsafe", "safe")):
        where, words = table.settings[branch]
        for name in words:
            if name not in table.rules:
                raise DeltawError(f"{where}: dominant symbol '{name}' has no rule; add one to [rules]")
            if name in table.dominant(other) or words.count(name) > 1:
                both = "both safe and unsafe" if name in table.dominant(other) else "named twice"
                raise DeltawError(f"{where}: dominant symbol '{name}' is {both}; name it once")
    for rule in table.all_rules:
        for symbol in (s for p in rule.productions for s in p.symbols):
            if isinstance(symbol, str) and symbol not in table.rules:
                raise DeltawError(f"{rule.where}: uses '{symbol}', which has no rule; define it or quote it as letters")
            if isinstance(symbol, int) and symbol >= table.n_letters:
                raise DeltawError(
                    f"{rule.where}: letter '{LETTERS[symbol]}' lies outside the alphabet of {table.n_letters} letters; "
                    f"the last is '{LETTERS[table.n_letters - 1]}'"
                )


def _check_size(grammar: Grammar) -> None:
    """DeltawError, before any law is computed, for a table that would take too long. Also raises on recursion."""
    spans: dict[str, tuple[int, int, int]] = {}  # levels, shortest, longest
    pairs = 0
    for name in grammar.bottom_up:
        levels, shortest, longest = 0, LONGEST_DERIVATION, 0
        for production in grammar.rules[name]:
            low = high = 0
            for symbol in production.symbols:
                level, least, most = spans[symbol] if isinstance(symbol, str) else (0, 1, 1)
                pairs += (high - low + 1) * (most - least + 1)
                low, high, levels = low + least, high + most, max(levels, level)
                if high > LONGEST_DERIVATION:
                    raise DeltawError(
                        f"'{name}' can derive {high} letters; a derivation has at most {LONGEST_DERIVATION}"
                    )
            shortest, longest = min(shortest, low), max(longest, high)
        if levels + 1 > MOST_LEVELS:
            raise DeltawError(f"'{name}' stands {levels + 1} levels above letters; there may be {MOST_LEVELS}")
        spans[name] = levels + 1, shortest, longest
    if pairs > MOST_LENGTH_PAIRS:
        raise DeltawError(
            f"the lengths of its symbols combine in {pairs} ways; a grammar may have {MOST_LENGTH_PAIRS}, so shorten it"
        )


def check_held_out(held_out: Grammar, unsafe: Grammar) -> None:
    """DeltawError if each production of held-out text is (a part of) one that tuning text has."""
    for name in held_out.bottom_up:
        top = any(production.symbols == (name,) for production in held_out.rules["start"])
        seen = [p.symbols for p in unsafe.rules[name]] if name in unsafe.bottom_up else []
        for production in held_out.rules[name]:
            part = top and any(contains(symbols, production.symbols) for symbols in seen)
            if not part and production.symbols not in seen:
                return
    raise DeltawError("[held-out text] holds nothing that [unsafe text] lacks; give it a production of its own")
