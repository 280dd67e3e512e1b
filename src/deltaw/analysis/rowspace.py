"""Observation 3: on which prompts ΔW acts. Inputs a of a layer against the row space R(ΔW) of its update.

For an input a (n,) of a matrix W (m, n) that became W + ΔW (and bias b + Δb):

    gain             ‖ΔW a + Δb‖ / ‖a‖               how strongly the update acts on a
    relative gain    ‖ΔW a + Δb‖ / ‖W a + b‖         the same, beside what the old matrix did
    row energy       ‖V_kᵀ a‖² / ‖a‖²                share of a on the top-k right singular vectors of ΔW

(paper, Observation 3). a is `mlp_in`, of the base model first. Chance is not k/n: activations are
anisotropic, and any directions made from activations catch much of them. The null is of the *difference*
forbidden − allowed, with V spanned by k draws from N(0, M), M the 50:50 pooled second moment. At k = 1 it has
little power if the classes are far apart: one such draw is often nearly their difference. It cannot rule out
that any training on forbidden prompts puts them into R(ΔW) (a gradient is Σ δ aᵀ): for that the control
`other` has the same prompts, and its ΔW is the comparison that decides.

Cost: one SVD of ΔW; the null is k n (n + prompts) a draw.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from deltaw.analysis.inputs import array, bias, matrix, normals
from deltaw.errors import DeltawError
from deltaw.statistics import FloatArray, Interval, Null, bootstrap_means, from_draws, percentile_interval


def update_rank(dW: Tensor) -> int:
    """The rank of ΔW (m, n), up to rounding in float64; 0 where nothing was updated."""
    values = torch.linalg.svdvals(matrix(dW, "dW"))
    return int((values > max(dW.shape) * torch.finfo(torch.float64).eps * values[0]).sum())


def top_right(dW: Tensor, k: int) -> Tensor:
    """The k strongest right singular vectors of ΔW (m, n): (n, k), orthonormal, float64.

    DeltawError if k exceeds the rank of ΔW, since the vectors beyond it are arbitrary.
    """
    d = matrix(dW, "dW")
    _, s, right = torch.linalg.svd(d, full_matrices=False)
    rank = int((s > max(d.shape) * torch.finfo(torch.float64).eps * s[0]).sum())
    if not 1 <= k <= rank:
        raise DeltawError(f"k is {k} for an update of rank {rank}; expected 1 <= k <= rank")
    top: Tensor = right[:k].T.contiguous()
    return top


def row_energy(A: Tensor, V: Tensor) -> FloatArray:
    """‖Vᵀ a‖² / ‖a‖² for each row a of A (N, n); V (n, k) orthonormal. DeltawError if a row is zero."""
    a, v = matrix(A, "A"), matrix(V, "V", rows=A.shape[1])
    return array(((_unit(a, "A") @ v) ** 2).sum(1).clamp(0, 1))


@dataclass(frozen=True, eq=False)
class Gain:
    """How strongly an update acts on each prompt."""

    to_input: FloatArray
    """(N,) ‖ΔW a + Δb‖ / ‖a‖."""
    relative: FloatArray
    """(N,) ‖ΔW a + Δb‖ / ‖W a + b‖."""


def gain(A: Tensor, dW: Tensor, db: Tensor | None, W: Tensor, b: Tensor | None) -> Gain:
    """Gains of ΔW (m, n) and Δb (m,) on the rows of A (N, n), beside W (m, n) and b (m,). None is a zero
    bias.

    DeltawError if a row of A or its image under W is zero.
    """
    w = matrix(W, "W")
    a = matrix(A, "A", columns=w.shape[1])
    d = matrix(dW, "dW", rows=w.shape[0], columns=w.shape[1])
    change = (a @ d.T + bias(db, "db", w)).norm(dim=1)
    before, size = (a @ w.T + bias(b, "b", w)).norm(dim=1), a.norm(dim=1)
    if bool((size == 0).any()) or bool((before == 0).any()):
        raise DeltawError("an activation, or what W makes of it, is zero; a gain relative to it does not exist")
    return Gain(array(change / size), array(change / before))


@dataclass(frozen=True, eq=False)
class RowContrast:
    """Mean row energy of forbidden minus that of allowed prompts, in [−1, 1].

    forbidden (N_f,), allowed (N_a,): row energy of each prompt. isotropic: k/n, which is not the chance
    level. nulls: `m_matched` and `m_matched_centred`, both of the difference.
    """

    value: float
    interval: Interval
    forbidden: FloatArray
    allowed: FloatArray
    k: int
    isotropic: float
    nulls: tuple[Null, ...]


def row_contrast(
    forbidden: Tensor,
    allowed: Tensor,
    dW: Tensor,
    k: int,
    generator: np.random.Generator,
    *,
    clusters: tuple[FloatArray, FloatArray] | None = None,
    reference: tuple[Tensor, Tensor] | None = None,
    draws: int = 200,
) -> RowContrast:
    """Row energy on the top-k right singular vectors of ΔW, forbidden (N_f, n) minus allowed (N_a, n).

    clusters: names of the texts or operator sets of the rows, for the interval (as in `bootstrap_means`).
    reference: the (forbidden, allowed) activations that M is made of; default the given ones. Give the base
    model's (a_IT) when the rows are the tuned model's or an attack's.
    """
    v = top_right(dW, k)
    f, a = matrix(forbidden, "forbidden", columns=v.shape[0]), matrix(allowed, "allowed", columns=v.shape[0])
    of_f, of_a = row_energy(f, v), row_energy(a, v)
    means = bootstrap_means([of_f, of_a], generator, clusters)
    pools = reference or (f, a)
    nulls = tuple(matched_null(f, a, pools, k, generator, centred=centred, draws=draws) for centred in (False, True))
    return RowContrast(
        value=float(of_f.mean() - of_a.mean()),
        interval=percentile_interval(means[:, 0] - means[:, 1]),
        forbidden=of_f,
        allowed=of_a,
        k=k,
        isotropic=k / v.shape[0],
        nulls=nulls,
    )


def matched_null(
    forbidden: Tensor,
    allowed: Tensor,
    reference: tuple[Tensor, Tensor],
    k: int,
    generator: np.random.Generator,
    *,
    centred: bool = False,
    draws: int = 200,
) -> Null:
    """Null of the difference of mean row energies: V spanned by k draws from N(0, M), `draws` times.

    M = ½ E_forbidden[x xᵀ] + ½ E_allowed[x xᵀ] of the reference activations, so that neither class's size
    counts; `centred` first takes away the 50:50 mean, without which that mean is in almost every V. A mean
    row energy is linear in the class's second moment of unit rows, so a draw costs k n (n + prompts).

    A draw weighs prompts at random: equal generators give several layers the directions of the same prompts, as all
    layers of an update are made from the same ones. The null of a mean over layers needs that.
    """
    f, a = matrix(forbidden, "forbidden"), matrix(allowed, "allowed")
    pools = [matrix(x, "reference", columns=f.shape[1]) for x in reference]
    rows = _pooled_rows((pools[0], pools[1]), centred)
    rank = int(torch.linalg.matrix_rank(rows))
    if rank < k:
        raise DeltawError(
            f"the reference activations span {rank} directions; a null of {k} needs at least {k}. "
            "Use more prompts or a smaller k."
        )
    unit_f, unit_a = _unit(f, "forbidden"), _unit(a, "allowed")
    contrast = unit_f.T @ unit_f / len(f) - unit_a.T @ unit_a / len(a)
    spans = rows.T @ normals(generator, draws, len(rows), k, like=rows)
    bases, _ = torch.linalg.qr(spans)
    difference = ((contrast @ bases) * bases).sum((1, 2))
    return from_draws("m_matched_centred" if centred else "m_matched", array(difference))


def pooled_root(pools: tuple[Tensor, Tensor], centred: bool = False) -> Tensor:
    """(n, rank) a root of M, root rootᵀ = M: the 50:50 pooled second moment of two classes' activations (N, n).

    centred: about their 50:50 mean, which is else in almost every span drawn from N(0, M).
    """
    rows = _pooled_rows(pools, centred)
    values, vectors = torch.linalg.eigh(rows.T @ rows)
    keep = values > len(values) * torch.finfo(torch.float64).eps * values[-1]
    root: Tensor = vectors[:, keep] * values[keep].sqrt()
    return root


def _pooled_rows(pools: tuple[Tensor, Tensor], centred: bool) -> Tensor:
    """(N, n), a row a prompt of either class, whose second moment rowsᵀ rows is M."""
    first = matrix(pools[0], "activations")
    classes = (first, matrix(pools[1], "activations", columns=first.shape[1]))
    middle = (classes[0].mean(0) + classes[1].mean(0)) / 2 if centred else torch.zeros_like(first[0])
    return torch.cat([(x - middle) / (2 * len(x)) ** 0.5 for x in classes])


def _unit(a: Tensor, name: str) -> Tensor:
    size: Tensor = a.norm(dim=1, keepdim=True)
    if bool((size == 0).any()):
        raise DeltawError(f"{int((size == 0).sum())} rows of {name} are zero; an activation of no length has no energy")
    return a / size
