"""Effective rank: an independent oracle, clouds of known rank, and nulls that hold where nothing differs."""

from itertools import permutations

import numpy as np
import pytest
import torch
from planted import draw, orthogonal
from scipy import stats
from torch import Tensor

from deltaw.analysis import Absent, activation_rank, energy_rank, log_rank, rank_null
from deltaw.analysis.rank import LogRank
from deltaw.errors import DeltawError


def cloud(n: int, width: int, rank: int, seed: int, heavy: bool = False) -> Tensor:
    """n rows with `rank` equal directions of a width, about a large mean; heavy: far from Gaussian."""
    x = draw(seed, n, rank)
    x = x**3 if heavy else x
    out: Tensor = x @ orthogonal(width, seed + 1)[:rank] + 7.0
    return out


def logged(A: Tensor) -> LogRank:
    found = log_rank(A)
    assert isinstance(found, LogRank)
    return found


def test_it_is_the_ratio_of_u_statistics_over_quadruples() -> None:
    """tr Σ² = E⟨x₁ − x₂, x₃ − x₄⟩² / 4 and (tr Σ)² = E‖x₁ − x₂‖² ‖x₃ − x₄‖² / 4, over distinct rows."""
    x = draw(2, 10, 4).numpy() * [2.0, 1.0, 1.0, 0.5]
    pairs = [(x[i] - x[j], x[k] - x[m]) for i, j, k, m in permutations(range(10), 4)]
    known = np.mean([(a @ a) * (b @ b) for a, b in pairs]) / np.mean([(a @ b) ** 2 for a, b in pairs])
    assert 1 < known < 4  # beyond these it would be cut
    found = logged(torch.from_numpy(x))
    assert np.exp(found.value) == pytest.approx(known)
    assert found.left_out[2] == pytest.approx(logged(torch.from_numpy(np.delete(x, 2, axis=0))).value)


@pytest.mark.parametrize("heavy", [False, True])
@pytest.mark.parametrize("rank", [1, 5, 40])
def test_a_cloud_has_the_rank_it_was_given_however_few_its_rows(rank: int, heavy: bool) -> None:
    found = [activation_rank(cloud(48, 64, rank, seed, heavy)) for seed in range(20)]
    assert not any(isinstance(one, Absent) for one in found)
    ratios = np.array([one.participation_ratio for one in found])  # type: ignore[union-attr]
    # By what a plain ratio of traces says, 40 directions in 48 rows look like 22.
    assert np.median(ratios) == pytest.approx(rank, rel=0.12)


def test_scale_rotation_and_shift_change_nothing() -> None:
    x = cloud(30, 12, 6, 3)
    before, after = activation_rank(x), activation_rank(40 * x @ orthogonal(12, 9) - 3)
    assert not isinstance(before, Absent)
    assert not isinstance(after, Absent)
    assert after.participation_ratio == pytest.approx(before.participation_ratio)
    assert after.stable_rank == pytest.approx(before.stable_rank)
    assert after.energy_rank == before.energy_rank


def test_units_that_are_independent_have_the_rank_of_the_null() -> None:
    scale = torch.tensor([3.0, 2.0, 1.0, 1.0, 0.5], dtype=torch.float64)
    x = draw(0, 1000, 5) * scale
    found = activation_rank(x)
    assert not isinstance(found, Absent)
    known = float((scale**2).sum() ** 2 / (scale**4).sum())
    assert found.independent_units.mean == pytest.approx(known, rel=0.08)
    assert known in found.interval
    tied = activation_rank(x[:, :1].expand(-1, 5) + 0.01 * x)  # one direction in five units
    assert not isinstance(tied, Absent)
    assert tied.participation_ratio < 1.1 < 4 < tied.independent_units.mean


def test_the_energy_rank_includes_its_bound() -> None:
    assert energy_rank(np.array([1.0, 9.0])) == 1
    assert energy_rank(np.array([9.0, 1.0]), share=0.95) == 2
    assert energy_rank(np.array([1.0, 1.0, 0.0])) == 2
    with pytest.raises(DeltawError, match="all zero"):
        energy_rank(np.zeros(3))


def test_the_log_ratio_of_paired_clouds_is_covered_and_its_null_holds() -> None:
    """60 pairs, as many directions in both: the interval covers 0, and the value is no stranger to its null."""
    covered = inside = 0
    runs = 200
    for seed in range(runs):
        shared = cloud(60, 16, 8, 1000 + seed)
        a, b = shared + 0.5 * draw(2 * seed, 60, 16), shared + 0.5 * draw(2 * seed + 1, 60, 16) + 5
        ratio = logged(a) - logged(b)
        null = rank_null(a, b, "label_permutation", np.random.default_rng(seed), draws=100)
        covered += 0.0 in ratio.interval
        inside += ratio.value in null
    assert covered / runs > 0.91
    assert stats.binomtest(inside, runs, 0.95).pvalue > 1e-3


def test_fewer_directions_are_seen_beyond_the_null() -> None:
    low, high = cloud(60, 32, 4, 0), cloud(60, 32, 12, 5)
    ratio = logged(low) - logged(high)
    null = rank_null(low, high, "model_swap", np.random.default_rng(0))
    assert ratio.interval.low < np.log(4 / 12) < ratio.interval.high < null.low
    assert (null.kind, null.mean) == ("model_swap", 0.0)


def test_the_null_is_that_of_the_swapped_and_centred_clouds() -> None:
    a, b = cloud(12, 6, 3, 0), cloud(12, 6, 5, 4)
    null = rank_null(a, b, "model_swap", np.random.default_rng(3), draws=5)
    swap = np.random.default_rng(3).integers(0, 2, size=(5, 12)).astype(bool)
    first, second = a - a.mean(0), b - b.mean(0)
    assert null.draws is not None
    for row, value in zip(torch.from_numpy(swap), null.draws, strict=True):
        one, two = torch.where(row[:, None], second, first), torch.where(row[:, None], first, second)
        assert value == pytest.approx(logged(one).value - logged(two).value)


def test_rows_of_a_cluster_are_left_out_and_swapped_together() -> None:
    a, b, ids = cloud(12, 6, 3, 0), cloud(12, 6, 5, 4), np.repeat([7, 2, 5], 4)
    whole = log_rank(a, ids)
    assert isinstance(whole, LogRank)
    kept = [logged(a[torch.from_numpy(ids != name)]).value for name in (2, 5, 7)]
    assert whole.left_out == pytest.approx(kept)
    null = rank_null(a, b, "model_swap", np.random.default_rng(3), draws=200, clusters=ids)
    assert null.draws is not None
    assert len(np.unique(null.draws.round(9))) == 2**3
    with pytest.raises(DeltawError, match="clusters name 11 rows, there are 12"):
        log_rank(a, ids[1:])
    with pytest.raises(DeltawError, match="at least 4"):
        log_rank(a[:7], ids[:7])


def test_what_has_no_rank() -> None:
    assert isinstance(activation_rank(torch.full((9, 3), 2.5, dtype=torch.float64)), Absent)
    with pytest.raises(DeltawError, match="at least 4"):
        log_rank(draw(0, 3, 3))
