"""Firth's regression against its formula, on separated data, and its intervals on simulated clusters."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize
from scipy.special import expit, log_expit

from deltaw.errors import DeltawError
from deltaw.statistics import bootstrap_coefficients, firth_logistic, permuted_coefficients


def simulated(
    seed: int, clusters: int, rows: int, slope: float, spread: float, of_cluster: float = 0.0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(X, y, ids): an intercept and a predictor, half of whose variance may be the cluster's, and random intercepts."""
    generator = np.random.default_rng(seed)
    ids = np.repeat(np.arange(clusters), rows)
    x = np.sqrt(1 - of_cluster) * generator.standard_normal(clusters * rows)
    x += np.sqrt(of_cluster) * generator.standard_normal(clusters)[ids]
    eta = slope * x - 0.3 + spread * generator.standard_normal(clusters)[ids]
    y = (generator.random(len(x)) < expit(eta)).astype(float)
    return np.column_stack([x, np.ones_like(x)]), y, ids


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(8, 60), st.floats(-2, 2))
def test_it_maximises_the_penalised_likelihood(seed: int, n: int, slope: float) -> None:
    x, y, _ = simulated(seed, n, 1, slope, 0.0)

    def loss(beta: np.ndarray) -> float:
        eta = x @ beta
        weight = expit(eta) * expit(-eta)
        _, logdet = np.linalg.slogdet((x * weight[:, None]).T @ x)
        return -float((y * log_expit(eta) + (1 - y) * log_expit(-eta)).sum() + logdet / 2)

    known = optimize.minimize(loss, np.zeros(2), method="Nelder-Mead", options={"xatol": 1e-9, "fatol": 1e-12}).x
    assert firth_logistic(x, y).coefficients == pytest.approx(known, abs=1e-4)


def test_separated_data_have_a_finite_slope_and_a_wide_interval() -> None:
    x = np.linspace(-1, 1, 20)
    fit = firth_logistic(np.column_stack([x, np.ones(20)]), (x > 0).astype(float), [np.arange(20) // 2])
    assert 1 < fit.coefficients[0] < 50
    assert fit.robust[0, 0] < fit.independent[0, 0]  # residuals vanish, which is no reason to be sure
    assert fit.interval(0).width > fit.coefficients[0]
    nobody = firth_logistic(np.column_stack([x, np.ones(20)]), np.zeros(20))
    assert np.isfinite(nobody.coefficients).all()
    assert 0.0 in nobody.interval(0)


def test_a_two_by_two_table_has_the_known_answer() -> None:
    """Of a saturated table, Firth's estimate is the log odds ratio with half added to each cell."""
    a, b, c, d = 3, 9, 7, 1
    x = np.repeat([1.0, 1.0, 0.0, 0.0], [a, b, c, d])
    y = np.repeat([1.0, 0.0, 1.0, 0.0], [a, b, c, d])
    slope = firth_logistic(np.column_stack([x, np.ones_like(x)]), y).coefficients[0]
    assert slope == pytest.approx(np.log((a + 0.5) * (d + 0.5) / ((b + 0.5) * (c + 0.5))))


def test_it_has_less_bias_than_likelihood_in_small_samples() -> None:
    slopes = [firth_logistic(*simulated(seed, 30, 1, 1.0, 0.0)[:2]).coefficients[0] for seed in range(600)]
    assert np.mean(slopes) == pytest.approx(1.0, abs=4 * np.std(slopes) / np.sqrt(600))


@pytest.mark.parametrize("clusters", [40, 120])
def test_robust_intervals_cover_where_independent_ones_do_not(clusters: int) -> None:
    """The slope of a mixed model is not that of its margin, so the truth is 0: a slope that is not there."""
    hits = naive = 0
    runs = 300
    for seed in range(runs):
        x, y, ids = simulated(seed, clusters, 8, 0.0, 1.5, of_cluster=0.9)
        fit = firth_logistic(x, y, [ids])
        hits += 0.0 in fit.interval(0)
        naive += 0.0 in firth_logistic(x, y).interval(0)
    assert hits / runs > 0.92
    assert naive / runs < 0.85


def test_two_clusterings_add_up_and_a_nested_one_changes_nothing() -> None:
    x, y, prompts = simulated(3, 60, 5, 0.5, 1.0)
    seeds = prompts // 10
    of_seeds = firth_logistic(x, y, [seeds])
    nested = firth_logistic(x, y, [prompts, seeds])
    assert nested.robust == pytest.approx(of_seeds.robust)
    assert nested.degrees == of_seeds.degrees == 5
    crossed = np.tile(np.arange(5), 60)
    both, alone, other = (firth_logistic(x, y, ids).robust for ids in ([prompts, crossed], [prompts], [crossed]))
    each = firth_logistic(x, y, [np.arange(len(y))]).robust
    assert both == pytest.approx(alone + other - each)


def test_the_bootstrap_agrees_with_the_sandwich() -> None:
    x, y, ids = simulated(5, 80, 6, 0.8, 1.0, of_cluster=0.5)
    fit = firth_logistic(x, y, [ids])
    draws = bootstrap_coefficients(x, y, np.random.default_rng(0), ids, draws=400)
    assert draws.std(0, ddof=1) == pytest.approx(np.sqrt(np.diagonal(fit.robust)), rel=0.2)


def test_permuting_within_strata_takes_away_what_is_within_and_keeps_what_is_between() -> None:
    generator = np.random.default_rng(0)
    strata = np.repeat([0, 1], 200)
    dose = strata + 0.1 * generator.standard_normal(400)
    y = (generator.random(400) < np.where(strata == 1, 0.9, 0.1)).astype(float)
    pooled = np.column_stack([dose, np.ones(400)])
    within = np.column_stack([dose, strata == 0, strata == 1])
    by_strata = permuted_coefficients(pooled, y, np.random.default_rng(1), strata, draws=30)[:, 0]
    assert by_strata.min() > 2  # the strata differ whatever is done inside them
    assert abs(permuted_coefficients(within, y, np.random.default_rng(1), strata, draws=100)[:, 0].mean()) < 1
    assert abs(permuted_coefficients(pooled, y, np.random.default_rng(1), np.zeros(400), draws=100)[:, 0].mean()) < 0.2


@pytest.mark.parametrize(
    ("x", "y", "part"),
    [
        (np.ones((4, 2)), [0, 1, 0, 1], "depend on each other"),
        (np.ones((4, 1)), [0, 1, 0, 2], "0 or 1"),
        (np.ones((3, 1)), [0, 1, 0, 1], "a row an outcome"),
    ],
)
def test_a_mistake_is_a_sentence(x: np.ndarray, y: list[int], part: str) -> None:
    with pytest.raises(DeltawError, match=part):
        firth_logistic(x, y)
    with pytest.raises(DeltawError, match="one name per row"):
        firth_logistic(np.ones((4, 1)), [0, 1, 0, 1], [[1, 2, 3]])


def test_one_cluster_says_nothing() -> None:
    fit = firth_logistic(np.ones((6, 1)), [0, 1, 0, 1, 1, 0], [np.zeros(6)])
    assert fit.interval(0).width == np.inf
