"""Intervals against independent values, and by how often they cover a known truth."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import special, stats

from deltaw.errors import DeltawError
from deltaw.statistics import bootstrap, bootstrap_means, t_interval, wilson
from deltaw.statistics.intervals import Scale


def test_wilson_agrees_with_scipy() -> None:
    for successes, n in [(0, 10), (3, 10), (10, 10), (1990, 2000), (1, 1)]:
        expected = stats.binomtest(successes, n).proportion_ci(method="wilson")
        found = wilson(successes, n)
        assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-12)


@given(st.integers(1, 5000), st.data())
def test_wilson_contains_the_rate_and_stays_in_range(n: int, data: st.DataObject) -> None:
    successes = data.draw(st.integers(0, n))
    interval = wilson(successes, n)
    assert 0 <= interval.low <= successes / n <= interval.high <= 1
    assert interval.width > 0
    mirrored = wilson(n - successes, n)
    assert mirrored.low == pytest.approx(1 - interval.high, abs=1e-12)


@pytest.mark.parametrize(
    ("scale", "forward", "back"),
    [
        ("identity", np.positive, np.positive),
        ("log", np.log, np.exp),
        ("logit", special.logit, special.expit),
    ],
)
def test_t_interval_agrees_with_scipy(scale: Scale, forward: np.ufunc, back: np.ufunc) -> None:
    values = np.array([0.2, 0.5, 0.35, 0.7])
    y = forward(values)
    low, high = stats.t.interval(0.95, 3, loc=y.mean(), scale=stats.sem(y))
    found = t_interval(values, scale)
    assert (found.low, found.high) == pytest.approx((back(low), back(high)))


def test_t_interval_of_one_value_is_the_whole_scale() -> None:
    assert (t_interval([0.4]).low, t_interval([0.4]).high) == (-np.inf, np.inf)
    assert (t_interval([0.4], "logit").low, t_interval([0.4], "logit").high) == (0, 1)


def test_t_interval_at_the_end_of_a_scale_needs_a_resolution() -> None:
    with pytest.raises(DeltawError, match="resolution"):
        t_interval([1.0, 0.9, 1.0], "logit")
    interval = t_interval([1.0, 0.99, 1.0], "logit", resolution=1 / 4000)
    assert 0.8 < interval.low < interval.high < 1


@pytest.mark.parametrize("bad", [[], [np.nan, 1.0], [[1.0, 2.0]]])
def test_bad_values_get_a_sentence(bad: list[float]) -> None:
    with pytest.raises(DeltawError, match="expected"):
        t_interval(bad)


@pytest.mark.parametrize("method", ["percentile", "bca"])
def test_bootstrap_covers_a_skewed_mean(method: str) -> None:
    rng = np.random.default_rng(0)
    hits = sum(
        1.0 in bootstrap(rng.exponential(size=100), rng, draws=400, method=method)  # type: ignore[arg-type]
        for _ in range(300)
    )
    assert 0.89 <= hits / 300 <= 0.985  # 95 % less the known shortfall of about 1 to 2 %


def test_bootstrap_of_clusters_is_honest_where_rows_are_not_independent() -> None:
    rng = np.random.default_rng(1)
    clusters = np.repeat(np.arange(40), 10)
    by_row = by_cluster = 0
    for _ in range(200):
        values = np.repeat(rng.standard_normal(40), 10) + 0.1 * rng.standard_normal(400)
        by_row += 0.0 in bootstrap(values, rng, draws=300)
        by_cluster += 0.0 in bootstrap(values, rng, clusters=clusters, draws=300)
    assert by_row / 200 < 0.6
    assert 0.88 <= by_cluster / 200 <= 0.99


def test_bootstrap_of_a_statistic_agrees_with_scipy_bca() -> None:
    values = np.random.default_rng(2).lognormal(size=60)
    found = bootstrap(values, np.random.default_rng(3), lambda v: float(v.mean()), method="bca", draws=4000)
    fast = bootstrap(values, np.random.default_rng(3), method="bca", draws=4000)
    oracle = stats.bootstrap(
        (values,), np.mean, n_resamples=4000, method="BCa", rng=np.random.default_rng(4)
    ).confidence_interval
    for interval in (found, fast):
        assert (interval.low, interval.high) == pytest.approx((oracle.low, oracle.high), abs=0.07)


def test_bootstrap_keeps_clusters_whole_for_any_statistic() -> None:
    values, clusters = np.arange(12.0), np.repeat([7, 3, 9], 4)

    def whole(rows: np.ndarray) -> float:
        times = np.bincount(rows.astype(int), minlength=12).reshape(3, 4)
        assert (times == times[:, :1]).all()
        return float(rows.mean())

    interval = bootstrap(values, np.random.default_rng(0), whole, clusters, draws=200)
    # Means of whole clusters are 1.5, 5.5 and 9.5; no resampling leaves their range.
    assert 1.5 <= interval.low <= interval.high <= 9.5


def test_one_cluster_has_no_interval() -> None:
    assert bootstrap([1.0, 2.0], np.random.default_rng(0), clusters=[5, 5]).width == np.inf


def test_bootstrap_means_moves_shared_clusters_together() -> None:
    rng = np.random.default_rng(0)
    prompt = 10 * rng.standard_normal(200)
    before, after = prompt, prompt + 1 + 0.1 * rng.standard_normal(200)
    names = np.arange(200)
    together = bootstrap_means([before, after], rng, [names, names], 500)
    apart = bootstrap_means([before, after], rng, None, 500)
    assert np.std(together[:, 1] - together[:, 0]) < 0.02
    assert np.std(apart[:, 1] - apart[:, 0]) > 0.5


def test_bootstrap_means_survives_draws_that_miss_a_group() -> None:
    draws = bootstrap_means([[1.0], [2.0, 3.0]], np.random.default_rng(0), [["a"], ["b", "c"]], 300)
    assert np.isfinite(draws).all()
    assert (draws[:, 0] == 1).all()


def test_same_generator_state_same_interval() -> None:
    values = np.random.default_rng(0).standard_normal(50)
    one, two = (bootstrap(values, np.random.default_rng(9)) for _ in range(2))
    assert one == two
