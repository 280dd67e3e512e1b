"""Exact probabilities against brute-force enumeration and simulation."""

import itertools

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import stats

from deltaw.errors import DeltawError
from deltaw.world.grammar import Grammar, Production
from deltaw.world.language import published, published_subgrammars
from deltaw.world.policy import Branch
from deltaw.world.probability import BranchPosterior, WindowLikelihood, unsafe_side_probability
from deltaw.world.randomness import Key
from deltaw.world.windows import WindowSampler

Derivation = tuple[tuple[int, ...], tuple[bool, ...], float]


@st.composite
def grammars(draw: st.DrawFn) -> Grammar:
    """Small grammars over three letters, with any symbols marked unsafe."""
    rules: dict[str, tuple[Production, ...]] = {}
    for k in range(draw(st.integers(2, 4))):
        symbols = st.integers(0, 2) | st.sampled_from([f"n{j}" for j in range(k)]) if k else st.integers(0, 2)
        bodies = draw(st.lists(st.lists(symbols, min_size=1, max_size=3), min_size=1, max_size=3))
        weights = np.array(draw(st.lists(st.integers(1, 9), min_size=len(bodies), max_size=len(bodies))), dtype=float)
        shares = weights / weights.sum()
        rules[f"n{k}"] = tuple(Production(tuple(b), float(p)) for b, p in zip(bodies, shares, strict=True))
    grammar = Grammar(rules, f"n{len(rules) - 1}", unsafe=draw(st.frozensets(st.sampled_from(sorted(rules)))))
    assume(grammar.yield_counts[grammar.start] <= 150)
    return grammar


def derivations(grammar: Grammar, name: str) -> list[Derivation]:
    """Every derivation, expanded by hand: letters, which of them lie under an unsafe symbol, probability."""
    out: list[Derivation] = []
    for production in grammar.rules[name]:
        parts: list[list[Derivation]] = [
            derivations(grammar, s) if isinstance(s, str) else [((s,), (False,), 1.0)] for s in production.symbols
        ]
        for choice in itertools.product(*parts):
            letters = tuple(letter for one in choice for letter in one[0])
            marks = tuple(mark or name in grammar.unsafe for one in choice for mark in one[1])
            out.append((letters, marks, production.probability * float(np.prod([one[2] for one in choice]))))
    return out


def enumerated(grammar: Grammar, length: int) -> dict[tuple[int, ...], np.ndarray]:
    """Window -> its probability with only safe letters, and with an unsafe one: all derivations, all offsets."""
    law: dict[tuple[int, ...], np.ndarray] = {}
    for letters, marks, probability in derivations(grammar, grammar.start):
        offsets = len(letters) - length + 1
        for k in range(offsets):
            entry = law.setdefault(letters[k : k + length], np.zeros(2))
            entry[int(any(marks[k : k + length]))] += probability / offsets
    return law


def every_window(up_to: int) -> np.ndarray:
    """All windows of 1 .. up_to letters of a three-letter alphabet, -1 beyond their end."""
    rows = [
        (*window, *[-1] * (up_to - length))
        for length in range(1, up_to + 1)
        for window in itertools.product(range(3), repeat=length)
    ]
    return np.array(rows)


def longest_window(*several: Grammar) -> int:
    return min(4, *(min(grammar.lengths[grammar.start]) for grammar in several))


def expected(grammar: Grammar, windows: np.ndarray) -> np.ndarray:
    laws = {length: enumerated(grammar, length) for length in range(1, windows.shape[1] + 1)}
    spelled = [tuple(int(k) for k in row if k >= 0) for row in windows]
    return np.array([laws[len(window)].get(window, np.zeros(2)) for window in spelled])


@settings(max_examples=60, deadline=None)
@given(grammars())
def test_windows_of_all_lengths_have_their_enumerated_probability(grammar: Grammar) -> None:
    windows = every_window(longest_window(grammar))
    exact = expected(grammar, windows)
    likelihood = WindowLikelihood(grammar)
    whole = likelihood(windows)
    np.testing.assert_allclose(whole, exact.sum(1), rtol=1e-12)
    np.testing.assert_array_equal(whole == 0, exact.sum(1) == 0)  # impossible is exactly 0
    np.testing.assert_allclose(likelihood(windows, without=Branch.UNSAFE), exact[:, 0], rtol=1e-12)
    branches = likelihood.branches(windows)
    np.testing.assert_allclose(branches, exact, rtol=1e-9, atol=1e-15)
    assert (branches >= 0).all()
    for length in range(1, windows.shape[1] + 1):
        assert whole[(windows >= 0).sum(1) == length].sum() == pytest.approx(1.0)


@settings(max_examples=30, deadline=None)
@given(grammars(), grammars())
def test_the_posterior_of_the_branch_follows_from_the_enumerated_laws(safe: Grammar, unsafe: Grammar) -> None:
    windows = every_window(longest_window(safe, unsafe))
    of_safe, of_unsafe = (expected(grammar, windows).sum(1) for grammar in (safe, unsafe))
    prior = 0.3
    total = prior * of_unsafe + (1 - prior) * of_safe
    exact = prior * of_unsafe / np.where(total > 0, total, np.nan)
    np.testing.assert_allclose(BranchPosterior(safe, unsafe, prior)(windows), exact, rtol=1e-9, atol=1e-12)


@settings(max_examples=30, deadline=None)
@given(grammars())
def test_the_unsafe_side_follows_from_the_enumerated_law(full: Grammar) -> None:
    windows = every_window(longest_window(full))
    exact = expected(full, windows)
    known = exact.sum(1) > 0
    exact = exact[:, 1] / np.where(known, exact.sum(1), np.nan)
    np.testing.assert_allclose(unsafe_side_probability(full, windows), exact, rtol=1e-9, atol=1e-12)


PUBLISHED_TEXTS = {number: published_subgrammars(published(number)) for number in (1, 2, 3, 4)}


@pytest.mark.parametrize("number", [2, 3, 4])
def test_sampled_windows_of_each_published_grammar_follow_the_chart(number: int) -> None:
    """Chi-square of 60,000 windows of 2 and 3 letters; false alarm at 1e-6 over the six of these (fixed seed)."""
    lengths = np.repeat([2, 3], 30_000)
    for text in ("safe", "unsafe"):
        grammar = PUBLISHED_TEXTS[number][text]
        drawn = WindowSampler(grammar, 3).sample(Key(6, text), np.arange(60_000), lengths=lengths).letters
        kinds, counts = np.unique(drawn, axis=0, return_counts=True)
        mean = 30_000 * WindowLikelihood(grammar)(kinds)
        often = mean >= 5
        rest = 60_000 - mean[often].sum(), counts[~often].sum()
        statistic = ((counts - mean)[often] ** 2 / mean[often]).sum() + (rest[1] - rest[0]) ** 2 / max(rest[0], 1)
        assert stats.chi2.sf(statistic, often.sum() - 1) > 1e-6 / 6


def test_zero_stays_zero_and_wrong_windows_are_refused() -> None:
    safe = PUBLISHED_TEXTS[1]["safe"]
    likelihood = WindowLikelihood(safe)
    assert likelihood(np.full((3, 20), 4)).tolist() == [0.0, 0.0, 0.0]
    assert likelihood(np.full((2, 0), 4)).tolist() == [1.0, 1.0]
    with pytest.raises(DeltawError, match="before its last letter"):
        likelihood(np.array([[1, -1, 2]]))
    with pytest.raises(DeltawError, match="has 60 letters and the grammar can derive 54"):
        likelihood(np.zeros((1, 60), dtype=np.int64))
