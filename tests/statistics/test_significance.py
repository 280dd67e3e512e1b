"""The tests in `statistics.tests`, against enumeration, scipy and known effect sizes."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from deltaw.errors import DeltawError
from deltaw.statistics import (
    auroc,
    d_prime,
    equivalence_power,
    equivalence_test,
    holm,
    t_interval,
    t_test,
)

NUMBERS = st.lists(st.floats(-10, 10), min_size=1, max_size=8)


def test_holm_by_hand() -> None:
    """Sorted 0.01, 0.02, 0.04, 0.5 times 4, 3, 2, 1: 0.04, 0.06, 0.08, 0.5."""
    assert holm([0.5, 0.01, 0.04, 0.02]) == pytest.approx([0.5, 0.04, 0.08, 0.06])
    assert holm([0.9, 0.8]) == pytest.approx([1.0, 1.0])
    with pytest.raises(DeltawError, match="expected numbers in"):
        holm([0.5, 1.2])


def test_holm_keeps_the_family_wise_error_rate_whatever_the_dependence() -> None:
    rng = np.random.default_rng(3)
    for common in (0.0, 0.8):
        z = rng.standard_normal((3000, 10)) * (1 - common) ** 0.5 + rng.standard_normal((3000, 1)) * common**0.5
        p = 2 * stats.norm.sf(np.abs(z))
        wrong = np.mean([(holm(of_draw) <= 0.05).any() for of_draw in p])
        assert wrong <= 0.062


def test_equivalence_is_the_interval_of_ninety_percent_within_the_margin() -> None:
    rng = np.random.default_rng(4)
    for _ in range(200):
        values, margin = rng.normal(rng.normal(), 1, 8), float(rng.uniform(0.2, 2))
        interval = t_interval(values, confidence=0.9)
        assert (equivalence_test(values, margin) <= 0.05) == (-margin < interval.low and interval.high < margin)
        p = max(
            stats.ttest_1samp(values, -margin, alternative="greater").pvalue,
            stats.ttest_1samp(values, margin, alternative="less").pvalue,
        )
        assert equivalence_test(values, margin) == pytest.approx(p)
    assert (equivalence_test([0.1, 0.1], 0.2), equivalence_test([0.3, 0.3], 0.2)) == (0.0, 1.0)
    with pytest.raises(DeltawError, match="above 0"):
        equivalence_test([0.1, 0.2], 0.0)


@pytest.mark.parametrize(("margin", "mean", "n"), [(1.2, 0.0, 8), (0.8, 0.3, 12), (1.0, 1.0, 8)])
def test_power_of_equivalence_is_what_simulation_finds(margin: float, mean: float, n: int) -> None:
    draws = np.random.default_rng(5).normal(mean, 1, (6000, n))
    rate = np.mean([equivalence_test(values, margin) <= 0.05 for values in draws])
    assert equivalence_power(margin, 1.0, n, mean) == pytest.approx(rate, abs=0.02)


def test_auroc_and_d_prime_of_known_gaussians() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal(20_000) + 1.5, rng.standard_normal(20_000)
    assert d_prime(a, b) == pytest.approx(1.5, abs=0.04)
    assert auroc(a, b) == pytest.approx(stats.norm.cdf(1.5 / 2**0.5), abs=0.006)
    assert auroc(a, b) == pytest.approx(stats.mannwhitneyu(a, b).statistic / 4e8)


@given(st.lists(st.integers(0, 5), min_size=1, max_size=9), st.lists(st.integers(0, 5), min_size=1, max_size=9))
def test_auroc_counts_ties_half(a: list[int], b: list[int]) -> None:
    wins = np.mean([(x > y) + (x == y) / 2 for x in a for y in b])
    assert auroc(a, b) == pytest.approx(wins)
    assert auroc(a, b) + auroc(b, a) == pytest.approx(1)


def test_d_prime_of_constants() -> None:
    assert d_prime([1, 1], [1, 1]) == 0
    assert d_prime([2, 2], [1, 1]) == np.inf


@given(st.lists(st.floats(-10, 10).map(lambda x: round(x, 6)), min_size=2, max_size=8))
def test_t_test_agrees_with_scipy(values: list[float]) -> None:
    for tail in ("greater", "less", "two-sided"):
        p = t_test(values, tail)
        if np.ptp(values) == 0:
            assert p in (0.0, 1.0)
        elif np.std(values) > 1e-9 * np.abs(values).max():
            assert p == pytest.approx(stats.ttest_1samp(values, 0, alternative=tail).pvalue, abs=1e-9)


def test_t_test_of_values_without_spread() -> None:
    assert (t_test([0.2, 0.2], "greater"), t_test([0.2, 0.2], "less"), t_test([0.0, 0.0])) == (0, 1, 1)
