"""How many directions a cloud of activations really has: "tuned unsafe activations are of low rank".

With λ the eigenvalues of the cloud's covariance Σ (or σ² of an update):

    participation ratio  (Σ λ)² / Σ λ²          effective number of directions; 1 .. width
    stable rank          Σ λ / max λ            (Rudelson and Vershynin, 2007)
    energy rank          the least k with λ₁ + .. + λ_k at least 0.9 of Σ λ

N prompts make any cloud look flatter than it is: tr S² exceeds tr Σ² by about (tr Σ)² / N. The participation ratio is
therefore that of the unbiased estimators of (tr Σ)² and tr Σ² by Himeno and Yamada (2014), which assume no law; the
other two have no such estimator and may only be compared at the same N.

There is no absolute "low". What is compared, always row by row and on a log scale, so that 0 is "as many directions":
forbidden with allowed prompts (null: labels permuted within pairs), the tuned with the base model on the same prompts
(null: models swapped), and the difference of these differences. Clouds are centred before rows are permuted, since
mixing two clusters would add the direction between them. Intervals are jackknifed: the bootstrap repeats rows, and a
row twice is no second direction. Beside a level stands the rank of the same units, were they independent of each other:
(Σ v)² / Σ v² of their variances v, in closed form.

Cost: N² w for the Gram matrix and R N² for R labellings: 0.2 s for 512 pairs, width 512 and 200 draws on one core.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from deltaw.analysis.inputs import Absent, array, matrix
from deltaw.errors import DeltawError
from deltaw.statistics import FloatArray, Interval, Null, from_draws, jackknife_interval
from deltaw.statistics.arrays import clusters_of

SHARE = 0.9
_LEAST = 4  # rows that the unbiased estimator needs


@dataclass(frozen=True, eq=False)
class LogRank:
    """Log of a participation ratio, or a sum and difference of some; left_out (G,): the same without each cluster of
    rows, or without each row where rows are independent.
    """

    value: float
    left_out: FloatArray

    @property
    def interval(self) -> Interval:
        """95 % jackknife interval over clusters."""
        return jackknife_interval(self.value, self.left_out)

    def __sub__(self, other: "LogRank") -> "LogRank":
        """The log ratio of two clouds whose rows are paired."""
        return LogRank(self.value - other.value, self.left_out - other.left_out)


@dataclass(frozen=True, eq=False)
class ActivationRank:
    """Effective rank of activations (N, w) at one place.

    log: of the participation ratio. independent_units: the null of the participation ratio, a number without a band.
    """

    participation_ratio: float
    interval: Interval
    stable_rank: float
    energy_rank: int
    log: LogRank
    independent_units: Null


def activation_rank(A: Tensor, clusters: ArrayLike | None = None) -> ActivationRank | Absent:
    """Effective rank of the rows of A (N, w), N >= 4. clusters: as in `log_rank`. Absent if the rows are all equal."""
    a = matrix(A, "A")
    log = log_rank(a, clusters)
    if isinstance(log, Absent):
        return log
    x = a - a.mean(0)
    # The smaller of the two Gram matrices has all eigenvalues.
    energies = array(torch.linalg.eigvalsh(x.T @ x if x.shape[1] <= x.shape[0] else x @ x.T)).clip(min=0)[::-1]
    ends = log.interval
    variances = array((x**2).sum(0))
    chance = float(variances.sum() ** 2 / (variances**2).sum())
    return ActivationRank(
        participation_ratio=float(np.exp(log.value)),
        interval=Interval(float(np.exp(ends.low)), float(np.exp(ends.high))),
        stable_rank=float(energies.sum() / energies[0]),
        energy_rank=energy_rank(energies),
        log=log,
        independent_units=Null("independent_units", chance, chance, chance),
    )


def energy_rank(energies: FloatArray, share: float = SHARE) -> int:
    """The least number of directions that hold `share` of the energies (r,), any order.

    The bound is included: energies 9 and 1 hold 0.9 in one direction. DeltawError if they are all zero.
    """
    descending = np.sort(np.asarray(energies, dtype=np.float64))[::-1]
    total = descending.sum()
    if not total > 0:
        raise DeltawError("the energies are all zero, so no number of directions holds a share of them")
    return 1 + int((descending.cumsum() < share * total * (1 - 1e-12)).sum())


def log_rank(A: Tensor, clusters: ArrayLike | None = None) -> LogRank | Absent:
    """Log of the participation ratio of the rows of A (N, w), N >= 4. Absent if the rows are all equal.

    clusters: (N,) id of each row's cluster, left out together; None: rows are independent. Without any one cluster at
    least four rows must be left.
    """
    a = matrix(A, "A")
    _enough(len(a))
    x = a - a.mean(0)
    if float((x**2).sum()) <= len(x) * torch.finfo(x.dtype).eps ** 2 * float((a**2).sum()):
        return Absent("the activations are all equal, so they have no directions")
    gram = x @ x.T
    everyone = torch.ones(1, len(x), dtype=x.dtype, device=x.device)
    members, count = _members(clusters, len(x))
    _enough(len(x) - int(members.bincount().max()))
    members = members.to(x.device)

    def left_out(rows: Tensor) -> Tensor:
        """The sum of all rows, then that without each cluster's."""
        whole = everyone @ rows
        return torch.cat([whole, whole - rows.new_zeros(count, len(rows)).index_add_(0, members, rows)])

    chosen = left_out(torch.eye(len(x), dtype=x.dtype, device=x.device))
    of_sum, of_squares = left_out(gram), left_out(gram**2)
    logs = _log_participation(gram.diagonal(), chosen, of_sum, of_squares, x.shape[1])
    return LogRank(float(logs[0]), logs[1:])


def mean_log_rank(log_ranks: Sequence[LogRank]) -> LogRank:
    """The mean of log ranks of the same rows, such as one a layer: a row is left out of all at once."""
    left_out = np.mean([rank.left_out for rank in log_ranks], axis=0)
    return LogRank(float(np.mean([rank.value for rank in log_ranks])), left_out)


def rank_null(
    first: Tensor,
    second: Tensor,
    kind: str,
    generator: np.random.Generator,
    draws: int = 200,
    clusters: ArrayLike | None = None,
) -> Null:
    """Null of log rank of `first` (N, w) minus that of `second` (N, w), whose rows are paired: pairs swapped at random.

    kind: what the swap means, `label_permutation` or `model_swap`. Both clouds are centred first. clusters: (N,) id of
    each pair's cluster, swapped together; None: pairs are independent.
    """
    a, b = matrix(first, "first"), matrix(second, "second", columns=first.shape[1], rows=first.shape[0])
    _enough(len(a))
    x = torch.cat([a - a.mean(0), b - b.mean(0)])
    members, count = _members(clusters, len(a))
    swap = torch.from_numpy(generator.integers(0, 2, size=(draws, count))).to(x)[:, members]
    chosen = torch.cat([torch.cat([1 - swap, swap], dim=1), torch.cat([swap, 1 - swap], dim=1)])
    gram = x @ x.T
    logs = _log_participation(gram.diagonal(), chosen, chosen @ gram, chosen @ gram**2, x.shape[1])
    return from_draws(kind, logs[:draws] - logs[draws:], mean=0.0)


def _members(clusters: ArrayLike | None, rows: int) -> tuple[Tensor, int]:
    """(rows,) int64 number of each row's cluster, and how many there are; each row is one, if none are given."""
    if clusters is None:
        return torch.arange(rows), rows
    (numbers,), count = clusters_of([clusters])
    if len(numbers) != rows:
        raise DeltawError(f"clusters name {len(numbers)} rows, there are {rows}; expected one name per row")
    return torch.from_numpy(numbers), count


def _enough(rows: int) -> None:
    if rows < _LEAST:
        raise DeltawError(f"{rows} rows say nothing about a covariance; expected at least {_LEAST}")


def _log_participation(diagonal: Tensor, chosen: Tensor, of_sum: Tensor, of_squares: Tensor, width: int) -> FloatArray:
    """(R,) log participation ratio of the rows chosen (R, M), 0 or 1, from the products of all rows with each other.

    diagonal (M,): squared norms. of_sum (R, M): products of every row with the sum of the chosen ones. of_squares
    (R, M): sums over the chosen rows of squared products. The mean of the chosen rows is taken away in closed form.
    """
    n = chosen.sum(1)
    total = (of_sum * chosen).sum(1)  # ‖sum‖²
    scatter = chosen @ diagonal - total / n
    squares = (of_squares * chosen).sum(1) - 2 / n * (of_sum**2 * chosen).sum(1) + (total / n) ** 2
    distances = diagonal - 2 * of_sum / n[:, None] + (total / n**2)[:, None]
    fourth = n * (distances**2 * chosen).sum(1) / (n - 1)
    trace, of_square = scatter / (n - 1), squares / (n - 1) ** 2
    # Both up to the same factor. With one direction they are equal.
    top = 2 * of_square + (n**2 - 3 * n + 1) * trace**2 - fourth
    bottom = (n - 1) * (n - 2) * of_square + trace**2 - fourth
    # Noise may take them out of the range of any covariance: 1 to `width` directions.
    top = torch.maximum(top, torch.finfo(top.dtype).tiny * torch.ones_like(top))
    return array(torch.log(top / torch.minimum(torch.maximum(bottom, top / width), top)))
