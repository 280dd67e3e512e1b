"""`WeightUpdate` of a matrix of any size, from the parts that files hold: Gram matrices and moments, block by block.

Memory: four n × n matrices in float64 and a block of rows (`large_matrices`), n the smaller side. Two passes over the
rows: one of a square matrix of full rank, and four of a square one that is not. Near the rounding floor, shares of
energy are corrected for rounding, or absent.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from deltaw.analysis.gram_moments import (
    FactorNulls,
    RowFacts,
    factor_nulls,
    gaussian_moments,
    gaussian_ranks,
    permutation_moments,
    rotation_moments,
    row_facts,
    sign_flip_moments,
)
from deltaw.analysis.inputs import Absent, array
from deltaw.analysis.large_matrices import (
    After,
    Factor,
    MatrixPair,
    Moments,
    factor,
    inside,
    low_rank_directions,
    moments,
    outside,
    tall,
    top_directions,
    transposed,
)
from deltaw.analysis.nullspace import Along, NullCurve, NullProfile, isotropic_cosine, random_direction
from deltaw.analysis.rounding import Noise, Steps, Storage, storage
from deltaw.analysis.spectrum import GaussianSpectrum, UpdateSpectrum
from deltaw.analysis.weight_update import (
    CURVE_POINTS,
    NOTHING_BEFORE,
    VECTORS,
    ZERO,
    Energy,
    UpdateDirections,
    WeightUpdate,
    by_side,
    curve_points,
    residual_energy,
)
from deltaw.statistics import FloatArray

CURVE_UP_TO = 2048
"""Matrices whose smaller side is at most this get their energy curve without being asked: eigenvectors take seconds."""

StoredSteps = Sequence[tuple[Steps | None, Steps | None]]
"""Of each part before and after; None: those of the tensor's own format."""


def streamed_update(
    parts: Sequence[tuple[Tensor, After]],
    generator: np.random.Generator,
    curve: bool = False,
    stored: StoredSteps | None = None,
    vectors: int = VECTORS,
    points: int = CURVE_POINTS,
) -> WeightUpdate:
    """Of a matrix whose parts (out, in), before and after, are stacked on each other.

    curve: at any size. stored: the steps of parts that were stored in another format than their tensor's own.
    vectors: strongest directions, of the profile. points: of the curve. DeltawError if an entry is not finite.
    """
    pair = tall(parts)
    wide = pair.m > sum(len(before) for before, _ in parts)
    sums = moments(pair)
    dense = [(before, after) for before, after in parts if isinstance(after, Tensor)]
    weight = float(sums.G.trace())
    kept: Storage | Absent = Absent("the update is given by exact factors, so nothing of it was rounded away")
    if len(dense) == len(parts):
        kept = storage(dense, stored or [(None, None)] * len(parts), sums.energy, weight)
    if sums.energy == 0:
        return WeightUpdate(wide, 0.0, kept, ZERO)
    if weight == 0:
        return WeightUpdate(wide, NOTHING_BEFORE, kept, NOTHING_BEFORE)
    below, noise = (kept.below, kept.noise) if isinstance(kept, Storage) else (None, None)
    if below is not None:
        return WeightUpdate(wide, sums.relative_norm, kept, below)
    shape, factors = (pair.m, pair.n), pair.low_rank
    sigma, right = top_directions(sums.S, vectors, generator) if factors is None else low_rank_directions(factors)
    random: GaussianSpectrum | FactorNulls = (
        gaussian_ranks(shape)
        if factors is None
        else factor_nulls(shape, min(int(factors.left.shape[1]), *shape), generator)
    )
    stable = max(1.0, sums.energy / float(sigma[0]) ** 2)
    along = Along(sums.cosine, isotropic_cosine(pair.m * pair.n))
    spectrum = UpdateSpectrum(sums.relative_norm, stable, 1 / sums.concentration, sigma, along)
    wants_curve = curve or pair.n <= CURVE_UP_TO
    F = factor(sums.G, pair.m, wants_curve)
    facts = None if F.k == pair.m else row_facts(pair, sums, F, generator)
    Y = None
    if F.eigenvalues is not None:  # directions of W in their order, which the curve needs
        Y = inside(pair, F) if facts is None else facts.inside

    def own() -> Energy | Absent:
        assert facts is not None  # noqa: S101 (asked only where W has a null space)
        return _energy(pair, sums, facts, F.k, noise, generator)

    def turned() -> Energy | Absent:
        pair_T = MatrixPair(transposed(pair.parts))
        sums_T = moments(pair_T)
        F_T = factor(sums_T.G, pair_T.m, wants_curve)
        return _energy(pair_T, sums_T, row_facts(pair_T, sums_T, F_T, generator), F_T.k, noise, generator)

    directions = UpdateDirections(
        spectrum,
        random,
        residual_energy(sigma, sums.energy, shape, random),
        F.k,
        by_side(shape, wide, F.k, own, turned),
        _profile(pair, F, facts, (sigma[:vectors], right), noise),
        _curve(Y, sums.energy, curve_points(F.k, points), pair.m, noise),
    )
    return WeightUpdate(wide, sums.relative_norm, kept, directions)


def _energy(
    pair: MatrixPair, sums: Moments, facts: RowFacts, k: int, noise: Noise | None, generator: np.random.Generator
) -> Energy | Absent:
    rho = outside(facts.inside, sums.energy)
    nulls = [
        sign_flip_moments(facts, sums.energy),
        permutation_moments(facts, k, sums.energy, generator),
        rotation_moments(sums.concentration, pair.m, k),
    ]
    if pair.low_rank is None:  # entries of an update of low rank are not independent
        nulls.append(gaussian_moments((pair.m, pair.n), k))
    if noise is None:
        return rho, tuple(nulls)
    of_noise = _energy_of_rounding(pair, facts)
    pure = noise.corrected(rho, of_noise)
    return noise.why if pure is None else (pure, tuple(noise.without(null, of_noise) for null in nulls))


def _energy_of_rounding(pair: MatrixPair, facts: RowFacts) -> float:
    """ρ_N of errors that are independent of each other, and in each row as large as its entries."""
    sizes = torch.cat([w.square().sum(1) for _, w, _ in pair.blocks()])
    return 1 - float((sizes * facts.h).sum() / sizes.sum())


def _profile(
    pair: MatrixPair, F: Factor, facts: RowFacts | None, directions: tuple[FloatArray, Tensor], noise: Noise | None
) -> NullProfile | Absent:
    """From the right singular vectors v_j of ΔW: Qᵀu_j = QᵀΔW v_j / σ_j."""
    if facts is None:
        return Absent(f"W is {pair.m} × {pair.m} of full rank, so it has no null space on either side")
    if noise is not None:
        return noise.why
    sigma, right = directions
    # Of a Gram matrix, what lies below the square root of the resolution is 0.
    resolution = pair.m * np.finfo(np.float64).eps
    kept = int((sigma > resolution ** (1.0 if pair.low_rank is not None else 0.5) * sigma[0]).sum())
    within = array((facts.inside @ right[:, :kept]).square().sum(0)) / sigma[:kept] ** 2
    return NullProfile(sigma[:kept], np.clip(1 - within, 0, 1) ** 0.5, random_direction(F.chance, pair.m))


def _curve(Y: Tensor | None, energy: float, ks: Sequence[int], m: int, noise: Noise | None) -> NullCurve | Absent:
    """Y: QᵀΔW (k, n), the strongest direction of W first."""
    if Y is None:
        return Absent(
            f"the smaller side is above {CURVE_UP_TO}: --curve computes it, at half a minute or more a matrix"
        )
    chance = 1 - np.array(ks) / m
    shares = array(Y.square().sum(1)) / energy
    rho: FloatArray = np.clip(1 - np.concatenate([[0.0], np.cumsum(shares)])[ks], 0, 1)
    if noise is not None:
        pure = [noise.corrected(float(value), float(mean)) for value, mean in zip(rho, chance, strict=True)]
        rho = np.array([value for value in pure if value is not None])
        if len(rho) < len(ks):
            return noise.why
    return NullCurve(np.array(ks, dtype=np.float64), rho, chance)
