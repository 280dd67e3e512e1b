"""Nulls of ρ_N and of ΔW's ranks from moments, for matrices too large to shuffle, flip or decompose again and again.

With P = QQᵀ the projector on C(W) and K = ΔWΔWᵀ, the energy inside is T = Σ_ij P_ij K_ij.

    row_permutation   T(π) = Σ_ij P_ij K_π(i)π(j) (Mantel, 1967). Off the diagonal each matrix is a mean, a part that
                      belongs to rows, and a rest whose rows sum to 0; these are uncorrelated under π, so mean and
                      variance are exact and no ΔW is shuffled. All that is needed of P and K are their diagonals
                      (leverages h and squared row norms r²), their row sums, and ‖P‖² = k and ‖K‖² = Σ σ⁴.
    row_sign_flip     T(s) = Σ_ij P_ij K_ij s_i s_j. The mean Σ h_i r_i² is exact, the variance 2 Σ_{i≠j} (P_ij K_ij)²:
                      exact up to `ALL_ROWS` rows, else from that many, drawn by their norms and uniformly in halves.
    gaussian ranks    1 / participation ratio has mean (m + n + 1) / (m n + 2), exact, and standard deviation 2 / (m n)
                      (Ledoit and Wolf, 2002); σ_1² follows Tracy and Widom's law (Johnstone, 2001), here in its gamma
                      form (Chiani, 2014); the energy beyond the first k directions is a quantile's of the law of
                      Marchenko and Pastur (1967).
    gaussian factors  the ranks of products of independent normal factors (m, r) and (n, r), the null of a LoRA update:
                      drawn as the r × r triangles that QR would leave of them (Bartlett, 1933), never m × n.

Other bands are those of Beta laws with these moments.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from deltaw.analysis.inputs import array
from deltaw.analysis.large_matrices import Factor, MatrixPair, Moments
from deltaw.analysis.spectrum import GaussianSpectrum
from deltaw.statistics import FloatArray, Null, from_beta, from_draws

ALL_ROWS = 1024


@dataclass(frozen=True, eq=False)
class RowFacts:
    """Of P and K, by row (m,): leverages h, squared norms r2, row sums of P and of K. flip_variance: of T(s). inside:
    QᵀΔW (k, n).
    """

    h: Tensor
    r2: Tensor
    sums_P: Tensor
    sums_K: Tensor
    squares_K: float
    flip_variance: float
    inside: Tensor


def row_facts(pair: MatrixPair, sums: Moments, F: Factor, generator: np.random.Generator) -> RowFacts:
    """A second pass over the rows."""
    h, sums_P, sums_K = (pair.zeros(pair.m) for _ in range(3))
    chosen, weight = _sample(sums.row_energy, generator)
    w_S, d_S = pair.rows(chosen)
    q_S, ones = F.apply(w_S), F.apply(sums.sum_w[None])[0]
    squares, Y = pair.zeros(len(chosen)), pair.zeros(F.k, pair.n)
    for rows, w, d in pair.blocks():
        q = F.apply(w)
        h[rows] = q.square().sum(1)
        sums_P[rows], sums_K[rows] = q @ ones, d @ sums.sum_d
        Y.addmm_(q.T, d)
        squares += ((q @ q_S.T) * (d @ d_S.T)).square().sum(0)
    squares -= (h[chosen] * sums.row_energy[chosen]).square()
    flip_variance = 2 * float((squares.clamp(min=0) * weight).sum())
    return RowFacts(h, sums.row_energy, sums_P, sums_K, float(sums.S.square().sum()), flip_variance, Y)


def _sample(row_energy: Tensor, generator: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Increasing row numbers and what each counts for in a sum over all rows."""
    m = len(row_energy)
    if m <= ALL_ROWS:
        return torch.arange(m, device=row_energy.device), torch.ones_like(row_energy)
    p = (array(row_energy) / float(row_energy.sum()) + 1 / m) / 2
    drawn, counts = np.unique(generator.choice(m, size=ALL_ROWS, p=p / p.sum()), return_counts=True)
    weights = counts / (ALL_ROWS * p[drawn])
    return torch.from_numpy(drawn).to(row_energy.device), torch.from_numpy(weights).to(row_energy.device)


def sign_flip_moments(facts: RowFacts, energy: float) -> Null:
    """ρ_N under random signs of ΔW's rows."""
    return _null("row_sign_flip", 1 - float((facts.h * facts.r2).sum()) / energy, facts.flip_variance / energy**2)


def permutation_moments(
    facts: RowFacts, k: int, energy: float, generator: np.random.Generator, draws: int = 1000
) -> Null:
    """ρ_N under random orders of ΔW's rows (at least four); mean exact, band from `draws`.

    The rows' part of T, from which its skewness comes, is drawn as it is; the rest, as normal with its exact variance.
    """
    m = len(facts.h)
    a_mean, alpha, a_rest = _parts(facts.h, facts.sums_P, float(k))
    b_mean, beta, b_rest = _parts(facts.r2, facts.sums_K, facts.squares_K)
    mean = m * (m - 1) * a_mean * b_mean + float(facts.h.sum() * facts.r2.sum()) / m
    scale = 2 * (m - 2)
    x = array(torch.stack([scale * alpha, facts.h - facts.h.mean()]))
    y = array(torch.stack([beta, facts.r2 - facts.r2.mean()]))
    rows = np.array([float((x * y[:, generator.permutation(m)]).sum()) for _ in range(draws)])
    rest = generator.standard_normal(draws) * (2 * a_rest * b_rest / (m * (m - 3))) ** 0.5
    values = np.clip(1 - (mean + rows + rest) / energy, 0, 1)
    return from_draws("row_permutation", values, mean=min(1.0, max(0.0, 1 - mean / energy)))


def _parts(diagonal: Tensor, sums: Tensor, squares: float) -> tuple[float, Tensor, float]:
    """Off the diagonal: the mean, the rows' part (m,), and the squared norm of the rest."""
    m = len(diagonal)
    off = sums - diagonal
    mean = float(off.sum()) / (m * (m - 1))
    part = (off - (m - 1) * mean) / (m - 2)
    rest = squares - float(diagonal.square().sum()) - m * (m - 1) * mean**2 - 2 * (m - 2) * float(part.square().sum())
    return mean, part, max(0.0, rest)


def rotation_moments(concentration: float, m: int, k: int) -> Null:
    """ρ_N of O ΔW, O uniform in O(m). With w_j = σ_j² / Σ σ², S₂ = Σ w_j² and p = 1 − k/m the mean is p and

        variance = 2 p (1 − p) / (m + 2) · [S₂ − (1 − S₂) / (m − 1)]:

    the fourth moments of a uniform orthonormal frame; the second term is there because the u_j repel each
    other. S₂ is the concentration; 1 / S₂ is the effective number of directions. The band is that of the Beta law with
    these moments (exact at rank 1).
    """
    p, spread = 1 - k / m, concentration - (1 - concentration) / max(m - 1, 1)
    return _null("rotation", p, 2 * p * (1 - p) / (m + 2) * spread)


def gaussian_moments(shape: tuple[int, int], k: int) -> Null:
    """ρ_N of independent normal entries of `shape` (m, n)."""
    p = 1 - k / shape[0]
    # Beta(a, b) with a + b = m n / 2 has variance p (1 − p) / (a + b + 1).
    return _null("gaussian", p, p * (1 - p) / (shape[0] * shape[1] / 2 + 1))


def gaussian_ranks(shape: tuple[int, int]) -> GaussianSpectrum:
    """Stable rank and participation ratio of Gaussian matrices of `shape`, without drawing any.

    Against draws: means within 2 % from 64 × 16 on, within 0.5 % from 512 × 128 on; bands of small ones
    are up to 40 % too wide.
    """
    m, n = max(shape), min(shape)
    inverse, sd = (m + n + 1) / (m * n + 2), 2 / (m * n)
    low, high = 1 / (inverse + 1.959964 * sd), 1 / max(inverse - 1.959964 * sd, 1e-12)
    participation = Null("gaussian", 1 / inverse, low, min(high, float(n)))
    root_m, root_n = max(m - 1, 1) ** 0.5, n**0.5
    centre, spread = (root_m + root_n) ** 2, (root_m + root_n) * (1 / root_m + 1 / root_n) ** (1 / 3)
    law = stats.gamma(46.446, loc=-9.84801, scale=0.186054)
    top = [centre + spread * float(z) for z in (law.ppf(0.975), law.mean(), law.ppf(0.025))]
    low, mean, high = (m * n / max(x, 1e-12) for x in top)
    return GaussianSpectrum(Null("gaussian", mean, low, high), participation)


def gaussian_residual(shape: tuple[int, int], ks: Sequence[int]) -> FloatArray:
    """Mean share of a Gaussian matrix's energy beyond its first k singular directions, for each k. (len(ks),).

    Within 0.006 of draws at 64 × 16, 0.002 where the smaller side is at least 128. With x = 1 + c + 2 √c cos θ and
    c = n / m, the law of Marchenko and Pastur has mass (2/π) ∫ sin²θ / x dθ above x, and energy (θ − sin θ cos θ) / π.
    """
    m, n = max(shape), min(shape)
    theta, c = np.linspace(0, np.pi, 20_001), n / m
    middle = (theta[1:] + theta[:-1]) / 2
    x = 1 + c + 2 * c**0.5 * np.cos(middle)
    mass = np.concatenate([[0.0], np.cumsum(2 / np.pi * np.sin(middle) ** 2 / x) * (theta[1] - theta[0])])
    at = np.interp(np.asarray(ks) / n * mass[-1], mass, theta)
    left: FloatArray = 1 - (at - np.sin(at) * np.cos(at)) / np.pi
    return left


@dataclass(frozen=True, eq=False)
class FactorNulls:
    """Nulls of an update given by r factors. residual: mean share of energy beyond k directions, for k = 0 … r."""

    stable_rank: Null
    participation_ratio: Null
    residual: FloatArray


def factor_nulls(
    shape: tuple[int, int], r: int, generator: np.random.Generator, draws: int | None = None
) -> FactorNulls:
    """Ranks of left @ rightᵀ, left (m, r) and right (n, r) of independent normal entries; r at most min(m, n).

    draws: by default 200 up to r = 64, and fewer beyond, so that they take a second at most.
    """
    draws = draws or max(20, min(200, 200 * 64**3 // r**3))
    energies = np.empty((draws, r))
    for number in range(draws):
        left, right = (_triangle(side, r, generator) for side in shape)
        energies[number] = np.linalg.svd(left @ right.T, compute_uv=False) ** 2
    total = energies.sum(1)
    beyond = 1 - np.cumsum(energies, 1) / total[:, None]
    return FactorNulls(
        from_draws("gaussian_factors", total / energies[:, 0]),
        from_draws("gaussian_factors", total**2 / (energies**2).sum(1)),
        np.concatenate([[1.0], np.clip(beyond.mean(0), 0, 1)]),
    )


def _triangle(side: int, r: int, generator: np.random.Generator) -> FloatArray:
    """R (r, r) of the QR decomposition of a Gaussian matrix (side, r), up to signs."""
    R: FloatArray = np.triu(generator.standard_normal((r, r)), 1)
    R[np.diag_indices(r)] = np.sqrt(generator.chisquare(side - np.arange(r)))
    return R


def _null(kind: str, mean: float, variance: float) -> Null:
    mean = min(1.0, max(0.0, mean))
    return from_beta(kind, mean, min(max(0.0, variance), 0.999 * mean * (1 - mean)))
