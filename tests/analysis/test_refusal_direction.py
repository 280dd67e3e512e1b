"""The share of a difference in means in a span: planted angles, no bias from noise, nulls that mean what they say."""

import numpy as np
import pytest
import torch
from planted import draw, orthogonal

from deltaw.analysis import Absent, DirectionShare, direction_share
from deltaw.errors import DeltawError
from deltaw.statistics import Null

WIDTH, K = 40, 4
AXES = orthogonal(WIDTH, 0)
BASIS = AXES[:, :K]


def pairs(n: int, degrees: float, length: float, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(forbidden, allowed): unit noise about means whose difference makes an angle with the span of BASIS."""
    angle = np.radians(degrees)
    delta = length * (np.cos(angle) * AXES[:, 1] + np.sin(angle) * AXES[:, K + 3])
    return draw(2 * seed, n, WIDTH) + delta, draw(2 * seed + 1, n, WIDTH)


def share(n: int, degrees: float, length: float, seed: int = 0) -> DirectionShare:
    found = direction_share(*pairs(n, degrees, length, seed), BASIS, np.random.default_rng(seed))
    assert isinstance(found, DirectionShare)
    return found


@pytest.mark.parametrize("degrees", [0.0, 30.0, 60.0, 90.0])
def test_a_planted_angle_is_found(degrees: float) -> None:
    found = share(4000, degrees, 3.0)
    assert found.share == pytest.approx(np.cos(np.radians(degrees)) ** 2, abs=0.02)
    if degrees < 85:
        assert found.angle == pytest.approx(degrees, abs=6)


def test_noise_does_not_draw_the_share_away() -> None:
    """20 pairs of a difference that is weak beside its noise: the plugged-in share is off, the other is not."""
    found = [share(20, 0.0, 4.0, seed) for seed in range(150)]
    shares = np.array([one.share for one in found])
    assert shares.mean() == pytest.approx(1.0, abs=0.03)
    assert np.mean([one.plugged_in for one in found]) < 0.87
    assert np.mean([1.0 in one.interval for one in found]) > 0.85


def test_it_is_the_mean_over_all_ways_to_halve() -> None:
    forbidden, allowed = pairs(6, 40.0, 5.0, 3)
    d = (forbidden - allowed).numpy()
    inside, whole = [], []
    for number in range(1 << 6):
        half = np.array([number >> row & 1 for row in range(6)], dtype=bool)
        if half.sum() == 3:
            one, other = d[half].mean(0), d[~half].mean(0)
            inside.append(one @ (BASIS @ BASIS.T).numpy() @ other)
            whole.append(one @ other)
    found = direction_share(forbidden, allowed, BASIS, np.random.default_rng(0))
    assert isinstance(found, DirectionShare)
    assert found.share == pytest.approx(np.mean(inside) / np.mean(whole))
    kept = [0, 1, 3, 4, 5]
    without = direction_share(forbidden[kept], allowed[kept], BASIS, np.random.default_rng(0))
    if isinstance(without, DirectionShare):
        assert found.left_out[2] == pytest.approx(without.share)


def test_an_unrelated_direction_is_within_its_nulls_and_noise_along_the_span_is_in_one_only() -> None:
    inside = 0
    nulls: list[Null] = []
    for seed in range(60):
        delta = 3 * torch.nn.functional.normalize(draw(900 + seed, WIDTH), dim=0)
        forbidden, allowed = draw(2 * seed, 300, WIDTH) + delta, draw(2 * seed + 1, 300, WIDTH)
        found = direction_share(forbidden, allowed, BASIS, np.random.default_rng(seed))
        assert isinstance(found, DirectionShare)
        nulls = list(found.nulls)
        inside += found.share in nulls[1]
    assert inside > 50
    assert nulls[1].mean == K / WIDTH
    along = 5 * draw(1, 300, K) @ BASIS.T
    found = direction_share(forbidden + along, allowed, BASIS, np.random.default_rng(0))
    assert isinstance(found, DirectionShare)
    assert found.nulls[0].mean > 0.5 > found.nulls[1].high


def test_without_a_difference_there_is_no_direction() -> None:
    found = direction_share(draw(0, 50, WIDTH), draw(1, 50, WIDTH), BASIS, np.random.default_rng(0))
    assert isinstance(found, Absent)
    with pytest.raises(DeltawError, match="at least 3"):
        direction_share(draw(0, 2, WIDTH), draw(1, 2, WIDTH), BASIS, np.random.default_rng(0))
