import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from worlds import ODD, PAPER, QUICK, WORLDS

from deltaw.errors import DeltawError
from deltaw.world import World, WorldConfig, published_world
from deltaw.world.operators import Operators, bijections

# The published bijections: operator 1 and operator 9 under seed 0, numpy's legacy generator.
GOLDEN = {
    1: "2 28 13 10 26 24 27 11 17 22 5 16 8 14 23 20 1 29 6 4 18 19 9 7 25 3 0 21 15 12",
    9: "25 0 7 18 15 4 29 1 22 6 23 11 2 14 21 26 28 12 10 27 13 16 24 19 8 5 9 17 20 3",
}
PER_GRAMMAR = World(published_world(shared_operators=False))


def test_the_bijections_are_the_published_ones() -> None:
    for world in (QUICK, PAPER):
        for operator, row in GOLDEN.items():
            assert world.operators.permutations[0, operator].tolist() == [int(x) for x in row.split()]


def test_grammars_share_their_bijections_or_have_their_own_under_the_published_seeds() -> None:
    assert len(PAPER.operators.permutations) == 1
    operators = PER_GRAMMAR.operators
    for number, seed in ((1, 0), (2, 150), (3, 300), (4, 450)):
        assert (operators.permutations[operators.set_of[number]] == bijections(seed)).all()
    text = np.array([[3, 7, 29]] * 4)
    out = operators.apply(np.array([1, 2, 3, 4]), np.array([[5]] * 4), text)
    assert len({tuple(row) for row in out.tolist()}) == 4
    assert out.tolist() == [bijections(seed)[5][[3, 7, 29]].tolist() for seed in (0, 150, 300, 450)]


@pytest.mark.parametrize("operators", [QUICK.operators, PER_GRAMMAR.operators, ODD.operators])
def test_every_operator_is_a_bijection_all_differ_and_the_first_is_the_identity(operators: Operators) -> None:
    for table in operators.permutations:
        count, alphabet = table.shape
        assert (np.sort(table, axis=1) == np.arange(alphabet)).all()
        assert (table[0] == np.arange(alphabet)).all()
        assert len({tuple(row) for row in table.tolist()}) == count


def test_two_operators_compose_to_91_distinct_maps() -> None:
    for table in PER_GRAMMAR.operators.permutations:
        maps = {tuple(b[a]) for a in table for b in table}
        assert len(maps) == 91  # 9 x 9 pairs, 9 single operators, the identity: no accidental coincidence


@given(st.sampled_from(list(WORLDS)), st.data())
def test_operators_are_undone_by_their_inverses_in_reverse_order(name: str, data: st.DataObject) -> None:
    world = WORLDS[name]
    top = world.vocabulary.n_operator_tokens - 1
    tokens = data.draw(st.lists(st.integers(0, top), min_size=1, max_size=4))
    letters = data.draw(st.lists(st.integers(0, world.config.alphabet - 1), min_size=1, max_size=40))
    grammar = np.array([data.draw(st.sampled_from(world.numbers))])
    forward = world.operators.apply(grammar, np.array([tokens]), np.array([letters]))
    back = world.operators.inverse().apply(grammar, np.array([tokens[::-1]]), forward)
    assert back.tolist() == [letters]
    one_by_one = np.array([letters])
    for token in tokens:  # b(a(x)), letter by letter
        one_by_one = world.operators.apply(grammar, np.array([[token]]), one_by_one)
    assert (forward == one_by_one).all()


@given(st.sampled_from(list(WORLDS)), st.integers(0, 100), st.lists(st.integers(0, 29), min_size=1, max_size=40))
def test_an_alias_acts_as_its_operator(name: str, choice: int, letters: list[int]) -> None:
    world = WORLDS[name]
    position = choice % len(world.operators.aliases)
    token = world.vocabulary.n_operators + position
    for number in world.numbers:
        text, grammar = np.array([letters]) % world.config.alphabet, np.array([number])
        alias = world.operators.apply(grammar, np.array([[token]]), text)
        plain = world.operators.apply(grammar, np.array([[world.operators.aliases[position]]]), text)
        assert (alias == plain).all()
    assert world.operators.operator_of[token] == world.operators.aliases[position]


def test_operators_act_letter_by_letter_and_leave_padding_alone() -> None:
    operators = QUICK.operators
    text = np.array([[3, 7, -1, -1]])
    out = operators.apply(np.array([1]), np.array([[1, 9]]), text)
    table = operators.permutations[0]
    assert out[0, :2].tolist() == [int(table[9][table[1][k]]) for k in (3, 7)]
    assert out[0, 2:].tolist() == [-1, -1]
    assert text.tolist() == [[3, 7, -1, -1]]


def test_equal_bijections_are_refused() -> None:
    with pytest.raises(DeltawError, match="12 operators on 3 letters are the same bijection"):
        bijections(0, 12, 3)
    with pytest.raises(DeltawError, match="uses letter 29, and alphabet is 20; make it 30"):
        World(WorldConfig(alphabet=20))


@pytest.mark.parametrize("world", WORLDS.values(), ids=WORLDS)
def test_ids_of_the_vocabulary_are_contiguous_and_every_name_is_one_token(world: World) -> None:
    v = world.vocabulary
    markers = [v.bos, v.sot, v.eot, v.stop, v.pad, v.null]
    letters = range(v.first_letter, v.first_letter + v.n_letters)
    assert [*range(v.n_operator_tokens), *markers, *letters] == list(range(v.size))
    assert len(v.names) == len(set(v.names)) == v.size
    can_be_forbidden = {k for g in world.config.grammars for k in range(v.n_operators) if k not in g.always}
    assert set(v.aliases) <= can_be_forbidden
