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
from deltaw.world.policy import PUBLISHED, Branch, Policy, Rule
from deltaw.world.probability import BayesSafety, BranchPosterior, Posterior, WindowLikelihood, unsafe_side_probability
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
@given(grammars(), grammars(), grammars(), st.lists(st.integers(0, 4), min_size=3, max_size=3), st.data())
def test_posterior_and_safety_follow_from_the_enumerated_law(
    a: Grammar, b: Grammar, c: Grammar, weights: list[int], data: st.DataObject
) -> None:
    """P(grammar, branch | letters) and P(allowed | operators, letters) by summing over all that could have been."""
    assume(sum(weights) > 0)
    pa, pb, pc = (weight / sum(weights) for weight in weights)
    windows = every_window(longest_window(a, b, c))
    joint = np.stack([pa * expected(a, windows) + pb * expected(b, windows), pc * expected(c, windows)], axis=1)
    known = joint.sum((1, 2)) > 0
    exact = joint / np.where(known, joint.sum((1, 2)), np.nan)[:, None, None]
    posterior = Posterior({5: {"x": a, "y": b}, 2: {"z": c}}, {5: {"x": pa, "y": pb}, 2: {"z": pc}})
    np.testing.assert_allclose(posterior(windows), exact, rtol=1e-9, atol=1e-12)
    rule = st.lists(st.sampled_from(Rule), min_size=3, max_size=3)
    policy = Policy({5: tuple(data.draw(rule)), 2: tuple(data.draw(rule))})
    operators = np.array([data.draw(st.lists(st.integers(0, 2), min_size=2, max_size=2))] * len(windows))[:, None]
    odds = np.array([[0.5, 2.0], [1.0, 0.25]])
    weighed = exact * odds
    allowed = np.zeros(len(windows))
    for k, number in enumerate((5, 2)):
        for branch in (0, 1):
            rules = [policy.rules[number][operator] for operator in operators[0, 0]]
            if all(one == Rule.ALWAYS or (one == Rule.CONDITIONAL and branch == 0) for one in rules):
                allowed += weighed[:, k, branch]
    allowed /= weighed.sum((1, 2))
    judge = BayesSafety(posterior, policy)
    found = judge(operators, windows, odds)
    np.testing.assert_allclose(found, allowed, atol=1e-12)
    clear = known & (abs(allowed - 0.5) > 1e-9)
    np.testing.assert_array_equal(judge.decide(operators, windows, odds)[clear], allowed[clear] > 0.5)
    assert judge.ceiling(operators[known], windows[known], odds) == pytest.approx(
        np.maximum(allowed, 1 - allowed)[known].mean()
    )


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


def test_a_window_tells_its_grammar_and_the_posterior_is_calibrated() -> None:
    """Short windows of four grammars, where there is doubt: of what has posterior near p, a share p is so."""
    texts = {number: {k: v for k, v in kinds.items() if k != "held_out"} for number, kinds in PUBLISHED_TEXTS.items()}
    drawn, truth = [], []
    for k, kinds in enumerate(texts.values()):
        for b, (text, grammar) in enumerate(kinds.items()):
            drawn.append(WindowSampler(grammar, 6).sample(Key(2, f"{k}/{text}"), np.arange(3000)).letters)
            truth.append(np.full(3000, 2 * k + b))
    found = Posterior(texts)(np.concatenate(drawn)).reshape(-1, 8)
    hit = np.eye(8)[np.concatenate(truth)]
    for low in np.arange(0.1, 0.9, 0.2):
        inside = (found >= low) & (found < low + 0.2)
        assert inside.sum() > 1000
        assert abs(hit[inside].mean() - found[inside].mean()) < 5 * np.sqrt(0.25 / inside.sum())
    assert np.take_along_axis(found, hit.argmax(1)[:, None], 1).mean() > 0.6


def test_one_grammar_gives_the_posterior_of_the_branch() -> None:
    grammars_1 = PUBLISHED_TEXTS[1]
    windows = WindowSampler(grammars_1["safe"], 12).sample(Key(0, "one"), np.arange(500)).letters
    both = Posterior({1: {"safe": grammars_1["safe"], "unsafe": grammars_1["unsafe"]}})(windows)
    np.testing.assert_allclose(
        both[:, 0, 1], BranchPosterior(grammars_1["safe"], grammars_1["unsafe"])(windows), atol=1e-14
    )
    full = published(1)
    np.testing.assert_allclose(
        Posterior({1: {"full": full}})(windows)[:, 0, 1], unsafe_side_probability(full, windows), atol=1e-14
    )


def test_bayes_judges_published_prompts_nearly_as_the_policy_does_and_refuses_by_the_operator_alone() -> None:
    texts = {1: {name: PUBLISHED_TEXTS[1][name] for name in ("safe", "unsafe")}}
    judge = BayesSafety(Posterior(texts), PUBLISHED)
    windows = np.concatenate(
        [WindowSampler(texts[1][name], 20).sample(Key(1, name), np.arange(500)).letters for name in texts[1]]
    )
    n, safe = len(windows), np.repeat([True, False], 500)
    conditional, never, always = (np.full((n, 1, 2), k) for k in (5, 1, 3))
    assert (judge.decide(conditional, windows) == safe).mean() > 0.99
    assert 0.995 < judge.ceiling(conditional, windows) < 1
    assert (judge(never, windows) == 0).all()
    assert (judge(always, windows) == 1).all()


def test_zero_stays_zero_and_wrong_windows_and_priors_are_refused() -> None:
    safe = PUBLISHED_TEXTS[1]["safe"]
    likelihood = WindowLikelihood(safe)
    assert likelihood(np.full((3, 20), 4)).tolist() == [0.0, 0.0, 0.0]
    assert likelihood(np.full((2, 0), 4)).tolist() == [1.0, 1.0]
    assert np.isnan(Posterior({1: {"safe": safe}})(np.full((1, 20), 4))).all()
    with pytest.raises(DeltawError, match="before its last letter"):
        likelihood(np.array([[1, -1, 2]]))
    with pytest.raises(DeltawError, match="has 60 letters and the grammar can derive 54"):
        likelihood(np.zeros((1, 60), dtype=np.int64))
    with pytest.raises(DeltawError, match=r"sums to 0\.9"):
        Posterior({1: {"safe": safe}}, {1: {"safe": 0.9}})
    with pytest.raises(DeltawError, match="must name"):
        Posterior({1: {"safe": safe}}, {1: {"unsafe": 1.0}})
