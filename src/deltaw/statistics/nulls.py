"""`Null`: what a statistic would be if nothing but chance were at work, as a mean, a band and, where made,
the draws.

No number of an analysis is reported without one. Closed forms are preferred to draws: they cost nothing and
add no noise. Where only some moments are known in closed form, the band is that of the Beta or normal law
with these moments.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from deltaw.errors import DeltawError
from deltaw.statistics.arrays import FloatArray, vector

Tail = Literal["two-sided", "greater", "less"]


@dataclass(frozen=True, eq=False)
class Null:
    """A null distribution. kind: how it was made. low, high: its central band, 95 % unless made otherwise.

    draws: (n,) simulated values of the statistic, or None where the law is known in closed form.
    """

    kind: str
    mean: float
    low: float
    high: float
    draws: FloatArray | None = None

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high

    def p_value(self, value: float, tail: Tail = "two-sided") -> float:
        """Monte Carlo p value, (1 + draws at least as extreme) / (1 + draws); two-sided doubles the smaller
        tail.

        It is never 0: n draws cannot show less than 1 / (n + 1). DeltawError if the null has no draws.
        """
        if self.draws is None:
            raise DeltawError(f"the {self.kind} null has no draws; compare the value with its band instead")
        tolerance = 1e-12 * max(1.0, abs(value))  # the same labelling must count as equal in spite of rounding
        above = (1 + int((self.draws >= value - tolerance).sum())) / (1 + len(self.draws))
        below = (1 + int((self.draws <= value + tolerance).sum())) / (1 + len(self.draws))
        return {"greater": above, "less": below, "two-sided": min(1.0, 2 * min(above, below))}[tail]


def from_draws(kind: str, draws: ArrayLike, mean: float | None = None, confidence: float = 0.95) -> Null:
    """The null of simulated values (n,), n >= 2. mean: the exact one where known, else the draws'.

    The band is that of Weibull's plotting positions: a value of the same law lies beyond either end with probability
    (1 − confidence) / 2 whatever n, where the usual quantiles give 0.030 for 0.025 at 200 draws and 0.070 at 20. Fewer
    than 2 / (1 − confidence) − 1 draws (39 for 95 %) reach no further than their ends: probability 1 / (n + 1).
    """
    values = vector(draws, f"draws of the {kind} null", least=2)
    low, high = np.quantile(values, [0.5 - confidence / 2, 0.5 + confidence / 2], method="weibull")
    return Null(kind, float(values.mean()) if mean is None else float(mean), float(low), float(high), values)


def from_normal(kind: str, mean: float, sd: float, confidence: float = 0.95) -> Null:
    """The normal null with this mean and standard deviation >= 0."""
    if not sd >= 0:
        raise DeltawError(f"the {kind} null has standard deviation {sd}; expected a number >= 0")
    half = float(stats.norm.ppf(0.5 + confidence / 2)) * sd
    return Null(kind, float(mean), float(mean - half), float(mean + half))


def from_beta(kind: str, mean: float, variance: float, confidence: float = 0.95) -> Null:
    """The Beta null with these moments, for a share in [0, 1]. Variance 0 gives a band without width.

    DeltawError unless 0 <= mean <= 1 and 0 <= variance < mean (1 − mean), or both are 0.
    """
    room = mean * (1 - mean)
    if not (0 <= mean <= 1 and 0 <= variance <= room):
        raise DeltawError(
            f"the {kind} null has mean {mean} and variance {variance}; expected a mean in [0, 1] and a "
            "variance of at most mean · (1 − mean)"
        )
    if variance == 0:
        return Null(kind, mean, mean, mean)
    size = room / variance - 1
    law = stats.beta(mean * size, (1 - mean) * size)
    tail = 0.5 - confidence / 2
    return Null(kind, float(mean), float(law.ppf(tail)), float(law.ppf(1 - tail)))


def permutation_null(
    kind: str, first: ArrayLike, second: ArrayLike, generator: np.random.Generator, draws: int = 1000
) -> Null:
    """Null of mean(first) − mean(second) for exchangeable samples (n,) and (m,). Cost: a sort a draw."""
    a, b = vector(first, "the first sample"), vector(second, "the second sample")
    pool, n = np.concatenate([a, b]), len(a)
    order = np.argsort(generator.random((draws, len(pool))), axis=1)
    total = pool[order[:, :n]].sum(1)
    return from_draws(kind, total / n - (pool.sum() - total) / len(b))


def sign_flip_null(kind: str, differences: ArrayLike, generator: np.random.Generator, draws: int = 1000) -> Null:
    """Null of the mean of paired differences (n,), each as likely to have either sign; its mean is 0."""
    d = vector(differences, "differences")
    signs = generator.integers(0, 2, size=(draws, len(d))) * 2.0 - 1.0
    return from_draws(kind, signs @ d / len(d), mean=0.0)


def mean_null(nulls: Sequence[Null], weights: FloatArray | None = None) -> Null:
    """The null of a mean of statistics, such as one over layers: draw by draw where all have draws, else by the bands'
    half widths, as if they were independent.

    Statistics of the same prompts need nulls of equal generators, so that a draw exchanges the same prompts in all of
    them: others in each would make the band too narrow. weights: (nulls,), summing to 1; None: all alike.
    """
    w = np.full(len(nulls), 1 / len(nulls)) if weights is None else weights
    kind, mean = nulls[0].kind, float(w @ np.array([null.mean for null in nulls]))
    draws = [null.draws for null in nulls]
    if all(d is not None for d in draws):
        return from_draws(kind, w @ np.array([d for d in draws if d is not None]), mean=mean)
    low, high = (
        float(np.sqrt(np.sum([(x * (getattr(null, edge) - null.mean)) ** 2 for x, null in zip(w, nulls, strict=True)])))
        for edge in ("low", "high")
    )
    return Null(kind, mean, mean - low, mean + high)


def mean_of_each_kind(nulls: Sequence[Sequence[Null]]) -> list[Null]:
    """`mean_null` of each kind of null that all of some statistics have."""
    of_kind: dict[str, list[Null]] = {}
    for null in (null for own in nulls for null in own):
        of_kind.setdefault(null.kind, []).append(null)
    return [mean_null(every) for every in of_kind.values() if len(every) == len(nulls)]
