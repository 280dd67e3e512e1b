"""What the published code and the paper's captions measure, to be set beside ours; no claim rests on these.

`shipped_column_space` is the column-space script as it is; `described_column_space` is what the paper says of it;
`tau` is the clusters' statistic; `shipped_row_space` and `described_row_space` are the same two of the row space. Known
faults: neither shipped script forms ΔW, and the first takes rows of U for left singular vectors (its columns), so that
it tells an update's size and not its direction.
"""

import torch
from torch import Tensor

from deltaw.analysis.inputs import Absent, array, matrix
from deltaw.analysis.nullspace import column_basis, null_profile
from deltaw.errors import DeltawError
from deltaw.statistics import FloatArray

ENERGY = 0.9  # of a matrix, which the published code keeps


def shipped_column_space(tuned: Tensor, base: Tensor) -> FloatArray:
    """(k,) of each kept *row* of U of the tuned W, centred, its distance from the span of the base W's, in [0, 1].

    tuned, base: (m, n). Kept are the rows before the one with which the energy passes 0.9. DeltawError if their shapes
    differ, or none is kept.
    """
    kept = _kept_rows(matrix(base, "base"))
    rows = _kept_rows(matrix(tuned, "tuned", rows=kept.shape[1]))
    inside = ((rows @ kept.T) ** 2).sum(1)
    return array((1 - inside).clamp(0, 1).sqrt())


def _kept_rows(w: Tensor) -> Tensor:
    left, s, _ = torch.linalg.svd(w - w.mean(0), full_matrices=True)
    energy = (s**2).cumsum(0) / (s**2).sum()
    k = int((energy > ENERGY).nonzero()[0])
    if k == 0:
        raise DeltawError("the first singular value alone has nine tenths of the energy, so the metric keeps nothing")
    kept: Tensor = left[:k]
    return kept


def described_column_space(dW: Tensor, W: Tensor) -> tuple[FloatArray, float] | Absent:
    """(y, chance): of each left singular vector of ΔW its share outside W's outputs of 90 % of the energy, all alike.

    y: (rank ΔW,) norms in [0, 1]. chance: the root mean square of a random direction, about 0.9 for a 4d × d matrix.
    """
    basis = column_basis(W, "energy", ENERGY)
    profile = null_profile(dW, basis)
    return profile if isinstance(profile, Absent) else (profile.y, float(basis.chance**0.5))


def tau(activations: Tensor, mean_allowed: Tensor, mean_forbidden: Tensor) -> FloatArray:
    """(N,) ‖a − μ_U‖ − ‖a − μ_S‖ of activations (N, width), in their own units: above 0 nearer to the allowed mean."""
    a = matrix(activations, "activations")
    return array((a - mean_forbidden.double()).norm(dim=1) - (a - mean_allowed.double()).norm(dim=1))


def described_row_space(activations: Tensor, dW: Tensor) -> FloatArray:
    """(N,) ‖ΔW a‖ / ‖a‖ of activations (N, n). dW: (m, n). DeltawError if they do not fit."""
    update = matrix(dW, "dW")
    a = matrix(activations, "activations", columns=update.shape[1])
    return array((a @ update.T).norm(dim=1) / a.norm(dim=1))


def shipped_row_space(activations: Tensor, base: Tensor) -> FloatArray:
    """(N,) ‖W_c a‖ / ‖a‖ of attention outputs (N, n), W_c the base W (m, n) less its mean row; there is no ΔW in it.

    The script keeps σ_j ⟨v_j, a⟩ / ‖a‖ of all right singular vectors, whose root sum of squares this is.
    """
    w = matrix(base, "base")
    return described_row_space(activations, w - w.mean(0))
