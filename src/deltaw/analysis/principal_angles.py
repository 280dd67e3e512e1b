"""Principal angles between what two updates write to, or read from: do protocols, strengths, layers, seeds agree?

For subspaces spanned by the orthonormal columns of A (m, k) and B (m, l) the cosines of the principal angles are the
singular values of AᵀB (Björck and Golub, 1973), and

    overlap = ‖AᵀB‖_F² / min(k, l)      mean squared cosine; 1 if one holds the other, 0 if orthogonal.

Chance is not 0. Nulls, strictest last:

    rotation       B uniform: mean max(k, l) / m; variance in closed form, Beta law
    row_sign_flip  for output directions: random signs for the rows of B, so that a unit that moves much in both updates
                   counts as chance; mean Σ ‖a_i‖² ‖b_i‖² / min(k, l) over rows i
    m_matched      for input directions: both spans drawn from N(0, M) with M the second moment of the inputs, as it is
                   and centred: any two updates are made of the inputs they saw

None of them rules out that *any* tuning on the same prompts agrees: for that, compare with the controls' overlap.

Cost: an SVD of each update; a null's draw is a k × m × l product.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from deltaw.analysis.inputs import array, matrix, normals, signs
from deltaw.analysis.rowspace import top_right
from deltaw.errors import DeltawError
from deltaw.statistics import FloatArray, Null, from_beta, from_draws


@dataclass(frozen=True, eq=False)
class Overlap:
    """overlap: mean squared cosine, in [0, 1]. angles: (min(k, l),) principal angles in degrees, smallest first."""

    overlap: float
    angles: FloatArray


def top_left(dW: Tensor, k: int) -> Tensor:
    """The k strongest left singular vectors of ΔW (m, n), its output directions: (m, k), orthonormal, float64.

    DeltawError if k exceeds the rank of ΔW.
    """
    return top_right(dW.T, k)


def subspace_overlap(A: Tensor, B: Tensor) -> Overlap:
    """Overlap and principal angles of the spans of A (m, k) and B (m, l), both orthonormal. DeltawError if not."""
    a, b = _orthonormal(A, "A"), _orthonormal(B, "B")
    if len(a) != len(b):
        raise DeltawError(f"the subspaces lie in {len(a)} and {len(b)} dimensions; expected the same space")
    inner = a.T @ b
    cosines = array(torch.linalg.svdvals(inner)).clip(0, 1)
    # A small angle has a cosine that rounds to 1; its sine, the residual of the smaller span, does not.
    smaller, larger = (a, b) if a.shape[1] <= b.shape[1] else (b, a)
    sines = array(torch.linalg.svdvals(smaller - larger @ (larger.T @ smaller))).clip(0, 1)[::-1]
    angles = np.degrees(np.where(cosines > np.sqrt(0.5), np.arcsin(sines), np.arccos(cosines)))
    return Overlap(float((cosines**2).mean()), angles)


def rotation_overlap_null(m: int, k: int, k_other: int) -> Null:
    """Overlap with a uniform subspace: in m dimensions, of spans of k and `k_other` dimensions.

    ‖AᵀB‖² has mean k l / m and variance 2 k l (m − k)(m − l) / (m² (m − 1)(m + 2)).
    """
    if not (1 <= k <= m and 1 <= k_other <= m):
        raise DeltawError(f"spans of {k} and {k_other} dimensions do not fit in {m}")
    least = min(k, k_other)
    mean = k * k_other / m / least
    spread = 2 * k * k_other * (m - k) * (m - k_other)
    variance = 0.0 if spread == 0 else spread / (m**2 * (m - 1) * (m + 2)) / least**2
    return from_beta("rotation", mean, variance)


def rotation_angle_null(m: int, k: int, k_other: int, generator: np.random.Generator, draws: int = 200) -> Null:
    """The smallest principal angle, in degrees, between a span and a uniform one; from `draws`."""
    like = torch.zeros(1, dtype=torch.float64)
    bases, _ = torch.linalg.qr(normals(generator, draws, m, k_other, like=like))
    cosines = torch.linalg.svdvals(bases[:, :k])[:, 0].clamp(0, 1)  # the fixed span may be that of the first k axes
    return from_draws("rotation", np.degrees(np.arccos(array(cosines))))


def row_sign_overlap_null(A: Tensor, B: Tensor, generator: np.random.Generator, draws: int = 200) -> Null:
    """Overlap of A (m, k) and S B, S a diagonal of random signs; mean in closed form, band from `draws`."""
    a, b = _orthonormal(A, "A"), _orthonormal(B, "B")
    least = min(a.shape[1], b.shape[1])
    flipped = signs(generator, draws, len(b), 1, like=b) * b
    values = ((a.T @ flipped) ** 2).sum((1, 2)) / least
    mean = float(((a**2).sum(1) * (b**2).sum(1)).sum()) / least
    return from_draws("row_sign_flip", array(values), mean=mean)


def matched_overlap_null(
    roots: tuple[Tensor, Tensor],
    k: tuple[int, int],
    generator: np.random.Generator,
    *,
    centred: bool = False,
    draws: int = 200,
) -> Null:
    """Overlap of two independent spans, each of k draws from its own N(0, M), root rootᵀ = M (`rowspace.pooled_root`).

    k: how many draws of each. centred: only names the null.
    """
    factors = matrix(roots[0], "root"), matrix(roots[1], "root", rows=roots[0].shape[0])
    bases = [
        torch.linalg.qr(root @ normals(generator, draws, int(root.shape[1]), count, like=root)).Q
        for root, count in zip(factors, k, strict=True)
    ]
    values = ((bases[0].transpose(1, 2) @ bases[1]) ** 2).sum((1, 2)) / min(k)
    return from_draws("m_matched_centred" if centred else "m_matched", array(values))


def _orthonormal(x: Tensor, name: str) -> Tensor:
    y = matrix(x, name)
    if float((y.T @ y - torch.eye(y.shape[1], dtype=y.dtype, device=y.device)).abs().max()) > 1e-8:
        raise DeltawError(f"the columns of {name} are not orthonormal; take singular vectors, or a QR decomposition")
    return y
