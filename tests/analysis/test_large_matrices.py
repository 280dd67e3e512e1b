"""Large matrices: from Gram matrices, the same numbers as the SVD gives, within the errors that are stated."""

from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from planted import draw, inside, of_rank, orthogonal, outside, uneven
from torch import Tensor

from deltaw.analysis import (
    Absent,
    column_basis,
    component_along,
    null_curve,
    null_energy,
    null_profile,
    streamed_update,
    update_spectrum,
)
from deltaw.analysis import large_matrices as large
from deltaw.analysis.large_matrices import After, LowRank, MatrixPair
from deltaw.analysis.weight_update import UpdateDirections
from deltaw.errors import DeltawError

M, N = 96, 24


def pair(W: Tensor, dW: Tensor, cut: int = 40) -> MatrixPair:
    """In two parts, of which the first is shorter than the second."""
    return MatrixPair([(W[:cut], W[:cut] + dW[:cut]), (W[cut:], W[cut:] + dW[cut:])])


def rho(W: Tensor, dW: Tensor, curve: bool = False) -> float:
    given = pair(W, dW)
    found = large.moments(given)
    return large.outside(large.inside(given, large.factor(found.G, len(W), curve)), found.energy)


@pytest.mark.parametrize("curve", [False, True])
@pytest.mark.parametrize(("make", "truth"), [(inside, 0.0), (outside, 1.0)])
def test_planted_updates(make: Callable[[Tensor, int], Tensor], truth: float, curve: bool) -> None:
    W = uneven(M, N, 0)
    assert rho(W, make(W, 1), curve) == pytest.approx(truth, abs=1e-9)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 999), st.floats(0, 5), st.booleans())
def test_equals_the_svd_up_to_condition_1e5(seed: int, decades: float, curve: bool) -> None:
    s = torch.logspace(0, -decades, N, dtype=torch.float64)
    W = orthogonal(M, seed)[:, :N] * s @ orthogonal(N, seed + 1)
    dW = draw(seed + 2, M, N)
    exact = null_energy(dW, column_basis(W))
    assert rho(W, dW, curve) == pytest.approx(exact, abs=1e-6)


@pytest.mark.parametrize("n", [64, 400])
def test_square_random_matrices_are_of_full_rank(n: int) -> None:
    """Their smallest singular value is about 1/n of the largest, so the rule for the rank must lie far below."""
    for seed in range(5):
        W = draw(seed, n, n).to(torch.bfloat16)
        found = large.moments(MatrixPair([(W, W)]))
        assert large.factor(found.G, n, curve=False).k == large.factor(found.G, n, curve=True).k == n


def test_a_matrix_that_is_not_of_full_rank_falls_back_to_eigenvectors() -> None:
    W, dW = of_rank(M, N, 5, 0), draw(3, M, N)
    found = large.moments(pair(W, dW))
    F = large.factor(found.G, M, curve=False)
    assert (F.k, F.lower) == (5, None)
    assert F.chance == 1 - 5 / M
    assert rho(W, dW) == pytest.approx(null_energy(dW, column_basis(W)), abs=1e-9)


def directions(parts: Sequence[tuple[Tensor, After]], curve: bool = False) -> UpdateDirections:
    generator = np.random.default_rng(0)
    made = streamed_update.streamed_update(parts, generator, curve, points=N + 1).directions
    assert not isinstance(made, Absent)
    return made


def test_the_curve_is_that_of_the_svd_and_is_absent_without_eigenvectors(monkeypatch: pytest.MonkeyPatch) -> None:
    W, dW = uneven(M, N, 0), draw(3, M, N)
    expected = null_curve(dW, W)
    assert not isinstance(expected, Absent)
    for limit, curve in ((N, False), (N - 1, True)):
        monkeypatch.setattr(streamed_update, "CURVE_UP_TO", limit)
        made = directions([(W, W + dW)], curve).curve
        assert not isinstance(made, Absent)
        np.testing.assert_allclose(made.rho, expected.rho, atol=1e-9)
        np.testing.assert_allclose(made.chance, expected.chance)
    made = directions([(W, W + dW)]).curve
    assert isinstance(made, Absent)
    assert "--curve" in made.reason


@pytest.mark.parametrize("wide", [False, True])
def test_the_profile_is_that_of_the_svd_of_whole_updates_and_of_factors(wide: bool) -> None:
    W, left, right = uneven(M, N, 0), draw(1, M, 3), draw(2, N, 3)
    cases: list[tuple[Tensor, After]] = [
        (draw(3, M, N), W + draw(3, M, N)),
        (left @ right.T, W + left @ right.T),
        (left @ right.T, LowRank(left, right)),
    ]
    for dW, after in cases:
        expected = null_profile(dW, column_basis(W), 32)
        assert not isinstance(expected, Absent)
        made = directions([(W.T, after.T) if wide else (W, after)]).profile
        assert not isinstance(made, Absent)
        np.testing.assert_allclose(made.sigma, expected.sigma, rtol=1e-9)
        np.testing.assert_allclose(made.y, expected.y, atol=1e-7)
        assert (made.chance.mean, made.chance.low) == (expected.chance.mean, expected.chance.low)


def test_moments_are_those_of_the_whole_matrices() -> None:
    W, dW = uneven(M, N, 0), draw(3, M, N)
    found, expected = large.moments(pair(W, dW)), update_spectrum(dW, W)
    assert not isinstance(expected, Absent)
    assert found.relative_norm == pytest.approx(expected.relative_norm)
    assert 1 / found.concentration == pytest.approx(expected.participation_ratio)
    along = component_along(dW, W)
    assert not isinstance(along, Absent)
    assert found.cosine == pytest.approx(along.cosine, abs=1e-12)


@pytest.mark.parametrize("decay", [0.0, 0.5])
def test_singular_values_by_iteration_are_within_1e_3(decay: float, monkeypatch: pytest.MonkeyPatch) -> None:
    n = 700
    scale = torch.arange(1, n + 1, dtype=torch.float64) ** -decay
    d = draw(0, 900, n) * scale
    S = d.T @ d
    exact, _ = large.top_directions(S, 32, np.random.default_rng(0))
    monkeypatch.setattr(large, "EXACT_BELOW", 1)
    found, vectors = large.top_directions(S, 32, np.random.default_rng(0))
    torch.testing.assert_close(vectors.T @ vectors, torch.eye(32, dtype=torch.float64))
    np.testing.assert_allclose(exact, torch.linalg.svdvals(d)[:32].numpy(), rtol=1e-9)
    np.testing.assert_allclose(found, exact, rtol=1e-3)


def test_updates_by_factors_equal_merged_ones() -> None:
    W, left, right = draw(0, M, N), draw(1, M, 3), draw(2, N, 3)
    factors = LowRank(left, right)
    in_parts = MatrixPair([(W[:40], LowRank(left[:40], right)), (W[40:], LowRank(left[40:], right))])
    whole = MatrixPair([(W, W + left @ right.T)])
    by_factors, merged = large.moments(in_parts), large.moments(whole)
    for name in ("S", "row_energy"):
        torch.testing.assert_close(getattr(by_factors, name), getattr(merged, name), rtol=1e-9, atol=1e-9)
    F = large.factor(merged.G, M, curve=False)
    torch.testing.assert_close(large.inside(in_parts, F), large.inside(whole, F), rtol=1e-9, atol=1e-9)
    sigma, vectors = large.low_rank_directions(factors)
    np.testing.assert_allclose(sigma, torch.linalg.svdvals(left @ right.T)[:3].numpy(), rtol=1e-9)
    np.testing.assert_allclose((left @ right.T @ vectors).norm(dim=0).numpy(), sigma, rtol=1e-9)
    torch.testing.assert_close(vectors.T @ vectors, torch.eye(3, dtype=torch.float64))
    wide = large.moments(MatrixPair([(W, factors.T.T)]))
    torch.testing.assert_close(wide.S, merged.S)


def test_stacked_factors_are_the_stacked_update() -> None:
    shared = draw(2, N, 3)
    for rights in ((shared, shared), (shared, draw(3, N, 2))):
        parts = [LowRank(draw(seed, 30, right.shape[1]), right) for seed, right in enumerate(rights)]
        whole = large.stacked(parts)
        merged = torch.cat([part.left @ part.right.T for part in parts])
        torch.testing.assert_close(whole.left @ whole.right.T, merged)
        rank = len({id(right): 0 for right in rights})
        assert whole.right.shape[1] == (3 if rank == 1 else 5)
        np.testing.assert_allclose(
            large.low_rank_directions(whole)[0],
            torch.linalg.svdvals(merged)[: whole.right.shape[1]].numpy(),
            rtol=1e-9,
        )
    W = draw(9, 60, N)
    assert MatrixPair([(W[:30], parts[0]), (W[30:], W[30:])]).low_rank is None


def test_rows_are_those_of_the_blocks() -> None:
    W, dW = draw(0, 1300, 7), draw(1, 1300, 7)
    found = pair(W, dW, 520)
    chosen = torch.tensor([0, 511, 519, 520, 1299])
    w, d = found.rows(chosen)
    torch.testing.assert_close(w, W[chosen])
    torch.testing.assert_close(d, dW[chosen])
    assert [rows.start for rows, _, _ in found.blocks()] == [0, 512, 520, 1032]


def test_wide_and_broken_matrices_are_refused() -> None:
    with pytest.raises(DeltawError, match="3 × 5; give wide matrices transposed"):
        MatrixPair([(draw(0, 3, 5), draw(1, 3, 5))])
    with pytest.raises(DeltawError, match="before and"):
        MatrixPair([(draw(0, 5, 3), draw(1, 6, 3))])
    bad = draw(0, 5, 3)
    bad[4, 1] = torch.nan
    with pytest.raises(DeltawError, match="NaN"):
        large.moments(MatrixPair([(draw(0, 5, 3), bad)]))
