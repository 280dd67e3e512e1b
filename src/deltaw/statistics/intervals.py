"""Intervals: Wilson's for a rate, Student's for a few independent numbers, the bootstrap for many dependent
ones.

The unit matters more than the formula. Seeds are few and independent: `t_interval`. Prompts are many, and
prompts with the same text or operators are not independent: `bootstrap` with `clusters`, which resamples
whole clusters. One observation says nothing about spread, so it gets the whole range of its scale and never
an interval of width 0.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike
from scipy import special, stats

from deltaw.errors import DeltawError
from deltaw.statistics.arrays import FloatArray, IntArray, clusters_of, vector

Scale = Literal["identity", "log", "logit"]
_RANGE: dict[str, tuple[float, float]] = {
    "identity": (-np.inf, np.inf),
    "log": (0.0, np.inf),
    "logit": (0.0, 1.0),
}
_FORWARD: dict[str, np.ufunc] = {"identity": np.positive, "log": np.log, "logit": special.logit}
_BACK: dict[str, np.ufunc] = {"identity": np.positive, "log": np.exp, "logit": special.expit}
_CHUNK = 1 << 21  # resampled entries held at once: 16 MB


@dataclass(frozen=True)
class Interval:
    """A closed interval, in the unit of what it bounds. The ends may be infinite."""

    low: float
    high: float

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high

    @property
    def width(self) -> float:
        """high − low."""
        return self.high - self.low


def _check_confidence(confidence: float) -> None:
    if not 0 < confidence < 1:
        raise DeltawError(f"confidence is {confidence}; expected a number between 0 and 1, such as 0.95")


def wilson(successes: float, n: int, confidence: float = 0.95) -> Interval:
    """Wilson's score interval for a rate (E. B. Wilson, 1927). successes: a count, or n times a rate from more rows.

    Unlike the normal approximation it stays in [0, 1] and has a width at 0 of n and at n of n.
    DeltawError unless 0 <= successes <= n and n >= 1.
    """
    _check_confidence(confidence)
    if not (n >= 1 and 0 <= successes <= n):
        raise DeltawError(f"{successes} successes of {n}; expected 0 <= successes <= n and n >= 1")
    z = float(special.ndtri(0.5 + confidence / 2))
    rate, shrink = successes / n, 1 + z * z / n
    centre = (rate + z * z / (2 * n)) / shrink
    half = z / shrink * np.sqrt(rate * (1 - rate) / n + z * z / (4 * n * n))
    # At 0 and n the closed form is exactly 0 and 1; rounding must not say otherwise.
    low = 0.0 if successes == 0 else max(0.0, float(centre - half))
    high = 1.0 if successes == n else min(1.0, float(centre + half))
    return Interval(low, high)


def to_scale(values: ArrayLike, scale: Scale) -> FloatArray:
    """`values` as they are, as logarithms or as log-odds; the ends of a scale become infinite."""
    with np.errstate(divide="ignore"):
        return np.asarray(_FORWARD[scale](np.asarray(values, dtype=np.float64)), dtype=np.float64)


def from_scale(values: ArrayLike, scale: Scale) -> FloatArray:
    """The inverse of `to_scale`."""
    return np.asarray(_BACK[scale](np.asarray(values, dtype=np.float64)), dtype=np.float64)


def smoothed_log_odds(share: ArrayLike, n: int) -> FloatArray:
    """ln((c + ½) / (n − c + ½)) of shares c / n (Haldane, 1956; Anscombe, 1956): finite at 0 and 1."""
    c = n * np.asarray(share, dtype=np.float64)
    return np.asarray(np.log(c + 0.5) - np.log(n - c + 0.5))


def t_interval(
    values: ArrayLike, scale: Scale = "identity", confidence: float = 0.95, resolution: float = 0.0
) -> Interval:
    """Student's t interval for the mean of independent values, computed on `scale` and mapped back.

    On "log" it is an interval for the geometric mean; on "logit" for the rate whose log-odds is the mean
    log-odds. values: (n,). resolution: the finest step the values can show (for a rate over N prompts, 1 / (2
    N)); values nearer than this to an end of the scale are moved to it, since a logit of exactly 1 is
    infinite. One value gives the whole range of the scale. DeltawError if a value lies outside the scale.
    """
    _check_confidence(confidence)
    if scale not in _RANGE:
        raise DeltawError(f"scale is {scale!r}; expected one of {', '.join(_RANGE)}")
    x = vector(values)
    bottom, top = _RANGE[scale]
    if resolution > 0 and ((x >= bottom) & (x <= top)).all():
        x = np.clip(x, bottom + resolution, top - resolution)
    if not ((x > bottom) & (x < top)).all():
        raise DeltawError(
            f"values run from {x.min():g} to {x.max():g}; a {scale} scale takes those "
            f"strictly between {bottom:g} and {top:g}. Give `resolution`, the finest step the values can "
            "show, or use another scale."
        )
    if len(x) == 1:
        return Interval(bottom, top)
    y = to_scale(x, scale)
    half = float(stats.t.ppf(0.5 + confidence / 2, len(y) - 1)) * y.std(ddof=1) / np.sqrt(len(y))
    ends = from_scale([y.mean() - half, y.mean() + half], scale)
    return Interval(float(ends[0]), float(ends[1]))


def percentile_interval(draws: ArrayLike, confidence: float = 0.95) -> Interval:
    """The central `confidence` share of `draws` (n,)."""
    _check_confidence(confidence)
    low, high = np.quantile(vector(draws, "draws"), [0.5 - confidence / 2, 0.5 + confidence / 2])
    return Interval(float(low), float(high))


def bootstrap_means(
    groups: Sequence[ArrayLike],
    generator: np.random.Generator,
    clusters: Sequence[ArrayLike] | None = None,
    draws: int = 2000,
) -> FloatArray:
    """Bootstrap draws of the means of several groups: (draws, len(groups)).

    Without `clusters`, each group is resampled on its own. With them (one array of names per group), clusters
    are resampled and take all their rows along, in every group at once: this is how the same prompt before
    and after tuning, or one text with two operators, stays together. Cost: draws × clusters additions a
    group.
    """
    data = [vector(x, f"group {i}") for i, x in enumerate(groups)]
    if draws < 1:
        raise DeltawError(f"draws is {draws}; expected at least 1")
    if clusters is None:
        columns = [_resample([x], [np.ones_like(x)], generator, draws)[:, 0] for x in data]
        return np.stack(columns, axis=1)
    lengths = [len(np.asarray(c)) for c in clusters]
    if lengths != [len(x) for x in data]:
        raise DeltawError(
            f"clusters name {lengths} rows, groups have {[len(x) for x in data]}; expected one name per row"
        )
    numbers, count = clusters_of(clusters)
    sums = [_total(c, x, count) for c, x in zip(numbers, data, strict=True)]
    sizes = [_total(c, np.ones(len(c)), count) for c in numbers]
    return _resample(sums, sizes, generator, draws)


def _resample(
    sums: list[FloatArray], sizes: list[FloatArray], generator: np.random.Generator, draws: int
) -> FloatArray:
    """Means Σ sums / Σ sizes of `draws` resamplings of the entries, the same entries for every group."""
    count, out = len(sums[0]), np.empty((draws, len(sums)))
    top, bottom = np.stack(sums, axis=1), np.stack(sizes, axis=1)
    step = max(1, _CHUNK // count)
    for start in range(0, draws, step):
        stop = min(start + step, draws)
        times = _times_drawn(stop - start, count, generator)
        for _ in range(100):
            # A draw that misses a whole group has no mean for it; it is drawn again.
            empty = (times @ bottom == 0).any(axis=1)
            if not empty.any():
                break
            times[empty] = _times_drawn(int(empty.sum()), count, generator)
        else:
            raise DeltawError(f"{count} clusters rarely hold rows of every group; expected more clusters")
        out[start:stop] = (times @ top) / (times @ bottom)
    return out


def _total(numbers: IntArray, values: FloatArray, count: int) -> FloatArray:
    """Sum of the values of each cluster: (count,)."""
    return np.asarray(np.bincount(numbers, weights=values, minlength=count), dtype=np.float64)


def _times_drawn(rows: int, count: int, generator: np.random.Generator) -> FloatArray:
    """How often each of `count` entries is drawn in each of `rows` resamplings: (rows, count)."""
    picks = generator.integers(0, count, size=(rows, count)) + count * np.arange(rows)[:, None]
    return np.bincount(picks.ravel(), minlength=rows * count).reshape(rows, count).astype(np.float64)


def bootstrap(
    values: ArrayLike,
    generator: np.random.Generator,
    statistic: Callable[[FloatArray], float] | None = None,
    clusters: ArrayLike | None = None,
    draws: int = 2000,
    method: Literal["percentile", "bca"] = "percentile",
    confidence: float = 0.95,
) -> Interval:
    """Bootstrap interval of `statistic` (default: the mean) of rows, resampling clusters of rows (Efron,
    1987, for BCa).

    values: (N,) for the mean, (N, ...) for a statistic, which gets the resampled rows. clusters: (N,) names,
    default one a row. "bca" corrects bias and skewness. Fewer than about 20 clusters make either too narrow.
    One cluster gives (−∞, ∞). Cost: draws × N for the mean, else draws calls of `statistic`.
    """
    _check_confidence(confidence)
    if method not in ("percentile", "bca"):
        raise DeltawError(f"method is {method!r}; expected 'percentile' or 'bca'")
    rows = vector(values) if statistic is None else np.asarray(values, dtype=np.float64)
    if clusters is None:
        numbers, count = np.arange(len(rows)), len(rows)
    else:
        (numbers,), count = clusters_of([clusters])
    if len(numbers) != len(rows):
        raise DeltawError(f"clusters name {len(numbers)} rows, there are {len(rows)}; expected one name per row")
    if count == 1:
        return Interval(-np.inf, np.inf)
    if statistic is None:
        sums, sizes = _total(numbers, rows, count), _total(numbers, np.ones(len(rows)), count)
        draw = _resample([sums], [sizes], generator, draws)[:, 0]
        left_out = (sums.sum() - sums) / (sizes.sum() - sizes)
        estimate = float(rows.mean())
    else:
        members = np.split(np.argsort(numbers, kind="stable"), np.cumsum(np.bincount(numbers))[:-1])
        picks = generator.integers(0, count, size=(draws, count))
        draw = np.array([statistic(rows[np.concatenate([members[i] for i in row])]) for row in picks])
        left_out = np.empty(0)
        if method == "bca":
            left_out = np.array([statistic(rows[numbers != i]) for i in range(count)])
        estimate = float(statistic(rows))
    levels = np.array([0.5 - confidence / 2, 0.5 + confidence / 2])
    if method == "bca":
        levels = _bca_levels(draw, left_out, estimate, levels)
    low, high = np.quantile(draw, levels)
    return Interval(float(low), float(high))


def _bca_levels(draw: FloatArray, left_out: FloatArray, estimate: float, levels: FloatArray) -> FloatArray:
    """The levels that BCa reads instead of `levels`: shifted by the draws' bias, stretched by skewness."""
    below = float(np.mean(draw < estimate) + np.mean(draw == estimate) / 2)
    below = min(max(below, 0.5 / len(draw)), 1 - 0.5 / len(draw))
    bias = stats.norm.ppf(below)
    pull = left_out.mean() - left_out
    spread = float((pull**2).sum())
    skew = float((pull**3).sum()) / (6 * spread**1.5) if spread > 0 else 0.0
    shifted = bias + stats.norm.ppf(levels)
    return np.asarray(stats.norm.cdf(bias + shifted / (1 - skew * shifted)), dtype=np.float64)
