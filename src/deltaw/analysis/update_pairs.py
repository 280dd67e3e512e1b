"""Two updates of one matrix, A and B (m, n): do they move the same entries, write to and read from the same directions?

    cosine            ⟨A, B⟩ / (‖A‖ ‖B‖), of the flattened updates
    overlap           mean squared cosine of the principal angles between the spans of their k strongest singular
                      directions: left ones (written to) or right ones (read from)
    energy in other   ‖U_kᵀ A‖² / ‖A‖², U_k the k strongest left directions of B; ‖A V_k‖² / ‖A‖² of the right ones.
                      `own` is the same with A's own k directions, the most that k directions can hold

Chance keeps the singular values of both updates and turns B at random:

    rotation              B becomes U B V, both rotations uniform. The cosine has mean 0 and variance exactly 1/(m n),
                          whatever the spectra; its kurtosis is 3 + 6 / (p_A p_B), p the participation ratios
                          1 / concentration, so that updates of few directions have heavier tails than a normal law
    rotation_of_outputs   U B: what B reads stays as it is. Variance tr(AᵀA BᵀB) / (m ‖A‖² ‖B‖²). The stricter null:
                          two tunings of one model see similar inputs, so they read alike whatever they are taught
    rotation_of_inputs    B V: what B writes to stays. Variance tr(AAᵀ BBᵀ) / (n ‖A‖² ‖B‖²)

Overlap has mean k/m (left) or k/n (right), and a share of energy too; variances in closed form. Principal angles are
drawn from their exact law, that of the eigenvalues of a matrix-valued Beta variable (Muirhead, 1982, section 3.3).

Nothing here knows what any tuning shares with any other: for that, the same numbers of controls stand beside these.

Cost: one Gram matrix a model, one cross product Aᵀ B a pair: m n² each. Memory: n × n in float64, n ≤ m.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from scipy import optimize, special, stats
from torch import Tensor

from deltaw.analysis.gram_moments import rotation_moments
from deltaw.analysis.inputs import array
from deltaw.analysis.large_matrices import MatrixPair, top_directions, update_gram
from deltaw.analysis.principal_angles import rotation_overlap_null, subspace_overlap
from deltaw.errors import DeltawError
from deltaw.statistics import FloatArray, Null, from_draws, from_normal

RANK_TOLERANCE = 1e-6
"""Singular values below this share of the largest are 0: the Gram matrix in float64 cannot tell."""
ANGLES = 4
"""How many principal angles of a pair of subspaces are given, the smallest first."""
SIDES = ("left", "right")


@dataclass(frozen=True, eq=False)
class Directions:
    """What a comparison with other updates needs of one update A (m, n), m ≥ n."""

    S: Tensor
    """AᵀA, (n, n)."""
    left: Tensor
    """(m, k): its strongest left singular directions, orthonormal; k is at most its rank."""
    right: Tensor
    """(n, k): its strongest right ones."""
    own: FloatArray
    """(k,): the share of ‖A‖² in the first 1, 2, ... k of either."""

    @property
    def energy(self) -> float:
        """‖A‖²."""
        return float(self.S.trace())

    @property
    def concentration(self) -> float:
        """Σ σ⁴ / (Σ σ²)²: the inverse of its participation ratio."""
        return float(self.S.square().sum()) / self.energy**2


def directions(pair: MatrixPair, k: int, generator: np.random.Generator) -> Directions:
    """The Gram matrix and the k strongest directions of an update, in two passes over its rows.

    DeltawError if the update is zero.
    """
    S = update_gram(pair)
    if float(S.trace()) == 0:
        raise DeltawError("the update is zero, so it has no direction")
    sigma, right = top_directions(S, k, generator)
    rank = int((sigma > RANK_TOLERANCE * sigma[0]).sum())
    sigma, right = sigma[:rank], right[:, :rank]
    left = torch.cat([d @ right for _, _, d in pair.blocks()]) / torch.from_numpy(sigma).to(pair.device)
    q, r = torch.linalg.qr(left)  # of weak directions the quotient is orthonormal to some digits only
    own = np.cumsum(sigma**2) / float(S.trace())
    return Directions(S, q * torch.sign(torch.diagonal(r)), right, np.minimum(own, 1.0))


@dataclass(frozen=True, eq=False)
class Shared:
    """How the k strongest directions of A and B lie, on one side. Each number comes with its chance."""

    side: str
    """left (written to) or right (read from)."""
    k: int
    overlap: float
    overlap_null: Null
    angles: FloatArray
    """The smallest principal angles, in degrees."""
    angle_nulls: tuple[Null, ...]
    energy: tuple[float, float]
    """Share of A's energy in B's k directions; of B's in A's."""
    energy_nulls: tuple[Null, Null]


@dataclass(frozen=True, eq=False)
class PairOfUpdates:
    """All that is known of A and B together."""

    cosine: float
    cosine_nulls: tuple[Null, ...]
    """rotation, rotation_of_outputs, rotation_of_inputs."""
    spreads: tuple[float, ...]
    """The standard deviation of the cosine under each of these nulls."""
    shared: tuple[Shared, ...]
    """By side and k."""


def compare_updates(
    first: MatrixPair, second: MatrixPair, a: Directions, b: Directions, ks: Sequence[int]
) -> PairOfUpdates:
    """A and B, two updates of one matrix. a, b: of `directions`. ks: numbers of directions, of which those are compared
    that both have and that are at most half of the smaller side.
    """
    m, n = first.m, first.n
    X = first.zeros(n, n)  # AᵀB
    inside_b = first.zeros(b.left.shape[1], n)  # U_Bᵀ A
    inside_a = first.zeros(a.left.shape[1], n)
    for (rows, _, x), (_, _, y) in zip(first.blocks(), second.blocks(), strict=True):
        X.addmm_(x.T, y)
        inside_b.addmm_(b.left[rows].T, x)
        inside_a.addmm_(a.left[rows].T, y)
    scale = (a.energy * b.energy) ** 0.5
    cosine = min(1.0, max(-1.0, float(X.trace()) / scale))
    spreads = (
        (m * n) ** -0.5,
        (float((a.S * b.S).sum()) / m) ** 0.5 / scale,
        float(X.norm()) / n**0.5 / scale,
    )
    nulls = (
        rotation_cosine_null((m, n), (a.concentration, b.concentration)),
        from_normal("rotation_of_outputs", 0.0, spreads[1]),
        from_normal("rotation_of_inputs", 0.0, spreads[2]),
    )
    shares = {
        "left": (array(inside_b.square().sum(1)) / a.energy, array(inside_a.square().sum(1)) / b.energy),
        "right": (
            array((b.right * (a.S @ b.right)).sum(0)) / a.energy,
            array((a.right * (b.S @ a.right)).sum(0)) / b.energy,
        ),
    }
    usable = [k for k in ks if k <= min(a.left.shape[1], b.left.shape[1], n // 2)]
    shared = tuple(
        _shared(side, k, getattr(a, side), getattr(b, side), shares[side], (a, b)) for side in SIDES for k in usable
    )
    return PairOfUpdates(cosine, nulls, spreads, shared)


def _shared(
    side: str,
    k: int,
    A: Tensor,
    B: Tensor,
    shares: tuple[FloatArray, FloatArray],
    of: tuple[Directions, Directions],
) -> Shared:
    width = len(A)
    subspaces = subspace_overlap(A[:, :k], B[:, :k])
    energy = (min(1.0, float(shares[0][:k].sum())), min(1.0, float(shares[1][:k].sum())))
    nulls = tuple(_inside_null(update.concentration, width, k) for update in of)
    return Shared(
        side,
        k,
        subspaces.overlap,
        rotation_overlap_null(width, k, k),
        subspaces.angles[:ANGLES],
        rotation_angle_nulls(width, k)[:ANGLES],
        energy,
        (nulls[0], nulls[1]),
    )


def _inside_null(concentration: float, width: int, k: int) -> Null:
    """The share of an update's energy in k uniform directions of `width`."""
    outside = rotation_moments(concentration, width, k)
    return Null("rotation", 1 - outside.mean, 1 - outside.high, 1 - outside.low)


def rotation_cosine_null(shape: tuple[int, int], concentrations: tuple[float, float]) -> Null:
    """The cosine of two updates of `shape` (m, n) under rotations of both sides, from their Σ σ⁴ / (Σ σ²)².

    In the frames of both updates the cosine is Σ σ_i τ_j U_ij V_ij: a sum of products of entries of two rotations,
    nearly normal each. It has the band of N = 1 / (c_A c_B) such products of equal size: a normal law whose variance
    is spread as χ²_N / N.
    """
    terms = 1 / (concentrations[0] * concentrations[1])
    half = min(1.0, _product_quantile(float(f"{terms:.2g}")) / (shape[0] * shape[1]) ** 0.5)
    return Null("rotation", 0.0, -half, half)


@cache
def _product_quantile(terms: float, confidence: float = 0.95) -> float:
    """The two-sided quantile of √(χ²_N / N) times a standard normal, N = terms."""
    if terms > 3000:
        return float(stats.norm.ppf(0.5 + confidence / 2))
    places = (np.arange(2000) + 0.5) / 2000
    spreads = np.sqrt(stats.chi2.ppf(places, terms) / terms)
    spreads = spreads[spreads > 0]

    def beyond(value: float) -> float:
        return float(2 * special.ndtr(-value / spreads).sum() / 2000) - (1 - confidence)

    return float(optimize.brentq(beyond, 0.1, 10.0))


@cache
def rotation_angle_nulls(width: int, k: int, draws: int = 400) -> tuple[Null, ...]:
    """All k principal angles, in degrees, smallest first, between a span of k ≤ width/2 directions and a uniform one.

    Their squared cosines are the eigenvalues of W₁ (W₁ + W₂)⁻¹, W₁ and W₂ Wishart with k and width − k degrees of
    freedom, which takes no draws of `width` numbers.
    """
    if not 1 <= k <= width / 2:
        raise DeltawError(f"angles of {k} directions in {width} dimensions; expected at most half of them")
    generator = np.random.default_rng([width, k])
    inner = generator.standard_normal((draws, k, k))
    outer = np.tril(generator.standard_normal((draws, k, k)), -1)  # Bartlett's factor of W₂
    outer += np.sqrt(generator.chisquare(width - k - np.arange(k), (draws, k)))[:, :, None] * np.eye(k)
    first, second = inner @ inner.transpose(0, 2, 1), outer @ outer.transpose(0, 2, 1)
    factor = np.linalg.cholesky(first + second)
    half = np.linalg.solve(factor, first)
    squared = np.linalg.eigvalsh(np.linalg.solve(factor, half.transpose(0, 2, 1)))
    angles = np.degrees(np.arccos(np.sqrt(squared[:, ::-1].clip(0, 1))))
    return tuple(from_draws("rotation", angles[:, place]) for place in range(k))
