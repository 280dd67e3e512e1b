"""How much of an update lies in its own strongest directions, in another update's, and do their modes agree?

For updates A and B of one matrix (m, n), with U_k(A) the k strongest left singular vectors of A:

    energy kept        ‖U_k(B)ᵀ A‖² / ‖A‖²; of B = A the most that k directions can keep
    mode overlap       ‖U(A)ᵀ U(B)‖² / min(k, l), U(A) and U(B) the k and l strongest that hold a share of each energy

after Ponkshe et al. (ICLR 2026); norms are squared here throughout. The right singular vectors are those of the
transposes. Chance: `spectrum_matched` for the energy that another update keeps (mean k/m), `gaussian` for one's own
(a random matrix of the shape), `rotation` for the overlap (mean max(k, l) / m). An update of nearly full rank needs
most directions for its energy, so its overlap with anything is near 1, and so is chance.

Cost: an SVD an update.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from deltaw.analysis.gram_moments import gaussian_residual
from deltaw.analysis.inputs import Absent, matrix
from deltaw.analysis.principal_angles import rotation_overlap_null, subspace_overlap
from deltaw.errors import DeltawError
from deltaw.statistics import Null


@dataclass(frozen=True, eq=False)
class Modes:
    """The singular vectors of a matrix (m, n), strongest first."""

    left: Tensor
    """(m, r), orthonormal, float64."""
    right: Tensor
    """(n, r)."""
    energy: Tensor
    """(r,) each one's share of the squared norm."""

    def holding(self, share: float) -> int:
        """The least number of modes that hold this share of the energy."""
        return min(int((self.energy.cumsum(0) < share * (1 - 1e-12)).sum()) + 1, len(self.energy))


def modes(A: Tensor) -> Modes | Absent:
    """The modes of A up to its rank. Absent if A is zero."""
    U, sigma, Vt = torch.linalg.svd(matrix(A, "A"), full_matrices=False)
    if float(sigma[0]) == 0:
        return Absent("the update is zero, so it has no directions")
    rank = int((sigma > max(A.shape) * torch.finfo(torch.float64).eps * sigma[0]).sum())
    squares = sigma[:rank].square()
    return Modes(U[:, :rank].contiguous(), Vt[:rank].T.contiguous(), squares / squares.sum())


def own_energy(of: Modes, k: int) -> tuple[float, Null]:
    """Energy that the k strongest directions keep of their own update, and of a random matrix of its shape.

    DeltawError unless 1 <= k <= min(m, n).
    """
    shape = (len(of.left), len(of.right))
    if not 1 <= k <= min(shape):
        raise DeltawError(f"k is {k} for an update of {shape[0]} × {shape[1]}; expected at most the smaller side")
    chance = 1 - float(gaussian_residual(shape, [k])[0])
    return float(of.energy[:k].sum()), Null("gaussian", chance, chance, chance)


def mode_overlap(a: Modes, b: Modes, share: float) -> dict[str, tuple[float, Null]]:
    """By side, the overlap of the modes that hold `share` of either energy, with its chance."""
    k_a, k_b = a.holding(share), b.holding(share)
    return {
        side: (
            subspace_overlap(first[:, :k_a], second[:, :k_b]).overlap,
            rotation_overlap_null(len(first), k_a, k_b),
        )
        for side, first, second in (("left", a.left, b.left), ("right", a.right, b.right))
    }
