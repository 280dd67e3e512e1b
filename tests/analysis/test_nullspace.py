"""Observation 2 on planted updates: inside C(W), inside N(Wᵀ), random, of low rank."""

import numpy as np
import pytest
import torch
from planted import draw, inside, of_rank, orthogonal, outside

from deltaw.analysis import (
    Absent,
    NullCurve,
    NullProfile,
    column_basis,
    component_along,
    null_curve,
    null_energy,
    null_profile,
)
from deltaw.analysis.nullspace import Along
from deltaw.errors import DeltawError

M, N = 96, 24


def energy(dW: torch.Tensor, W: torch.Tensor) -> float:
    rho = null_energy(dW, column_basis(W))
    assert isinstance(rho, float)
    return rho


def test_planted_updates() -> None:
    W = draw(0, M, N)
    assert energy(inside(W, 1), W) == pytest.approx(0, abs=1e-12)
    assert energy(outside(W, 2), W) == pytest.approx(1, abs=1e-12)
    into, out = inside(W, 1), outside(W, 2)
    mixed = 3 * into / into.norm() + 4 * out / out.norm()
    assert energy(mixed, W) == pytest.approx(16 / 25, abs=1e-12)
    assert energy(draw(3, M, N), W) == pytest.approx(0.75, abs=0.05)


def test_invariances() -> None:
    W, dW = draw(0, M, N), draw(1, M, N)
    rho = energy(dW, W)
    assert energy(dW, W @ draw(2, N, N)) == pytest.approx(rho, abs=1e-10)  # C(W) is all that counts
    assert energy(dW @ orthogonal(N, 3), W) == pytest.approx(rho, abs=1e-12)
    turn = orthogonal(M, 4)
    assert energy(turn @ dW, turn @ W) == pytest.approx(rho, abs=1e-12)
    assert energy(-7 * dW, W) == pytest.approx(rho, abs=1e-12)


@pytest.mark.parametrize("condition", [1.0, 1e2, 1e4])
def test_svd_and_qr_agree(condition: float) -> None:
    left, _ = torch.linalg.qr(draw(0, M, N))
    scale = torch.logspace(0, -np.log10(condition), N, dtype=torch.float64)
    W = left * scale @ orthogonal(N, 1)
    dW = draw(2, M, N) + 3 * inside(left, 3)
    by_svd = energy(dW, W)
    q, _ = torch.linalg.qr(W)
    by_qr = 1 - float((q.T @ dW).square().sum() / dW.square().sum())
    assert by_svd == pytest.approx(by_qr, abs=1e-9)


def test_rank_of_a_float32_matrix_ignores_its_rounding() -> None:
    W = of_rank(M, N, 10, 0).float()
    assert column_basis(W).k == 10
    assert column_basis(W, tolerance=1e-12).k == N


@pytest.mark.parametrize("shape", [(24, 24), (24, 96)])
def test_no_left_null_space_is_absent_and_not_zero(shape: tuple[int, int]) -> None:
    W, dW = draw(0, *shape), draw(1, *shape)
    basis = column_basis(W)
    for found in (null_energy(dW, basis), null_profile(dW, basis)):
        assert isinstance(found, Absent)
        assert f"{shape[0]} × {shape[1]}" in found.reason
    curve = null_curve(dW, W)
    assert isinstance(curve, NullCurve)  # the curve over k exists for any shape
    assert curve.rho[-1] == pytest.approx(0, abs=1e-12)


def test_a_zero_update_has_no_shares() -> None:
    W, zero = draw(0, M, N), torch.zeros(M, N)
    basis = column_basis(W)
    for found in (
        null_energy(zero, basis),
        null_profile(zero, basis),
        null_curve(zero, W),
        component_along(zero, W),
    ):
        assert isinstance(found, Absent)
        assert "zero" in found.reason


def test_profile_weighted_by_energy_is_rho() -> None:
    W, dW = draw(0, M, N), of_rank(M, N, 5, 1)
    profile = null_profile(dW, column_basis(W))
    assert isinstance(profile, NullProfile)
    assert len(profile.sigma) == 5
    assert np.all(np.diff(profile.sigma) <= 0)
    share = profile.sigma**2 / (profile.sigma**2).sum()
    assert (share * profile.y**2).sum() == pytest.approx(energy(dW, W), abs=1e-12)


def test_profile_uses_left_vectors_and_not_rows_of_u() -> None:
    W = draw(0, M, N)
    into, out = inside(W, 1), outside(W, 2)
    u, v = torch.linalg.svd(into).U[:, 0], draw(3, N)
    w = torch.linalg.svd(out, full_matrices=False).U[:, 0]
    dW = 5 * torch.outer(u, v / v.norm()) + torch.outer(w, orthogonal(N, 4)[0])
    profile = null_profile(dW, column_basis(W), k=2)
    assert isinstance(profile, NullProfile)
    assert profile.y[0] < 0.1
    assert profile.y[1] > 0.9


def test_random_directions_fall_in_the_profile_band() -> None:
    W, dW = draw(0, 768, 192).float(), draw(1, 768, 192)
    profile = null_profile(dW, column_basis(W))
    assert isinstance(profile, NullProfile)
    # Haar reference in the published analysis: 0.866, 95 % band 0.840 to 0.890.
    assert profile.chance.mean == pytest.approx(0.866, abs=1e-3)
    assert (profile.chance.low, profile.chance.high) == pytest.approx((0.840, 0.890), abs=1e-3)
    within = np.mean([y in profile.chance for y in profile.y])
    assert 0.88 <= within <= 0.995


def test_curve_ends_at_rho_and_its_chance() -> None:
    W, dW = draw(0, M, N), draw(1, M, N)
    curve = null_curve(dW, W)
    assert isinstance(curve, NullCurve)
    assert curve.rho[0] == 1
    assert curve.rho[-1] == pytest.approx(energy(dW, W), abs=1e-12)
    assert curve.chance[-1] == pytest.approx(0.75)
    assert np.all(np.diff(curve.rho) <= 1e-12)
    some = null_curve(dW, W, [3, 10])
    assert isinstance(some, NullCurve)
    assert some.rho == pytest.approx(curve.rho[[3, 10]])
    with pytest.raises(DeltawError, match="rank"):
        null_curve(dW, W, [N + 1])


def test_energy_rule_is_inclusive() -> None:
    W = torch.diag(torch.tensor([3.0, 1.0]))  # 0.9 of the energy is in the first direction
    assert column_basis(W, "energy", energy=0.9).k == 1
    assert column_basis(W, "energy", energy=0.95).k == 2
    assert column_basis(W, "energy", energy=1.0).k == 2


def test_component_along() -> None:
    W = draw(0, M, N)
    shrunk = component_along(-0.01 * W, W)
    assert isinstance(shrunk, Along)
    assert shrunk.cosine == pytest.approx(-1)
    rng_hits = 0
    for seed in range(200):
        along = component_along(draw(100 + seed, M, N), W)
        assert isinstance(along, Along)
        rng_hits += along.cosine in along.chance
    assert 179 <= rng_hits <= 199  # Binomial(200, 0.95): 99.9 % within 179 .. 199


def test_bad_matrices_get_a_sentence() -> None:
    W = draw(0, M, N)
    with pytest.raises(DeltawError, match="rows"):
        null_energy(draw(1, M + 1, N), column_basis(W))
    with pytest.raises(DeltawError, match="NaN"):
        column_basis(W * float("nan"))
    with pytest.raises(DeltawError, match="matrix"):
        column_basis(W[0])
