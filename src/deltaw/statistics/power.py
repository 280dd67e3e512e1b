"""Power: how likely a few seeds are to decide, and how many would.

A claim is decided by Student's t interval over seeds. With a true distance `effect` from the bar it must clear, and a
standard deviation `sd` of one seed, √n · mean / s follows the noncentral t law with n − 1 degrees of freedom and
noncentrality √n · effect / sd; power is the probability that the interval lies wholly on the effect's side of the bar.
One seed has no spread to compute this from: an interval over its prompts gives the part of `sd` that more prompts would
remove, and nothing about how seeds differ, so what is computed from it is a lower bound.
"""

import math
from collections.abc import Callable

from scipy import optimize, stats

from deltaw.errors import DeltawError

ALPHA = 0.05
"""1 − the confidence of the intervals over seeds; a claim's own side has half of it."""

POWER = 0.8


def t_power(effect: float, sd: float, n: int, alpha: float = ALPHA) -> float:
    """Probability that the t interval of n values, confidence 1 − alpha, lies beyond 0 on the effect's side.

    effect: the true mean's distance from 0, in either direction. sd: of one value; 0 makes the answer certain. Fewer
    than two values have no interval, hence no power. DeltawError unless sd >= 0 and 0 < alpha < 1.
    """
    _check(sd, alpha)
    if n < 2:
        return 0.0
    size = abs(effect)
    if sd == 0:
        return 1.0 if size > 0 else 0.0
    edge = float(stats.t.ppf(1 - alpha / 2, n - 1))
    away = math.sqrt(n) * size / sd
    # Far out scipy's noncentral t loses itself, long after the power is 1 to every digit.
    return 1.0 if away > edge + 40 else float(stats.nct.sf(edge, n - 1, away))


def seeds_needed(
    effect: float, sd: float, alpha: float = ALPHA, power: float = POWER, least: int = 2, most: int = 1000
) -> int | None:
    """The fewest values, from `least` on, whose t interval shows `effect` with this power; None if `most` do not.

    DeltawError as `t_power`, and unless 0 < power < 1.
    """
    _check(sd, alpha)
    if not 0 < power < 1:
        raise DeltawError(f"power is {power}; expected a number between 0 and 1, such as 0.8")
    return fewest(lambda n: t_power(effect, sd, n, alpha) >= power, max(2, least), most)


def fewest(enough: Callable[[int], bool], least: int, most: int) -> int | None:
    """The smallest number from `least` to `most` that is enough, where more is never less; None if `most` is not."""
    if not enough(most):
        return None
    low, high = least, most
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle + 1, high)
    return low


def tolerated_sd(effect: float, n: int, alpha: float = ALPHA, power: float = POWER) -> float:
    """The largest standard deviation of one value at which n values show `effect` with this power.

    In the unit of the effect; 0 for an effect of 0. DeltawError unless n >= 2.
    """
    _check(1.0, alpha)
    if n < 2:
        raise DeltawError(f"n is {n}; expected at least 2 values, since one has no spread")
    in_sds = optimize.brentq(lambda size: t_power(size, 1.0, n, alpha) - power, 1e-9, 1e3)
    return abs(effect) / float(in_sds)


def _check(sd: float, alpha: float) -> None:
    if not (sd >= 0 and 0 < alpha < 1):
        raise DeltawError(f"sd is {sd} and alpha {alpha}; expected sd >= 0 and alpha between 0 and 1")
