"""Two updates of one matrix: planted shared subspaces, chance by numpy's own rotations, and independent oracles."""

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from deltaw.analysis.large_matrices import LowRank, MatrixPair
from deltaw.analysis.principal_angles import rotation_angle_null, rotation_overlap_null
from deltaw.analysis.update_pairs import (
    PairOfUpdates,
    compare_updates,
    directions,
    rotation_angle_nulls,
    rotation_cosine_null,
)
from deltaw.errors import DeltawError
from deltaw.statistics import FloatArray

M, N, KS = 60, 40, (1, 4, 16)


def random(seed: int, *shape: int) -> FloatArray:
    return np.random.default_rng(seed).standard_normal(shape)


def rotation(generator: np.random.Generator, size: int) -> FloatArray:
    q, r = np.linalg.qr(generator.standard_normal((size, size)))
    rotated: FloatArray = q * np.sign(np.diag(r))
    return rotated


def pair_of(W: FloatArray, dW: FloatArray) -> MatrixPair:
    before = torch.from_numpy(W)
    return MatrixPair(
        [(before[:25], before[:25] + torch.from_numpy(dW[:25])), (before[25:], before[25:] + torch.from_numpy(dW[25:]))]
    )


def compared(A: FloatArray, B: FloatArray, ks: tuple[int, ...] = KS) -> PairOfUpdates:
    W, generator = random(99, *A.shape), np.random.default_rng(0)
    first, second = pair_of(W, A), pair_of(W, B)
    a, b = (directions(pair, max(ks), generator) for pair in (first, second))
    return compare_updates(first, second, a, b, ks)


def deviations(result: PairOfUpdates) -> FloatArray:
    return result.cosine / np.array(result.spreads)


def test_every_number_equals_numpys_svd() -> None:
    A, B = random(0, M, N), random(1, M, N) + 0.4 * random(0, M, N)
    result = compared(A, B)
    assert result.cosine == pytest.approx((A * B).sum() / np.linalg.norm(A) / np.linalg.norm(B), abs=1e-12)
    (UA, _, VA), (UB, _, VB) = (np.linalg.svd(x, full_matrices=False) for x in (A, B))
    spans = {"left": (UA, UB), "right": (VA.T, VB.T)}
    for part in result.shared:
        x, y = (span[:, : part.k] for span in spans[part.side])
        cosines = np.linalg.svd(x.T @ y, compute_uv=False)
        assert part.overlap == pytest.approx((cosines**2).mean(), abs=1e-9)
        np.testing.assert_allclose(part.angles, np.degrees(np.arccos(cosines.clip(0, 1)))[:4], atol=1e-6)
        of_a, of_b = (y.T @ A, x.T @ B) if part.side == "left" else (A @ y, B @ x)
        expected = (np.linalg.norm(of_a) / np.linalg.norm(A)) ** 2, (np.linalg.norm(of_b) / np.linalg.norm(B)) ** 2
        assert part.energy == pytest.approx(expected, abs=1e-9)
    assert {(part.side, part.k) for part in result.shared} == {(side, k) for side in ("left", "right") for k in KS}


def test_a_planted_shared_output_subspace_is_found_and_only_on_its_side() -> None:
    generator = np.random.default_rng(2)
    U = rotation(generator, M)[:, :4]
    A, B = (
        U * [4, 3, 2, 1] @ generator.standard_normal((4, N)) + 1e-4 * generator.standard_normal((M, N))
        for _ in range(2)
    )
    result = compared(A, B)
    by_side = {(part.side, part.k): part for part in result.shared}
    left, right = by_side["left", 4], by_side["right", 4]
    assert left.overlap > 0.999
    assert left.angles.max() < 0.1
    assert min(left.energy) > 0.999
    assert left.overlap_null.high < 0.2
    assert right.overlap < 2 * right.overlap_null.mean
    assert max(right.energy) < 2.5 * right.overlap_null.mean


def spectra(kind: str) -> tuple[FloatArray, FloatArray]:
    steep = 0.7 ** np.arange(N)
    flat = np.ones(N)
    few = np.where(np.arange(N) < 2, 1.0, 0.0)
    return {"steep": (steep, steep), "flat": (flat, steep), "few": (few, few), "one": (np.eye(1, N)[0],) * 2}[kind]


@pytest.mark.parametrize("kind", ["steep", "flat", "few", "one"])
def test_the_cosine_in_chance_deviations_is_standard_under_rotations_of_the_spectra(kind: str) -> None:
    """Mean 0 and variance 1 whatever the spectra; normal where many directions move; in its band in 95 %."""
    s, t = spectra(kind)
    generator, draws = np.random.default_rng(3), 2500
    A = np.zeros((M, N))
    A[:N, :N] = np.diag(s)
    z = np.empty(draws)
    for place in range(draws):
        U, V = rotation(generator, M)[:, :N], rotation(generator, N)
        z[place] = ((U * t @ V.T) * A).sum() / np.linalg.norm(s) / np.linalg.norm(t) * (M * N) ** 0.5
    assert z.mean() == pytest.approx(0, abs=4 / draws**0.5)
    kurtosis = stats.kurtosis(z, fisher=False)
    assert z.var() == pytest.approx(1, abs=4 * ((kurtosis - 1) / draws) ** 0.5)
    concentrations = tuple(float((x**4).sum() / (x**2).sum() ** 2) for x in (s, t))
    null = rotation_cosine_null((M, N), (concentrations[0], concentrations[1]))
    inside = (np.abs(z) <= null.high * (M * N) ** 0.5).mean()
    assert inside == pytest.approx(0.95, abs=4 * (0.95 * 0.05 / draws) ** 0.5)
    if kind == "flat":  # many directions move: the law is normal
        assert stats.kstest(z, "norm").pvalue > 1e-3
    if kind == "one":  # a product of two entries: a normal band would be too narrow
        assert (np.abs(z) <= 1.959964).mean() < 0.945


def test_deviations_under_one_sided_rotations_are_standard_too() -> None:
    generator, draws = np.random.default_rng(4), 150
    reads = 0.8 ** np.arange(N)  # both updates read alike, and write at random
    A, z_plain, z_outputs = random(5, M, N) * reads, np.empty(draws), np.empty(draws)
    for place in range(draws):
        B = rotation(generator, M) @ (random(6, M, N) * reads)
        result = compared(A, B, (1,))
        z_plain[place], z_outputs[place] = deviations(result)[:2]
    assert z_outputs.var() == pytest.approx(1, abs=4 * (2 / draws) ** 0.5)
    assert z_plain.var() > 2  # shared inputs alone exceed the plain null, which is why the stricter one is there
    z_inputs = np.array([deviations(compared(A @ rotation(generator, N), A, (1,)))[2] for _ in range(draws)])
    assert z_inputs.var() == pytest.approx(1, abs=4 * (2 / draws) ** 0.5)


def test_random_updates_lie_at_chance() -> None:
    results = [compared(random(2 * seed + 100, M, N), random(2 * seed + 101, M, N)) for seed in range(60)]
    z = np.array([deviations(result) for result in results])
    assert np.all(np.abs(z.mean(0)) < 4 / 60**0.5)
    assert np.all(np.abs(z.std(0) - 1) < 4 / 120**0.5)
    shared = [part for result in results for part in result.shared]
    inside = np.mean([part.overlap in part.overlap_null for part in shared])
    assert inside == pytest.approx(0.95, abs=0.05)
    for side, width in (("left", M), ("right", N)):
        overlaps = [part.overlap for part in shared if part.side == side and part.k == 4]
        assert np.mean(overlaps) == pytest.approx(4 / width, rel=0.1)
        energies = [share for part in shared if part.side == side and part.k == 4 for share in part.energy]
        assert np.mean(energies) == pytest.approx(4 / width, rel=0.1)


def test_principal_angles_by_chance_are_those_of_drawn_subspaces() -> None:
    width, k = 30, 5
    nulls = rotation_angle_nulls(width, k, draws=4000)
    other = rotation_angle_null(width, k, k, np.random.default_rng(8), draws=4000)
    assert nulls[0].mean == pytest.approx(other.mean, abs=0.5)
    assert nulls[0].low == pytest.approx(other.low, abs=1.5)
    angles = np.radians(np.array([null.draws for null in nulls], dtype=np.float64))
    assert (np.cos(angles) ** 2).mean() == pytest.approx(rotation_overlap_null(width, k, k).mean, rel=0.02)
    with pytest.raises(DeltawError, match="at most half"):
        rotation_angle_nulls(10, 6)


def test_an_adapters_update_has_no_more_directions_than_its_rank() -> None:
    W = torch.from_numpy(random(9, M, N))
    left, right = (torch.from_numpy(random(seed, size, 3)) for seed, size in ((10, M), (11, N)))
    generator = np.random.default_rng(0)
    adapter = MatrixPair([(W, LowRank(left, right))])
    dense = MatrixPair([(W, W + left @ right.T)])
    of_adapter, of_dense = (directions(pair, 16, generator) for pair in (adapter, dense))
    assert of_adapter.left.shape[1] == 3
    result = compare_updates(adapter, dense, of_adapter, of_dense, KS)
    assert result.cosine == pytest.approx(1, abs=1e-9)
    assert {part.k for part in result.shared} == {1}
    assert all(part.overlap == pytest.approx(1, abs=1e-9) for part in result.shared)


def test_large_matrices_give_the_directions_of_the_svd() -> None:
    n = 1100  # above the size up to which eigenvectors are exact
    generator = np.random.default_rng(12)
    s = torch.from_numpy(0.9 ** np.arange(40))
    U, V = (torch.linalg.qr(torch.from_numpy(generator.standard_normal((n, 40))))[0] for _ in range(2))
    update: Tensor = U * s @ V.T
    W = torch.zeros(n, n, dtype=torch.float64)
    result = directions(MatrixPair([(W, update)]), 16, generator)
    for mine, true in ((result.left, U), (result.right, V)):
        assert float((mine.T @ true[:, :16]).square().sum()) / 16 == pytest.approx(1, abs=1e-6)
    np.testing.assert_allclose(result.own, np.cumsum(s[:16].numpy() ** 2) / float((s**2).sum()), atol=1e-9)


def test_an_update_of_zero_is_refused() -> None:
    W = torch.from_numpy(random(0, M, N))
    with pytest.raises(DeltawError, match="zero"):
        directions(MatrixPair([(W, W)]), 4, np.random.default_rng(0))
