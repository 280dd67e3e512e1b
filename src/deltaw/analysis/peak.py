"""A curve's own maximum over layers, with the layer chosen on one half of the prompts and read on the other.

The largest of L noisy layers is too large when it is chosen and read on the same prompts: for L independent layers
without an effect its mean is about √(2 ln L) standard errors above zero. So clusters of pairs are split into two
halves. The layer with the largest mean over one half is read on the other half, both ways, and the two readings are
averaged. Without an effect a reading has mean zero; with one it estimates the effect at the layer that was chosen.

    interval   resamples clusters within each half, so that no cluster is on both sides, and chooses again in every draw
    null       each draw goes through the same choice: by signs of clusters, or by curves of permuted labels

The choice has noise of its own, so where two layers are nearly as large the peak is a mixture of both, never more than
the larger one on average. With few clusters (fewer than about 20) the interval is too narrow, as any bootstrap is.

Cost: draws × clusters × layers multiplications, a few milliseconds.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from deltaw.errors import DeltawError
from deltaw.statistics import FloatArray, Interval, Null, from_draws, percentile_interval
from deltaw.statistics.arrays import IntArray, clusters_of

Direction = Literal["greater", "less"]
"""Whether the peak is the largest or the smallest layer."""

Halves = NDArray[np.bool_]
"""(N,) whether each pair is in the first half."""


@dataclass(frozen=True, eq=False)
class Peak:
    """A curve's maximum over layers, chosen on one half of the pairs and read on the other."""

    value: float
    """Mean of the two readings, in the unit of the curve."""
    interval: Interval
    """Over clusters of pairs."""
    null: Null | None
    """Of the value, its draws through the same choice."""
    layers: tuple[int, int]
    """The layer chosen on the first half, and the one chosen on the second, as rows of the curve."""
    depth: float
    """Mean depth of the two: 0 the first layer, 1 the last."""
    depth_interval: Interval
    """Over clusters of pairs."""


def split_halves(count: int, generator: np.random.Generator, clusters: ArrayLike | None = None) -> Halves:
    """(count,) whether each pair is in the first half: half of the clusters, whole ones, at random.

    clusters: (count,) names; None: each pair is its own. DeltawError if there are fewer than two clusters.
    """
    (numbers,), total = clusters_of([np.arange(count) if clusters is None else clusters])
    if total < 2:
        raise DeltawError(f"{total} independent pairs; a layer chosen on one half and read on the other needs two")
    first = np.zeros(total, dtype=np.bool_)
    first[generator.permutation(total)[: (total + 1) // 2]] = True
    return first[numbers]


def read_peaks(first: FloatArray, second: FloatArray, direction: Direction = "greater") -> tuple[FloatArray, IntArray]:
    """Peaks of curves (R, L) over the two halves: (R,) mean readings, and (R, 2) the layers chosen on each half."""
    sign = 1.0 if direction == "greater" else -1.0
    chosen = np.stack([(sign * first).argmax(1), (sign * second).argmax(1)], axis=1)
    rows = np.arange(len(first))
    return (second[rows, chosen[:, 0]] + first[rows, chosen[:, 1]]) / 2, chosen


def split_peak(
    values: ArrayLike,
    halves: Halves,
    generator: np.random.Generator,
    *,
    clusters: ArrayLike | None = None,
    direction: Direction = "greater",
    kind: str = "sign_flips",
    null_curves: tuple[FloatArray, FloatArray] | None = None,
    null_draws: int = 200,
    draws: int = 1000,
    depths: Sequence[float] | None = None,
) -> Peak:
    """The peak of a curve whose point at each layer is the mean of what pairs contribute, values (L, N).

    halves: as `split_halves` made them of the same clusters. clusters: (N,) names; None: each pair is its own.
    kind: what the null is called. null_curves: (R, L) draws of the curve over the first half and over the second,
    where labels were permuted; None: `null_draws` draws that give each cluster's sum, in all layers at once, a random
    sign. 0: no null. depths: (L,) of the layers, 0 to 1; None: evenly spread. DeltawError if a half has no pair.
    """
    table = np.asarray(values, dtype=np.float64)
    if table.ndim != 2 or table.shape[1] != len(halves) or not len(table) or not np.isfinite(table).all():
        raise DeltawError(f"values have shape {table.shape} for {len(halves)} pairs; expected finite numbers, (L, N)")
    if halves.all() or not halves.any():
        raise DeltawError("all pairs are in one half; a layer chosen on one half and read on the other needs two")
    (numbers,), count = clusters_of([np.arange(len(halves)) if clusters is None else clusters])
    sums = np.stack([np.bincount(numbers, weights=row, minlength=count) for row in table], axis=1).astype(np.float64)
    sizes = np.bincount(numbers, minlength=count).astype(np.float64)
    in_first = np.bincount(numbers, weights=halves, minlength=count) > 0
    sides = [(sums[side], sizes[side]) for side in (in_first, ~in_first)]
    first, second = (of.sum(0)[None] / size.sum() for of, size in sides)
    value, chosen = read_peaks(first, second, direction)
    drawn = [_resampled(of, size, generator, draws) for of, size in sides]
    values_drawn, layers_drawn = read_peaks(drawn[0], drawn[1], direction)
    if null_curves is None and null_draws:
        null_curves = _signed(sides[0], generator, null_draws), _signed(sides[1], generator, null_draws)
    null = None if null_curves is None else from_draws(kind, read_peaks(*null_curves, direction)[0])
    places = np.linspace(0, 1, len(table)) if depths is None else np.asarray(depths, dtype=np.float64)
    return Peak(
        value=float(value[0]),
        interval=percentile_interval(values_drawn),
        null=null,
        layers=(int(chosen[0, 0]), int(chosen[0, 1])),
        depth=float(places[chosen[0]].mean()),
        depth_interval=percentile_interval(places[layers_drawn].mean(1)),
    )


def _resampled(sums: FloatArray, sizes: FloatArray, generator: np.random.Generator, draws: int) -> FloatArray:
    """(draws, L) the curve over one half when its clusters are drawn with replacement."""
    count = len(sizes)
    times = generator.multinomial(count, np.full(count, 1 / count), size=draws).astype(np.float64)
    return np.asarray((times @ sums) / (times @ sizes)[:, None])


def _signed(side: tuple[FloatArray, FloatArray], generator: np.random.Generator, draws: int) -> FloatArray:
    """(draws, L) the curve over one half when each cluster's sum has a random sign, the same in all layers."""
    sums, sizes = side
    signs = generator.integers(0, 2, size=(draws, len(sizes))) * 2.0 - 1.0
    return np.asarray(signs @ sums / sizes.sum())
