"""Is a difference no larger than a margin? Two one-sided tests (Schuirmann, 1987), and the power of finding it so."""

import math
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike
from scipy import special, stats

from deltaw.errors import DeltawError
from deltaw.statistics.arrays import FloatArray, vector
from deltaw.statistics.power import ALPHA


def equivalence_test(values: ArrayLike, margin: float) -> float:
    """p value of the hypothesis that the mean of values (n,), n >= 2, is at least `margin` away from 0.

    At most 0.05 exactly where the 90 % t interval lies within ±margin. DeltawError unless margin > 0.
    """
    x = vector(values, least=2)
    _check(margin)
    if np.ptp(x) == 0:
        return 0.0 if abs(float(x[0])) < margin else 1.0
    error = float(x.std(ddof=1)) / math.sqrt(len(x))
    nearest = margin - abs(float(x.mean()))
    return float(special.stdtr(len(x) - 1, -nearest / error))


def equivalence_power(margin: float, sd: float, n: int, mean: float = 0.0, alpha: float = ALPHA) -> float:
    """Probability that `equivalence_test` of n normal values gives at most `alpha`.

    sd: of one value. mean: the true one. The interval's two ends are taken together: over the law of the sample's
    spread, the mean has to lie where both tests reject. DeltawError unless margin > 0 and sd >= 0.
    """
    _check(margin)
    if not sd >= 0:
        raise DeltawError(f"sd is {sd}; expected a number >= 0")
    if n < 2:
        return 0.0
    if sd == 0:
        return float(abs(mean) < margin)
    edge = float(stats.t.ppf(1 - alpha, n - 1))
    spreads = sd * _spreads(n)
    room = np.maximum(margin - edge * spreads / math.sqrt(n), 0.0)
    error = sd / math.sqrt(n)
    inside = special.ndtr((room - mean) / error) - special.ndtr((-room - mean) / error)
    return float(inside.mean())


@lru_cache(maxsize=2048)
def _spreads(n: int) -> FloatArray:
    """Quantiles of the standard deviation of n standard normal values, equally likely."""
    return np.asarray(np.sqrt(stats.chi2.ppf((np.arange(1000) + 0.5) / 1000, n - 1) / (n - 1)))


def _check(margin: float) -> None:
    if not margin > 0:
        raise DeltawError(f"the margin is {margin}; expected a number above 0")
