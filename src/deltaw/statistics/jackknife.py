"""The jackknife, for statistics that a bootstrap would bias: those in which a row drawn twice is no second observation.

A covariance is one: with a row drawn twice, two rows agree in every direction, and the cloud looks flatter than it is.
"""

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from deltaw.errors import DeltawError
from deltaw.statistics.arrays import vector
from deltaw.statistics.intervals import Interval


def jackknife_interval(value: float, left_out: ArrayLike, confidence: float = 0.95) -> Interval:
    """Student's t interval about `value` from the statistic without each unit in turn, left_out (n,), n >= 2.

    Its variance is (n − 1) / n · Σ (θ₍ᵢ₎ − mean)² (Tukey, 1958), for smooth statistics. Linear combinations of
    statistics of the same units have the same combinations of `left_out`. DeltawError for fewer than two units.
    """
    if not 0 < confidence < 1:
        raise DeltawError(f"confidence is {confidence}; expected a number between 0 and 1, such as 0.95")
    x = vector(left_out, "values without a unit", least=2)
    n = len(x)
    deviation = float(np.sqrt((n - 1) / n * ((x - x.mean()) ** 2).sum()))
    half = float(stats.t.ppf(0.5 + confidence / 2, n - 1)) * deviation
    return Interval(value - half, value + half)
