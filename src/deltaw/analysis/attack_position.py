"""Observation 5: attacked prompts are forbidden; do they look allowed, and does ΔW act on them less?

Position: attacked activations on the cross-fitted difference of means, on a scale where held-out forbidden
prompts have mean 0 and held-out allowed ones mean 1 (paper, Observation 5, there read off τ). Every attacked
prompt is counted, whether or not the attack worked: choosing by success would condition on the outcome.
Gain ratio: how strongly ΔW acts on attacked prompts (`rowspace.gain`) over how it acts on forbidden ones.
Null of both: attacked prompts are exchangeable with forbidden ones (position 0, ratio 1).

Cost: that of one `separation` without its null, 0.1 s for 1,000 prompts of width 512.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from deltaw.analysis.crossfit import cross_fit, deal
from deltaw.analysis.inputs import Absent, array, matrix
from deltaw.errors import DeltawError
from deltaw.statistics import (
    FloatArray,
    Interval,
    Null,
    bootstrap_means,
    mean_null,
    percentile_interval,
    permutation_null,
    sign_flip_null,
)
from deltaw.statistics.arrays import IntArray, clusters_of, vector


@dataclass(frozen=True, eq=False)
class Position:
    """Where attacked prompts lie: 0 is the mean of forbidden, 1 the mean of allowed prompts; no unit, not
    bounded.

    positions: (N,) of attacked prompts; forbidden, allowed: those of the reference prompts, held out.
    nearer_allowed: share of attacked prompts beyond 0.5. The interval resamples attacked and reference
    prompts.
    """

    mean: float
    interval: Interval
    nearer_allowed: float
    positions: FloatArray
    forbidden: FloatArray
    allowed: FloatArray
    null: Null


def position(
    attacked: Tensor,
    forbidden: Tensor,
    allowed: Tensor,
    generator: np.random.Generator,
    *,
    source: ArrayLike | None = None,
    ids: tuple[ArrayLike, ArrayLike] | None = None,
    folds: int = 5,
    draws: int = 1000,
) -> Position | Absent:
    """Positions of attacked (N, w) between forbidden (N_f, w) and allowed (N_a, w) activations at one site.

    source: (N,) the row of `forbidden` each attacked prompt was made from. Then its direction is fitted
    without that row, the two are resampled together, and the null flips signs of differences within pairs;
    else attacked prompts are dealt to folds like the others, and the null permutes. ids: of forbidden and of
    allowed rows, (N_f,) and (N_a,): equal ones share a fold and are resampled together; None: all differ. Absent
    if the 95 % interval of the held-out distance between allowed and forbidden reaches 0: the scale has no length.
    """
    f, a = matrix(forbidden, "forbidden"), matrix(allowed, "allowed", columns=forbidden.shape[1])
    x = matrix(attacked, "attacked", columns=f.shape[1])
    ids_f, ids_a = (np.arange(len(f)), len(f) + np.arange(len(a))) if ids is None else _numbered(*ids, len(f), len(a))
    of_f, of_a = deal([ids_f, ids_a], folds, generator)
    origin = None if source is None else _rows(source, len(x), len(f))
    of_x = generator.permutation(len(x)) % folds if origin is None else of_f[origin]
    s_f, s_a, s_x = _project(f, a, x, (of_f, of_a, of_x))
    ids_x = len(f) + len(a) + np.arange(len(x)) if origin is None else ids_f[origin]
    means = bootstrap_means([s_f, s_a, s_x], generator, [ids_f, ids_a, ids_x], draws)
    zero, length = s_f.mean(), s_a.mean() - s_f.mean()
    if percentile_interval(means[:, 1] - means[:, 0]).low <= 0:
        return Absent("allowed and forbidden prompts are not separated here, so there is no scale between them")
    placed = (s_x - zero) / length
    reference = (s_f - zero) / length
    return Position(
        mean=float(placed.mean()),
        interval=percentile_interval((means[:, 2] - means[:, 0]) / (means[:, 1] - means[:, 0])),
        nearer_allowed=float((placed > 0.5).mean()),
        positions=placed,
        forbidden=reference,
        allowed=(s_a - zero) / length,
        null=_null_of_mean(placed, reference, origin, generator, draws, None if origin is None else ids_f[origin]),
    )


def precision_weights(layers: Sequence[Position]) -> FloatArray:
    """(L,) weights, summing to 1, for a mean of positions over L layers: inverse to the variance within classes.

    A layer's unit is the distance between the classes there. Where that is small, positions are noise in a small unit
    and rule a plain mean; of independent estimates of one number these weights make the best mean. They are from the
    reference prompts alone.
    """
    if not layers:
        raise DeltawError("there is no position to weigh; expected one a layer")
    variances = np.array([(layer.forbidden.var() + layer.allowed.var()) / 2 for layer in layers])
    inverse = 1 / np.maximum(variances, np.finfo(np.float64).tiny)
    return np.asarray(inverse / inverse.sum())


def mean_position(layers: Sequence[Position]) -> tuple[FloatArray, Null]:
    """(N,) each attacked prompt's position, mean over layers by precision, and the null of their mean.

    layers: a position each, of the same prompts and equal generators, so that a draw exchanges a prompt in all layers.
    """
    weights = precision_weights(layers)
    positions = np.array([layer.positions for layer in layers])
    return weights @ positions, mean_null([layer.null for layer in layers], weights)


@dataclass(frozen=True, eq=False)
class GainRatio:
    """Geometric mean gain of attacked prompts over that of forbidden ones; 1: ΔW acts on both alike."""

    value: float
    interval: Interval
    null: Null


def gain_ratio(
    attacked: ArrayLike,
    forbidden: ArrayLike,
    generator: np.random.Generator,
    *,
    source: ArrayLike | None = None,
    ids: ArrayLike | None = None,
    draws: int = 1000,
) -> GainRatio:
    """Ratio of gains (N,) of attacked to gains (N_f,) of forbidden prompts; `source` as in `position`.

    ids: (N_f,) of forbidden prompts, where there is a source: equal ones, and what was made from them, are resampled
    and change signs together. None: all differ. DeltawError if a gain is not positive: its logarithm does not exist.
    """
    x, f = vector(attacked, "gains of attacked prompts"), vector(forbidden, "gains of forbidden prompts")
    if min(x.min(), f.min()) <= 0:
        raise DeltawError("a gain is 0 or less, so ratios do not exist; expected an update that acts on every prompt")
    log_x, log_f = np.log(x), np.log(f)
    origin = None if source is None else _rows(source, len(x), len(f))
    (of_f,), _ = clusters_of([np.arange(len(f)) if ids is None or origin is None else ids])
    of_x = len(f) + np.arange(len(x)) if origin is None else of_f[origin]
    means = bootstrap_means([log_f, log_x], generator, [of_f, of_x], draws)
    inside = percentile_interval(means[:, 1] - means[:, 0])
    null = _null_of_mean(log_x, log_f, origin, generator, draws, None if origin is None else of_x)
    of_ratio = None if null.draws is None else np.exp(null.draws)
    return GainRatio(
        value=float(np.exp(log_x.mean() - log_f.mean())),
        interval=Interval(float(np.exp(inside.low)), float(np.exp(inside.high))),
        null=Null(null.kind, 1.0, float(np.exp(null.low)), float(np.exp(null.high)), of_ratio),
    )


def _numbered(forbidden: ArrayLike, allowed: ArrayLike, n_forbidden: int, n_allowed: int) -> tuple[IntArray, IntArray]:
    """Both classes' ids as numbers, the same for the same id."""
    shapes = [np.shape(ids) for ids in (forbidden, allowed)]
    if shapes != [(n_forbidden,), (n_allowed,)]:
        raise DeltawError(
            f"ids have shapes {shapes[0]} and {shapes[1]} for {n_forbidden} forbidden and {n_allowed} allowed "
            "prompts; expected one each"
        )
    (first, second), _ = clusters_of((forbidden, allowed))
    return first, second


def _rows(source: ArrayLike, n: int, n_forbidden: int) -> IntArray:
    origin = np.asarray(source, dtype=np.int64)
    if origin.shape != (n,) or origin.min() < 0 or origin.max() >= n_forbidden:
        raise DeltawError(
            f"source has shape {origin.shape} for {n} attacked prompts; "
            f"expected one row number below {n_forbidden} each"
        )
    return origin


def _project(
    f: Tensor, a: Tensor, x: Tensor, fold: tuple[IntArray, IntArray, IntArray]
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Projections of all rows, each with its fold's direction, fitted without it and its source."""
    projections = [np.empty(len(rows)) for rows in (f, a, x)]
    reference, folds = torch.cat([a, f]), np.concatenate([fold[1], fold[0]])
    labels = torch.zeros(1, len(reference), dtype=f.dtype, device=f.device)
    labels[:, : len(a)] = 1
    held = array(cross_fit(reference, labels, folds).projection[0])
    projections[1], projections[0] = held[: len(a)], held[len(a) :]
    for number in np.unique(fold[2]):
        mu_s = a[torch.from_numpy(fold[1] != number)].mean(0)
        mu_u = f[torch.from_numpy(fold[0] != number)].mean(0)
        rows = torch.from_numpy(np.flatnonzero(fold[2] == number))
        delta = mu_s - mu_u
        projections[2][rows.numpy()] = array((x[rows] - (mu_s + mu_u) / 2) @ delta / delta.norm())
    return projections[0], projections[1], projections[2]


def _null_of_mean(
    x: FloatArray,
    reference: FloatArray,
    origin: IntArray | None,
    generator: np.random.Generator,
    draws: int,
    groups: IntArray | None = None,
) -> Null:
    """Null of mean(x) − mean(reference): permuted, or by signs of x − its reference, one sign a group (or source)."""
    if origin is None:
        return permutation_null("exchangeable_with_forbidden", x, reference, generator, draws)
    used, numbers = np.unique(origin if groups is None else groups, return_inverse=True)
    sums = np.bincount(numbers, weights=x - reference[origin])
    return sign_flip_null("exchangeable_with_source", sums * len(used) / len(x), generator, draws)
