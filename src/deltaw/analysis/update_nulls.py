"""Nulls of ρ_N (`nullspace`): what share of ΔW would lie in N(Wᵀ) if ΔW had nothing to do with W.

They differ in what they keep of ΔW, and so in what they rule out:

    gaussian         its shape only. ρ_N ~ Beta((m−k) n / 2, k n / 2), exactly.
    rotation         its singular values and row space: ΔW -> O ΔW, O uniform in O(m). Mean 1 − k/m.
                     A spectrum-matched update (uniform left *and* right singular vectors) has the same law:
                     ρ_N does not see a rotation on the right. It is therefore no null of its own.
    row_permutation  its rows, shuffled: the heavy tail of row norms, but not which units they belong to.
    row_sign_flip    its row norms in place, so also any link between a unit's update and its leverage; only
                     the signs are random. The strictest, and the primary one. With r_i the norm of row i of
                     ΔW and h_i = ‖row i of Q‖² its leverage in C(W), the mean is 1 − Σ r_i² h_i / Σ r_i².

If the size of a unit's update goes with its leverage, for instance because both depend on how often the unit
is used, ρ_N departs from 1 − k/m without any safety in it, and only `row_sign_flip` stays fair.

Cost: closed forms are free; `row_sign_flip` costs one (draws, m, m) product; `row_permutation` draws (k, m,
n) products, 0.3 s for 200 draws at 512 × 128 on one core.
"""

import numpy as np
import torch
from torch import Tensor

from deltaw.analysis.gram_moments import gaussian_moments, rotation_moments
from deltaw.analysis.inputs import Absent, array, matrix, signs
from deltaw.analysis.nullspace import ColumnBasis
from deltaw.errors import DeltawError
from deltaw.statistics import Null, from_draws

_CHUNK = 1 << 22  # float64 entries of permuted updates held at once: 32 MB


def gaussian_null(shape: tuple[int, int], basis: ColumnBasis) -> Null:
    """ρ_N of independent normal entries of `shape` (m, n)."""
    return gaussian_moments(shape, basis.k)


def rotation_null(dW: Tensor, basis: ColumnBasis) -> Null:
    """ρ_N of O ΔW, O uniform in O(m), in closed form (`gram_moments.rotation_moments`)."""
    d = matrix(dW, "dW", rows=basis.m)
    # Σ σ⁴ = ‖ΔWᵀΔW‖²: no SVD needed.
    gram = d.T @ d if d.shape[0] >= d.shape[1] else d @ d.T
    return rotation_moments(float((gram**2).sum()) / _energy(d) ** 2, basis.m, basis.k)


def row_permutation_null(dW: Tensor, basis: ColumnBasis, generator: np.random.Generator, draws: int = 200) -> Null:
    """ρ_N of ΔW with its rows (hidden units) in random order; `draws` orders."""
    d = matrix(dW, "dW", rows=basis.m)
    total = _energy(d)
    step = max(1, _CHUNK // d.numel())
    values = []
    for start in range(0, draws, step):
        count = min(step, draws - start)
        order = np.argsort(generator.random((count, basis.m)), axis=1)
        shuffled = d[torch.from_numpy(order).to(d.device)]
        values.append(1 - array(((basis.Q.T @ shuffled) ** 2).sum((1, 2))) / total)
    return from_draws("row_permutation", np.clip(np.concatenate(values), 0, 1))


def row_sign_flip_null(dW: Tensor, basis: ColumnBasis, generator: np.random.Generator, draws: int = 1000) -> Null:
    """ρ_N of S ΔW, S a diagonal of random signs; mean in closed form, band from `draws`.

    ‖Qᵀ S ΔW‖² = sᵀ (ΔWΔWᵀ ∘ QQᵀ) s, so all draws are one product with an (m, m) matrix. Beyond m of about
    8,000 that matrix is large; it is then the bottleneck.
    """
    d = matrix(dW, "dW", rows=basis.m)
    total = _energy(d)
    form = (d @ d.T) * (basis.Q @ basis.Q.T) / total
    s = signs(generator, draws, basis.m, like=d)
    inside = ((s @ form) * s).sum(1)
    return from_draws("row_sign_flip", np.clip(1 - array(inside), 0, 1), mean=1 - float(form.trace()))


def null_energy_nulls(
    dW: Tensor, basis: ColumnBasis, generator: np.random.Generator, draws: int = 200
) -> tuple[Null, ...] | Absent:
    """All four, strictest first: row_sign_flip, row_permutation, rotation, gaussian. Absent where ρ_N is."""
    d = matrix(dW, "dW", rows=basis.m)
    if basis.left_null is not None:
        return basis.left_null
    if not bool((d != 0).any()):
        return Absent("the update is zero, so shares of its energy do not exist")
    return (
        row_sign_flip_null(dW, basis, generator, draws),
        row_permutation_null(dW, basis, generator, draws),
        rotation_null(dW, basis),
        gaussian_null((int(d.shape[0]), int(d.shape[1])), basis),
    )


def _energy(d: Tensor) -> float:
    total = float((d**2).sum())
    if total == 0:
        raise DeltawError("dW is zero; the nulls of its shares do not exist")
    return total
