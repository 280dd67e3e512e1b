"""Observation 2: how much of ΔW writes where the old matrix W could not, its left null space N(Wᵀ).

W and ΔW are (m, n): n inputs, m outputs (hidden units). C(W) is the column space of W, of dimension k = rank
W; N(Wᵀ) is its orthogonal complement in the space of *pre*-activations R^m. GELU does not preserve either of
them, so this is geometry; `effect` measures function. The statistic is one number weighted by singular
values,

    ρ_N = ‖P_N ΔW‖_F² / ‖ΔW‖_F²    in [0, 1],

where the paper (Observation 2) shows ‖P_N u_j‖ for each left singular vector u_j of ΔW: `null_profile`.
Chance is not 0: any generic update has ρ_N near 1 − k/m, 0.75 for a 4d × d matrix. The nulls are in `chance`.
If W has full row rank (square or wide matrices), N(Wᵀ) is {0} and the answer is `Absent`.

Cost: one SVD of W and one of ΔW, O(m n²); 768 × 192 takes 30 ms on one core.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from deltaw.analysis.inputs import Absent, array, matrix
from deltaw.errors import DeltawError
from deltaw.statistics import FloatArray, Null, from_beta

_UPDATE_IS_ZERO = Absent("the update is zero, so shares of its energy do not exist")


@dataclass(frozen=True, eq=False)
class ColumnBasis:
    """An orthonormal basis Q (m, k) of the column space of W (m, n), or of its strongest directions.

    singular_values: (min(m, n),), largest first. rule: which columns count, as in `column_basis`.
    """

    Q: Tensor
    singular_values: FloatArray
    n: int
    rule: str

    @property
    def m(self) -> int:
        """Number of outputs: the dimension in which C(W) and N(Wᵀ) lie."""
        return int(self.Q.shape[0])

    @property
    def k(self) -> int:
        """Dimension of the kept column space."""
        return int(self.Q.shape[1])

    @property
    def chance(self) -> float:
        """1 − k/m, the mean ρ_N of an update without any relation to W."""
        return 1 - self.k / self.m

    @property
    def left_null(self) -> Absent | None:
        """None if there is a left null space, else why not."""
        if self.k < self.m:
            return None
        return Absent(f"W is {self.m} × {self.n} and has full row rank, so its left null space is {{0}}")


def column_basis(
    W: Tensor,
    rule: Literal["exact", "energy"] = "exact",
    energy: float = 0.9,
    tolerance: float | None = None,
) -> ColumnBasis:
    """Left singular vectors of W (m, n) that span its column space, in float64.

    "exact": singular values above `tolerance` (default max(m, n) · eps of W's own dtype, relative to the
    largest). "energy": the fewest with at least the share `energy` of Σ s²; what is left is then N(Wᵀ) *and*
    W's weak outputs.
    """
    w = matrix(W, "W")
    left, s, _ = torch.linalg.svd(w, full_matrices=False)
    if rule == "exact":
        level = _relative_tolerance(W) if tolerance is None else tolerance
        k = int((s > level * s[0]).sum())
    elif rule == "energy":
        if not 0 < energy <= 1:
            raise DeltawError(f"energy is {energy}; expected a share in (0, 1]")
        share = torch.cumsum(s**2, 0) / (s**2).sum()
        k = min(int((share < energy - 1e-12).sum()) + 1, len(s)) if float(s[0]) > 0 else 0
    else:
        raise DeltawError(f"rule is {rule!r}; expected 'exact' or 'energy'")
    return ColumnBasis(left[:, :k].contiguous(), array(s), int(w.shape[1]), rule)


def null_energy(dW: Tensor, basis: ColumnBasis) -> float | Absent:
    """ρ_N = 1 − ‖Qᵀ ΔW‖² / ‖ΔW‖² for ΔW (m, any). Absent if there is no left null space or ΔW = 0."""
    d = matrix(dW, "dW", rows=basis.m)
    total = float((d**2).sum())
    if basis.left_null is not None or total == 0:
        return basis.left_null or _UPDATE_IS_ZERO
    return min(1.0, max(0.0, 1 - float(((basis.Q.T @ d) ** 2).sum()) / total))


def _relative_tolerance(W: Tensor) -> float:
    """Singular values below this share of the largest are rounding: max(m, n) · eps, float32's or finer."""
    dtype = torch.float64 if W.dtype == torch.float64 else torch.float32
    return max(W.shape) * torch.finfo(dtype).eps


@dataclass(frozen=True, eq=False)
class NullProfile:
    """The paper's picture: for each left singular vector u_j of ΔW, y_j = ‖P_N u_j‖ in [0, 1].

    sigma: (r,) singular values, largest first. y: (r,). chance: law of y_j for a random direction.
    ρ_N is the mean of y² weighted by σ².
    """

    sigma: FloatArray
    y: FloatArray
    chance: Null


def null_profile(dW: Tensor, basis: ColumnBasis, k: int | None = None) -> NullProfile | Absent:
    """The first k singular values of ΔW (default: all but zeros), and how far u_j lies in N(Wᵀ)."""
    d = matrix(dW, "dW", rows=basis.m)
    if basis.left_null is not None or not bool((d != 0).any()):
        return basis.left_null or _UPDATE_IS_ZERO
    left, s, _ = torch.linalg.svd(d, full_matrices=False)
    rank = int((s > max(d.shape) * torch.finfo(torch.float64).eps * s[0]).sum())
    keep = rank if k is None else min(k, rank)
    y = (1 - ((basis.Q.T @ left[:, :keep]) ** 2).sum(0)).clamp(0, 1).sqrt()
    return NullProfile(array(s[:keep]), array(y), random_direction(basis.chance, basis.m))


def random_direction(p: float, m: int) -> Null:
    """‖P_N u‖ of a random direction u of R^m, whose square has the mean p."""
    # The square is Beta((m − k)/2, k/2), whose variance is 2 p (1 − p) / (m + 2).
    square = from_beta("random direction", p, 2 * p * (1 - p) / (m + 2))
    return Null("random direction", p**0.5, square.low**0.5, square.high**0.5)


@dataclass(frozen=True, eq=False)
class NullCurve:
    """ρ_N of the complement of W's k strongest left directions, by k, with chance 1 − k/m. All (len(ks),)."""

    ks: FloatArray
    rho: FloatArray
    chance: FloatArray


def null_curve(dW: Tensor, W: Tensor, ks: Sequence[int] | None = None) -> NullCurve | Absent:
    """The curve behind any cut of W's spectrum; its last point, k = rank W, is the exact ρ_N. Default: every
    k.

    Defined for any shape of W. DeltawError if a k exceeds the rank of W. Absent if ΔW = 0.
    """
    basis = column_basis(W)
    d = matrix(dW, "dW", rows=basis.m)
    total = float((d**2).sum())
    if total == 0:
        return _UPDATE_IS_ZERO
    chosen = np.arange(basis.k + 1) if ks is None else np.asarray(ks, dtype=np.int64)
    if len(chosen) == 0 or chosen.min() < 0 or chosen.max() > basis.k:
        raise DeltawError(f"ks are {chosen.tolist()}; expected numbers from 0 to the rank of W, {basis.k}")
    inside = np.concatenate([[0.0], np.cumsum(array(((basis.Q.T @ d) ** 2).sum(1)))]) / total
    rho = np.clip(1 - inside[chosen], 0, 1)
    return NullCurve(chosen.astype(np.float64), rho, 1 - chosen / basis.m)


@dataclass(frozen=True)
class Along:
    """The part of ΔW along W. cosine: ⟨ΔW, W⟩ / (‖ΔW‖ ‖W‖), negative if W shrinks."""

    cosine: float
    chance: Null


def component_along(dW: Tensor, W: Tensor) -> Along | Absent:
    """Cosine of ΔW (m, n) with W (m, n). Weight decay alone gives −1. Absent if either is 0."""
    w = matrix(W, "W")
    d = matrix(dW, "dW", rows=w.shape[0], columns=w.shape[1])
    norms = float(w.norm() * d.norm())
    if norms == 0:
        return _UPDATE_IS_ZERO if float(w.norm()) > 0 else Absent("W is zero, so it has no direction")
    cosine = min(1.0, max(-1.0, float((w * d).sum()) / norms))
    return Along(cosine, isotropic_cosine(d.numel()))


def isotropic_cosine(entries: int) -> Null:
    """The cosine of an isotropic update of so many entries: mean 0 and variance 1 / entries exactly, all but normal."""
    band = 1.959964 / entries**0.5
    return Null("gaussian", 0.0, -band, band)
