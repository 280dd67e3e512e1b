import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from deltaw.world import World
from deltaw.world.operators import Operators

OPERATORS = World().operators

# The published bijections: operator 1 and operator 9 under seed 0, numpy's legacy generator.
GOLDEN = {
    1: "2 28 13 10 26 24 27 11 17 22 5 16 8 14 23 20 1 29 6 4 18 19 9 7 25 3 0 21 15 12",
    9: "25 0 7 18 15 4 29 1 22 6 23 11 2 14 21 26 28 12 10 27 13 16 24 19 8 5 9 17 20 3",
}


def test_the_bijections_are_the_published_ones() -> None:
    for operator, row in GOLDEN.items():
        assert OPERATORS.permutations[operator].tolist() == [int(x) for x in row.split()]


def test_every_operator_is_a_bijection_all_differ_and_the_first_is_the_identity() -> None:
    assert (np.sort(OPERATORS.permutations, axis=1) == np.arange(30)).all()
    assert (OPERATORS.permutations[0] == np.arange(30)).all()
    assert len({tuple(row) for row in OPERATORS.permutations.tolist()}) == 10


def test_two_operators_compose_to_91_distinct_maps() -> None:
    maps = {tuple(b[a]) for a in OPERATORS.permutations for b in OPERATORS.permutations}
    assert len(maps) == 91  # 9 x 9 pairs, 9 single operators, the identity: no accidental coincidence


@given(
    st.lists(st.integers(0, 16), min_size=1, max_size=4),
    st.lists(st.integers(0, 29), min_size=1, max_size=40),
)
def test_operators_are_undone_by_their_inverses_in_reverse_order(tokens: list[int], letters: list[int]) -> None:
    forward = OPERATORS.apply(np.array([tokens]), np.array([letters]))
    back = OPERATORS.inverse().apply(np.array([tokens[::-1]]), forward)
    assert back.tolist() == [letters]


@given(st.integers(0, 6), st.lists(st.integers(0, 29), min_size=1, max_size=40))
def test_an_alias_acts_as_its_operator(position: int, letters: list[int]) -> None:
    text = np.array([letters])
    alias = OPERATORS.apply(np.array([[10 + position]]), text)
    assert (alias == OPERATORS.apply(np.array([[OPERATORS.aliases[position]]]), text)).all()
    assert OPERATORS.operator_of[10 + position] == OPERATORS.aliases[position]


def test_operators_act_letter_by_letter_and_leave_padding_alone() -> None:
    operators = Operators.published(aliases=())
    text = np.array([[3, 7, -1, -1]])
    out = operators.apply(np.array([[1, 9]]), text)
    assert out[0, :2].tolist() == [int(operators.permutations[9][operators.permutations[1][k]]) for k in (3, 7)]
    assert out[0, 2:].tolist() == [-1, -1]
