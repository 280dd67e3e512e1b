"""Does ΔW write along the direction of refusal? The angle of its strongest output directions to a difference in means.

With δ the difference in means of forbidden and allowed activations (Arditi et al., 2024) and P the projector on the top
k output directions of ΔW, the share is ‖Pδ‖² / ‖δ‖², and the angle arccos √share.

δ is estimated, and noise in it has a share of its own: plugged in, it draws the share towards that of within-class
noise. So both norms are cross-fitted: a direction from one half of the pairs meets that of the other, averaged over all
ways to halve at once,

    ‖Pδ‖² ≈ Σ_{i≠j} ⟨P d_i, P d_j⟩ / (N (N − 1)),    d_i = forbidden_i − allowed_i,

and likewise without P: a U statistic, unbiased, that needs no halves drawn. Nulls: `random_direction`, uniform in all
m dimensions (Beta law, mean k/m); `label_permutation`, the direction fitted anew after labels are swapped within pairs:
what ΔW's outputs catch of any direction in which such activations differ. That a tuned model's classes differ where its
ΔW writes is in part a matter of course, so the base model's δ stands beside it, and controls decide.

Cost: N m k, and one product of (draws, N) with (N, m) for the null.
"""

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from deltaw.analysis.inputs import Absent, array, matrix, signs
from deltaw.errors import DeltawError
from deltaw.statistics import FloatArray, Interval, Null, from_beta, from_draws, jackknife_interval


@dataclass(frozen=True, eq=False)
class DirectionShare:
    """Share of the difference in means that lies in a span of k directions of m; angle: in degrees, between them.

    Being unbiased, the share may fall below 0 or exceed 1 by its noise; the angle is then 90° or 0°. plugged_in: the
    share without cross-fitting. left_out (N,): the share without each pair.
    """

    share: float
    interval: Interval
    angle: float
    plugged_in: float
    k: int
    nulls: tuple[Null, ...]
    left_out: FloatArray


def direction_share(
    forbidden: Tensor, allowed: Tensor, basis: Tensor, generator: np.random.Generator, draws: int = 200
) -> DirectionShare | Absent:
    """How much of the difference in means of forbidden and allowed (N, m), paired, lies in the span of basis (m, k).

    basis: orthonormal columns, such as `top_left(ΔW, k)`. Absent if the 95 % interval of the cross-fitted ‖δ‖² reaches
    0: there is no direction.
    """
    f = matrix(forbidden, "forbidden")
    d = f - matrix(allowed, "allowed", rows=f.shape[0], columns=f.shape[1])
    p = matrix(basis, "basis", rows=f.shape[1])
    if len(d) < 3:
        raise DeltawError(f"{len(d)} pairs cannot be halved and resampled; expected at least 3")
    inside, inside_left = _squared_mean(d @ p)
    whole, whole_left = _squared_mean(d)
    if jackknife_interval(whole, whole_left).low <= 0:
        return Absent("allowed and forbidden prompts do not differ in their means here, so there is no direction")
    share, left_out = inside / whole, inside_left / whole_left
    flipped = signs(generator, draws, len(d), like=d) @ d / len(d)
    by_chance = array(((flipped @ p) ** 2).sum(1) / (flipped**2).sum(1))
    m, k = p.shape
    mean = d.mean(0)
    return DirectionShare(
        share=share,
        interval=jackknife_interval(share, left_out),
        angle=float(np.degrees(np.arccos(np.sqrt(np.clip(share, 0, 1))))),
        plugged_in=float(((mean @ p) ** 2).sum() / (mean**2).sum()),
        k=k,
        nulls=(from_draws("label_permutation", by_chance), _random_direction(m, k)),
        left_out=left_out,
    )


def _squared_mean(d: Tensor) -> tuple[float, FloatArray]:
    """Unbiased squared norm of the mean of the rows of d (N, m), and the same without each row."""
    n, total, squares = len(d), d.sum(0), (d**2).sum(1)
    whole = (total**2).sum() - squares.sum()
    without = ((total - d) ** 2).sum(1) - (squares.sum() - squares)
    return float(whole / (n * (n - 1))), array(without / ((n - 1) * (n - 2)))


def _random_direction(m: int, k: int) -> Null:
    share = k / m
    return from_beta("random_direction", share, share * (1 - share) / (m / 2 + 1))
