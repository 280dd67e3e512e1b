"""Could any update tell two classes apart at these inputs? The gain of the best possible rank-one update, held out.

An update of rank one, u vᵀ, acts on an input a with strength |v·a|. Over two classes with second moments
S_f = E[a aᵀ] of forbidden and S_a of allowed prompts, the ratio of mean squares vᵀ S_f v / vᵀ S_a v is largest at
the leading generalised eigenvector of (S_f, S_a). The statistic is

    ½ log (mean of (v·a)² over forbidden prompts / mean of (v·a)² over allowed prompts)

the log ratio of root mean squares, with v fitted on one half of the pairs and read on the other half, both ways, and
averaged. A statement about ΔW at these inputs can be true of some update only if this number reaches its smallest
effect. It bounds updates without a bias and of rank one; gains of updates of a higher rank are averages over such v,
so they reach no further in the mean square.

**Regularisation.** With fewer prompts than dimensions, S_a is singular and the ratio on the fitted half is infinite. So
v is sought in the span of the fitted half's activations, and both moments get a ridge: a multiple, one of `RIDGES`, of
the mean variance of the pooled activations about their mean. The multiple is the one whose v has the largest ratio on
pairs of the fitted half that it was not fitted on: each quarter of all pairs is fitted and read on the other quarter.

The layer of the peak is chosen by that held-out ratio too. So v, ridge and layer are fixed before the other half is
read. The interval resamples the clusters of the half that is read and leaves the choices as they are, since none of
them depends on that half. The null swaps the labels of the pairs that are read, cluster by cluster: if the classes do
not differ, v is any direction.

Cost: 14 symmetric eigenproblems of at most the smaller of the width and the number of prompts in a half, once for a
base model. All in float64.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from deltaw.analysis.inputs import array, matrix
from deltaw.analysis.peak import Halves, split_halves
from deltaw.errors import DeltawError
from deltaw.statistics import FloatArray, Interval, Null, from_draws, percentile_interval
from deltaw.statistics.arrays import clusters_of

RIDGES = (1e-4, 1e-2, 1.0)
"""Multiples of the mean variance that are tried."""


@dataclass(frozen=True, eq=False)
class BestUpdate:
    """What the best rank-one update of one half of the pairs does on the other half, both ways."""

    allowed: FloatArray
    """(N,) (v·a)² of each allowed prompt, by the v that was fitted without its half."""
    forbidden: FloatArray
    """(N,) the same of each forbidden prompt."""
    expected: tuple[float, float]
    """The log ratio that v of the first half promises, held out within that half; and that of the second half."""


@dataclass(frozen=True, eq=False)
class BestRatio:
    """The log ratio of root mean squares, forbidden over allowed."""

    value: float
    interval: Interval
    null: Null


def best_update(
    allowed: Tensor,
    forbidden: Tensor,
    halves: Halves,
    generator: np.random.Generator,
    clusters: ArrayLike | None = None,
) -> BestUpdate:
    """The best rank-one update at inputs (N, n) of matched allowed and forbidden prompts.

    halves, clusters: (N,) as in `peak.split_halves`. DeltawError if the classes differ in number, or a half has fewer
    than two clusters.
    """
    a, f = matrix(allowed, "allowed"), matrix(forbidden, "forbidden")
    if a.shape != f.shape or len(a) != len(halves):
        raise DeltawError(
            f"{tuple(a.shape)} allowed and {tuple(f.shape)} forbidden inputs; expected {len(halves)} pairs of one width"
        )
    ids = np.arange(len(a)) if clusters is None else np.asarray(clusters)
    of_a, of_f, expected = np.empty(len(a)), np.empty(len(a)), []
    for fitted in (halves, ~halves):
        inner = np.zeros(len(a), dtype=np.bool_)
        inner[fitted] = split_halves(int(fitted.sum()), generator, ids[fitted])
        quarters = (fitted & inner, fitted & ~inner)
        promised = np.zeros(len(RIDGES))
        for fit, read in (quarters, quarters[::-1]):
            directions = _directions(a[fit], f[fit])
            promised += array(((f[read] @ directions) ** 2).mean(0).log() - ((a[read] @ directions) ** 2).mean(0).log())
        promised /= 4  # of two readings, and half a log ratio of squares
        best = int(promised.argmax())
        expected.append(float(promised[best]))
        v = _directions(a[fitted], f[fitted], (RIDGES[best],))[:, 0]
        of_a[~fitted], of_f[~fitted] = array((a[~fitted] @ v) ** 2), array((f[~fitted] @ v) ** 2)
        scale = (of_a[~fitted].mean() + of_f[~fitted].mean()) / 2  # a direction has no length: halves count alike
        of_a[~fitted] /= scale
        of_f[~fitted] /= scale
    return BestUpdate(of_a, of_f, (expected[0], expected[1]))


def best_ratio(
    updates: Sequence[BestUpdate],
    halves: Halves,
    generator: np.random.Generator,
    clusters: ArrayLike | None = None,
    draws: int = 1000,
    null_draws: int = 200,
) -> BestRatio:
    """The log ratio of one layer; of several, that of the layer each half expects most of, read on the other half."""
    (numbers,), _ = clusters_of([np.arange(len(halves)) if clusters is None else clusters])
    chosen = [int(np.argmax([update.expected[side] for update in updates])) for side in (0, 1)]
    parts = []
    for layer, read in zip(chosen, (~halves, halves), strict=True):
        _, of = np.unique(numbers[read], return_inverse=True)
        parts.append([np.bincount(of, weights=x[read]) for x in (updates[layer].forbidden, updates[layer].allowed)])
    readings = [float(np.log(top.sum() / bottom.sum())) / 2 for top, bottom in parts]
    boot, swapped = [], []
    for top, bottom in parts:
        size = len(top)
        times = generator.multinomial(size, np.full(size, 1 / size), size=draws)
        boot.append(np.log((times @ top) / (times @ bottom)) / 2)
        stays = generator.integers(0, 2, size=(null_draws, size)).astype(np.float64)
        first = stays @ top + (1 - stays) @ bottom
        swapped.append(np.log(first / (top.sum() + bottom.sum() - first)) / 2)
    return BestRatio(
        value=float(np.mean(readings)),
        interval=percentile_interval(np.mean(boot, axis=0)),
        null=from_draws("label_permutation", np.mean(swapped, axis=0), mean=0.0),
    )


def _directions(a: Tensor, f: Tensor, ridges: Sequence[float] = RIDGES) -> Tensor:
    """(n, ridges) the leading generalised eigenvector of (S_f, S_a) for each ridge."""
    pooled = torch.cat([a, f])
    _, sizes, span = torch.linalg.svd(pooled, full_matrices=False)
    span = span[sizes > sizes[0] * 1e-10]
    x, y = a @ span.T, f @ span.T
    eye = torch.eye(x.shape[1], dtype=x.dtype, device=x.device)
    moments = [part.T @ part / len(part) for part in (y, x)]
    variance = float((pooled - pooled.mean(0)).square().sum()) / (len(pooled) * x.shape[1])
    directions = []
    for ridge in ridges:
        top, bottom = (moment + max(ridge * variance, 1e-300) * eye for moment in moments)
        root = torch.linalg.cholesky(bottom)
        half = torch.linalg.solve_triangular(root, top, upper=False)
        whitened = torch.linalg.solve_triangular(root, half.T, upper=False)
        leading = torch.linalg.eigh((whitened + whitened.T) / 2).eigenvectors[:, -1:]
        directions.append(span.T @ torch.linalg.solve_triangular(root.T, leading, upper=True))
    return torch.cat(directions, dim=1)
