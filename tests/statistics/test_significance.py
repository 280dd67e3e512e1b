"""The tests in `statistics.tests`, against enumeration, scipy and known effect sizes."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from deltaw.errors import DeltawError
from deltaw.statistics import auroc, benjamini_hochberg, d_prime, sign_flip, t_test

NUMBERS = st.lists(st.floats(-10, 10), min_size=1, max_size=8)


@given(NUMBERS)
def test_sign_flip_equals_enumeration(values: list[float]) -> None:
    x = np.array(values)
    sums = np.array([np.dot(s, x) for s in product([1, -1], repeat=len(x))])
    slack = 1e-9 * (1 + np.abs(x).sum())
    result = sign_flip(values)
    assert result.exact
    # A hypothesis example can sit within rounding of a tie; both answers are then right.
    low = np.mean(np.abs(sums) >= abs(x.sum()) + slack)
    high = np.mean(np.abs(sums) >= abs(x.sum()) - slack)
    assert low <= result.p <= high


def test_sign_flip_of_five_positive_values_cannot_reach_five_percent() -> None:
    result = sign_flip([1.0, 2.0, 1.5, 0.3, 0.9])
    assert result.p == result.smallest_p == pytest.approx(2 / 32)
    assert sign_flip([1.0, 2.0, 1.5, 0.3, 0.9], "greater").p == pytest.approx(1 / 32)
    assert sign_flip([1.0, 2.0, 1.5, 0.3, 0.9], "less").p == 1


def test_sampled_sign_flip_agrees_with_the_exact_one() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal(16) + 0.4
    exact, sampled = sign_flip(x), sign_flip(x, generator=rng, exact_up_to=10)
    assert not sampled.exact
    assert sampled.p == pytest.approx(exact.p, abs=0.012)  # 4 standard errors at 20,000 draws
    with pytest.raises(DeltawError, match="generator"):
        sign_flip(np.ones(30))


def test_sign_flip_is_rejected_at_its_level() -> None:
    rng = np.random.default_rng(1)
    p = np.array([sign_flip(rng.standard_t(3, size=10)).p for _ in range(400)])
    assert 7 <= int((p <= 0.05).sum()) <= 36


def test_benjamini_hochberg_by_hand() -> None:
    # Sorted 0.01 0.02 0.04 0.5 times 4/rank: 0.04 0.04 0.0533 0.5.
    assert benjamini_hochberg([0.5, 0.01, 0.04, 0.02]) == pytest.approx([0.5, 0.04, 0.16 / 3, 0.04])
    with pytest.raises(DeltawError, match="p values"):
        benjamini_hochberg([0.5, 1.2])


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
