"""The peak over layers: one planted layer is found and its size is right, noise has none, and clusters stay whole."""

import numpy as np
import pytest
import torch
from planted import draw

from deltaw.analysis import (
    BY_PAIR,
    Separation,
    pair_contributions,
    peaks_over_layers,
    read_peaks,
    separation,
    split_halves,
    split_peak,
)
from deltaw.errors import DeltawError
from deltaw.statistics import FloatArray

LAYERS, PAIRS = 5, 80


def noise(seed: int, clusters: int = PAIRS) -> tuple[FloatArray, FloatArray]:
    """(L, N) contributions without an effect, alike within clusters, and (N,) the cluster of each pair."""
    generator = np.random.default_rng(seed)
    ids = np.arange(PAIRS) % clusters
    shared = generator.standard_normal((LAYERS, clusters))[:, ids]
    return shared + 0.3 * generator.standard_normal((LAYERS, PAIRS)), ids.astype(np.float64)


def test_halves_hold_whole_clusters() -> None:
    ids = np.random.default_rng(0).integers(0, 11, 60)
    first = split_halves(60, np.random.default_rng(1), ids)
    assert set(ids[first]).isdisjoint(ids[~first])
    assert len(set(ids[first])) == 6
    assert split_halves(7, np.random.default_rng(1)).sum() == 4
    with pytest.raises(DeltawError, match="1 independent pairs"):
        split_halves(5, np.random.default_rng(0), np.zeros(5))


@pytest.mark.parametrize("direction", ["greater", "less"])
def test_a_layer_is_chosen_on_one_half_and_read_on_the_other(direction: str) -> None:
    """Against the definition, written out."""
    values = np.random.default_rng(3).standard_normal((LAYERS, 20))
    halves = split_halves(20, np.random.default_rng(4))
    best = np.argmax if direction == "greater" else np.argmin
    first, second = values[:, halves].mean(1), values[:, ~halves].mean(1)
    chosen = int(best(first)), int(best(second))
    peak = split_peak(values, halves, np.random.default_rng(5), direction=direction)  # type: ignore[arg-type]
    assert peak.layers == chosen
    assert peak.value == pytest.approx((second[chosen[0]] + first[chosen[1]]) / 2)
    assert peak.depth == pytest.approx(sum(chosen) / 2 / (LAYERS - 1))


def test_an_effect_in_one_layer_is_found_and_its_size_is_right() -> None:
    sizes, depths = [], []
    for seed in range(60):
        values, _ = noise(seed)
        values[3] += 1.5
        peak = split_peak(values, split_halves(PAIRS, np.random.default_rng(seed)), np.random.default_rng(seed))
        assert peak.null is not None
        assert peak.value > peak.null.high
        assert peak.depth_interval.low <= peak.depth <= peak.depth_interval.high
        sizes.append(peak.value)
        depths.append(peak.layers)
    assert set(depths) == {(3, 3)}
    assert np.mean(sizes) == pytest.approx(1.5, abs=0.05)


@pytest.mark.parametrize("clusters", [PAIRS, 16])
def test_noise_has_no_peak(clusters: int) -> None:
    """Its mean is zero and its false-positive rate near 0.025, where the plain maximum is far above zero."""
    values, beyond, covered, plain = [], [], [], []
    for seed in range(400):
        table, ids = noise(seed, clusters)
        halves = split_halves(PAIRS, np.random.default_rng([seed, 1]), ids)
        peak = split_peak(table, halves, np.random.default_rng([seed, 2]), clusters=ids, null_draws=199, draws=200)
        assert peak.null is not None
        values.append(peak.value)
        beyond.append(peak.value > peak.null.high)
        covered.append(peak.interval.low <= 0 <= peak.interval.high)
        plain.append(table.mean(1).max())
    error = np.std(values) / 20
    assert abs(np.mean(values)) < 3 * error
    assert np.mean(plain) > 10 * error
    assert 0.005 < np.mean(beyond) < 0.055
    assert np.mean(covered) > 0.88


def test_pairs_of_a_cluster_that_are_taken_for_independent_are_found_too_often() -> None:
    rates = []
    for clustered in (False, True):
        beyond = []
        for seed in range(150):
            table, ids = noise(seed, 8)
            together = ids if clustered else None
            halves = split_halves(PAIRS, np.random.default_rng([seed, 1]), together)
            peak = split_peak(table, halves, np.random.default_rng([seed, 2]), clusters=together, draws=2)
            assert peak.null is not None
            beyond.append(peak.value > peak.null.high)
        rates.append(np.mean(beyond))
    assert rates[0] > 0.3  # a layer that is high for the same clusters in both halves is no discovery of the second
    assert rates[1] < 0.06


def test_scale_and_sign() -> None:
    values, ids = noise(1, 16)
    halves = split_halves(PAIRS, np.random.default_rng(0), ids)

    def peak(table: FloatArray, direction: str = "greater") -> list[float]:
        found = split_peak(table, halves, np.random.default_rng(2), clusters=ids, direction=direction)  # type: ignore[arg-type]
        assert found.null is not None
        return [found.value, found.interval.low, found.interval.high, found.null.low, found.null.high]

    plain = np.array(peak(values))
    assert np.array(peak(7 * values)) == pytest.approx(7 * plain)
    turned = np.array(peak(-values, "less"))
    assert turned == pytest.approx(-plain[[0, 2, 1, 4, 3]])


def test_what_cannot_be_split_is_said() -> None:
    with pytest.raises(DeltawError, match="one half"):
        split_peak(np.ones((2, 4)), np.ones(4, dtype=np.bool_), np.random.default_rng(0))
    with pytest.raises(DeltawError, match="expected finite numbers"):
        split_peak(np.ones((2, 5)), np.ones(4, dtype=np.bool_), np.random.default_rng(0))


def both(
    seed: int, distances: tuple[float, float], halves: FloatArray, count: int = 60
) -> tuple[Separation, Separation]:
    """(base, tuned) separations of one layer, of clusters so far apart."""
    found = []
    for model, distance in enumerate(distances):
        a, f = draw(2 * seed + 1000 * model, count, 8), draw(2 * seed + 1 + 1000 * model, count, 8)
        a[:, 0] += distance
        found.append(
            separation(
                a,
                f,
                np.random.default_rng(9),
                paired=True,
                null_draws=59,
                bootstrap_draws=20,
                halves=halves.astype(np.bool_),
            )
        )
    return found[0], found[1]


def test_what_pairs_contribute_has_the_statistic_as_its_mean_and_so_have_halves_under_every_labelling() -> None:
    halves = split_halves(60, np.random.default_rng(0))
    for at in both(3, (0.5, 2.0), halves.astype(np.float64)):
        contributions = pair_contributions(at)
        for name in BY_PAIR:
            assert contributions[name].mean() == pytest.approx(at.values[name])
            draws = at.nulls[name].draws
            assert draws is not None
            assert at.half_draws[name].mean(1) == pytest.approx(draws)
            assert not np.allclose(at.half_draws[name][:, 0], draws)


def test_half_draws_are_those_of_the_rows_of_a_half() -> None:
    """The identical labelling, written as a permutation that swaps nothing, gives the pairs' own contributions."""
    from deltaw.analysis.clusters import _by_half, _ranks

    halves = split_halves(60, np.random.default_rng(0))
    at = both(3, (0.5, 2.0), halves.astype(np.float64))[1]
    projection = torch.from_numpy(np.concatenate([at.allowed[:, 0], at.forbidden[:, 0]]))[None]
    relative = torch.from_numpy(np.concatenate([at.allowed[:, 2], at.forbidden[:, 2]]))[None]
    labels = torch.cat([torch.ones(60), torch.zeros(60)]).double()[None]
    sides = np.stack([halves, ~halves], axis=1)
    weights = torch.from_numpy(np.tile(sides / sides.sum(0), (2, 1)))
    order, _ = _ranks(projection.numpy())
    by_half = _by_half(projection, relative, labels, order, weights)
    for name, values in pair_contributions(at).items():
        assert by_half[name][0] == pytest.approx([values[halves].mean(), values[~halves].mean()])


def test_the_layer_in_which_clusters_move_apart_is_found() -> None:
    halves = split_halves(60, np.random.default_rng(0))
    layers = [both(seed, (0.2, 2.5 if seed == 1 else 0.2), halves.astype(np.float64)) for seed in range(4)]
    peaks = peaks_over_layers(layers, halves, lambda: np.random.default_rng(1), 100)
    assert peaks.keys() == set(BY_PAIR)
    base, tuned = layers[1]
    for name, peak in peaks.items():
        assert peak.layers == (1, 1)
        assert peak.null is not None
        assert peak.null.kind == "label_permutation"
        assert peak.value > peak.null.high
        assert peak.value == pytest.approx(tuned.values[name] - base.values[name], rel=0.05)
        shifts = np.array([after.half_draws[name] - before.half_draws[name] for before, after in layers])
        by_hand = [read_peaks(shifts[:, row, :1].T, shifts[:, row, 1:].T)[0][0] for row in range(59)]
        assert peak.null.draws == pytest.approx(by_hand)
