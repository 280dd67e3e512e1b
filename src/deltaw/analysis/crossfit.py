"""Cross-fitting: score each activation with a direction that was fitted without it.

A difference of means fitted and read on the same rows separates anything: with n rows a class and no signal
the gap is 2 √(tr Σ) / n, and d′ grows with the width. So rows are dealt to K folds, and each fold is scored
with the means of the other K − 1. Everything is done for many labellings at once, for permutation nulls: a
fold is three matrix products.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from deltaw.errors import DeltawError
from deltaw.statistics.arrays import IntArray, clusters_of


def deal(ids: Sequence[ArrayLike], folds: int, generator: np.random.Generator) -> list[IntArray]:
    """A fold for each row of each group, such that rows with one id share a fold.

    Ids are dealt like cards, in random order, within each pattern of groups they occur in: every fold then
    gets its share of each group. DeltawError if a group has fewer ids than folds.
    """
    numbers, count = clusters_of(ids)
    present = np.stack([np.bincount(x, minlength=count) > 0 for x in numbers])
    if folds < 2 or present.sum(1).min() < folds:
        raise DeltawError(
            f"{int(present.sum(1).min())} independent rows in the smaller class for {folds} folds; expected "
            "at least 2 folds and one row a fold. Use more prompts or fewer folds."
        )
    fold = np.empty(count, dtype=np.int64)
    kinds = (present * (1 << np.arange(len(present)))[:, None]).sum(0)
    for kind in np.unique(kinds):
        members = generator.permutation(np.flatnonzero(kinds == kind))
        fold[members] = np.arange(len(members)) % folds
    return [fold[x] for x in numbers]


@dataclass(frozen=True, eq=False)
class Scores:
    """Cross-fitted scores of N rows for R labellings, (R, N) each, in the unit of the activations unless
    `relative`.

    projection: ⟨a − (μ_S + μ_U)/2, μ_S − μ_U⟩ / ‖μ_S − μ_U‖. tau: ‖a − μ_U‖ − ‖a − μ_S‖. relative: τ / ‖μ_S −
    μ_U‖.
    """

    projection: Tensor
    tau: Tensor
    relative: Tensor


def cross_fit(X: Tensor, labels: Tensor, fold: IntArray) -> Scores:
    """Scores of the rows of X (N, w) for labellings (R, N) of 1 (μ_S, allowed) and 0 (μ_U, forbidden); fold
    (N,).

    A fold must hold equally many ones in every labelling. A zero direction scores 0.
    Cost: 6 R N w operations, all in matrix products.
    """
    x = X - X.mean(0)  # distances from products lose digits if the common mean is large
    squares, total = (x**2).sum(1), x.sum(0)
    members = [torch.from_numpy(np.flatnonzero(fold == f)).to(x.device) for f in range(int(fold.max()) + 1)]
    sums = [labels[:, rows] @ x[rows] for rows in members]
    ones = labels[0].sum()
    all_ones = torch.stack(sums).sum(0)
    out = [torch.zeros_like(labels) for _ in range(3)]
    for rows, held in zip(members, sums, strict=True):
        n_s = ones - labels[0, rows].sum()
        n_u = len(x) - len(rows) - n_s
        mu_s = (all_ones - held) / n_s
        mu_u = (total - x[rows].sum(0) - (all_ones - held)) / n_u
        q_s, q_u = (mu_s**2).sum(1, keepdim=True), (mu_u**2).sum(1, keepdim=True)
        on_s, on_u = mu_s @ x[rows].T, mu_u @ x[rows].T
        length = (mu_s - mu_u).norm(dim=1, keepdim=True).clamp_min(torch.finfo(x.dtype).tiny)
        to_s = (squares[rows] - 2 * on_s + q_s).clamp_min(0).sqrt()
        to_u = (squares[rows] - 2 * on_u + q_u).clamp_min(0).sqrt()
        out[0][:, rows] = (on_s - on_u - (q_s - q_u) / 2) / length
        out[1][:, rows] = to_u - to_s
        out[2][:, rows] = (to_u - to_s) / length
    return Scores(*out)


def permuted_labels(
    labels: IntArray, fold: IntArray, generator: np.random.Generator, draws: int, pairs: IntArray | None
) -> IntArray:
    """Labels (N,) in `draws` random orders, (draws, N). pairs: (N / 2,) the group, from 0, of row i of the one class
    and of the other, which may swap: all pairs of a group or none; None: rows are not paired.

    Unpaired labels move within their fold, which keeps the number of ones there and hence the statistic's own
    law.
    """
    if pairs is not None:
        swap = generator.integers(0, 2, size=(draws, int(pairs.max()) + 1))[:, pairs]
        return np.concatenate([1 - swap, swap], axis=1)
    out = np.empty((draws, len(labels)), dtype=np.int64)
    for f in np.unique(fold):
        rows = np.flatnonzero(fold == f)
        order = np.argsort(generator.random((draws, len(rows))), axis=1)
        out[:, rows] = labels[rows][order]
    return out
