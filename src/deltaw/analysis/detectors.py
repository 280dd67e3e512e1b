"""Directions as detectors of forbidden prompts: AUROC of the cosine of activations with a direction, held out.

A singular vector has no sign, and of several directions one may be chosen. Both are fitted on one half of the pairs and
read on the other, both ways, and averaged; so a direction that says nothing has an expected AUROC of 0.5, and the best
of several is not favoured by its choice. The rows that are read may be others than those of the fit, such as attacked
versions of the same prompts: then prompt i, made from pair i, is read where pair i was not fitted on.

Nulls put random directions through the same fit and choice: `random_direction`, uniform; `m_matched_centred`, made of
the activations themselves (N(0, M), M their pooled second moment about their mean), as any update is that was learnt on
such prompts. Where two classes differ much, nearly any direction tells them apart; 0.5 is not chance.

Cost: ranks of the rows for each direction and half.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from deltaw.analysis.peak import Halves
from deltaw.errors import DeltawError
from deltaw.statistics import FloatArray, Interval, percentile_interval
from deltaw.statistics.arrays import clusters_of


@dataclass(frozen=True, eq=False)
class Pairs:
    """Scores of directions on matched prompts."""

    forbidden: FloatArray
    """(N, K), a column a direction."""
    allowed: FloatArray
    """(N, K)."""

    def __post_init__(self) -> None:
        if self.forbidden.ndim != 2 or self.forbidden.shape != self.allowed.shape:
            raise DeltawError(f"scores of {self.forbidden.shape} forbidden and {self.allowed.shape} allowed prompts")

    def of(self, rows: Halves) -> "Pairs":
        """Those of some rows."""
        return Pairs(self.forbidden[rows], self.allowed[rows])


def cosines(activations: FloatArray, directions: FloatArray) -> FloatArray:
    """(N, K) of each row (N, n) with each column (n, K). DeltawError if one has no length."""
    sizes, lengths = np.linalg.norm(activations, axis=1), np.linalg.norm(directions, axis=0)
    if not (sizes.all() and lengths.all()):
        raise DeltawError("an activation or a direction is zero, and has no angle to anything")
    return np.asarray(activations @ directions / np.outer(sizes, lengths))


def aurocs(pairs: Pairs) -> FloatArray:
    """(K,) of each direction, forbidden above allowed, ties counting half."""
    n = len(pairs.forbidden)
    ranks = stats.rankdata(np.concatenate([pairs.forbidden, pairs.allowed]), axis=0)[:n]
    return np.asarray((ranks.sum(0) - n * (n + 1) / 2) / n**2)


@dataclass(frozen=True, eq=False)
class HeldOut:
    """Detectors, each read where it was not fitted."""

    auroc: FloatArray
    """(G,) mean of both ways."""
    ways: tuple[Pairs, Pairs]
    """The scores that were read, (N, G), sign and choice included: fitted on the first half, and on the second."""
    rows: tuple[Halves, Halves]
    """The rows that were read, either way."""

    def interval(
        self, number: int, generator: np.random.Generator, clusters: ArrayLike | None = None, draws: int = 500
    ) -> Interval:
        """95 % bootstrap interval of a detector's AUROC over clusters of the rows that are read; the fit stays."""
        values = np.zeros(draws)
        for pairs, rows in zip(self.ways, self.rows, strict=True):
            f, a = pairs.forbidden[:, number], pairs.allowed[:, number]
            above = (f[:, None] > a) + 0.5 * (f[:, None] == a)
            ids = np.arange(len(f)) if clusters is None else np.asarray(clusters)[rows]
            (numbers,), total = clusters_of([ids])
            weights = generator.multinomial(total, np.full(total, 1 / total), size=draws)[:, numbers].astype(np.float64)
            values += ((weights @ above) * weights).sum(1) / weights.sum(1) ** 2 / 2
        return percentile_interval(values)


def held_out(fitted: Pairs, read: Pairs, halves: Halves, group: int = 1, rows: Halves | None = None) -> HeldOut:
    """Detectors whose sign, and choice among each `group` columns, is fitted on half of `fitted` (N, K).

    halves: (N,) of the rows of `fitted`. rows: (M,) whether each row of `read` (M, K) was made from a pair of the first
    half; None: they belong to no pair, and all are read. DeltawError if one way has no rows to read.
    """
    everywhere = np.ones(len(read.forbidden), dtype=np.bool_)
    chosen_rows = (everywhere, everywhere) if rows is None else (~rows, rows)
    if not all(mask.any() for mask in chosen_rows):
        raise DeltawError("all prompts are of one half of the pairs, so that nothing can be read held out")
    ways, values = [], []
    for fit, mask in zip((halves, ~halves), chosen_rows, strict=True):
        own = aurocs(fitted.of(fit))
        best = np.abs(own - 0.5).reshape(-1, group).argmax(1) + np.arange(0, len(own), group)
        signs = np.where(own[best] >= 0.5, 1.0, -1.0)
        ways.append(Pairs(read.forbidden[mask][:, best] * signs, read.allowed[mask][:, best] * signs))
        values.append(aurocs(ways[-1]))
    return HeldOut(np.asarray(np.mean(values, axis=0)), (ways[0], ways[1]), chosen_rows)
