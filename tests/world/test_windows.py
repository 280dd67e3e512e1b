"""The sampler against the law it states: productions level by level, offsets, and an independent implementation.

Each test's false-alarm rate is ALPHA in all, Bonferroni over its comparisons; seeds are fixed, so that none flakes.
Each is shown to have power: a slightly wrong law is caught by the same counts.
"""

import importlib.util
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from deltaw.world.grammar import Grammar, Production, parse_rules
from deltaw.world.language import published, published_subgrammars
from deltaw.world.randomness import Key, threefry
from deltaw.world.windows import WindowSampler

ALPHA = 1e-6
Counts = dict[str, np.ndarray]


def p_value(counts: np.ndarray, probabilities: np.ndarray) -> float:
    """Of Pearson's chi-square test; kinds expected fewer than five times are pooled."""
    mean = counts.sum() * probabilities
    often = mean >= 5
    if not often.all():
        counts = np.append(counts[often], counts[~often].sum())
        mean = np.append(mean[often], max(mean[~often].sum(), 1e-9))
    return float(stats.chi2.sf(((counts - mean) ** 2 / mean).sum(), len(counts) - 1)) if len(counts) > 1 else 1.0


def departures(counts: Counts, grammar: Grammar) -> list[str]:
    """The symbols whose productions were not drawn by this grammar's probabilities; ALPHA over all symbols."""
    tested = [name for name in counts if len(grammar.rules[name]) > 1]
    law = {name: np.array([p.probability for p in grammar.rules[name]]) for name in tested}
    return [name for name in tested if p_value(counts[name], law[name]) < ALPHA / len(tested)]


def uses(grammar: Grammar, name: str) -> Iterator[tuple[tuple[int, ...], Counter[tuple[str, int]]]]:
    """Every derivation of a symbol, expanded anew: its letters, and how often it uses each production."""
    for k, production in enumerate(grammar.rules[name]):
        partial: list[tuple[tuple[int, ...], Counter[tuple[str, int]]]] = [((), Counter({(name, k): 1}))]
        for symbol in production.symbols:
            step = list(uses(grammar, symbol)) if isinstance(symbol, str) else [((symbol,), Counter())]
            partial = [(head + tail, used + more) for head, used in partial for tail, more in step]
        yield from partial


@cache
def production_counts(text: str, samples: int) -> tuple[Grammar, Counts]:
    """How often each production was drawn on any level, in the derivations of `samples` windows of grammar 2.

    Of tabulated symbols those are drawn that are needed: chosen by where the window lies and by lengths alone, which
    tells nothing about productions except of symbols whose length varies, and of these every one is drawn.
    """
    full = published(2)
    grammar = full if text == "full" else published_subgrammars(full)[text]
    sampler, key = WindowSampler(grammar, 25), Key(11, text)
    tables = sampler._tables
    counts = {name: np.zeros(len(grammar.rules[name])) for name in grammar.bottom_up}
    rounds: list[tuple[np.ndarray, np.ndarray]] = []
    blocks = sampler._derive(key, np.arange(samples), np.full(samples, 25), rounds)
    for nodes, productions in rounds:
        for number in range(tables.n_tabulated, len(tables.names)):
            drawn = productions[nodes == number] - tables.first_production[number]
            counts[tables.names[number]] += np.bincount(drawn, minlength=len(counts[tables.names[number]]))
    times = np.bincount(blocks.yields[blocks.yields >= 0], minlength=len(tables.yield_lengths))
    row = 0
    for name in tables.names[: tables.n_tabulated]:
        for letters, used in uses(grammar, name):
            start, length = tables.yield_starts[row], tables.yield_lengths[row]
            assert tables.yield_letters[start : start + length].tolist() == list(letters)
            for (symbol, production), often in used.items():
                counts[symbol][production] += often * times[row]
            row += 1
    assert row == len(tables.yield_lengths)
    return grammar, counts


@pytest.mark.parametrize("text", ["full", "safe", "unsafe", "held_out"])
def test_every_production_is_drawn_by_its_probability(text: str) -> None:
    grammar, counts = production_counts(text, 20_000)
    assert min(count.sum() for count in counts.values()) > 500
    assert departures(counts, grammar) == []


@pytest.mark.parametrize("name", ["u", "q", "x'", "l", "1h'", "g"])  # from every level
def test_a_production_wrong_by_a_twentieth_is_caught(name: str) -> None:
    grammar, counts = production_counts("full", 20_000)
    first, *others = grammar.rules[name]
    scale = (1 - first.probability - 0.05) / (1 - first.probability)
    wrong = (
        Production(first.symbols, first.probability + 0.05),
        *(Production(p.symbols, p.probability * scale) for p in others),
    )
    assert departures(counts, replace(grammar, rules={**grammar.rules, name: wrong})) == [name]


ALPHABETICAL = Grammar(
    parse_rules('s -> 0.3: a | 0.7: b c\na -> "abcdefgh"\nb -> "ijklmno"\nc -> "pqr" | "stuv" d\nd -> "w" | "xy"'), "s"
)
"""Its letters tell the derivation and the offset of a window that reaches c; of others, the offset."""


def window_law(length: int, starts_too_few: int = 0) -> dict[tuple[int, ...], float]:
    """Each window's probability, from every derivation and every offset."""
    law: dict[tuple[int, ...], float] = {}
    for letters, probability in ALPHABETICAL.yields("s"):
        starts = len(letters) - length + 1 - starts_too_few
        for k in range(starts):
            window = letters[k : k + length]
            law[window] = law.get(window, 0.0) + probability / starts
    return law


@pytest.mark.parametrize("length", [1, 4, 7])
def test_starts_are_uniform_over_the_derivation_for_each_length_of_its_own(length: int) -> None:
    lengths = np.where(np.arange(60_000) % 3 == 0, length, 5)
    drawn = WindowSampler(ALPHABETICAL, 7).sample(Key(1, "offset"), np.arange(60_000), lengths=lengths).letters
    of_length = Counter(tuple(row[row >= 0].tolist()) for row in drawn[::3])

    def p(law: dict[tuple[int, ...], float]) -> float:
        kinds = list(law.keys() | of_length.keys())
        return p_value(np.array([of_length[k] for k in kinds]), np.array([law.get(k, 0.0) for k in kinds]))

    assert p(window_law(length)) > ALPHA / 3
    assert p(window_law(length, starts_too_few=1)) < ALPHA / 3  # an offset short by one is caught


def recursive(grammar: Grammar, length: int, seed: int) -> Any:
    path = Path(__file__).parents[2] / "benchmarks" / "recursive_sampler.py"
    spec = importlib.util.spec_from_file_location("recursive_sampler", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module.RecursiveSampler(grammar, length, seed)


def homogeneous(a: np.ndarray, b: np.ndarray) -> float:
    """p-value that the rows of two arrays are drawn from one law; kinds seen fewer than ten times are pooled."""
    kinds, which = np.unique(np.concatenate([a, b]), axis=0, return_inverse=True)
    which = which.reshape(-1)
    table = np.stack([np.bincount(rows, minlength=len(kinds)) for rows in (which[: len(a)], which[len(a) :])])
    often = table.sum(0) >= 10
    table = np.concatenate([table[:, often], table[:, ~often].sum(1, keepdims=True)], axis=1)
    return float(stats.chi2_contingency(table[:, table.sum(0) > 0]).pvalue)


@pytest.mark.parametrize(("text", "length"), [("full", 5), ("unsafe", 3)])
def test_the_plain_recursive_sampler_draws_the_same_law(text: str, length: int) -> None:
    """Two-sample chi-square of 12,000 windows each."""
    full = published(1)
    grammar = full if text == "full" else published_subgrammars(full)[text]
    other = recursive(grammar, length, 3)
    theirs = np.array([other.window() for _ in range(12_000)])
    ours = WindowSampler(grammar, length).sample(Key(2, "two"), np.arange(12_000)).letters
    assert homogeneous(ours, theirs) > ALPHA / 2
    if text == "unsafe":
        leaf = tuple(Production(p.symbols, w) for p, w in zip(grammar.rules["1i"], (0.7, 0.3), strict=True))
        wrong = WindowSampler(replace(grammar, rules={**grammar.rules, "1i": leaf}), length)
        assert homogeneous(wrong.sample(Key(2, "two"), np.arange(12_000)).letters, theirs) < ALPHA / 2


UNEVEN = Grammar(
    parse_rules("s -> b | a b a\na -> b b b b | b\nb -> c c c c\nc -> d d d d\n" + 'd -> "abc" | "de" "f" | "ghi"'), "s"
)


def test_a_sample_is_the_same_alone_and_in_any_batch_though_derivations_differ_in_depth() -> None:
    sampler, key = WindowSampler(UNEVEN, 20), Key(0, "uneven")
    together = sampler.sample(key, np.arange(40)).letters
    for index in (0, 7, 39):
        np.testing.assert_array_equal(sampler.sample(key, np.array([index])).letters[0], together[index])
    backwards = sampler.sample(key, np.arange(5000)[::-1]).letters
    np.testing.assert_array_equal(backwards[::-1][:40], together)


def test_single_draws_are_those_of_the_whole_row() -> None:
    key, index = Key(3, "draws"), np.arange(7)
    row = key.uniform(index, 5, 9)
    np.testing.assert_array_equal(key.uniform_at(index, 5, index % 9), row[index, index % 9])
    word = threefry((1, 2), np.arange(10_000, dtype=np.uint64), np.zeros(10_000, np.uint64))[0]
    alone = threefry((1, 2), np.array([9_999], np.uint64), np.zeros(1, np.uint64))[0]
    assert word[9_999] == alone[0]


def test_no_windows_are_no_windows() -> None:
    assert WindowSampler(published(1), 20).sample(Key(0, "none"), np.arange(0)).letters.shape == (0, 20)


def test_a_small_symbol_above_the_branches_keeps_them_apart() -> None:
    rules = parse_rules('s -> v v\nv -> p q\np -> "ab" | "ba"\nq -> "ab" | "ba"')
    grammar = Grammar(rules, "s", frozenset({"p"}), frozenset({"q"}))
    windows = WindowSampler(grammar, 8).sample(Key(0, "small"), np.arange(50))
    assert (windows.branch == np.array([0, 0, 1, 1, 0, 0, 1, 1])).all()
