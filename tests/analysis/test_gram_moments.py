"""Nulls by moments against those by draws, and against all permutations where they can be listed."""

from itertools import permutations, product

import numpy as np
import pytest
import torch
from planted import draw, uneven
from torch import Tensor

from deltaw.analysis import (
    column_basis,
    gaussian_spectrum,
    null_energy,
    row_permutation_null,
    row_sign_flip_null,
)
from deltaw.analysis import gram_moments as moments
from deltaw.analysis import large_matrices as large
from deltaw.analysis.gram_moments import RowFacts
from deltaw.analysis.large_matrices import MatrixPair, Moments


def facts(W: Tensor, dW: Tensor) -> tuple[RowFacts, Moments, int]:
    pair = MatrixPair([(W, W + dW)])
    found = large.moments(pair)
    F = large.factor(found.G, pair.m, curve=False)
    return moments.row_facts(pair, found, F, np.random.default_rng(0)), found, F.k


def test_permutation_mean_and_variance_are_exact() -> None:
    """All 720 orders of six rows."""
    W, dW = uneven(6, 2, 0), uneven(6, 2, 5) + 0.4
    basis = column_basis(W)
    all_values = np.array([null_energy(dW[list(order)], basis) for order in permutations(range(6))], dtype=float)
    of_rows, found, k = facts(W, dW)
    null = moments.permutation_moments(of_rows, k, found.energy, np.random.default_rng(1), draws=200_000)
    assert null.mean == pytest.approx(all_values.mean(), abs=1e-9)
    # Drawn values are cut to [0, 1], where six rows can leave it: hence the tolerance, and the wider test below.
    a_mean, alpha, a_rest = moments._parts(of_rows.h, of_rows.sums_P, float(k))
    b_mean, beta, b_rest = moments._parts(of_rows.r2, of_rows.sums_K, of_rows.squares_K)
    x = torch.stack([8**0.5 * alpha, of_rows.h - of_rows.h.mean()])
    y = torch.stack([8**0.5 * beta, of_rows.r2 - of_rows.r2.mean()])
    variance = float(((x @ x.T) * (y @ y.T)).sum()) / 5 + 2 * a_rest * b_rest / 18
    assert variance / found.energy**2 == pytest.approx(all_values.var(), rel=1e-9)
    assert (a_mean, b_mean) != (0, 0)


def test_sign_flip_mean_and_variance_are_exact() -> None:
    W, dW = uneven(8, 3, 0), uneven(8, 3, 5) + 0.4
    basis = column_basis(W)
    values = np.array(
        [null_energy(torch.tensor(s, dtype=torch.float64)[:, None] * dW, basis) for s in product((-1, 1), repeat=8)],
        dtype=float,
    )
    of_rows, found, _ = facts(W, dW)
    assert moments.sign_flip_moments(of_rows, found.energy).mean == pytest.approx(values.mean(), abs=1e-9)
    assert of_rows.flip_variance / found.energy**2 == pytest.approx(values.var(), rel=1e-9)


@pytest.mark.parametrize("offset", [0.0, 0.3])
def test_bands_are_those_of_the_draws(offset: float) -> None:
    W, dW = uneven(240, 48, 0), uneven(240, 48, 5) + offset
    basis = column_basis(W)
    of_rows, found, k = facts(W, dW)
    generator = np.random.default_rng(1)
    for ours, drawn in (
        (moments.sign_flip_moments(of_rows, found.energy), row_sign_flip_null(dW, basis, generator, 20_000)),
        (
            moments.permutation_moments(of_rows, k, found.energy, generator, 4000),
            row_permutation_null(dW, basis, generator, 2000),
        ),
    ):
        width = drawn.high - drawn.low
        assert ours.kind == drawn.kind
        assert ours.mean == pytest.approx(drawn.mean, abs=0.03 * width)
        assert ours.low == pytest.approx(drawn.low, abs=0.08 * width)
        assert ours.high == pytest.approx(drawn.high, abs=0.08 * width)


def test_sampled_rows_estimate_the_variance_within_a_tenth(monkeypatch: pytest.MonkeyPatch) -> None:
    W, dW = uneven(1500, 24, 0), uneven(1500, 24, 5)
    monkeypatch.setattr(moments, "ALL_ROWS", 5000)
    exact = facts(W, dW)[0].flip_variance
    monkeypatch.setattr(moments, "ALL_ROWS", 1024)
    assert facts(W, dW)[0].flip_variance == pytest.approx(exact, rel=0.1)


@pytest.mark.parametrize(("shape", "error"), [((64, 16), 0.02), ((512, 128), 0.005), ((128, 128), 0.01)])
def test_gaussian_ranks_are_those_of_the_draws(shape: tuple[int, int], error: float) -> None:
    ours, drawn = moments.gaussian_ranks(shape), gaussian_spectrum(shape, np.random.default_rng(0), draws=200)
    for mine, theirs in (
        (ours.stable_rank, drawn.stable_rank),
        (ours.participation_ratio, drawn.participation_ratio),
    ):
        assert mine.mean == pytest.approx(theirs.mean, rel=error)
        width = theirs.high - theirs.low
        assert mine.high - mine.low == pytest.approx(width, rel=0.4)
        assert theirs.mean in mine


@pytest.mark.parametrize(("shape", "error"), [((64, 16), 0.006), ((128, 128), 0.002), ((128, 512), 0.002)])
def test_residual_energy_of_gaussian_matrices_is_that_of_draws(shape: tuple[int, int], error: float) -> None:
    ks = [0, 1, 2, 4, 8, 16]
    energies = [torch.linalg.svdvals(draw(seed, *shape)).square() for seed in range(60)]
    drawn = np.mean([[1 - float(e[:k].sum() / e.sum()) for k in ks] for e in energies], axis=0)
    np.testing.assert_allclose(moments.gaussian_residual(shape, ks), drawn, atol=error)


@pytest.mark.parametrize(("shape", "r"), [((300, 200), 4), ((40, 90), 12)])
def test_nulls_of_factors_are_those_of_whole_products(shape: tuple[int, int], r: int) -> None:
    ours = moments.factor_nulls(shape, r, np.random.default_rng(0), draws=2000)
    s2 = [
        torch.linalg.svdvals(draw(seed, shape[0], r) @ draw(1000 + seed, shape[1], r).T)[:r].square()
        for seed in range(400)
    ]
    for null, values in (
        (ours.stable_rank, [float(e.sum() / e[0]) for e in s2]),
        (ours.participation_ratio, [float(e.sum() ** 2 / e.square().sum()) for e in s2]),
    ):
        width = null.high - null.low
        assert null.mean == pytest.approx(np.mean(values), abs=0.06 * width)
        assert np.mean([value in null for value in values]) == pytest.approx(0.95, abs=0.04)
    beyond = np.mean([[1 - float(e[:k].sum() / e.sum()) for k in range(r + 1)] for e in s2], axis=0)
    np.testing.assert_allclose(ours.residual, beyond, atol=0.01)


def test_a_true_null_is_rejected_as_often_as_stated() -> None:
    """Gaussian updates of a matrix with uneven leverage: 95 % bands."""
    W = uneven(128, 32, 0)
    outside = {"row_sign_flip": 0, "row_permutation": 0}
    for seed in range(200):
        dW = draw(100 + seed, 128, 32)
        of_rows, found, k = facts(W, dW)
        value = null_energy(dW, column_basis(W))
        assert isinstance(value, float)
        outside["row_sign_flip"] += value not in moments.sign_flip_moments(of_rows, found.energy)
        null = moments.permutation_moments(of_rows, k, found.energy, np.random.default_rng(seed), 400)
        outside["row_permutation"] += value not in null
    # Binomial(200, 0.05) has mean 10 and standard deviation 3.
    assert all(count <= 21 for count in outside.values()), outside
