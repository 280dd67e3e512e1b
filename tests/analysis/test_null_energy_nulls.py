"""The nulls of ρ_N: closed forms against simulation, and how often a true null is rejected."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from planted import draw, inside, of_rank, orthogonal, outside, uneven
from scipy import stats

from deltaw.analysis import (
    Absent,
    column_basis,
    gaussian_null,
    null_energy,
    null_energy_nulls,
    rotation_null,
    row_permutation_null,
    row_sign_flip_null,
)
from deltaw.analysis.nullspace import ColumnBasis
from deltaw.statistics import FloatArray, Null

M, N = 64, 16


def simulate(make: Callable[[int], torch.Tensor], basis: ColumnBasis, draws: int) -> FloatArray:
    return np.array([null_energy(make(seed), basis) for seed in range(draws)], dtype=np.float64)


@pytest.mark.parametrize("rank", [1, 3, N])
def test_rotation_closed_form_is_what_rotation_gives(rank: int) -> None:
    basis = column_basis(draw(0, M, N))
    dW = of_rank(M, N, rank, 1)
    values = simulate(lambda seed: orthogonal(M, 10 + seed) @ dW, basis, 2000)
    null = rotation_null(dW, basis)
    assert null.mean == 0.75
    assert values.mean() == pytest.approx(null.mean, abs=4 * values.std() / 2000**0.5)
    # The band is a Beta law with the exact variance: it must hold 95 % (binomial standard error 0.5 %).
    assert np.mean((values >= null.low) & (values <= null.high)) == pytest.approx(0.95, abs=0.02)
    w = torch.linalg.svdvals(dW) ** 2
    s2 = float((w**2).sum() / w.sum() ** 2)
    variance = 2 * 0.75 * 0.25 / (M + 2) * (s2 - (1 - s2) / (M - 1))
    assert values.std() == pytest.approx(variance**0.5, rel=0.06)


def test_rotation_at_rank_one_is_exactly_beta() -> None:
    null = rotation_null(of_rank(M, N, 1, 0), column_basis(draw(0, M, N)))
    low, high = stats.beta((M - N) / 2, N / 2).interval(0.95)
    assert (null.low, null.high) == pytest.approx((low, high))


def test_spectrum_matched_updates_have_the_law_of_rotated_ones() -> None:
    basis, dW = column_basis(draw(0, M, N)), of_rank(M, N, 4, 1)
    rotated = simulate(lambda seed: orthogonal(M, 10 + seed) @ dW, basis, 600)
    s = torch.linalg.svdvals(dW)
    matched = simulate(lambda seed: orthogonal(M, 5000 + seed)[:, :N] * s @ orthogonal(N, 9000 + seed), basis, 600)
    assert stats.ks_2samp(rotated, matched).pvalue > 0.01


def test_gaussian_closed_form_is_what_gaussian_updates_give() -> None:
    basis = column_basis(draw(0, M, N))
    values = simulate(lambda seed: draw(10 + seed, M, N), basis, 1500)
    null = gaussian_null((M, N), basis)
    exact = stats.beta((M - N) * N / 2, N * N / 2)
    assert (null.low, null.high) == pytest.approx(exact.interval(0.95))
    assert stats.kstest(values, exact.cdf).pvalue > 0.01


def test_sign_flip_mean_is_exact_by_enumeration() -> None:
    W, dW = uneven(8, 3, 0), draw(2, 8, 3)
    basis = column_basis(W)
    patterns = [[1.0 if code >> i & 1 else -1.0 for i in range(8)] for code in range(256)]
    every = [null_energy(torch.tensor(p, dtype=torch.float64)[:, None] * dW, basis) for p in patterns]
    null = row_sign_flip_null(dW, basis, np.random.default_rng(0), 4000)
    assert null.mean == pytest.approx(np.mean(np.array(every, dtype=float)), abs=1e-12)
    h, r2 = (basis.Q**2).sum(1), (dW**2).sum(1)
    assert null.mean == pytest.approx(1 - float((r2 * h).sum() / r2.sum()), abs=1e-12)
    assert null.draws is not None
    assert null.draws.mean() == pytest.approx(null.mean, abs=0.01)
    assert null.draws.std() == pytest.approx(np.array(every, dtype=float).std(), rel=0.05)


def test_row_permutation_draws_are_what_permuting_gives() -> None:
    W, dW = uneven(M, N, 0), uneven(M, N, 5)
    basis = column_basis(W)
    null = row_permutation_null(dW, basis, np.random.default_rng(0), 600)
    rng = np.random.default_rng(1)
    values = simulate(lambda _: dW[torch.from_numpy(rng.permutation(M))], basis, 600)
    assert null.draws is not None
    assert stats.ks_2samp(null.draws, values).pvalue > 0.01


def test_row_norms_tied_to_leverage_fool_all_but_the_sign_flip_null() -> None:
    W = uneven(256, 32, 0)
    basis = column_basis(W)
    leverage = (basis.Q**2).sum(1, keepdim=True)
    # Units of large leverage get small updates; apart from that the update knows nothing of W.
    dW = draw(3, 256, 32) * (1.05 - leverage)
    rho = null_energy(dW, basis)
    assert isinstance(rho, float)
    nulls = null_energy_nulls(dW, basis, np.random.default_rng(0), 400)
    assert not isinstance(nulls, Absent)
    by_kind = {null.kind: null for null in nulls}
    assert rho in by_kind["row_sign_flip"]
    for kind in ("row_permutation", "rotation", "gaussian"):
        assert rho > by_kind[kind].high


@pytest.mark.parametrize("kind", ["row_sign_flip", "row_permutation", "rotation", "gaussian"])
def test_true_nulls_are_rejected_at_their_level(kind: str) -> None:
    W = uneven(48, 12, 0)
    basis = column_basis(W)
    rng = np.random.default_rng(7)
    rejected = 0
    for seed in range(300):
        dW = draw(1000 + seed, 48, 12)
        if kind == "row_sign_flip":  # rows as long as you like, with any tie to leverage; signs are fair
            dW = dW * (basis.Q**2).sum(1, keepdim=True).sqrt()
            null: Null = row_sign_flip_null(dW, basis, rng, 199)
        elif kind == "row_permutation":  # heavy-tailed rows, in random order
            dW = dW * torch.from_numpy(rng.lognormal(0, 1, size=(48, 1)))
            null = row_permutation_null(dW, basis, rng, 199)
        elif kind == "rotation":
            null = rotation_null(dW, basis)
        else:
            null = gaussian_null((48, 12), basis)
        rho = null_energy(dW, basis)
        assert isinstance(rho, float)
        rejected += rho not in null
    # Binomial(300, 0.05): 15 expected, 99.9 % within 4 .. 29; a band from 199 draws is about 1 % too narrow.
    assert 4 <= rejected <= 33


def test_planted_updates_are_found_against_every_null() -> None:
    W = draw(0, M, N)
    basis = column_basis(W)
    for dW, above in ((outside(W, 1) + 0.3 * draw(2, M, N), True), (inside(W, 1) + draw(2, M, N), False)):
        rho = null_energy(dW, basis)
        assert isinstance(rho, float)
        nulls = null_energy_nulls(dW, basis, np.random.default_rng(0), 200)
        assert not isinstance(nulls, Absent)
        for null in nulls:
            assert rho > null.high if above else rho < null.low


def test_absent_where_rho_is() -> None:
    basis = column_basis(draw(0, 16, 16))
    assert isinstance(null_energy_nulls(draw(1, 16, 16), basis, np.random.default_rng(0)), Absent)
    tall = column_basis(draw(0, M, N))
    assert isinstance(null_energy_nulls(torch.zeros(M, N), tall, np.random.default_rng(0)), Absent)
