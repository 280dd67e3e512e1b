"""Observation 2 and the spectrum of ΔW for matrices of a language model: from Gram matrices, block by block.

W is (m, n) with m ≥ n: wide matrices are given transposed, and their left null space is then the right one. Only n × n
matrices are held in float64, beside one block of rows, and on the device that the parts of W are on:

    G = WᵀW,  S = ΔWᵀΔW                   one pass over the rows
    Q = W F, Fᵀ G F = 1                   F from Cholesky, or from eigenvectors where the energy curve is wanted or W is
                                          not of full rank (singular values below √(max(m, n) · eps) of the largest:
                                          what G in float64 cannot tell from 0; 1.6e-6 for 11008 rows)
    Y = QᵀΔW                              a second pass, which a square matrix of full rank does not need
    ρ_N = 1 − ‖Y‖² / tr S                 within 1e-6 of the SVD up to condition number 1e5
    participation ratio = (tr S)² / ‖S‖²  exact
    σ_1 … σ_k of ΔW                       subspace iteration on S, within 1e-3 of the SVD on flat spectra, far less on
                                          decaying ones; exact up to n = `EXACT_BELOW`

The Gram matrix of a product squares condition numbers, hence float64 throughout. Cost: one and a quarter products of
m n² in the first pass, one and a half in the second (half of one for leverages); 4096 × 4096 eigenvectors take half a
minute, so the curve is a choice there. Figures are in docs/performance.md.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from deltaw.analysis.inputs import array, normals
from deltaw.errors import DeltawError
from deltaw.statistics import FloatArray

EXACT_BELOW = 1024
_BLOCK = 512  # rows held in float64 at once
_STRIPS = 4
_OVERSAMPLING, _ITERATIONS = 64, 16
_INVERSE_ITERATIONS = 8


@dataclass(frozen=True, eq=False)
class LowRank:
    """An update left @ rightᵀ: left (m, r), right (n, r)."""

    left: Tensor
    right: Tensor

    def to(self, device: torch.device | str) -> "LowRank":
        """The factors on a device."""
        return LowRank(self.left.to(device), self.right.to(device))

    @property
    def T(self) -> "LowRank":
        """The transposed update."""
        return LowRank(self.right, self.left)

    @property
    def shape(self) -> tuple[int, int]:
        """(m, n)."""
        return int(self.left.shape[0]), int(self.right.shape[0])


After = Tensor | LowRank
"""What W became: the tuned matrix, or an exact update of low rank."""


class MatrixPair:
    """W (m, n) and ΔW as blocks of float64 rows, from parts stacked on each other. m ≥ n; nothing is copied here."""

    def __init__(self, parts: Sequence[tuple[Tensor, After]]) -> None:
        for before, after in parts:
            if tuple(before.shape) != tuple(after.shape) or before.ndim != 2:
                raise DeltawError(f"a matrix is {tuple(before.shape)} before and {tuple(after.shape)} after")
        self.parts = list(parts)
        self.starts = np.cumsum([0, *(len(before) for before, _ in parts)])
        self.m, self.n = int(self.starts[-1]), int(parts[0][0].shape[1])
        if self.m < self.n:
            raise DeltawError(f"the matrix is {self.m} × {self.n}; give wide matrices transposed")

    @property
    def device(self) -> torch.device:
        """Where the parts are, and everything is computed."""
        return self.parts[0][0].device

    def zeros(self, *shape: int) -> Tensor:
        """In float64, on the device."""
        return torch.zeros(shape, dtype=torch.float64, device=self.device)

    def blocks(self) -> Iterator[tuple[slice, Tensor, Tensor]]:
        """(rows, W (b, n), ΔW (b, n)) from top to bottom."""
        for start, (before, after) in zip(self.starts, self.parts, strict=False):
            for low in range(0, len(before), _BLOCK):
                within = slice(low, min(low + _BLOCK, len(before)))
                yield slice(int(start) + within.start, int(start) + within.stop), *_difference(before, after, within)

    def rows(self, chosen: Tensor) -> tuple[Tensor, Tensor]:
        """(W, ΔW) of the rows chosen, an increasing int64 vector."""
        pieces = []
        for start, (before, after) in zip(self.starts, self.parts, strict=False):
            within = chosen[(chosen >= int(start)) & (chosen < int(start) + len(before))] - int(start)
            pieces.append(_difference(before, after, within))
        return torch.cat([w for w, _ in pieces]), torch.cat([d for _, d in pieces])

    @property
    def low_rank(self) -> LowRank | None:
        """The update's factors, where all of it was given by them."""
        factors = [after for _, after in self.parts if isinstance(after, LowRank)]
        return stacked(factors) if len(factors) == len(self.parts) else None


def tall(parts: Sequence[tuple[Tensor, After]]) -> MatrixPair:
    """The matrix whose parts (out, in) are stacked on each other, transposed if it is wide."""
    m, n = sum(len(before) for before, _ in parts), parts[0][0].shape[1]
    return MatrixPair(parts if m >= n else transposed(parts))


def transposed(parts: Sequence[tuple[Tensor, After]]) -> list[tuple[Tensor, After]]:
    """The transposed matrix, in one part."""
    if len(parts) == 1:
        return [(parts[0][0].T, parts[0][1].T)]
    before = torch.cat([before for before, _ in parts]).T
    factors = [after for _, after in parts if isinstance(after, LowRank)]
    if len(factors) == len(parts):
        return [(before, stacked(factors).T)]
    dense = [x.left @ x.right.T if isinstance(x, LowRank) else x for _, x in parts]
    return [(before, torch.cat(dense).T)]


def stacked(updates: Sequence[LowRank]) -> LowRank:
    """The factors of updates (m_i, n) stacked on each other; their ranks add up, unless they share the right factor."""
    if len({id(update.right) for update in updates}) == 1:
        return LowRank(torch.cat([update.left for update in updates]), updates[0].right)
    left: Tensor = torch.block_diag(*(update.left for update in updates))  # type: ignore[no-untyped-call]
    return LowRank(left, torch.cat([update.right for update in updates], 1))


def _difference(before: Tensor, after: After, rows: slice | Tensor) -> tuple[Tensor, Tensor]:
    w = before[rows].double()
    if isinstance(after, LowRank):
        return w, after.left[rows].double() @ after.right.double().T
    return w, after[rows].double() - w


@dataclass(frozen=True, eq=False)
class Moments:
    """What one pass over the rows leaves: G, S (n, n); squared row norms of ΔW (m,); sums of rows; ⟨W, ΔW⟩."""

    G: Tensor
    S: Tensor
    row_energy: Tensor
    sum_w: Tensor
    sum_d: Tensor
    inner: float

    @property
    def energy(self) -> float:
        """‖ΔW‖²."""
        return float(self.row_energy.sum())

    @property
    def concentration(self) -> float:
        """Σ σ⁴ / (Σ σ²)² of ΔW: the inverse of its participation ratio."""
        return float(self.S.square().sum()) / self.energy**2

    @property
    def relative_norm(self) -> float:
        """‖ΔW‖ / ‖W‖."""
        return float((self.energy / float(self.G.trace())) ** 0.5)

    @property
    def cosine(self) -> float:
        """Cosine of ΔW with W."""
        return float(self.inner / (self.energy * float(self.G.trace())) ** 0.5)


def moments(pair: MatrixPair) -> Moments:
    """One pass over the rows. DeltawError if an entry is not finite."""
    n = pair.n
    G, S = pair.zeros(n, n), pair.zeros(n, n)
    row_energy, sum_w, sum_d, inner = pair.zeros(pair.m), pair.zeros(n), pair.zeros(n), 0.0
    for rows, w, d in pair.blocks():
        _add_gram(G, w)
        _add_gram(S, d)
        row_energy[rows] = d.square().sum(1)
        sum_w += w.sum(0)
        sum_d += d.sum(0)
        inner += float((w * d).sum())
    for gram in (G, S):
        _mirror(gram)
    if not bool(torch.isfinite(torch.stack([G.trace(), row_energy.sum()])).all()):
        raise DeltawError("a matrix holds NaN or infinite entries; look for the step that made them")
    return Moments(G, S, row_energy, sum_w, sum_d, inner)


def update_gram(pair: MatrixPair) -> Tensor:
    """S = ΔWᵀΔW (n, n), in one pass over the rows."""
    S = pair.zeros(pair.n, pair.n)
    for _, _, d in pair.blocks():
        _add_gram(S, d)
    _mirror(S)
    return S


def _add_gram(gram: Tensor, rows: Tensor) -> None:
    """Adds rowsᵀ rows to the upper triangle of an (n, n) matrix, strip by strip: 5/8 of the whole product's work."""
    for low, high in _strips(len(gram)):
        gram[low:high, low:].addmm_(rows[:, low:high].T, rows[:, low:])


def _mirror(gram: Tensor) -> None:
    """Fills the lower triangle from the upper one."""
    for low, high in _strips(len(gram)):
        gram[high:, low:high] = gram[low:high, high:].T


def _strips(n: int) -> list[tuple[int, int]]:
    edges = [round(place * n / _STRIPS) for place in range(_STRIPS + 1)]
    return list(pairwise(edges))


@dataclass(frozen=True, eq=False)
class Factor:
    """F (n, k) with Q = W F orthonormal: the column space of W. lower: Cholesky's factor, F = lower⁻ᵀ; or F itself.

    eigenvalues: (k,) squared singular values of W, largest first, where F came from eigenvectors.
    """

    m: int
    k: int
    lower: Tensor | None
    scaled: Tensor | None
    eigenvalues: FloatArray | None

    def apply(self, rows: Tensor) -> Tensor:
        """rows (b, n) @ F: (b, k)."""
        if self.scaled is not None:
            return rows @ self.scaled
        assert self.lower is not None  # noqa: S101 (one of the two is set)
        return _solve(self.lower, rows)

    @property
    def chance(self) -> float:
        """1 − k / m."""
        return 1 - self.k / self.m


def _solve(lower: Tensor, rows: Tensor) -> Tensor:
    solution: Tensor = torch.linalg.solve_triangular(lower, rows.T, upper=False)
    return solution.T


def factor(G: Tensor, m: int, curve: bool) -> Factor:
    """The column space of W (m, n) from G = WᵀW; by eigenvectors if `curve`, or if W is not of full rank."""
    n = int(G.shape[0])
    level = (max(m, n) * torch.finfo(torch.float64).eps) ** 0.5
    if not curve:
        lower, failed = torch.linalg.cholesky_ex(G)
        if int(failed) == 0 and _well_conditioned(G, lower, level):
            return Factor(m, n, lower, None, None)
    values, vectors = torch.linalg.eigh(G)
    values, vectors = values.flip(0), vectors.flip(1)
    k = int((values > level**2 * values[0]).sum())
    return Factor(m, k, None, vectors[:, :k] / values[:k].sqrt(), array(values[:k]))


def _well_conditioned(G: Tensor, lower: Tensor, level: float) -> bool:
    """Whether all singular values of W exceed `level` of the largest, twice over (power iteration)."""
    x = normals(np.random.default_rng(0), len(G), 4, like=G)
    y = x
    for _ in range(_INVERSE_ITERATIONS):
        x = torch.linalg.qr(G @ x)[0]
        y = torch.linalg.qr(torch.cholesky_solve(y, lower))[0]
    largest = float(torch.linalg.matrix_norm(G @ x, 2))
    smallest = 1 / float(torch.linalg.matrix_norm(torch.cholesky_solve(y, lower), 2))
    return smallest > 4 * level**2 * largest


def inside(pair: MatrixPair, F: Factor) -> Tensor:
    """Y = QᵀΔW (k, n), the part of ΔW in the column space of W; in one pass over the rows."""
    Y = pair.zeros(F.k, pair.n)
    for _, w, d in pair.blocks():
        Y.addmm_(F.apply(w).T, d)
    return Y


def outside(Y: Tensor, energy: float) -> float:
    """ρ_N, the share of ‖ΔW‖² = `energy` that is not in Y = QᵀΔW."""
    return min(1.0, max(0.0, 1 - float(Y.square().sum()) / energy))


def top_directions(S: Tensor, k: int, generator: np.random.Generator) -> tuple[FloatArray, Tensor]:
    """The k largest singular values of ΔW from S = ΔWᵀΔW (n, n), and their right singular vectors (n, k).

    From n = `EXACT_BELOW` on by subspace iteration with 64 more directions than asked for (Halko, Martinsson and Tropp,
    2011, algorithm 4.4).
    """
    n = int(S.shape[0])
    k = min(k, n)
    if n <= EXACT_BELOW or k + _OVERSAMPLING >= n // 2:
        values, vectors = torch.linalg.eigh(S)
    else:
        x = _leading_subspace(S, k, generator)
        values, inner = torch.linalg.eigh(x.T @ S @ x)
        vectors = x @ inner
    return array(values.flip(0)[:k].clamp(min=0).sqrt()), vectors.flip(1)[:, :k]


def _leading_subspace(S: Tensor, k: int, generator: np.random.Generator) -> Tensor:
    """Orthonormal columns that hold the k leading eigenvectors of S, and 64 more."""
    x = normals(generator, len(S), k + _OVERSAMPLING, like=S)
    for _ in range(_ITERATIONS):
        x = torch.linalg.qr(S @ x)[0]
    return x


def low_rank_directions(update: LowRank) -> tuple[FloatArray, Tensor]:
    """All r singular values of left @ rightᵀ, exactly, from two thin QRs, and their right singular vectors (n, r)."""
    left = torch.linalg.qr(update.left.double(), mode="r")[1]
    basis, right = torch.linalg.qr(update.right.double())
    _, sigma, vectors = torch.linalg.svd(left @ right.T, full_matrices=False)
    return array(sigma), basis @ vectors.T
