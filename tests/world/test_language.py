"""Languages: grammar files read back equal, the published tables, the example, and each mistake's sentence."""

import re
from collections.abc import Callable, Sequence
from fractions import Fraction
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deltaw.errors import DeltawError
from deltaw.world.cues import single_letter_accuracy
from deltaw.world.grammar import Grammar, Production, parse_rules
from deltaw.world.grammar_file import BUILT_IN, read_language_text
from deltaw.world.language import language, published, published_subgrammars
from deltaw.world.policy import Branch
from deltaw.world.probability import BranchPosterior, WindowLikelihood
from deltaw.world.randomness import Key
from deltaw.world.vocabulary import LETTERS
from deltaw.world.windows import WindowSampler

KITCHEN = Path(__file__).parents[2] / "examples/worlds/kitchen.grammar"
LANGUAGES = {**{name: language(name) for name in BUILT_IN}, "kitchen": language(read_language_text(KITCHEN))}
WINDOW = {**dict.fromkeys(BUILT_IN, 20), "kitchen": 18}
every_language = pytest.mark.parametrize("name", LANGUAGES)

SMALL = """\
[language]
name: small
start: top
safe: good
unsafe: bad worse

[rules]
top -> good bad | worse good   ; a comment
good -> item item
bad -> item pair item
worse -> pair pair
pair -> item "c"
item -> "ab" | "ba"

[unsafe rules]
pair -> "c" item

[safe text]
start -> good

[unsafe text]
start -> 1/3: bad | 2/3: worse
bad -> item pair

[held-out text]
start -> bad
bad -> pair item
"""


@cache
def cue_accuracy(name: str) -> dict[str, float]:
    return single_letter_accuracy(LANGUAGES[name], WINDOW[name])


# --- the published languages (reference notes, section 3; G1 to G9 of section 8.3) ---


@pytest.mark.parametrize("number", [1, 2, 3, 4])
def test_published_lengths_letters_and_leaves(number: int) -> None:
    shared = language(f"published-{number}", "shared")
    assert _span(shared.full) == (261, 486)
    assert _span(shared.safe) == (54, 81)
    specific = LANGUAGES[f"published-{number}"]
    assert (_span(specific.safe), _span(specific.unsafe)) == ((54, 81), (36, 54))
    missing = {1: "g", 2: "xzBD", 3: "bhntC", 4: "altABD"}[number]
    assert {LETTERS[k] for k in range(30)} - {LETTERS[k] for k in specific.letters_used} == set(missing)
    assert specific.n_letters == 30


def _span(grammar: Grammar) -> tuple[int, int]:
    lengths = grammar.lengths[grammar.start]
    return min(lengths), max(lengths)


def test_published_grammars_differ_in_leaves_only_and_their_triples_are_unique_and_disjoint() -> None:
    leaves = ("g", "h", "i", "1e", "1g", "1i")
    rules = [LANGUAGES[name].full.rules for name in BUILT_IN]
    for other in rules[1:]:
        assert {k: v for k, v in other.items() if k not in leaves} == {
            k: v for k, v in rules[0].items() if k not in leaves
        }
    triples = [production.symbols for table in rules for leaf in leaves for production in table[leaf]]
    assert len(triples) == len(set(triples)) == 48


def test_published_rules_by_hand() -> None:
    """Derived rules written out: copies, the two-symbol level 5, the letters, the weights of tuning text."""
    rules = published(1).rules
    assert rules["10$"] == _rules("10$ -> x' w' m' | n' w' n'")
    assert rules["k'"] == _rules("k' -> 1e g | g h")
    assert published(1, "shared").rules["k'"] == _rules("k' -> 1e g i | 1g g h")
    assert rules["k"] == _rules("k -> 1e g i | 1g g h")
    assert rules["1g"] == _rules('1g -> "zAB" | "CDC"')
    assert "g'" not in rules
    sub = published_subgrammars(published(1))
    assert sub["safe"].rules["start"] == _rules("start -> 5/12: r | 17/48: p | 11/48: q")
    assert sub["unsafe"].rules["start"] == _rules("start -> 0.7: 10# | 0.2: 10$ | 0.1: 10*")
    assert sub["unsafe"].rules["10*"] == _rules("10* -> m' m'")
    assert sub["held_out"].rules["10*"] == _rules("10* -> m' x' | w' w' o'")
    assert sub == {name: grammar for name, grammar in LANGUAGES["published-1"].grammars.items() if name != "full"}


def _rules(text: str) -> tuple[Production, ...]:
    return next(iter(parse_rules(text).values()))


def test_unknown_level_5_rules_are_in_tuning_text_and_not_in_pretraining_text() -> None:
    unknown, specific, shared = (language("published-1", level) for level in ("unknown", "specific", "shared"))
    assert unknown.full == shared.full
    assert [unknown.safe, unknown.unsafe, unknown.held_out] == [specific.safe, specific.unsafe, specific.held_out]
    windows = WindowSampler(unknown.unsafe, 20).sample(Key(1, "u"), np.arange(50)).letters
    assert (WindowLikelihood(unknown.full)(windows) == 0).mean() > 0.9
    assert (WindowLikelihood(specific.full)(windows) > 0).all()


# --- what holds of every language, the example included ---


@every_language
def test_every_symbol_is_reached_and_probabilities_sum_to_one(name: str) -> None:
    for grammar in LANGUAGES[name].grammars.values():
        assert all(abs(sum(p.probability for p in productions) - 1) < 1e-12 for productions in grammar.rules.values())
    full = LANGUAGES[name].full
    assert {symbol.removesuffix("'") for symbol in full.bottom_up} == {s.removesuffix("'") for s in full.rules}
    assert not full.safe & full.unsafe


@every_language
def test_windows_have_the_branch_of_their_text_and_are_text_of_the_full_language(name: str) -> None:
    subject = LANGUAGES[name]
    for text, branch in (("safe", Branch.SAFE), ("unsafe", Branch.UNSAFE), ("held_out", Branch.UNSAFE)):
        windows = WindowSampler(subject.grammars[text], WINDOW[name]).sample(Key(3, text), np.arange(20))
        assert (windows.branch == branch).all()
        assert (WindowLikelihood(subject.full)(windows.letters) > 0).all()


@every_language
def test_branch_labels_agree_with_the_dominant_symbols_of_the_derivation(name: str) -> None:
    full = LANGUAGES[name].full
    sampler = WindowSampler(full, WINDOW[name])
    windows = sampler.sample(Key(9, "tree"), np.arange(30))
    for index in range(30):
        text, branches = "", {"s": Branch.SAFE, "u": Branch.UNSAFE}
        marks: list[int] = []
        stack: list[str] = []
        tree, before = sampler.derivation(Key(9, "tree"), index)
        for symbol, end, letters in re.findall(r"([^\s()]+)\(|(\))|([a-zA-Z]+)", str(tree)):
            if symbol:
                known = "s" if symbol in full.safe else "u" if symbol in full.unsafe else ""
                stack.append(known or (stack[-1] if stack else ""))
            elif end:
                stack.pop()
            else:
                text += letters
                marks += [int(branches[stack[-1]])] * len(letters)
        wanted = "".join(LETTERS[k] for k in windows.letters[index])
        assert text[before : before + len(wanted)] == wanted
        assert windows.branch[index].tolist() == marks[before : before + len(wanted)]


@every_language
def test_no_letter_or_leaf_tells_the_branch_but_their_order_does(name: str) -> None:
    subject, length = LANGUAGES[name], WINDOW[name]
    assert max(cue_accuracy(name).values()) < 0.75
    posterior = BranchPosterior(subject.safe, subject.unsafe)
    safe, unsafe = (
        posterior(WindowSampler(subject.grammars[text], length).sample(Key(2, text), np.arange(200)).letters)
        for text in ("safe", "unsafe")
    )
    assert np.maximum(safe, 1 - safe).mean() + np.maximum(unsafe, 1 - unsafe).mean() > 2 * 0.99


@every_language
def test_held_out_text_is_mostly_text_that_tuning_cannot_show(name: str) -> None:
    subject = LANGUAGES[name]
    windows = WindowSampler(subject.held_out, WINDOW[name]).sample(Key(4, "h"), np.arange(200)).letters
    assert (WindowLikelihood(subject.unsafe)(windows) == 0).mean() > 0.4


def test_the_example_differs_from_the_published_languages_in_depth_letters_and_order_only_branches() -> None:
    kitchen, paper = LANGUAGES["kitchen"], LANGUAGES["published-1"]
    assert (_levels(paper.full), _levels(kitchen.full)) == (6, 5)
    assert kitchen.n_letters == len(kitchen.letters_used) == 22
    shared = language(read_language_text(KITCHEN), "shared")
    windows = WindowSampler(shared.unsafe, 18).sample(Key(1, "s"), np.arange(200)).letters
    assert BranchPosterior(shared.safe, shared.unsafe)(windows).mean() < 0.75


def _levels(grammar: Grammar) -> int:
    levels: dict[str, int] = {}
    for name in grammar.bottom_up:
        below = [levels[s] for p in grammar.rules[name] for s in p.symbols if isinstance(s, str)]
        levels[name] = 1 + max(below, default=0)
    return levels[grammar.start]


@pytest.mark.parametrize("name", ["published-1", "kitchen"])
def test_exact_accuracy_of_counts_agrees_with_counting(name: str) -> None:
    """Against 20,000 windows a branch; the tolerance is five standard errors of a difference of shares."""
    subject, length = LANGUAGES[name], WINDOW[name]
    safe, unsafe = (
        WindowSampler(subject.grammars[text], length).sample(Key(7, text), np.arange(20_000)).letters
        for text in ("safe", "unsafe")
    )
    exact = cue_accuracy(name)
    for letter in sorted(subject.letters_used):
        counts = [np.bincount(np.minimum((w == letter).sum(1), 5), minlength=6) / 20_000 for w in (safe, unsafe)]
        assert abs(exact[LETTERS[letter]] - np.maximum(*counts).sum() / 2) < 0.02


def test_a_letter_that_gives_the_branch_away_is_found() -> None:
    text = SMALL.replace('pair -> "c" item', 'pair -> "d" item')
    accuracy = single_letter_accuracy(language(text), 2)
    # a window of `pair pair` (2/3) holds d with certainty; of `item pair` (1/3), in 2 of its 4 places
    assert accuracy["d"] == pytest.approx(0.5 + 0.5 * _share_with(language(text).unsafe, 2, LETTERS.index("d")))
    assert accuracy["d"] > 0.75


def _share_with(grammar: Grammar, length: int, letter: int) -> float:
    share = 0.0
    for letters, probability in grammar.yields(grammar.start):
        places = [letters[i : i + length] for i in range(len(letters) - length + 1)]
        share += probability * sum(letter in place for place in places) / len(places)
    return share


# --- random small languages ---


@st.composite
def tables(draw: st.DrawFn) -> tuple[str, dict[str, tuple[Production, ...]]]:
    """The text of a language of two to four levels below its dominant symbols, and the table that it says."""
    depth = draw(st.integers(1, 3))
    names = [[f"n{level}{k}" for k in range(draw(st.integers(1, 3)))] for level in range(depth)]
    rules: dict[str, tuple[Production, ...]] = {}
    letters = st.lists(st.integers(0, 5), min_size=1, max_size=3)
    for level, row in enumerate(names):
        for name in row:
            if level:
                sides = draw(
                    st.lists(
                        st.lists(st.sampled_from(names[level - 1]), min_size=1, max_size=3), min_size=1, max_size=2
                    )
                )
                bodies: list[tuple[str | int, ...]] = [tuple(side) for side in sides]
            else:
                bodies = [tuple(draw(letters)) for _ in range(draw(st.integers(1, 3)))]
            rules[name] = _weighted(draw, bodies)
        if level:  # each symbol is used
            unused = set(names[level - 1]) - {s for name in row for p in rules[name] for s in p.symbols}
            rules[row[0]] = (
                *rules[row[0]][:-1],
                Production((*rules[row[0]][-1].symbols, *sorted(unused)), rules[row[0]][-1].probability),
            )
    top = tuple(names[-1])
    rules["S"], rules["U"] = (_weighted(draw, [top * draw(st.integers(1, 2)), (*top, top[0])]) for _ in range(2))
    rules["top"] = _weighted(draw, [("S", "U"), ("U", "S", "S")])
    table = "\n".join(f"{name} -> {_spell(productions)}" for name, productions in rules.items())
    text = (
        f"[language]\nname: random\nstart: top\nsafe: S\nunsafe: U\nletters: 6\n[rules]\n{table}\n"
        f"[safe text]\nstart -> S\n[unsafe text]\nstart -> U\nU -> {' '.join(rules['U'][0].symbols)}\n"  # type: ignore[arg-type]
        "[held-out text]\nstart -> U\n"
    )
    return text, rules


def _weighted(draw: st.DrawFn, bodies: Sequence[tuple[str | int, ...]]) -> tuple[Production, ...]:
    weights = [draw(st.integers(1, 7)) for _ in bodies]
    return tuple(Production(b, float(Fraction(w, sum(weights)))) for b, w in zip(bodies, weights, strict=True))


def _spell(productions: tuple[Production, ...]) -> str:
    def word(symbol: str | int) -> str:
        return symbol if isinstance(symbol, str) else f'"{LETTERS[symbol]}"'

    return " | ".join(
        f"{Fraction(p.probability).limit_denominator(100)}: {' '.join(map(word, p.symbols))}" for p in productions
    )


def _within(part: tuple[str | int, ...], whole: tuple[str | int, ...]) -> bool:
    return f" {' '.join(map(str, part))} " in f" {' '.join(map(str, whole))} "


@settings(max_examples=30, deadline=None)
@given(tables())
def test_a_table_written_as_text_is_read_back_and_every_derivation_is_of_a_known_length(
    drawn: tuple[str, dict[str, tuple[Production, ...]]],
) -> None:
    text, rules = drawn
    seen = [p.symbols for p in rules["U"][:1]]
    if all(any(_within(p.symbols, shown) for shown in seen) for p in rules["U"]):
        with pytest.raises(DeltawError, match="holds nothing"):
            language(text)
        return
    read = language(text)
    safe_side = {name: p for name, p in read.full.rules.items() if name != "U" and not name.endswith("'")}
    assert safe_side == {name: p for name, p in rules.items() if name != "U"}
    copies = {
        name.removesuffix("'"): productions for name, productions in read.full.rules.items() if name.endswith("'")
    }
    for name, productions in (*copies.items(), ("U", read.full.rules["U"])):
        unmarked = [tuple(s.removesuffix("'") if isinstance(s, str) else s for s in p.symbols) for p in productions]
        assert unmarked == [p.symbols for p in rules[name]]
        assert [p.probability for p in productions] == [p.probability for p in rules[name]]
    for grammar in (read.safe, read.unsafe, read.held_out):
        if grammar.yield_counts[grammar.start] < 20_000:
            derived = {len(letters) for letters, _ in grammar.yields(grammar.start)}
            assert derived == set(grammar.lengths[grammar.start])
    shortest = min(min(g.lengths[g.start]) for g in read.grammars.values())
    windows = WindowSampler(read.full, shortest).sample(Key(0, "random"), np.arange(20))
    assert (WindowLikelihood(read.full)(windows.letters) > 0).all()
    assert (
        WindowLikelihood(read.full)(windows.letters[(windows.branch == Branch.SAFE).all(1)], Branch.UNSAFE) > 0
    ).all()


# --- mistakes ---


def _replace(old: str, new: str) -> Callable[[], str]:
    assert old in SMALL
    return lambda: SMALL.replace(old, new)


@pytest.mark.parametrize(
    ("text", "part"),
    [
        (_replace("bad -> item pair item", "bad -> item pair jam"), "line 10: uses 'jam', which has no rule"),
        (_replace('item -> "ab"', 'spare -> "a"\nitem -> "ab"'), "line 13: 'spare' cannot be reached from 'top'"),
        (_replace("good -> item item", "good -> 0.33: item | 0.33: item item | 0.33: pair"), "'good' sum to 0.99, not"),
        (_replace("good -> item item", "good -> 0: item | 1: item item"), "'0' is not a probability"),
        (_replace("good -> item item", "good -> 1e3: item | 1: item item"), "'1e3' is not a probability"),
        (_replace("good -> item item", "good -> 1/0: item | 1: item item"), "'1/0' is not a probability"),
        (_replace('pair -> item "c"', "pair -> item pair"), "'pair' can derive itself"),
        (_replace('item -> "ab"', 'item -> "é"'), "line 13: 'é' in \"é\" is not a letter"),
        (_replace("name: small", "name: small\nletters: 2"), "line 13: letter 'c' lies outside the alphabet of 2"),
        (_replace("name: small", "name: small\nletters: 99"), "'letters' is '99'; it can be 1 to 52"),
        (_replace("unsafe: bad", "unsafe: mad"), "line 5: dominant symbol 'mad' has no rule"),
        (_replace("safe: good\n", "safe: good bad\n"), "line 4: dominant symbol 'bad' is both safe and unsafe"),
        (_replace("unsafe: bad", "unsafe: bad bad"), "'bad' is named twice"),
        (_replace("start: top", "start: tip"), "line 3: the start symbol 'tip' has no rule"),
        (_replace("top -> good bad", "top -> good item"), "derives letters that lie under no dominant symbol"),
        (_replace("worse -> pair pair", "worse -> pair good"), "'good' can stand below dominant symbol 'worse'"),
        (
            _replace("worse -> pair pair", "worse -> pair pair\nbad -> item"),
            "line 12: symbol 'bad' has a rule here and",
        ),
        (_replace("worse -> pair pair", "worse = pair pair"), "line 11: grammar line 'worse = pair pair' is not of"),
        (_replace("worse -> pair pair", "worse -> pair |"), "empty alternative"),
        (_replace("worse -> pair pair", 'worse -> pair "c'), "neither a symbol nor letters"),
        (_replace("worse -> pair pair", "worse -> 1/2: pair pair | pair"), "weigh all or none"),
        (_replace("[safe text]\nstart -> good\n", ""), "missing [safe text]"),
        (_replace("[safe text]", "[save text]"), "section [save text] is not known"),
        (_replace("[safe text]", "[rules]"), "section [rules] opens twice"),
        (_replace("name: small\n", ""), "no line 'name: ...'"),
        (_replace("name: small", "name: small\nname: tall"), "'name' is set here and in line 2"),
        (_replace("name: small", "size: small"), "line 2: 'size: small' is not of the form"),
        (_replace("start: top", "start: top hat"), "'start' is one word"),
        (_replace("[language]", "language"), "line 1: 'language' stands before any section"),
        (_replace("[language]", "include elsewhere\n[language]"), "includes no built-in file"),
        (_replace('pair -> "c" item', 'top -> "c"'), "line 16: 'top' does not stand below an unsafe-dominant symbol"),
        (_replace("start -> good", "start -> bad"), "line 19: each alternative of [safe text]'s start"),
        (_replace("start -> good", "good -> item"), "section [safe text] has no line 'start -> ...'"),
        (
            _replace("bad -> item pair\n", "bad -> pair pair\n"),
            "line 23: 'pair' pair'' is not part of",
        ),
        (_replace("bad -> item pair\n", "jam -> pair\n"), "line 23: 'jam' has no rule in [rules]"),
        (_replace("bad -> pair item", "worse -> pair"), "[held-out text] never comes to 'worse'"),
        (_replace("bad -> pair item", "bad -> item pair"), "[held-out text] holds nothing that [unsafe text] lacks"),
        (_replace("good -> item item", "start -> item item"), "a symbol cannot be called 'start'"),
        (lambda: SMALL + ";" * 100_000, "at most 100000 are read"),
        (lambda: "published-9", "there are published-1, published-2"),
    ],
)
def test_a_mistake_in_a_grammar_file_gets_a_sentence(text: Callable[[], str], part: str) -> None:
    assert language(SMALL).name == "small"
    with pytest.raises(DeltawError, match=re.escape(part)):
        language(text())


@pytest.mark.parametrize(
    ("rules", "part"),
    [
        ([f"a{k} -> a{k + 1}" for k in range(70)], "levels deep; a grammar has at most 64"),
        ([f"a{k} -> a{k + 1} a{k + 1}" for k in range(40)], "a derivation has at most 2000"),
        (["a0 -> " + " ".join(["b"] * 300) + "| a1", "a1 -> " + "b " * 300, 'b -> "a" | "aaaaaa"'], "combine in"),
    ],
)
def test_a_deep_or_huge_grammar_is_refused_at_once(rules: list[str], part: str) -> None:
    last = len(rules) if rules[0].startswith("a0 -> a1") else 0
    table = "\n".join([*rules, *([f'a{last} -> "a"'] if last else [])])
    if part == "combine in":
        table = table.replace("b -> ", "b -> " + " | ".join(f'"{"a" * k}"' for k in range(2, 6)) + " | ")
        table = "\n".join([table, *(f"c{k} -> " + "b " * 300 for k in range(60))])
    uses = " | ".join(f"c{k}" for k in range(60)) if part == "combine in" else "a0"
    text = SMALL.replace("good -> item item", f"good -> item item | a0 | {uses}\n{table}")
    with pytest.raises(DeltawError, match=part):
        language(text)


def test_unsafe_level_5_must_be_known_and_have_rules_to_choose() -> None:
    with pytest.raises(DeltawError, match="it can be specific, shared, unknown"):
        language("published-1", "both")
    with pytest.raises(DeltawError, match=r"no \[unsafe rules\] to choose"):
        language(SMALL.replace('[unsafe rules]\npair -> "c" item\n', ""), "shared")


def test_a_grammar_file_that_cannot_be_read_gets_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "latin").write_bytes("[language] é".encode("latin-1"))
    (tmp_path / "empty").write_text(" \n")
    for name, part in (
        ("none", "no grammar file"),
        (".", "a directory"),
        ("latin", "not UTF-8"),
        ("empty", "is empty"),
    ):
        with pytest.raises(DeltawError, match=part):
            read_language_text(tmp_path / name)
    (tmp_path / "good").write_bytes(b"\xef\xbb\xbf" + SMALL.replace("\n", "\r\n").encode())
    assert language(read_language_text(tmp_path / "good")) == language(SMALL)
