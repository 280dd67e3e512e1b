"""Directions as detectors: planted ones, chance after a choice, and sklearn's definition of the area by counting."""

import numpy as np
import pytest

from deltaw.analysis.detectors import HeldOut, Pairs, aurocs, cosines, held_out
from deltaw.errors import DeltawError

N = 60
HALVES = np.arange(N) % 2 == 0


def pairs(seed: int, columns: int, shift: float = 0.0, at: int = 0) -> Pairs:
    generator = np.random.default_rng(seed)
    f, a = generator.standard_normal((2, N, columns))
    f[:, at] += shift
    return Pairs(f, a)


def test_auroc_is_the_share_of_pairs_in_order() -> None:
    some = pairs(0, 4)
    some.forbidden[3, 1] = some.allowed[5, 1]  # a tie counts half
    counted = [
        np.mean((f[:, None] > a) + 0.5 * (f[:, None] == a))
        for f, a in zip(some.forbidden.T, some.allowed.T, strict=True)
    ]
    assert aurocs(some) == pytest.approx(counted)


def test_a_planted_direction_is_found_with_its_sign_turned() -> None:
    some = pairs(1, 8, shift=-3.0, at=5)
    read = held_out(some, some, HALVES, group=8, rows=HALVES)
    assert read.auroc[0] > 0.95
    each = held_out(some, some, HALVES, rows=HALVES).auroc
    assert each[5] == pytest.approx(read.auroc[0])
    assert np.delete(each, 5).mean() == pytest.approx(0.5, abs=0.06)


def test_the_best_of_many_that_say_nothing_is_half_on_average() -> None:
    best = [held_out(some, some, HALVES, 16, HALVES).auroc[0] for some in (pairs(seed, 16) for seed in range(200))]
    assert np.mean(best) == pytest.approx(0.5, abs=0.012)
    both = [np.abs(aurocs(pairs(seed, 16)) - 0.5).max() + 0.5 for seed in range(20)]
    assert np.mean(both) > 0.58  # chosen and read on the same pairs, it would not be


def test_the_half_that_was_fitted_is_not_read() -> None:
    some, other = pairs(2, 1, shift=2.0), pairs(3, 1, shift=2.0)
    plain = held_out(some, other, HALVES, rows=HALVES)
    assert [len(way.forbidden) for way in plain.ways] == [N - HALVES.sum(), HALVES.sum()]
    assert np.array_equal(plain.ways[0].forbidden, other.forbidden[~HALVES])
    with pytest.raises(DeltawError, match="one half"):
        held_out(some, other, HALVES, rows=np.ones(N, dtype=bool))


def test_an_interval_covers_and_counts_clusters() -> None:
    truth, inside, widths = 0.7602, 0, []  # of a shift of one standard deviation: Phi(1 / sqrt 2)
    for seed in range(60):
        some = pairs(seed, 1, shift=1.0)
        read: HeldOut = held_out(some, some, HALVES, rows=HALVES)
        ends = read.interval(0, np.random.default_rng(seed), draws=200)
        inside += ends.low <= truth <= ends.high
        twice = HeldOut(read.auroc, read.ways, read.rows)
        widths.append((ends.width, twice.interval(0, np.random.default_rng(seed), np.arange(N) // 12, 200).width))
    assert inside >= 50
    assert np.mean([b for _, b in widths]) > 0
    doubled = Pairs(np.repeat(some.forbidden, 2, 0), np.repeat(some.allowed, 2, 0))
    rows = np.repeat(HALVES, 2)
    repeated = held_out(doubled, doubled, rows, rows=rows)
    own, clustered = (
        repeated.interval(0, np.random.default_rng(0), ids, 400).width for ids in (None, np.repeat(np.arange(N), 2))
    )
    assert own < 0.85 * clustered


def test_cosines_are_numpys_and_a_zero_has_none() -> None:
    a, d = np.random.default_rng(0).standard_normal((5, 3)), np.random.default_rng(1).standard_normal((3, 2))
    assert cosines(a, d)[4, 1] == pytest.approx(a[4] @ d[:, 1] / np.linalg.norm(a[4]) / np.linalg.norm(d[:, 1]))
    with pytest.raises(DeltawError, match="zero"):
        cosines(0 * a, d)
