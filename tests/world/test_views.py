import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from worlds import PAPER, QUICK

from deltaw.errors import DeltawError
from deltaw.models.batch import Role
from deltaw.world import VIEWS, Encoded, Key, Response, ViewSchedule, World, published_schedule, viewed

NAMES = list(VIEWS)
SCHEDULE = published_schedule(samples=8000, flat=1000)


def encoded(world: World, rows: range) -> Encoded:
    prompts = world.sample("pretrain", rows, "train")
    return world.layout.encode(prompts, np.full(len(prompts), Response.COMPLY), text_weight=0.5)


def under(name: str, sequence: Encoded) -> Encoded:
    return viewed(sequence, np.full(len(sequence.tokens), NAMES.index(name)), PAPER.vocabulary.pad)


@settings(max_examples=15, deadline=None)
@given(st.sampled_from(NAMES), st.integers(0, 10**6))
def test_a_view_only_removes(name: str, start: int) -> None:
    """What is left are tokens of the sequence in their order, with their roles; PAD stands at the end; some loss is."""
    whole = encoded(PAPER, range(start, start + 6))
    keep, weights = VIEWS[name](whole)
    assert ((weights == whole.weights) | (weights == 0)).all()
    view = under(name, whole)
    for row in range(6):
        kept = keep[row] & (whole.roles[row] != Role.PAD)
        n = kept.sum()
        assert (view.tokens[row, :n] == whole.tokens[row][kept]).all()
        assert (view.roles[row, :n] == whole.roles[row][kept]).all()
        assert (view.weights[row, :n] == weights[row][kept]).all()
        assert (view.tokens[row, n:] == PAPER.vocabulary.pad).all()
        assert (view.roles[row, n:] == Role.PAD).all()
        assert view.weights[row, n:].sum() == 0 < view.weights[row].sum()


def test_what_each_view_shows() -> None:
    whole = encoded(PAPER, range(40))
    lengths = (whole.roles == Role.TEXT).sum(1)

    def counted(name: str) -> dict[Role, list[int]]:
        view = under(name, whole)
        return {role: (view.roles == role).sum(1).tolist() for role in Role}

    text, first, second = counted("text"), counted("first"), counted("second")
    assert text[Role.OPERATOR] == text[Role.OUTPUT] == [0] * 40
    assert text[Role.TEXT] == first[Role.TEXT] == first[Role.OUTPUT] == lengths.tolist()
    assert second[Role.OPERATOR] == first[Role.OPERATOR] == [4] * 40
    assert second[Role.TEXT] == second[Role.LAST_PROMPT] == [0] * 40
    assert second[Role.OUTPUT] == (2 * lengths).tolist()
    assert (under("second", whole).weights.sum(1) == lengths + 1).all()  # the second output and its stop
    full = under("full", whole)
    assert all((getattr(full, field) == getattr(whole, field)).all() for field in ("tokens", "weights", "roles"))


def test_shares_follow_the_schedule() -> None:
    """Counts in a window of samples are within 5 standard errors of the shares there."""
    index = np.arange(8000)
    shares = SCHEDULE.shares(index)
    np.testing.assert_allclose(shares.sum(1), 1)
    np.testing.assert_allclose(shares[[0, 1000, 4500]], [[0.5, 0.1, 0.2, 0.2]] * 2 + [[0.3, 0.15, 0.25, 0.3]])
    np.testing.assert_allclose(SCHEDULE.shares(np.array([10**9])), [[0.1, 0.2, 0.3, 0.4]])
    chosen = SCHEDULE.choose(Key(0, "train/view"), index)
    for start in range(0, 8000, 2000):
        part = slice(start, start + 2000)
        for view in range(4):
            mean = shares[part, view].mean()
            assert abs((chosen[part] == view).mean() - mean) < 5 * (mean * (1 - mean) / 2000) ** 0.5


@given(st.integers(0, 10**6), st.integers(1, 50))
def test_a_sample_has_its_view_in_any_batch(start: int, count: int) -> None:
    key, index = Key(7, "train/view"), np.arange(start, start + count)
    order = np.random.default_rng(count).permutation(count)
    assert (SCHEDULE.choose(key, index[order]) == SCHEDULE.choose(key, index)[order]).all()


def test_a_view_without_share_is_never_drawn() -> None:
    assert (ViewSchedule().choose(Key(0, "a"), np.arange(10_000)) == NAMES.index("full")).all()
    only_first = ViewSchedule(((0, (0.0, 0.0, 1.0, 0.0)),))
    assert (only_first.choose(Key(0, "a"), np.arange(10_000)) == NAMES.index("first")).all()
    assert [name for name in NAMES if only_first.ever(name)] == ["first"]


def test_one_pair_has_a_first_output_that_is_everything() -> None:
    whole = encoded(QUICK, range(10))
    assert (under("first", whole).tokens == whole.tokens).all()


@pytest.mark.parametrize(
    ("knots", "part"),
    [
        (((0, (0.5, 0.1, 0.2, 0.3)),), "sum to 1"),
        (((0, (1.2, -0.2, 0.0, 0.0)),), "none below 0"),
        (((0, (1.0, 0.0)),), "give 4"),
        (((5, (0.0, 1.0, 0.0, 0.0)), (5, (0.0, 1.0, 0.0, 0.0))), "ascending"),
        ((), "needs knots"),
    ],
)
def test_a_wrong_schedule_is_refused(knots: tuple[tuple[int, tuple[float, ...]], ...], part: str) -> None:
    with pytest.raises(DeltawError, match=part):
        ViewSchedule(knots)
