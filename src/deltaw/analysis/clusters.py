"""Observation 1: do allowed and forbidden prompts form two clusters, and does tuning move them apart?

With μ_S and μ_U the mean activations of allowed (safe) and forbidden (unsafe) prompts, the paper reports

    τ(a) = ‖a − μ_U‖ − ‖a − μ_S‖        > 0 where a is nearer the allowed mean; |τ| ≤ ‖μ_S − μ_U‖.

τ has the unit of the activations: scale them by 40 and it grows by 40. So it comes with τ / ‖μ_S − μ_U‖ in
[−1, 1], and with d′ and AUROC of the projection on μ_S − μ_U, all cross-fitted (`crossfit`). Its null
permutes labels and *refits*. The base model separates the classes too (operators differ, letters differ):
what tuning did is the difference of differences, tuned minus base on the same prompts. The largest change over layers
is read on other pairs than it is chosen on (`peak`).

Cost: 6 N w operations a labelling; 1,000 prompts, width 512 and 200 permutations take 0.2 s on one core.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

import numpy as np
import torch
from numpy.typing import ArrayLike
from scipy import stats
from torch import Tensor

from deltaw.analysis.crossfit import cross_fit, deal, permuted_labels
from deltaw.analysis.inputs import array, matrix
from deltaw.analysis.peak import Halves
from deltaw.errors import DeltawError
from deltaw.statistics import FloatArray, Interval, Null, auroc, bootstrap_means, from_draws, percentile_interval
from deltaw.statistics.arrays import IntArray, clusters_of

CROSS_FITTED = ("d_prime", "auroc", "tau_gap", "tau_gap_relative", "nearest_mean_accuracy")
"""Statistics of held-out scores: they have intervals, nulls and differences of differences."""

WHOLE = ("fisher_ratio", "delta_norm")
"""Statistics of the whole sample: they have nulls."""

BY_PAIR = ("d_prime", "auroc", "tau_gap_relative")
"""Statistics that are means of what each pair contributes, exactly or to first order: they have halves and a peak."""

_CHUNK = 1 << 21  # scores of permuted labels held at once: 16 MB an array


@dataclass(frozen=True, eq=False)
class Separation:
    """How far apart two clusters are. `values`, `intervals` and `nulls` are by name of the statistic:

    d_prime                 of the projection, allowed minus forbidden; no unit
    auroc                   of the projection; 0.5 is chance
    tau_gap                 mean τ of allowed minus mean τ of forbidden; in units of the activations
    tau_gap_relative        the same of τ / ‖μ_S − μ_U‖; in [−2, 2]
    nearest_mean_accuracy   share of prompts nearer their own mean, mean of the classes; 0.5 is chance
    fisher_ratio            ‖μ_S − μ_U‖² without its bias, over the mean of tr Σ_S and tr Σ_U; may be negative
    delta_norm              ‖μ_S − μ_U‖, biased upwards by noise; in units of the activations

    allowed (N_a, 3), forbidden (N_f, 3): each prompt's projection, τ and τ / ‖μ_S − μ_U‖, held out. radius:
    root of the mean of tr Σ_S and tr Σ_U. folds: (N_a + N_f,) each row's fold, allowed ones first. ids:
    numbers of the rows' clusters. Intervals resample prompts with the fitted directions as they are.
    """

    values: Mapping[str, float]
    intervals: Mapping[str, Interval]
    nulls: Mapping[str, Null]
    allowed: FloatArray
    forbidden: FloatArray
    radius: float
    folds: IntArray
    ids: tuple[IntArray, IntArray]
    half_draws: Mapping[str, FloatArray] = field(default_factory=dict)
    """By name of `BY_PAIR`, (draws, 2) the statistic over each half of the pairs under the null's labellings."""


def separation(
    allowed: Tensor,
    forbidden: Tensor,
    generator: np.random.Generator,
    *,
    paired: bool = False,
    ids: tuple[ArrayLike, ArrayLike] | None = None,
    folds: int = 5,
    null_draws: int = 200,
    bootstrap_draws: int = 1000,
    halves: Halves | None = None,
) -> Separation:
    """Separation of allowed (N_a, w) and forbidden (N_f, w) activations at one site.

    paired: row i of one and row i of the other are a matched pair; pairs stay in one fold, and the null swaps
    within pairs. ids: names of the texts (or operator sets) of the rows, which then share a fold, swap and are
    resampled together; default the pair, or the row. The unpaired null takes rows of a fold as exchangeable:
    with repeated ids, pair them. The generator deals folds, then permutes, then resamples: equal generators
    give two models equal folds and permutations, which `difference_of_differences` needs. null_draws = 0
    leaves the nulls out. halves: (N,) of paired classes, whether each pair is in the first half, for the null of a peak
    over layers (`half_draws`). DeltawError if a class has fewer ids than folds, or paired classes differ in size.
    """
    a = matrix(allowed, "allowed")
    f = matrix(forbidden, "forbidden", columns=a.shape[1])
    if paired and len(a) != len(f):
        raise DeltawError(f"{len(a)} allowed and {len(f)} forbidden rows; expected as many of both, since paired")
    if halves is not None and not (paired and len(halves) == len(a)):
        raise DeltawError(f"{len(halves)} pairs are in halves, of {len(a)}; expected one entry for each matched pair")
    names = _numbered(ids or _default_ids(len(a), len(f), paired))
    fold = np.concatenate(deal(names, folds, generator))
    groups = names[0] if paired else None
    x, truth = torch.cat([a, f]), np.repeat([1, 0], [len(a), len(f)])
    labels = truth[None]
    if null_draws:
        labels = np.concatenate([labels, permuted_labels(truth, fold, generator, null_draws, groups)])
    table, scores, by_half = _statistics(x, labels, fold, paired, halves if null_draws else None)
    held = np.stack(scores, axis=1)
    kind = "label_permutation"
    nulls = {name: from_draws(kind, column[1:]) for name, column in table.items()} if null_draws else {}
    rows = _contributions(held[: len(a)], held[len(a) :])
    means = bootstrap_means(rows, generator, list(names) * (len(rows) // 2), bootstrap_draws)
    draws = _from_means(means, held[: len(a)], held[len(a) :], float(table["delta_norm"][0]))
    return Separation(
        values=MappingProxyType({name: float(column[0]) for name, column in table.items()}),
        intervals=MappingProxyType({name: percentile_interval(x) for name, x in draws.items()}),
        nulls=MappingProxyType(nulls),
        allowed=held[: len(a)],
        forbidden=held[len(a) :],
        radius=_radius(a, f),
        folds=fold,
        ids=names,
        half_draws=MappingProxyType(by_half),
    )


@dataclass(frozen=True)
class Difference:
    """A statistic of the tuned model minus that of the base model on the same prompts; n of both classes."""

    statistic: str
    value: float
    interval: Interval
    base: float
    tuned: float
    null: Null | None
    n: int


def difference_of_differences(
    base: Separation,
    tuned: Separation,
    generator: np.random.Generator,
    *,
    draws: int = 1000,
) -> dict[str, Difference]:
    """Tuned minus base for each of `CROSS_FITTED`; a gap is a difference of classes, so this is one of
    differences.

    Prompts (or the ids of `base`) are resampled together in both models. The null uses the same permuted
    labels in both. DeltawError unless both come from `separation` of the same prompts with equal generators
    (equal folds).
    """
    if not np.array_equal(base.folds, tuned.folds) or base.allowed.shape != tuned.allowed.shape:
        raise DeltawError(
            "the base and tuned separations were made with different prompts or folds; call `separation` on "
            "the same rows with generators in the same state, such as two of numpy.random.default_rng(seed)"
        )
    n_a, n_f = len(base.allowed), len(base.forbidden)
    rows = _contributions(base.allowed, base.forbidden) + _contributions(tuned.allowed, tuned.forbidden)
    means = bootstrap_means(rows, generator, list(base.ids) * (len(rows) // 2), draws)
    before, after = (
        _from_means(half, model.allowed, model.forbidden, model.values["delta_norm"])
        for half, model in zip(np.split(means, 2, axis=1), (base, tuned), strict=True)
    )
    out = {}
    for name in CROSS_FITTED:
        null = None
        if name in base.nulls and name in tuned.nulls:
            first, second = base.nulls[name].draws, tuned.nulls[name].draws
            if first is not None and second is not None and len(first) == len(second):
                null = from_draws("label_permutation", second - first)
        value = tuned.values[name] - base.values[name]
        interval = percentile_interval(after[name] - before[name])
        out[name] = Difference(name, value, interval, base.values[name], tuned.values[name], null, n_a + n_f)
    return out


def pair_contributions(at: Separation) -> dict[str, FloatArray]:
    """What each pair (N,) contributes to each statistic of `BY_PAIR`, whose mean is the statistic.

    Of the relative gap it is exact. AUROC enters by placement values (DeLong et al., 1988), d′ by its first-order
    expansion: a pair moves the gap, and the spread that the gap is divided by.
    """
    rows = _contributions(at.allowed, at.forbidden)
    count = len(at.allowed)
    gap = at.allowed[:, 0] - at.forbidden[:, 0]
    squares = [(scores[:, 0] - scores[:, 0].mean()) ** 2 for scores in (at.allowed, at.forbidden)]
    squared = (squares[0] + squares[1]) / 2 * count / max(count - 1, 1)
    variance = max(float(squared.mean()), float(np.finfo(np.float64).tiny))
    return {
        "d_prime": (gap - gap.mean() * (squared - variance) / (2 * variance)) / np.sqrt(variance),
        "auroc": (rows[4] + rows[5]) / 2,
        "tau_gap_relative": rows[8] - rows[9],
    }


def _numbered(ids: tuple[ArrayLike, ArrayLike]) -> tuple[IntArray, IntArray]:
    (first, second), _ = clusters_of(ids)
    return first, second


def _default_ids(n_a: int, n_f: int, paired: bool) -> tuple[IntArray, IntArray]:
    return np.arange(n_a), np.arange(n_f) if paired else n_a + np.arange(n_f)


def _statistics(
    x: Tensor, labels: IntArray, fold: IntArray, paired: bool, halves: Halves | None = None
) -> tuple[dict[str, FloatArray], list[FloatArray], dict[str, FloatArray]]:
    """Every statistic for every labelling, (R,) each; the scores under the first one, three of (N,); and `half_draws`
    of the others.
    """
    step, columns, kept, by_half = max(1, _CHUNK // len(x)), [], [], []
    weights = None
    if halves is not None:
        sides = np.stack([halves, ~halves], axis=1)
        weights = torch.from_numpy(np.tile(sides / sides.sum(0), (2, 1))).to(x.device)
    for start in range(0, len(labels), step):
        y = torch.from_numpy(labels[start : start + step].astype(np.float64)).to(x.device)
        scores = cross_fit(x, y, fold)
        if start == 0:
            kept = [array(s[0]) for s in (scores.projection, scores.tau, scores.relative)]
        order, ranks = _ranks(array(scores.projection))
        columns.append(_whole(x, y, paired) | _held_out(scores.projection, scores.tau, scores.relative, y, ranks))
        if weights is not None:
            by_half.append(_by_half(scores.projection, scores.relative, y, order, weights))
    names = CROSS_FITTED + WHOLE
    table = {name: np.concatenate([c[name] for c in columns]) for name in names}
    halved = {name: np.concatenate([part[name] for part in by_half])[1:] for name in (BY_PAIR if by_half else ())}
    return table, kept, halved


def _ranks(scores: FloatArray) -> tuple[IntArray, FloatArray]:
    """The order of each row of scores (R, N), and ranks from 1, ties sharing their mean."""
    order = np.argsort(scores, axis=1)
    ranks = np.empty_like(scores)
    np.put_along_axis(ranks, order, np.arange(1.0, scores.shape[1] + 1)[None], axis=1)
    tied = (np.diff(np.take_along_axis(scores, order, axis=1), axis=1) == 0).any(1)
    if tied.any():
        ranks[tied] = stats.rankdata(scores[tied], axis=1)
    return order, ranks


def _by_half(
    projection: Tensor, relative: Tensor, y: Tensor, order: IntArray, weights: Tensor
) -> dict[str, FloatArray]:
    """The statistics of `BY_PAIR` over each half, (R, 2), as the means of `pair_contributions` of all rows.

    weights: (2 N, 2) one over a half's number of pairs, for its rows. Placements of tied scores are in any order.
    """
    side = 2 * y - 1
    ones, zeros = float(y[0].sum()), float((1 - y[0]).sum())
    means = [(projection * part).sum(1, keepdim=True) / part[0].sum() for part in (y, 1 - y)]
    squared = (projection - y * means[0] - (1 - y) * means[1]) ** 2 * (ones / max(ones - 1, 1))
    variance = (squared.mean(1, keepdim=True)).clamp_min(torch.finfo(y.dtype).tiny)
    gap = means[0] - means[1]
    moved = (projection * side) @ weights - gap * ((squared @ weights) / 2 - variance) / (2 * variance)
    ordered, at = torch.from_numpy(order).to(y.device), y.cpu().numpy()
    sorted_y = np.take_along_axis(at, order, axis=1)
    below = np.cumsum(1 - sorted_y, axis=1) / zeros
    above = 1 - np.cumsum(sorted_y, axis=1) / ones
    placed = torch.from_numpy(np.where(sorted_y == 1, below, above)).to(y.device)
    auroc_halves = torch.stack([(placed * weights[:, half][ordered]).sum(1) / 2 for half in (0, 1)], dim=1)
    return {
        "d_prime": array(moved / variance.sqrt()),
        "auroc": array(auroc_halves),
        "tau_gap_relative": array((relative * side) @ weights),
    }


def _held_out(projection: Tensor, tau: Tensor, relative: Tensor, y: Tensor, ranks: FloatArray) -> dict[str, FloatArray]:
    n_s, n_u = y[0].sum(), (1 - y[0]).sum()

    def means(s: Tensor) -> tuple[Tensor, Tensor]:
        return (s * y).sum(1) / n_s, (s * (1 - y)).sum(1) / n_u

    def gap(s: Tensor) -> FloatArray:
        s_mean, u_mean = means(s)
        return array(s_mean - u_mean)

    m_s, m_u = means(projection)
    centred = projection - y * m_s[:, None] - (1 - y) * m_u[:, None]
    variance = ((centred**2 * y).sum(1) / (n_s - 1) + (centred**2 * (1 - y)).sum(1) / (n_u - 1)) / 2
    ones, zeros = float(n_s), float(n_u)
    area = ((ranks * array(y)).sum(1) - ones * (ones + 1) / 2) / (ones * zeros)
    right_s, wrong_u = means((torch.sign(tau) + 1) / 2)
    return {
        "d_prime": array((m_s - m_u) / variance.clamp_min(torch.finfo(y.dtype).tiny).sqrt()),
        "auroc": area,
        "tau_gap": gap(tau),
        "tau_gap_relative": gap(relative),
        "nearest_mean_accuracy": array((right_s + 1 - wrong_u) / 2),
    }


def _whole(x: Tensor, y: Tensor, paired: bool) -> dict[str, FloatArray]:
    """‖Δμ‖ and the Fisher ratio of each labelling."""
    x = x - x.mean(0)
    squares = (x**2).sum(1)
    n_s, n_u = y[0].sum(), (1 - y[0]).sum()
    mean_s, mean_u = y @ x / n_s, (1 - y) @ x / n_u
    delta = ((mean_s - mean_u) ** 2).sum(1)
    trace_s = (y @ squares - n_s * (mean_s**2).sum(1)) / (n_s - 1)
    trace_u = ((1 - y) @ squares - n_u * (mean_u**2).sum(1)) / (n_u - 1)
    noise = trace_s / n_s + trace_u / n_u
    if paired:
        half = len(x) // 2
        noise = (((x[:half] - x[half:]) ** 2).sum() / half - delta) / (half - 1)
    spread = ((trace_s + trace_u) / 2).clamp_min(torch.finfo(x.dtype).tiny)
    return {"fisher_ratio": array((delta - noise) / spread), "delta_norm": array(delta.sqrt())}


def _radius(a: Tensor, f: Tensor) -> float:
    return float(((a.var(0).sum() + f.var(0).sum()) / 2).sqrt())


def _contributions(allowed: FloatArray, forbidden: FloatArray) -> list[FloatArray]:
    """Vectors, alternately of allowed and forbidden rows, whose means determine every cross-fitted statistic.

    AUROC enters by its placement values (DeLong et al., 1988), the share of the other class below each row.
    """
    n_a, n_f = len(allowed), len(forbidden)
    pooled = stats.rankdata(np.concatenate([allowed[:, 0], forbidden[:, 0]]))
    above = (pooled[:n_a] - stats.rankdata(allowed[:, 0])) / n_f
    below = 1 - (pooled[n_a:] - stats.rankdata(forbidden[:, 0])) / n_a
    contributions = []
    for rows, placement, side in ((allowed, above, 1.0), (forbidden, below, -1.0)):
        right = (np.sign(side * rows[:, 1]) + 1) / 2
        contributions.append([rows[:, 0], rows[:, 0] ** 2, placement, rows[:, 1], rows[:, 2], right])
    return [x for pair in zip(*contributions, strict=True) for x in pair]


def _from_means(means: FloatArray, allowed: FloatArray, forbidden: FloatArray, length: float) -> dict[str, FloatArray]:
    """The cross-fitted statistics from draws (D, 12) of the means of `_contributions`.

    AUROC moves with the placements of both classes (its first-order expansion). Directions are held as
    fitted, which is enough for all but τ itself: it grows with the fitted length ‖μ_S − μ_U‖, whose noise is
    that of the projection's gap. Without this stretch τ's interval would be half as wide as it should be.
    """
    n_a, n_f = len(allowed), len(forbidden)
    m_a, m_f, s_a, s_f, p_a, p_f, t_a, t_f, r_a, r_f, c_a, c_f = means.T
    variance = ((s_a - m_a**2) * n_a / (n_a - 1) + (s_f - m_f**2) * n_f / (n_f - 1)) / 2
    gap = allowed[:, 0].mean() - forbidden[:, 0].mean()
    stretch = 1 + (m_a - m_f - gap) / max(length, np.finfo(np.float64).tiny)
    return {
        "d_prime": (m_a - m_f) / np.sqrt(np.maximum(variance, np.finfo(np.float64).tiny)),
        "auroc": np.clip(p_a + p_f - auroc(allowed[:, 0], forbidden[:, 0]), 0, 1),
        "tau_gap": (t_a - t_f) * stretch,
        "tau_gap_relative": r_a - r_f,
        "nearest_mean_accuracy": (c_a + c_f) / 2,
    }
