"""Power of a t interval: against simulation, textbook numbers and itself."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deltaw.errors import DeltawError
from deltaw.statistics import seeds_needed, t_interval, t_power, tolerated_sd


@pytest.mark.parametrize(("effect", "n"), [(0.5, 6), (1.2, 6), (-1.2, 6), (0.0, 8)])
def test_power_is_how_often_the_interval_decides(effect: float, n: int) -> None:
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(2000):
        interval = t_interval(rng.standard_normal(n) * 2 + 2 * effect)
        hits += interval.low > 0 if effect >= 0 else interval.high < 0
    # Five standard errors of a rate over 2,000 draws are at most 0.056.
    assert t_power(2 * effect, 2.0, n) == pytest.approx(hits / 2000, abs=0.05)


def test_the_textbook_numbers() -> None:
    """One-sample t test at 5 % two-sided and 80 %: effects of 1, 0.8, 0.5 standard deviations (Cohen, 1988)."""
    assert [seeds_needed(d, 1.0) for d in (1.0, 0.8, 0.5)] == [10, 15, 34]


@given(st.floats(0.05, 20), st.floats(0.01, 0.2), st.floats(0.5, 0.99))
def test_seeds_needed_is_the_first_that_is_enough(effect: float, alpha: float, power: float) -> None:
    n = seeds_needed(effect, 1.0, alpha, power, most=3000)
    if n is None:
        assert t_power(effect, 1.0, 3000, alpha) < power
        return
    assert t_power(effect, 1.0, n, alpha) >= power
    assert n == 2 or t_power(effect, 1.0, n - 1, alpha) < power


@given(st.floats(0.01, 100), st.integers(2, 40))
def test_the_tolerated_spread_is_just_tolerated(effect: float, n: int) -> None:
    sd = tolerated_sd(effect, n)
    assert t_power(effect, sd, n) == pytest.approx(0.8, abs=1e-6)
    assert tolerated_sd(-effect, n) == sd


def test_ends() -> None:
    assert t_power(1.0, 1.0, 1) == 0  # one seed has no interval
    assert (t_power(1.0, 0.0, 2), t_power(0.0, 0.0, 2)) == (1, 0)
    assert t_power(1e6, 1.0, 100) == 1
    assert seeds_needed(1.0, 0.0) == 2
    assert seeds_needed(1.0, 0.0, least=5) == 5
    assert seeds_needed(0.0, 1.0) is None
    with pytest.raises(DeltawError, match="sd is"):
        t_power(1.0, -1.0, 5)
    with pytest.raises(DeltawError, match="power is"):
        seeds_needed(1.0, 1.0, power=1.0)
    with pytest.raises(DeltawError, match="at least 2"):
        tolerated_sd(1.0, 1)
