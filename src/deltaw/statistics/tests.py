"""Tests and effect sizes: sign flips and Student's t for a few numbers, Benjamini–Hochberg for many tests, AUROC
and d′.

p values are secondary here: they are reported beside an effect and its interval, never instead of them.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import special, stats

from deltaw.errors import DeltawError
from deltaw.statistics.arrays import FloatArray, vector
from deltaw.statistics.nulls import Tail


@dataclass(frozen=True)
class SignFlip:
    """Result of `sign_flip`. mean: of the values. exact: whether all 2ⁿ signs were counted.

    smallest_p: the least p value that n values, or that many draws, could have given.
    """

    mean: float
    p: float
    n: int
    exact: bool
    smallest_p: float


def sign_flip(
    values: ArrayLike,
    tail: Tail = "two-sided",
    generator: np.random.Generator | None = None,
    exact_up_to: int = 20,
    draws: int = 20_000,
) -> SignFlip:
    """Fisher's randomisation test that values (n,) are symmetric about 0; statistic: their mean.

    Up to `exact_up_to` values all 2ⁿ sign patterns are counted (20 values: 1 M sums, 30 ms, 25 MB); beyond,
    `draws` random ones, for which `generator` is needed. Ties count as extreme.
    """
    x = vector(values)
    n = len(x)
    exact = n <= exact_up_to
    if exact:
        sums = np.zeros(1)
        for value in x:
            sums = np.concatenate([sums + value, sums - value])
    else:
        if generator is None:
            raise DeltawError(f"{n} values are too many for the exact test (<= {exact_up_to}); pass a generator")
        half = 64  # rows of signs at a time: bounded memory for any n
        blocks = [min(half, draws - i) for i in range(0, draws, half)]
        sums = np.concatenate([(generator.integers(0, 2, size=(b, n)) * 2.0 - 1.0) @ x for b in blocks])
    observed, tolerance = float(x.sum()), 1e-12 * float(np.abs(x).sum())
    extreme = {
        "greater": sums >= observed - tolerance,
        "less": sums <= observed + tolerance,
        "two-sided": np.abs(sums) >= abs(observed) - tolerance,
    }[tail]
    hits = int(extreme.sum())
    if exact:
        smallest = (2.0 if tail == "two-sided" else 1.0) / 2.0**n
        return SignFlip(float(x.mean()), hits / len(sums), n, True, min(1.0, smallest))
    return SignFlip(float(x.mean()), (1 + hits) / (1 + draws), n, False, 1 / (1 + draws))


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


def benjamini_hochberg(p_values: ArrayLike) -> FloatArray:
    """Adjusted p values (Benjamini and Hochberg, 1995), in the given order: (n,) -> (n,).

    Rejecting those <= q keeps the false discovery rate at q for independent or positively dependent tests.
    """
    p = vector(p_values, "p values")
    if p.min() < 0 or p.max() > 1:
        raise DeltawError(f"p values run from {p.min():g} to {p.max():g}; expected numbers in [0, 1]")
    return np.asarray(stats.false_discovery_control(p, method="bh"), dtype=np.float64)


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
