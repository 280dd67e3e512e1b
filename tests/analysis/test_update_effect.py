"""The division of an MLP's change: updates that have one source only, and brute force over all orders."""

from dataclasses import replace
from itertools import permutations

import numpy as np
import pytest
import torch
from planted import draw, inside, outside

from deltaw.analysis import SOURCES, Effect, Mlp, effect_nulls, mlp_effect, null_minus_column
from deltaw.analysis.update_effect import gelu_tanh
from deltaw.errors import DeltawError

D, M, N = 8, 32, 12
BASE = Mlp(draw(0, M, D), draw(1, M), draw(2, D, M), draw(3, D))
A = draw(4, N, D)


def forward(mlp: Mlp, a: torch.Tensor) -> torch.Tensor:
    assert mlp.b is not None
    assert mlp.c is not None
    return gelu_tanh(a @ mlp.W.T + mlp.b) @ mlp.P.T + mlp.c


def only(effect: Effect, source: str) -> None:
    j = SOURCES.index(source)
    expected = np.zeros((N, 4))
    expected[:, j] = 1
    assert effect.share == pytest.approx(expected, abs=1e-9)
    assert effect.pooled_share == pytest.approx(expected[0], abs=1e-9)
    assert effect.norms[:, [i for i in range(4) if i != j]] == pytest.approx(0, abs=1e-9)


def test_one_source_gets_it_all() -> None:
    W = BASE.W
    only(mlp_effect(BASE, replace(BASE, W=W + 0.1 * outside(W, 5)), A, A), "null")
    only(mlp_effect(BASE, replace(BASE, W=W + 0.1 * inside(W, 6)), A, A), "column")
    assert BASE.b is not None
    only(mlp_effect(BASE, replace(BASE, b=BASE.b + 1), A, A), "rest")
    only(mlp_effect(BASE, replace(BASE, P=BASE.P + draw(7, D, M), c=None), A, A), "rest")
    only(mlp_effect(BASE, BASE, A, A + draw(8, N, D)), "inherited")


TUNED = Mlp(BASE.W + 0.3 * draw(10, M, D), draw(11, M), BASE.P + 0.2 * draw(12, D, M), draw(13, D))
A_TUNED = A + 0.3 * draw(14, N, D)


def test_parts_add_up_to_the_true_change() -> None:
    effect = mlp_effect(BASE, TUNED, A, A_TUNED)
    total = forward(TUNED, A_TUNED) - forward(BASE, A)
    assert torch.allclose(effect.total, total, atol=1e-12)
    assert torch.allclose(effect.parts.sum(1), total, atol=1e-12)
    assert effect.share.sum(1) == pytest.approx(np.ones(N))
    assert effect.pooled_share.sum() == pytest.approx(1)
    before = forward(BASE, A).norm(dim=1)
    assert effect.relative == pytest.approx((effect.parts.norm(dim=2) / before[:, None]).numpy())
    assert effect.total_relative == pytest.approx((total.norm(dim=1) / before).numpy())


def test_parts_are_the_mean_over_all_orders_of_arrival() -> None:
    q, _ = torch.linalg.qr(BASE.W)
    dW = TUNED.W - BASE.W
    column = q @ q.T @ dW

    def value(present: frozenset[int]) -> torch.Tensor:
        W = BASE.W + (dW - column) * (0 in present) + column * (1 in present)
        rest = TUNED if 2 in present else BASE
        return forward(replace(rest, W=W), A_TUNED if 3 in present else A)

    parts = torch.zeros(N, 4, D, dtype=torch.float64)
    for order in permutations(range(4)):
        for i, j in enumerate(order):
            parts[:, j] += (value(frozenset(order[: i + 1])) - value(frozenset(order[:i]))) / 24
    assert torch.allclose(mlp_effect(BASE, TUNED, A, A_TUNED).parts, parts, atol=1e-12)


def test_a_linear_mlp_divides_as_geometry_does() -> None:
    W, W2 = BASE.W, BASE.W + 0.1 * draw(20, M, D)
    linear = [Mlp(w, None, torch.eye(M, dtype=torch.float64), None) for w in (W, W2)]
    effect = mlp_effect(linear[0], linear[1], A, A, activation=lambda x: x)
    q, _ = torch.linalg.qr(W)
    change = A @ (W2 - W).T
    column = (change @ q).square().sum(1) / change.square().sum(1)
    assert effect.share[:, 1] == pytest.approx(column.numpy())
    assert effect.share[:, 0] == pytest.approx(1 - column.numpy())


def test_geometry_in_the_null_space_can_still_act_and_nothing_changed_is_nan() -> None:
    same = mlp_effect(BASE, BASE, A, A)
    assert np.isnan(same.share).all()
    assert same.total_relative == pytest.approx(0, abs=1e-12)


def test_null_covers_updates_with_fair_signs() -> None:
    outside_band = 0
    for seed in range(40):
        tuned = replace(BASE, W=BASE.W + 0.05 * draw(100 + seed, M, D))
        effect = mlp_effect(BASE, tuned, A, A)
        nulls = effect_nulls(BASE, tuned, A, A, np.random.default_rng(seed), draws=59)
        assert [null.kind for null in nulls] == ["row_sign_flip"] * 4
        outside_band += nulls[0].p_value(float(effect.pooled_share[0])) <= 0.05
    assert outside_band <= 7  # Binomial(40, 0.05): 2 expected, 99.9 % below 8


def test_null_minus_column_is_the_difference_of_pooled_shares_and_of_their_nulls() -> None:
    effect = mlp_effect(BASE, TUNED, A, A_TUNED)
    nulls = effect_nulls(BASE, TUNED, A, A_TUNED, np.random.default_rng(0), draws=9)
    found = null_minus_column(effect, np.random.default_rng(1), nulls, draws=200)
    assert found.value == pytest.approx(effect.pooled_share[0] - effect.pooled_share[1])
    assert found.draws.mean() == pytest.approx(found.value, abs=4 * found.draws.std())
    assert found.null is not None
    assert found.null.mean == pytest.approx(nulls[0].mean - nulls[1].mean)
    assert null_minus_column(effect, np.random.default_rng(1)).null is None


def test_null_is_exceeded_by_a_planted_update() -> None:
    for dW, j in ((outside(BASE.W, 5), 0), (inside(BASE.W, 6), 1)):
        tuned = replace(BASE, W=BASE.W + 0.05 * dW)
        effect = mlp_effect(BASE, tuned, A, A)
        nulls = effect_nulls(BASE, tuned, A, A, np.random.default_rng(0), draws=60)
        assert effect.pooled_share[j] > nulls[j].high


def test_mistakes_get_a_sentence() -> None:
    square = Mlp(draw(0, D, D), None, draw(1, D, D), None)
    with pytest.raises(DeltawError, match="left null space"):
        mlp_effect(square, square, A, A)
    with pytest.raises(DeltawError, match="a_tuned"):
        mlp_effect(BASE, TUNED, A, A[:3])
    with pytest.raises(DeltawError, match="did not change"):
        effect_nulls(BASE, BASE, A, A, np.random.default_rng(0), draws=3)
