"""Observation 3 on planted updates and anisotropic activations."""

import numpy as np
import pytest
import torch
from planted import anisotropic, draw, of_rank

from deltaw.analysis import gain, matched_null, row_contrast, row_energy, top_right
from deltaw.errors import DeltawError

D, M = 32, 128


def test_row_energy_of_planted_inputs() -> None:
    dW = of_rank(M, D, 4, 0)
    V = top_right(dW, 4)
    assert torch.allclose(V.T @ V, torch.eye(4, dtype=V.dtype), atol=1e-12)
    within = draw(2, 10, 4) @ V.T
    without = draw(3, 10, D) @ (torch.eye(D, dtype=V.dtype) - V @ V.T)
    assert row_energy(within, V) == pytest.approx(np.ones(10))
    assert row_energy(without, V) == pytest.approx(np.zeros(10), abs=1e-12)
    assert row_energy(draw(4, 5000, D), V).mean() == pytest.approx(4 / D, abs=0.005)
    with pytest.raises(DeltawError, match="rank 4"):
        top_right(dW, 5)
    with pytest.raises(DeltawError, match="zero"):
        row_energy(torch.zeros(3, D), V)


def test_gain_by_hand() -> None:
    A, dW, W = draw(0, 7, D), draw(1, M, D), draw(2, M, D)
    db, b = draw(3, M), draw(4, M)
    found = gain(A.float(), dW, db, W, b)
    for i in range(7):
        a = A[i].float().double()
        change = (dW @ a + db).norm()
        assert found.to_input[i] == pytest.approx(float(change / a.norm()))
        assert found.relative[i] == pytest.approx(float(change / (W @ a + b).norm()))


def test_bias_changes_count() -> None:
    A, W, zero = draw(0, 7, D), draw(2, M, D), torch.zeros(M, D)
    assert gain(A, zero, None, W, None).to_input == pytest.approx(np.zeros(7))
    assert (gain(A, zero, draw(3, M), W, None).to_input > 0).all()
    with pytest.raises(DeltawError, match="db"):
        gain(A, zero, torch.ones(D), W, None)


def test_squared_gain_is_the_energy_weighted_by_singular_values() -> None:
    A, dW = draw(0, 9, D), draw(1, M, D)
    s = torch.linalg.svdvals(dW)
    by_direction = np.stack([row_energy(A, top_right(dW, k)) for k in range(1, D + 1)])
    single = np.diff(by_direction, axis=0, prepend=0)
    squared = (single * (s.numpy()[:, None] ** 2)).sum(0)
    assert gain(A, dW, None, draw(2, M, D), None).to_input ** 2 == pytest.approx(squared)


def test_contrast_finds_an_update_made_of_forbidden_inputs() -> None:
    allowed, forbidden = anisotropic(300, D, 0, common=0), anisotropic(300, D, 1, common=0)
    forbidden[:, 7] += 1.0
    direction = torch.zeros(D, dtype=torch.float64)
    direction[7] = 1
    dW = torch.outer(draw(2, M), direction) * 10 + 0.1 * draw(3, M, D)
    result = row_contrast(forbidden, allowed, dW, 1, np.random.default_rng(0))
    assert result.value > 0.15
    assert result.value in result.interval
    assert len(result.forbidden) == len(result.allowed) == 300
    assert {null.kind for null in result.nulls} == {"m_matched", "m_matched_centred"}
    assert all(result.value > null.high for null in result.nulls)
    swapped = row_contrast(allowed, forbidden, dW, 1, np.random.default_rng(0))
    assert swapped.value == pytest.approx(-result.value)


def test_matched_null_is_what_drawing_from_the_mixture_gives() -> None:
    allowed, forbidden = anisotropic(200, D, 0), anisotropic(40, D, 1, common=1.0)
    null = matched_null(forbidden, allowed, (forbidden, allowed), 3, np.random.default_rng(0), draws=2000)
    # The same by its words: normal sums of activations, a class weighing 1/2 whatever its size.
    rng, values = np.random.default_rng(1), []
    rows = torch.cat([forbidden / (2 * 40) ** 0.5, allowed / (2 * 200) ** 0.5])
    for _ in range(1000):
        span = torch.from_numpy(rng.standard_normal((3, 240))) @ rows
        V, _ = torch.linalg.qr(span.T)
        values.append(row_energy(forbidden, V).mean() - row_energy(allowed, V).mean())
    assert null.draws is not None
    error = 4 * np.std(values) / 1000**0.5
    assert null.mean == pytest.approx(np.mean(values), abs=error)
    assert null.draws.std() == pytest.approx(np.std(values), rel=0.15)


def test_anisotropy_makes_k_over_n_the_wrong_chance() -> None:
    allowed, forbidden = anisotropic(300, D, 0), anisotropic(300, D, 1)
    row = allowed[:8].mean(0)
    dW = torch.outer(draw(2, M), row)
    result = row_contrast(forbidden, allowed, dW, 1, np.random.default_rng(0))
    assert result.forbidden.mean() > 10 * result.isotropic
    assert all(result.value in null for null in result.nulls[:1])


@pytest.mark.parametrize("centred", [False, True])
def test_true_null_is_rejected_at_its_level(centred: bool) -> None:
    allowed, forbidden = anisotropic(150, D, 0), anisotropic(150, D, 1, common=2.0)
    rng = np.random.default_rng(0)
    null = matched_null(forbidden, allowed, (forbidden, allowed), 2, rng, centred=centred, draws=1000)
    middle = (forbidden.mean(0) + allowed.mean(0)) / 2 if centred else 0
    rows = torch.cat([forbidden - middle, allowed - middle])
    rejected = 0
    for _ in range(300):  # updates whose row space is a mixture of all inputs, forbidden or not
        dW = draw(int(rng.integers(1 << 30)), M, 2) @ torch.from_numpy(rng.standard_normal((2, 300))) @ rows
        V = top_right(dW, 2)
        value = float(row_energy(forbidden, V).mean() - row_energy(allowed, V).mean())
        rejected += null.p_value(value) <= 0.05
    assert 4 <= rejected <= 30  # Binomial(300, 0.05): 99.9 % within 4 .. 29


def test_null_needs_as_many_directions_as_it_has_dimensions() -> None:
    few = draw(0, 2, D)
    with pytest.raises(DeltawError, match="more prompts or a smaller k"):
        matched_null(few, few, (few, few), 3, np.random.default_rng(0))


def test_interval_respects_clusters() -> None:
    base = draw(0, 20, D)
    repeated = base.repeat_interleave(10, 0) + 0.01 * draw(1, 200, D)
    other, dW = draw(2, 200, D), draw(3, M, D)
    names = (np.repeat(np.arange(20.0), 10), 100 + np.arange(200.0))
    loose = row_contrast(repeated, other, dW, 4, np.random.default_rng(0), draws=10)
    honest = row_contrast(repeated, other, dW, 4, np.random.default_rng(0), clusters=names, draws=10)
    assert honest.interval.width > 1.5 * loose.interval.width
