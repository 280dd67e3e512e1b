"""Observation 1 on Gaussian clusters of known distance, on no clusters at all, and on matched pairs."""

from typing import Any

import numpy as np
import pytest
import torch
from planted import clusters, draw
from scipy import stats

from deltaw.analysis import Separation, difference_of_differences, separation
from deltaw.analysis.clusters import CROSS_FITTED, WHOLE
from deltaw.analysis.crossfit import cross_fit, deal
from deltaw.errors import DeltawError
from deltaw.statistics import auroc, d_prime


def run(a: torch.Tensor, f: torch.Tensor, seed: int = 0, *, paired: bool = False, null_draws: int = 50) -> Separation:
    return separation(a, f, np.random.default_rng(seed), paired=paired, null_draws=null_draws, bootstrap_draws=200)


def test_known_distance_is_recovered() -> None:
    a, f = clusters(2000, 8, 2.0, 0)
    found = run(a, f)
    assert found.values["d_prime"] == pytest.approx(2, abs=0.1)
    assert found.values["auroc"] == pytest.approx(stats.norm.cdf(2**0.5), abs=0.01)
    assert found.values["nearest_mean_accuracy"] == pytest.approx(stats.norm.cdf(1), abs=0.01)
    assert found.values["delta_norm"] == pytest.approx(2, abs=0.1)
    assert found.values["fisher_ratio"] == pytest.approx(4 / 8, abs=0.04)
    assert found.radius == pytest.approx(8**0.5, abs=0.05)
    assert found.values["tau_gap_relative"] == pytest.approx(found.values["tau_gap"] / 2, rel=0.05)
    for name in CROSS_FITTED:
        assert found.values[name] in found.intervals[name]
        assert found.values[name] > found.nulls[name].high
        assert found.nulls[name].p_value(found.values[name], "greater") == pytest.approx(1 / 51)


def test_values_are_those_of_the_returned_scores() -> None:
    a, f = clusters(150, 6, 1.0, 3)
    found = run(a, f[:90])
    assert found.values["d_prime"] == pytest.approx(d_prime(found.allowed[:, 0], found.forbidden[:, 0]))
    assert found.values["auroc"] == pytest.approx(auroc(found.allowed[:, 0], found.forbidden[:, 0]))
    assert found.values["tau_gap"] == pytest.approx(found.allowed[:, 1].mean() - found.forbidden[:, 1].mean())
    assert (np.abs(found.allowed[:, 2]) <= 1 + 1e-9).all()  # |τ| ≤ ‖μ_S − μ_U‖


def test_scores_are_those_of_a_loop_over_samples() -> None:
    a, f = clusters(20, 5, 1.0, 0)
    a, f = a + 100, f + 100  # a large common mean must not cost digits
    found = run(a, f[:17])
    fold_a, fold_f = found.folds[:20], found.folds[20:]
    for i in range(20):
        mu_s = a[torch.from_numpy(fold_a != fold_a[i])].mean(0)
        mu_u = f[:17][torch.from_numpy(fold_f != fold_a[i])].mean(0)
        delta = mu_s - mu_u
        tau = (a[i] - mu_u).norm() - (a[i] - mu_s).norm()
        expected = [
            float((a[i] - (mu_s + mu_u) / 2) @ delta / delta.norm()),
            float(tau),
            float(tau / delta.norm()),
        ]
        assert found.allowed[i] == pytest.approx(expected, abs=1e-9)


def test_scale_moves_tau_and_nothing_relative() -> None:
    a, f = clusters(60, 6, 1.0, 0)
    one, forty = run(a, f), run(40 * a, 40 * f)
    assert forty.values["tau_gap"] == pytest.approx(40 * one.values["tau_gap"])
    for name in ("d_prime", "auroc", "tau_gap_relative", "nearest_mean_accuracy", "fisher_ratio"):
        assert forty.values[name] == pytest.approx(one.values[name])


def test_in_sample_means_would_see_clusters_where_there_are_none() -> None:
    """Why cross-fitting: the in-sample gap of τ is about 2 √(tr Σ) / n, the held-out one 0."""
    n, width, inside, held = 16, 64, [], []
    for seed in range(100):
        x = draw(seed, 2 * n, width)
        labels = torch.cat([torch.ones(n), torch.zeros(n)]).double()[None]
        mu_s, mu_u = x[:n].mean(0), x[n:].mean(0)
        tau = (x - mu_u).norm(dim=1) - (x - mu_s).norm(dim=1)
        inside.append(float(tau[:n].mean() - tau[n:].mean()))
        fold = np.concatenate(deal([np.arange(n), n + np.arange(n)], 5, np.random.default_rng(seed)))
        scores = cross_fit(x, labels, fold)
        held.append(float(scores.tau[0, :n].mean() - scores.tau[0, n:].mean()))
    assert np.mean(inside) == pytest.approx(2 * width**0.5 / n, rel=0.1)
    assert abs(np.mean(held)) < 4 * np.std(held) / 10


@pytest.mark.parametrize("paired", [False, True])
def test_true_null_is_rejected_at_its_level(paired: bool) -> None:
    hits = dict.fromkeys(CROSS_FITTED + WHOLE, 0)
    generator = np.random.default_rng(0)
    for seed in range(300):
        a, f = clusters(20, 30, 0.0, 10_000 + 7 * seed)
        if paired:
            shared = 3 * draw(50_000 + seed, 20, 30)
            a, f = a + shared, f + shared
        found = separation(a, f, generator, paired=paired, null_draws=99, bootstrap_draws=2)
        for name in hits:
            hits[name] += found.nulls[name].p_value(found.values[name], "greater") <= 0.05
    # Binomial(300, 0.05): 15 expected, 99.9 % within 4 .. 29.
    assert all(4 <= count <= 30 for count in hits.values()), hits


def test_pairs_stay_in_one_fold_and_show_what_pooling_hides() -> None:
    shared = 5 * draw(0, 100, 10)
    a, f = shared + draw(1, 100, 10), shared + draw(2, 100, 10)
    a[:, 0] += 1.5
    found = run(a, f, paired=True, null_draws=200)
    assert (found.folds[:100] == found.folds[100:]).all()
    pooled = run(a, f, null_draws=200)
    assert found.values["tau_gap"] > found.nulls["tau_gap"].high
    paired_null, loose_null = found.nulls["tau_gap"], pooled.nulls["tau_gap"]
    assert paired_null.high - paired_null.low < (loose_null.high - loose_null.low) / 2
    assert found.intervals["tau_gap"].width < pooled.intervals["tau_gap"].width / 2


def test_ids_share_a_fold() -> None:
    names = np.repeat(np.arange(10), 4)
    a, f = clusters(40, 5, 1.0, 0)
    found = separation(a, f, np.random.default_rng(0), ids=(names, names), null_draws=10)
    assert (found.ids[0] == names).all()
    both = np.concatenate([names, names])
    assert all(len(set(found.folds[both == name])) == 1 for name in range(10))
    assert set(found.folds) == set(range(5))


def test_difference_of_differences_finds_what_tuning_added() -> None:
    a, f = clusters(400, 10, 1.0, 0)
    moved = a.clone()
    moved[:, 0] += 1.0
    base, tuned, again = run(a, f, 5), run(moved, f, 5), run(a, f, 5)
    found = difference_of_differences(base, tuned, np.random.default_rng(0))
    assert set(found) == set(CROSS_FITTED)
    d = found["d_prime"]
    assert d.value == pytest.approx(1, abs=0.15)
    assert d.value == pytest.approx(d.tuned - d.base)
    assert d.value in d.interval
    assert d.interval.low > 0
    assert d.null is not None
    assert d.value > d.null.high
    same = difference_of_differences(base, again, np.random.default_rng(0))["d_prime"]
    assert (same.value, same.interval.width) == (0, 0)


def test_intervals_cover_their_truth() -> None:
    """One model's d′ is known; two draws of noise on the same prompts differ by 0."""
    inside, rng = dict.fromkeys(("known", *CROSS_FITTED), 0), np.random.default_rng(0)
    for seed in range(120):
        a, f = clusters(100, 4, 2.0, 20_000 + 11 * seed)
        inside["known"] += 2.0 in run(a, f, seed, null_draws=0).intervals["d_prime"]
        models = []
        for shift in (0, 500_000):
            noise_a, noise_f = clusters(100, 4, 0.0, 90_000 + 11 * seed + shift)
            models.append(run(a + 0.5 * noise_a, f + 0.5 * noise_f, seed, null_draws=0))
        for name, result in difference_of_differences(models[0], models[1], rng, draws=200).items():
            inside[name] += 0 in result.interval
    # Binomial(120, 0.95): 114 expected, 99.9 % within 105 .. 120; the bootstrap falls 1 to 2 % short.
    assert all(104 <= count <= 119 for count in inside.values()), inside


def test_difference_needs_the_same_prompts_and_folds() -> None:
    a, f = clusters(40, 5, 1.0, 0)
    with pytest.raises(DeltawError, match="generators in the same state"):
        difference_of_differences(run(a, f, 0), run(a, f, 1), np.random.default_rng(0))


def test_same_generator_same_result() -> None:
    a, f = clusters(40, 5, 1.0, 0)
    one, two = run(a, f, 3), run(a, f, 3)
    assert dict(one.values) == dict(two.values)
    assert dict(one.intervals) == dict(two.intervals)
    assert (one.folds == two.folds).all()


def test_mistakes_get_a_sentence() -> None:
    a, f = clusters(40, 5, 1.0, 0)
    with pytest.raises(DeltawError, match="fewer folds"):
        run(a[:3], f)
    with pytest.raises(DeltawError, match="paired"):
        run(a, f[:30], paired=True)
    with pytest.raises(DeltawError, match="columns"):
        run(a, f[:, :3])


def test_pairs_of_one_group_swap_together() -> None:
    """Four copies of every pair add nothing: by name the band of the null stays as it was, without names it shrinks."""
    a, f = clusters(40, 12, 1.0, 0)
    names, rows = np.array([f"operand {number}" for number in range(40)]), np.arange(40).repeat(4)

    def width(a: torch.Tensor, f: torch.Tensor, ids: np.ndarray[Any, Any] | None) -> float:
        both = None if ids is None else (ids, ids)
        generator = np.random.default_rng(0)
        null = separation(a, f, generator, paired=True, ids=both, null_draws=400, bootstrap_draws=2).nulls["tau_gap"]
        return null.high - null.low

    once, copies = width(a, f, names), (a.repeat_interleave(4, 0), f.repeat_interleave(4, 0))
    assert width(*copies, names[rows]) == pytest.approx(once, rel=0.25)
    assert width(*copies, None) < 0.8 * once
