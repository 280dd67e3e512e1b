"""What is known of a matrix W and its update ΔW without prompts: `WeightUpdate`, by one of two arithmetics.

    exact_update      SVDs in memory, nulls of ρ_N by draws: the matrices of a synthetic study
    streamed_update   Gram matrices block by block, nulls by moments (`streamed_update`): those of checkpoints' files

Numbers without draws agree within the errors that `large_matrices` states; nulls have the same kinds and means. A
matrix with more columns than rows is read transposed: it is m × n with m ≥ n, and its left null space is the right one.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from deltaw.analysis.gram_moments import FactorNulls, gaussian_residual
from deltaw.analysis.inputs import Absent
from deltaw.analysis.nullspace import (
    ColumnBasis,
    NullCurve,
    NullProfile,
    column_basis,
    null_curve,
    null_energy,
    null_profile,
)
from deltaw.analysis.rounding import Storage
from deltaw.analysis.spectrum import GaussianSpectrum, UpdateSpectrum, update_spectrum
from deltaw.analysis.update_nulls import null_energy_nulls
from deltaw.statistics import FloatArray, Null

VECTORS, CURVE_POINTS, RESIDUAL_AT = 32, 17, (1, 2, 4, 8, 16, 32)
ZERO, NOTHING_BEFORE = (
    Absent("the update is zero, so it has no direction"),
    Absent("the matrix was zero before, so nothing is relative to it"),
)

Energy = tuple[float, tuple[Null, ...]]
"""ρ_N and its nulls, strictest first."""
Residual = tuple[int, float, Null]
"""k, the share of ‖ΔW‖² beyond its k strongest directions, and the mean share in a random update."""


@dataclass(frozen=True, eq=False)
class UpdateDirections:
    """Of an update that is neither zero nor rounding alone."""

    spectrum: UpdateSpectrum
    """Its size, ranks and strongest singular values."""
    random: GaussianSpectrum | FactorNulls
    """Ranks of a random update."""
    residual: tuple[Residual, ...]
    """For each k of `RESIDUAL_AT` that it has singular values for."""
    weight_rank: int
    """Dimension of the column space of W."""
    energies: dict[str, Energy | Absent]
    """By side, left and right, its own first: ρ_N where W has such a null space."""
    profile: NullProfile | Absent
    """Of its own side, the strongest directions first."""
    curve: NullCurve | Absent
    """Of its own side."""


@dataclass(frozen=True, eq=False)
class WeightUpdate:
    """Of one matrix."""

    wide: bool
    """Whether it has more columns than rows, so that its own side is the right one."""
    relative_norm: float | Absent
    """‖ΔW‖ / ‖W‖."""
    storage: Storage | Absent
    """What storing both sides did to the update."""
    directions: UpdateDirections | Absent


def exact_update(
    dW: Tensor,
    W: Tensor,
    basis: ColumnBasis,
    random: GaussianSpectrum,
    generator: np.random.Generator,
    draws: int = 200,
    vectors: int = VECTORS,
    points: int = CURVE_POINTS,
) -> WeightUpdate:
    """ΔW of a small W, (m, n) with m ≥ n. Cost: three SVDs, and `draws` of each null of ρ_N.

    basis: of W. random: ranks of random matrices of the shape, which are drawn once for all matrices.
    vectors: strongest directions, of the profile. points: of the curve.
    """
    storage = Absent("the matrices were read as float64, not as their files store them")
    spectrum = update_spectrum(dW, W)
    if isinstance(spectrum, Absent):
        before = bool((W != 0).any())
        return WeightUpdate(False, 0.0 if before else NOTHING_BEFORE, storage, ZERO if before else NOTHING_BEFORE)
    shape, sigma = (basis.m, basis.n), spectrum.singular_values

    def energy(delta: Tensor, of: ColumnBasis) -> Energy | Absent:
        value, nulls = null_energy(delta, of), null_energy_nulls(delta, of, generator, draws)
        return value if isinstance(value, Absent) else nulls if isinstance(nulls, Absent) else (value, nulls)

    directions = UpdateDirections(
        spectrum,
        random,
        residual_energy(sigma[:vectors], float((sigma**2).sum()), shape, random),
        basis.k,
        by_side(shape, False, basis.k, lambda: energy(dW, basis), lambda: energy(dW.T, column_basis(W.T))),
        null_profile(dW, basis, vectors),
        null_curve(dW, W, curve_points(basis.k, points)),
    )
    return WeightUpdate(False, spectrum.relative_norm, storage, directions)


def by_side(
    shape: tuple[int, int],
    wide: bool,
    rank: int,
    own: Callable[[], Energy | Absent],
    turned: Callable[[], Energy | Absent],
) -> dict[str, Energy | Absent]:
    """ρ_N by side where W (m, n), of this rank, has a null space. turned: of the transposed matrix, if it is square."""
    (m, n), (side, opposite) = shape, ("right", "left") if wide else ("left", "right")
    if rank == m:
        none = Absent(f"W is {m} × {m} of full rank, so it has no null space on either side")
        return {side: none, opposite: none}
    written = f"{n} × {m}" if wide else f"{m} × {n}"
    weakest = Absent(f"W is {written}, so its {opposite} null space is {{0}}, or its weakest directions")
    return {side: own(), opposite: turned() if m == n else weakest}


def residual_energy(
    sigma: FloatArray, energy: float, shape: tuple[int, int], random: GaussianSpectrum | FactorNulls
) -> tuple[Residual, ...]:
    """The share of ‖ΔW‖² = `energy` beyond its k strongest directions, sigma (r,) largest first."""
    ks = [k for k in RESIDUAL_AT if k <= len(sigma)]
    chance = random.residual[ks] if isinstance(random, FactorNulls) else gaussian_residual(shape, ks)
    left = [max(0.0, 1 - float((sigma[:k] ** 2).sum()) / energy) for k in ks]
    kind = random.stable_rank.kind
    return tuple((k, x, Null(kind, mean, mean, mean)) for k, x, mean in zip(ks, left, chance.tolist(), strict=True))


def curve_points(rank: int, points: int) -> list[int]:
    """The numbers of directions at which a curve is read, from none to the rank of W."""
    ks: list[int] = np.unique(np.linspace(0, rank, points).round().astype(int)).tolist()
    return ks
