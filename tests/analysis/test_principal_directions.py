"""Energy on the principal directions and their rotation, against numpy and planted updates."""

import numpy as np
import pytest
import torch
from torch import Tensor

from deltaw.analysis import Absent
from deltaw.analysis.principal_directions import (
    energy_share_nulls,
    energy_shares,
    principal,
    rotation_angle_nulls,
    rotation_angles,
)

K = 3


def draw(seed: int, *shape: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape))


def weights() -> Tensor:
    """Of a spectrum that decays, so that the strongest directions are well separated."""
    U, V = np.linalg.qr(draw(0, 40, 24).numpy())[0], np.linalg.qr(draw(1, 24, 24).numpy())[0]
    return torch.from_numpy(U @ np.diag(np.geomspace(10, 0.1, 24)) @ V.T)


def test_shares_are_numpys() -> None:
    W, d = weights(), draw(2, 40, 24)
    U, _, Vt = np.linalg.svd(W.numpy())
    left, right = U[:, :K], Vt[:K].T
    expected = {
        "left": np.sum((left.T @ d.numpy()) ** 2),
        "right": np.sum((d.numpy() @ right) ** 2),
        "both": np.sum((left.T @ d.numpy() @ right) ** 2),
    }
    shares = energy_shares(d, principal(W, K))
    assert not isinstance(shares, Absent)
    for side, value in expected.items():
        assert shares[side] == pytest.approx(value / np.sum(d.numpy() ** 2))


def test_planted_updates_lie_on_both_sides_of_the_null() -> None:
    W = weights()
    of = principal(W, K)
    on = of.left @ draw(3, K, K) @ of.right.T
    off = draw(4, 40, 24)
    off = off - of.left @ (of.left.T @ off)
    off = off - (off @ of.right) @ of.right.T
    for d, ends in ((on, 1.0), (off, 0.0)):
        shares, nulls = energy_shares(d, of), energy_share_nulls(d, K, np.random.default_rng(0))
        assert not isinstance(shares, Absent)
        for side, null in nulls.items():
            assert shares[side] == pytest.approx(ends, abs=1e-12)
            assert not null.low <= shares[side] <= null.high


def test_the_null_of_shares_is_that_of_updates_turned_whole() -> None:
    """Against uniform rotations of the update itself."""
    W, generator = weights(), np.random.default_rng(5)
    of, d = principal(W, K), draw(6, 40, 2) @ draw(7, 2, 24)
    nulls = energy_share_nulls(d, K, np.random.default_rng(0), draws=2000)
    turned = []
    for _ in range(600):
        turn, other = (np.linalg.qr(generator.standard_normal((side, side)))[0] for side in (40, 24))
        shares = energy_shares(torch.from_numpy(turn) @ d @ torch.from_numpy(other), of)
        assert not isinstance(shares, Absent)
        turned.append([shares[side] for side in nulls])
    for column, null in zip(np.array(turned).T, nulls.values(), strict=True):
        assert null.draws is not None
        assert np.mean(column) == pytest.approx(null.mean, rel=0.08)
        assert np.mean(null.draws) == pytest.approx(null.mean, rel=0.08)
        assert np.std(column) == pytest.approx(np.std(null.draws), rel=0.15)


def test_a_planted_rotation_is_its_angle_and_exceeds_random_updates_of_its_spectrum() -> None:
    W = weights()
    U, s, Vt = np.linalg.svd(W.numpy(), full_matrices=False)
    angle = np.radians(20)
    turned = Vt.copy()  # the third input direction is turned towards the fourth, and back
    turned[2], turned[3] = (
        np.cos(angle) * Vt[2] + np.sin(angle) * Vt[3],
        np.cos(angle) * Vt[3] - np.sin(angle) * Vt[2],
    )
    tuned = torch.from_numpy(U @ np.diag(s) @ turned)
    of = principal(W, K)
    angles = rotation_angles(of, tuned)
    assert angles["right"] == pytest.approx(20)
    assert angles["left"] == pytest.approx(0, abs=1e-5)
    nulls = rotation_angle_nulls(W, of, tuned - W, np.random.default_rng(0), draws=40)
    assert angles["left"] < nulls["left"].low
    assert nulls["right"].high < angles["right"]


def test_a_random_update_turns_as_its_null_does() -> None:
    W = weights()
    of = principal(W, K)
    inside = 0
    for seed in range(20):
        d = 0.05 * draw(100 + seed, 40, 24)
        null = rotation_angle_nulls(W, of, d, np.random.default_rng(seed), draws=40)["right"]
        inside += null.low <= rotation_angles(of, W + d)["right"] <= null.high
    assert inside >= 16
