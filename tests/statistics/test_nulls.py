"""Nulls: closed forms against scipy, p values that are uniform where the null is true."""

import numpy as np
import pytest
from scipy import stats

from deltaw.errors import DeltawError
from deltaw.statistics import from_beta, from_draws, from_normal, mean_null, permutation_null, sign_flip_null


def test_closed_forms() -> None:
    law = stats.beta(288, 96)
    null = from_beta("x", law.mean(), law.var())
    assert (null.low, null.high) == pytest.approx((law.ppf(0.025), law.ppf(0.975)))
    normal = from_normal("x", 1.0, 2.0)
    assert (normal.low, normal.high) == pytest.approx(stats.norm(1, 2).interval(0.95))
    assert from_beta("x", 0.75, 0.0).low == 0.75
    with pytest.raises(DeltawError, match="variance"):
        from_beta("x", 0.5, 0.3)


def test_p_values_count_draws_and_are_never_zero() -> None:
    null = from_draws("x", np.arange(99.0))
    assert null.p_value(1000.0, "greater") == pytest.approx(0.01)
    assert null.p_value(1000.0, "less") == 1
    assert null.p_value(49.0) == 1
    assert 50.0 in null
    assert 98.0 not in null
    with pytest.raises(DeltawError, match="no draws"):
        from_normal("x", 0, 1).p_value(0.0)


@pytest.mark.parametrize("paired", [False, True])
def test_permutation_nulls_are_rejected_at_their_level(paired: bool) -> None:
    rng = np.random.default_rng(0)
    p = []
    for _ in range(400):
        a, b = rng.exponential(size=15), rng.exponential(size=15)
        null = sign_flip_null("s", a - b, rng, 199) if paired else permutation_null("p", a, b, rng, 199)
        p.append(null.p_value(float(a.mean() - b.mean())))
    rejected = int((np.array(p) <= 0.05).sum())
    # Binomial(400, 0.05): 20 expected, 99.9 % within 7 .. 36.
    assert 7 <= rejected <= 36


def test_permutation_null_finds_a_real_difference() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal(50) + 2, rng.standard_normal(30)
    null = permutation_null("p", a, b, rng, 199)
    assert null.p_value(float(a.mean() - b.mean()), "greater") == pytest.approx(1 / 200)
    assert abs(null.mean) < 0.1


@pytest.mark.parametrize(("draws", "level"), [(19, 1 / 20), (39, 0.025), (200, 0.025)])
def test_a_band_of_few_draws_has_its_level(draws: int, level: float) -> None:
    """Of uniform draws, the chance that one more lies above the band is 1 - its end: exact in the mean."""
    rng = np.random.default_rng(0)
    bands = [from_draws("x", rng.random(draws)) for _ in range(4000)]
    # The end's standard deviation is at most 0.05; over 4,000 bands that is 8e-4.
    assert np.mean([1 - band.high for band in bands]) == pytest.approx(level, abs=0.003)
    assert np.mean([band.low for band in bands]) == pytest.approx(level, abs=0.003)


def test_the_null_of_a_mean_takes_equal_draws_together() -> None:
    """Layers that say the same have a mean with one layer's band; draws of their own would make it narrower."""
    values = np.random.default_rng(0).standard_normal(60)
    one, same = (sign_flip_null("s", values, np.random.default_rng(1), 2000) for _ in range(2))
    apart = sign_flip_null("s", values, np.random.default_rng(2), 2000)
    assert (mean_null([one, same]).low, mean_null([one, same]).high) == pytest.approx((one.low, one.high))
    assert mean_null([one, apart]).high == pytest.approx(one.high / 2**0.5, rel=0.1)
    weighed = mean_null([one, from_draws("s", np.zeros(2000))], np.array([0.25, 0.75]))
    assert weighed.high == pytest.approx(one.high / 4)
    closed = mean_null([from_normal("x", 0, 1), from_normal("x", 0, 1)])
    assert closed.high == pytest.approx(stats.norm.ppf(0.975) / 2**0.5)
