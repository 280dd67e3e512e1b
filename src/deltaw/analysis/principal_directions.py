"""Does an update follow the principal directions of W, and does it turn them?

With U, V the k strongest left and right singular vectors of W (m, n), shares of ‖ΔW‖²:

    left    ‖Uᵀ ΔW‖²         of what ΔW writes, on W's strongest output directions; chance k/m
    right   ‖ΔW V‖²          of what ΔW reads, on W's strongest input directions; chance k/n
    both    ‖Uᵀ ΔW V‖²       both at once; chance k²/(mn)

and the largest principal angle between the k strongest directions of W and those of W + ΔW, on either side.

One null, `spectrum_matched`: O ΔW P with uniform O and P, which keeps the singular values of ΔW and no direction. Means
of the shares are exact. The angles need it most: their size follows that of ΔW and the gap between the k-th and the
next singular value of W, and a small angle is no evidence by itself.

Cost: a draw of the shares is a product of (r, k) matrices, r the rank; one of the angles is two QR decompositions of
ΔW's shape and an SVD.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from deltaw.analysis.inputs import Absent, matrix, normals
from deltaw.analysis.principal_angles import subspace_overlap
from deltaw.errors import DeltawError
from deltaw.statistics import Null, from_draws

SIDES = ("left", "right")


@dataclass(frozen=True, eq=False)
class Principal:
    """The strongest singular vectors of a matrix (m, n)."""

    left: Tensor
    """(m, k), orthonormal, float64."""
    right: Tensor
    """(n, k)."""


def principal(W: Tensor, k: int) -> Principal:
    """The k strongest singular vectors of W. DeltawError unless 1 <= k <= min(m, n)."""
    w = matrix(W, "W")
    if not 1 <= k <= min(w.shape):
        raise DeltawError(f"k is {k} for a matrix of {w.shape[0]} × {w.shape[1]}; expected at most the smaller side")
    U, _, Vt = torch.linalg.svd(w, full_matrices=False)
    return Principal(U[:, :k].contiguous(), Vt[:k].T.contiguous())


def energy_shares(dW: Tensor, of: Principal) -> dict[str, float] | Absent:
    """Shares of ‖ΔW‖² on the principal directions: `left`, `right` and `both`."""
    d = matrix(dW, "dW", rows=of.left.shape[0], columns=of.right.shape[0])
    total = float(d.square().sum())
    if total == 0:
        return Absent("the update is zero, so shares of its energy do not exist")
    inner = of.left.T @ d
    parts = {"left": inner, "right": d @ of.right, "both": inner @ of.right}
    return {side: float(part.square().sum()) / total for side, part in parts.items()}


def energy_share_nulls(dW: Tensor, k: int, generator: np.random.Generator, draws: int = 200) -> dict[str, Null]:
    """The null `spectrum_matched` of `energy_shares` for k directions. DeltawError if dW is zero."""
    d = matrix(dW, "dW")
    m, n = d.shape
    sigma = torch.linalg.svdvals(d)
    if float(sigma[0]) == 0:
        raise DeltawError("dW is zero; the nulls of its shares do not exist")
    weights = sigma / sigma.norm()
    values: dict[str, list[float]] = {"left": [], "right": [], "both": []}
    for _ in range(draws):
        # Turning ΔW against fixed directions is turning the directions against a diagonal ΔW.
        left, right = (_frame(generator, side, k, d)[: len(sigma)] for side in (m, n))
        values["left"].append(float((weights[:, None] * left).square().sum()))
        values["right"].append(float((weights[:, None] * right).square().sum()))
        values["both"].append(float((left.T @ (weights[:, None] * right)).square().sum()))
    means = {"left": k / m, "right": k / n, "both": k * k / (m * n)}
    return {side: from_draws("spectrum_matched", shares, mean=means[side]) for side, shares in values.items()}


def rotation_angles(of: Principal, tuned: Tensor) -> dict[str, float]:
    """The largest principal angle, in degrees, between W's strongest directions and those of `tuned`, by side."""
    after = principal(tuned, of.left.shape[1])
    return {side: float(subspace_overlap(getattr(of, side), getattr(after, side)).angles[-1]) for side in SIDES}


def rotation_angle_nulls(
    W: Tensor, of: Principal, dW: Tensor, generator: np.random.Generator, draws: int = 20
) -> dict[str, Null]:
    """The null `spectrum_matched` of `rotation_angles`: of W + O ΔW P."""
    w = matrix(W, "W")
    d = matrix(dW, "dW", rows=w.shape[0], columns=w.shape[1])
    sigma = torch.linalg.svdvals(d)
    values: dict[str, list[float]] = {side: [] for side in SIDES}
    for _ in range(draws):
        left, right = (_frame(generator, side, len(sigma), d) for side in d.shape)
        for side, angle in rotation_angles(of, w + (left * sigma) @ right.T).items():
            values[side].append(angle)
    return {side: from_draws("spectrum_matched", np.array(angles)) for side, angles in values.items()}


def _frame(generator: np.random.Generator, m: int, k: int, like: Tensor) -> Tensor:
    """(m, k) uniform orthonormal columns."""
    Q, R = torch.linalg.qr(normals(generator, m, k, like=like))
    frame: Tensor = Q * R.diagonal().sign()
    return frame
