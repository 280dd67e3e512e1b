"""Tests and effect sizes: Student's t for a few numbers, Holm for many tests, AUROC and d′.

p values are secondary here: they are reported beside an effect and its interval, never instead of them.
"""

import numpy as np
from numpy.typing import ArrayLike
from scipy import special, stats

from deltaw.errors import DeltawError
from deltaw.statistics.arrays import FloatArray, vector
from deltaw.statistics.nulls import Tail


def t_test(values: ArrayLike, tail: Tail = "two-sided") -> float:
    """p value of Student's t test that values (n,), n >= 2, have mean 0.

    Values without spread give 0 or 1, as their mean is on the tail's side or not.
    """
    x = vector(values, least=2)
    if np.ptp(x) == 0:
        beyond = {"greater": x[0] > 0, "less": x[0] < 0, "two-sided": x[0] != 0}[tail]
        return 0.0 if beyond else 1.0
    t = float(x.mean() / x.std(ddof=1)) * len(x) ** 0.5
    turned = {"greater": -t, "less": t, "two-sided": -abs(t)}[tail]
    return float(special.stdtr(len(x) - 1, turned)) * (2 if tail == "two-sided" else 1)


def holm(p_values: ArrayLike) -> FloatArray:
    """Adjusted p values (Holm, 1979), in the given order: (n,) -> (n,).

    Rejecting those <= a keeps the probability of any false rejection at a, however the tests depend on each other.
    """
    p = vector(p_values, "p values")
    if p.min() < 0 or p.max() > 1:
        raise DeltawError(f"p values run from {p.min():g} to {p.max():g}; expected numbers in [0, 1]")
    order = np.argsort(p, kind="stable")
    steps = np.maximum.accumulate(p[order] * (len(p) - np.arange(len(p))))
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(steps, 1.0)
    return adjusted


def auroc(positives: ArrayLike, negatives: ArrayLike) -> float:
    """Probability that a positive (n,) exceeds a negative (m,), ties counting half (Mann–Whitney)."""
    a, b = vector(positives, "positives"), vector(negatives, "negatives")
    ranks = stats.rankdata(np.concatenate([a, b]))
    return float((ranks[: len(a)].sum() - len(a) * (len(a) + 1) / 2) / (len(a) * len(b)))


def d_prime(first: ArrayLike, second: ArrayLike) -> float:
    """Sensitivity index (mean(first) − mean(second)) / sqrt of the mean of the two variances (ddof 1). No
    unit.

    Two equal constants give 0, two different ones ±∞. DeltawError if a sample has fewer than two values.
    """
    a, b = vector(first, "the first sample", least=2), vector(second, "the second sample", least=2)
    gap, spread = float(a.mean() - b.mean()), float(np.sqrt((a.var(ddof=1) + b.var(ddof=1)) / 2))
    if spread == 0:
        return 0.0 if gap == 0 else float(np.copysign(np.inf, gap))
    return gap / spread
