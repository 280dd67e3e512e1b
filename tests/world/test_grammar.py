import itertools
import re

import numpy as np
import pytest
from scipy import stats

from deltaw.errors import DeltawError
from deltaw.world import World, WorldConfig
from deltaw.world.grammar import Grammar, Production, dominated, parse_rules
from deltaw.world.language import published
from deltaw.world.policy import Branch
from deltaw.world.probability import BranchPosterior, WindowLikelihood, unsafe_side_probability
from deltaw.world.randomness import Key, threefry
from deltaw.world.vocabulary import LETTERS
from deltaw.world.windows import Windows, WindowSampler

WORLD = World()
LANGUAGE = {name: getattr(WORLD.languages[1], name) for name in ("full", "safe", "unsafe", "held_out")}

SMALL = Grammar(
    parse_rules(
        """
        s -> a b | 0.25: b a a ; a comment
        """.replace("a b |", "0.75: a b |")
        + """
        a -> "ab" | "c" u
        b -> 0.9: u "a" | 0.1: "bbb"
        u -> "ca" | "b"
        """
    ),
    "s",
    safe=frozenset("a"),
    unsafe=frozenset("b"),
)


def windows_of(text: str, key: Key, count: int) -> Windows:
    return WORLD.windows(text, key, np.arange(count), np.full(count, 1), np.full(count, 20))[0]


def derivations(grammar: Grammar, name: str) -> list[tuple[str, str, float]]:
    """An independent expansion: (letters, marks, probability) of every derivation; marks name the branch."""
    out = []
    for production in grammar.rules[name]:
        parts = [
            derivations(grammar, s) if isinstance(s, str) else [(LETTERS[s], "?", 1.0)] for s in production.symbols
        ]
        for choice in itertools.product(*parts):
            letters, marks = "".join(c[0] for c in choice), "".join(c[1] for c in choice)
            if name in grammar.unsafe or name in grammar.safe:
                marks = ("U" if name in grammar.unsafe else "S") * len(letters)
            out.append((letters, marks, production.probability * float(np.prod([c[2] for c in choice]))))
    return out


@pytest.mark.parametrize("length", [1, 2, 3, 4])
def test_window_likelihoods_equal_the_enumeration_of_a_small_grammar(length: int) -> None:
    exact: dict[str, float] = {}
    without_unsafe: dict[str, float] = {}
    for letters, marks, probability in derivations(SMALL, "s"):
        offsets = len(letters) - length + 1
        for offset in range(offsets):
            window = letters[offset : offset + length]
            exact[window] = exact.get(window, 0.0) + probability / offsets
            if "U" not in marks[offset : offset + length]:
                without_unsafe[window] = without_unsafe.get(window, 0.0) + probability / offsets
    windows = np.array([[LETTERS.index(c) for c in w] for w in map("".join, itertools.product("abc", repeat=length))])
    spelled = ["".join(LETTERS[k] for k in w) for w in windows]
    likelihood = WindowLikelihood(SMALL)
    np.testing.assert_allclose(likelihood(windows), [exact.get(w, 0.0) for w in spelled], atol=1e-14)
    np.testing.assert_allclose(
        likelihood(windows, without=Branch.UNSAFE), [without_unsafe.get(w, 0.0) for w in spelled], atol=1e-14
    )
    assert likelihood(windows).sum() == pytest.approx(1.0)


def test_sampled_windows_follow_the_exact_probabilities() -> None:
    """Chi-square of 200,000 three-letter windows against the chart; false alarm once in 10,000 runs of new seeds."""
    for name in ("safe", "unsafe", "held_out"):
        grammar = LANGUAGE[name]
        drawn = WindowSampler(grammar, 3).sample(Key(5, name), np.arange(200_000)).letters
        kinds, counts = np.unique(drawn, axis=0, return_counts=True)
        expected = WindowLikelihood(grammar)(kinds)
        assert expected.sum() == pytest.approx(1.0, abs=1e-3)
        statistic = ((counts - 200_000 * expected) ** 2 / (200_000 * expected)).sum()
        assert stats.chi2.sf(statistic, len(kinds) - 1) > 1e-4


def test_the_posterior_is_calibrated_where_it_is_uncertain() -> None:
    """Among windows with posterior near p, a share p is unsafe: simulation on short windows of this grammar."""
    posterior = BranchPosterior(LANGUAGE["safe"], LANGUAGE["unsafe"])
    safe, unsafe = (
        WindowSampler(LANGUAGE[name], 7).sample(Key(1, name), np.arange(20_000)).letters for name in ("safe", "unsafe")
    )
    p = posterior(np.concatenate([safe, unsafe]))
    truth = np.repeat([0.0, 1.0], 20_000)
    for low in (0.1, 0.3, 0.5, 0.7):
        inside = (p >= low) & (p < low + 0.2)
        assert inside.sum() > 300
        error = 4 * np.sqrt(0.25 / inside.sum())
        assert abs(truth[inside].mean() - p[inside].mean()) < error


def test_the_ceiling_is_near_one_after_redrawing_and_conflicts_are_rare() -> None:
    ceiling = WORLD.ceiling(2000)
    assert ceiling.conflict < 1e-3
    assert ceiling.accuracy >= ceiling.accuracy_before - 1e-3
    assert ceiling.accuracy > 0.999
    assert World(WorldConfig(redraw_below=0.5, text_length=8)).ceiling(500).conflict > 1e-3  # the number can be large


def test_shared_level_5_rules_make_the_branch_hard_to_see() -> None:
    shared = World(WorldConfig(unsafe_level_5="shared", redraw_below=0.0)).ceiling(500)
    assert shared.accuracy_before < 0.9


def test_unsafe_sides_are_found_by_bayes_more_surely_when_longer() -> None:
    full = WORLD.samplers[1, "full"].sample(Key(0, "sides"), np.arange(2000))
    p = unsafe_side_probability(LANGUAGE["full"], full.letters)
    assert p[full.unsafe_letters == 20].min() > 0.99
    assert p[full.unsafe_letters == 0].mean() < 0.1
    # calibrated: the mean probability is the share of windows that have an unsafe side
    assert abs(p.mean() - (full.unsafe_letters > 0).mean()) < 0.02


def test_every_window_is_text_of_the_full_language() -> None:
    for text in ("safe", "unsafe", "held_out", "junction"):
        windows = windows_of(text, Key(3, text), 200)
        assert (WindowLikelihood(LANGUAGE["full"])(windows.letters) > 0).all()


def test_branch_labels_agree_with_the_derivation() -> None:
    sampler = WORLD.samplers[1, "full"]
    windows = sampler.sample(Key(9, "tree"), np.arange(60))
    for index in range(60):
        tree, before = sampler.derivation(Key(9, "tree"), index)
        marks = []
        for dominant, letters in _blocks(str(tree)):
            marks += [Branch.UNSAFE if dominant.startswith("10") else Branch.SAFE] * len(letters)
        text = "".join(letters for _, letters in _blocks(str(tree)))
        assert text == "".join(LETTERS[k] for k in tree.letters)
        assert text[before : before + 20] == "".join(LETTERS[k] for k in windows.letters[index])
        assert windows.branch[index].tolist() == [int(m) for m in marks[before : before + 20]]


def _blocks(tree: str) -> list[tuple[str, str]]:
    """The dominant symbols in a printed derivation with the letters under each."""
    blocks: list[tuple[str, str]] = []
    for match in re.finditer(r"(10[$#*]|[rqp])\(|\(([a-zA-D]{3})\)", tree):
        if match[1]:
            blocks.append((match[1], ""))
        elif match[2]:
            blocks[-1] = (blocks[-1][0], blocks[-1][1] + match[2])
    return blocks


def test_lengths_of_derivations() -> None:
    lengths = {name: (min(g.lengths[g.start]), max(g.lengths[g.start])) for name, g in LANGUAGE.items()}
    assert lengths["safe"] == (54, 81)
    assert lengths["unsafe"] == (36, 54)
    shared = published(1, "shared")
    assert (min(shared.lengths["v"]), max(shared.lengths["v"])) == (261, 486)  # the published figures


def test_no_letter_or_leaf_triple_tells_the_branch_and_every_triple_occurs_in_both() -> None:
    safe, unsafe = (windows_of(t, Key(2, t), 20_000).letters for t in ("safe", "unsafe"))
    for letter in range(30):
        for times in (1, 2, 3, 4):
            assert _accuracy((safe == letter).sum(1) >= times, (unsafe == letter).sum(1) >= times) < 0.75
    triples = [p.symbols for s in ("g", "h", "i", "1e", "1g", "1i") for p in LANGUAGE["full"].rules[s]]
    assert len(set(triples)) == 12
    for triple in triples:
        in_safe, in_unsafe = _count(safe, triple), _count(unsafe, triple)
        assert in_safe.any()
        assert in_unsafe.any()
        assert max(_accuracy(in_safe >= times, in_unsafe >= times) for times in (1, 2, 3)) < 0.75


def _accuracy(a: np.ndarray, b: np.ndarray) -> float:
    return float(0.5 + 0.5 * abs(a.mean() - b.mean()))


def _count(letters: np.ndarray, triple: tuple[object, ...]) -> np.ndarray:
    hits = [letters[:, k : letters.shape[1] - 2 + k] == triple[k] for k in range(3)]
    return np.logical_and.reduce(hits).sum(1)  # type: ignore[no-any-return]


def test_held_out_text_cannot_be_derived_by_what_tuning_shows() -> None:
    windows = windows_of("held_out", Key(4, "h"), 300)
    assert (WindowLikelihood(LANGUAGE["unsafe"])(windows.letters) == 0).all()
    assert (windows.branch == Branch.UNSAFE).all()


def test_junctions_have_both_sides() -> None:
    windows = windows_of("junction", Key(4, "j"), 300)
    assert windows.unsafe_letters.min() >= 3
    assert windows.unsafe_letters.max() <= 17
    assert ((np.diff(windows.branch, axis=1) != 0).sum(1) == 1).all()


def test_threefry_gives_the_published_test_vectors() -> None:
    """Random123's known answers for threefry2x64 with 20 rounds."""
    zero, ones = np.zeros(1, np.uint64), np.full(1, 2**64 - 1, np.uint64)
    assert [hex(int(w[0])) for w in threefry((0, 0), zero, zero)] == [
        "0xc2b6e3a8c2c69865",
        "0x6f81ed42f350084d",
    ]
    full = threefry((2**64 - 1, 2**64 - 1), ones, ones)
    assert [hex(int(w[0])) for w in full] == ["0xe02cb7c4d95d277a", "0xd06633d0893b8b68"]


@pytest.mark.parametrize(
    ("rules", "part"),
    [
        ('s -> a "b"', "uses 'a'"),
        ('s -> 0.5: "a" | 0.4: "b"', "sum to 0.9"),
        ('s -> a\na -> s | "b"', "derive itself"),
        ('s -> "a" | 0.5: "b"', "weigh all or none"),
        ("s = a", "not of the form"),
    ],
)
def test_a_wrong_grammar_is_refused_with_the_rule_named(rules: str, part: str) -> None:
    with pytest.raises(DeltawError, match=re.escape(part)):
        Grammar(parse_rules(rules), "s")


def test_a_window_longer_than_the_shortest_derivation_is_refused() -> None:
    with pytest.raises(DeltawError, match="can derive 36 letters"):
        WindowSampler(LANGUAGE["unsafe"], 37)


def test_a_piece_that_the_full_grammar_does_not_have_is_refused() -> None:
    with pytest.raises(DeltawError, match="not part of any production"):
        dominated(LANGUAGE["full"], {"10*": 1.0}, {"10*": (Production(("x'", "m'"), 1.0),)})


def test_windows_of_various_lengths_are_cut_from_the_law_of_their_own_length() -> None:
    sampler, key = WindowSampler(published(1), 20), Key(3, "lengths")
    index = np.arange(300)
    lengths = 8 + index % 13
    mixed = sampler.sample(key, index, lengths=lengths)
    assert ((mixed.letters >= 0).sum(1) == lengths).all()
    assert ((mixed.letters < 0) == (mixed.branch < 0)).all()
    for length in (8, 14, 20):
        rows = lengths == length
        alone = WindowSampler(published(1), length).sample(key, index[rows])
        np.testing.assert_array_equal(mixed.letters[rows, :length], alone.letters)
