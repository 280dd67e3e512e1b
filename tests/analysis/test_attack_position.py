"""Observation 5 on attacked prompts planted at a known place between two clusters."""

from typing import Any

import numpy as np
import pytest
import torch
from planted import clusters, draw

from deltaw.analysis import Absent, Position, gain_ratio, position, precision_weights
from deltaw.errors import DeltawError

WIDTH = 20


@pytest.mark.parametrize("where", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("with_source", [False, True])
def test_planted_position_is_recovered(where: float, with_source: bool) -> None:
    allowed, forbidden = clusters(400, WIDTH, 3.0, 0)
    rows = np.arange(300)
    attacked = forbidden[:300] + 0.3 * draw(5, 300, WIDTH) if with_source else draw(5, 300, WIDTH)
    attacked[:, 0] += 3.0 * where
    found = position(attacked, forbidden, allowed, np.random.default_rng(0), source=rows if with_source else None)
    assert isinstance(found, Position)
    assert found.mean == pytest.approx(where, abs=0.1)  # 4 standard errors
    assert found.interval.low < where + 0.05
    assert found.interval.high > where - 0.05
    assert found.forbidden.mean() == pytest.approx(0, abs=1e-12)
    assert found.allowed.mean() == pytest.approx(1, abs=1e-12)
    assert len(found.positions) == 300
    if where > 0:
        assert found.mean > found.null.high
    assert found.nearer_allowed == np.mean(found.positions > 0.5)


def test_held_out_scale_is_not_shrunk() -> None:
    """With few rows a direction overfits; attacked prompts drawn as allowed ones must still be at 1."""
    means = []
    for seed in range(60):
        allowed, forbidden = clusters(25, WIDTH, 2.0, 100 + 5 * seed)
        attacked, _ = clusters(25, WIDTH, 2.0, 5000 + 5 * seed)
        found = position(attacked, forbidden, allowed, np.random.default_rng(seed), draws=100)
        assert isinstance(found, Position)
        means.append(found.mean)
    assert np.mean(means) == pytest.approx(1, abs=4 * np.std(means) / 60**0.5)


def test_no_scale_without_separation() -> None:
    allowed, forbidden = clusters(50, WIDTH, 0.0, 0)
    found = position(draw(9, 20, WIDTH), forbidden, allowed, np.random.default_rng(0))
    assert isinstance(found, Absent)
    assert "not separated" in found.reason


@pytest.mark.parametrize("with_source", [False, True])
def test_true_null_is_rejected_at_its_level(with_source: bool) -> None:
    rejected = 0
    rng = np.random.default_rng(0)
    for seed in range(300):
        allowed, forbidden = clusters(30, 5, 3.0, 20_000 + 5 * seed)
        attacked = draw(90_000 + 5 * seed, 30, 5)
        source = None
        if with_source:  # attacked and source are two exchangeable versions of one text
            text = 2 * draw(200_000 + seed, 30, 5)
            attacked, forbidden, source = text + attacked, text + forbidden, np.arange(30)
            allowed = allowed + 2 * draw(300_000 + seed, 30, 5)
        found = position(attacked, forbidden, allowed, rng, source=source, draws=199)
        if isinstance(found, Position):
            rejected += found.null.p_value(found.mean) <= 0.05
    assert 4 <= rejected <= 30  # Binomial(300, 0.05): 99.9 % within 4 .. 29


def test_interval_covers_the_truth() -> None:
    inside, rng = 0, np.random.default_rng(0)
    for seed in range(200):
        allowed, forbidden = clusters(60, 5, 3.0, 20_000 + 5 * seed)
        attacked = draw(90_000 + 5 * seed, 60, 5)
        attacked[:, 0] += 1.5
        found = position(attacked, forbidden, allowed, rng, draws=300)
        assert isinstance(found, Position)
        inside += 0.5 in found.interval
    assert 0.88 <= inside / 200 <= 0.99


def test_gain_ratio_recovers_a_planted_factor() -> None:
    rng = np.random.default_rng(0)
    prompt = rng.lognormal(0, 1, 300)
    attacked = 0.6 * prompt * rng.lognormal(0, 0.1, 300)
    paired = gain_ratio(attacked, prompt, rng, source=np.arange(300))
    loose = gain_ratio(attacked, prompt, rng)
    assert paired.value == loose.value == pytest.approx(0.6, rel=0.02)
    assert 0.6 in paired.interval
    assert paired.interval.width < loose.interval.width / 3
    assert paired.value < paired.null.low
    assert paired.null.mean == 1
    again = gain_ratio(prompt, prompt, rng)
    assert again.value == 1
    assert 1 in again.null


def test_several_attacks_on_one_prompt_are_one_observation() -> None:
    rng = np.random.default_rng(0)
    forbidden = rng.lognormal(0, 0.1, 20)
    source = np.repeat(np.arange(20), 10)
    attacked = (forbidden * rng.lognormal(0, 0.5, 20))[source]
    whole = gain_ratio(attacked, forbidden, rng, source=source)
    once = gain_ratio(attacked[::10], forbidden, rng, source=np.arange(20))
    assert whole.interval.width == pytest.approx(once.interval.width, rel=0.15)
    assert np.log(whole.null.high) == pytest.approx(np.log(once.null.high), rel=0.15)


def test_layers_that_hardly_separate_do_not_rule_the_mean() -> None:
    """The same place at a layer that separates widely and at one that hardly does: the weights keep the noise out."""
    rows, plain, weighted = np.arange(200), [], []
    for seed in range(12):
        found = []
        for distance in (5.0, 0.6):
            allowed, forbidden = clusters(200, WIDTH, distance, 40 * seed + int(distance))
            attacked = draw(999 + seed, 200, WIDTH)
            attacked[:, 0] += 0.5 * distance
            one = position(attacked, forbidden, allowed, np.random.default_rng(0), source=rows, draws=50)
            assert isinstance(one, Position)
            found.append(one)
        weights = precision_weights(found)
        assert weights.sum() == pytest.approx(1)
        assert weights[0] > 0.95
        means = [one.mean for one in found]
        plain.append(float(np.mean(means)))
        weighted.append(float(weights @ means))
    assert np.mean(weighted) == pytest.approx(0.5, abs=0.03)
    assert np.std(weighted) < np.std(plain) / 2
    with pytest.raises(DeltawError, match="one a layer"):
        precision_weights([])


def test_prompts_of_one_group_share_a_fold_and_are_resampled_together() -> None:
    """Copies of every prompt add nothing: by name the interval stays as wide as it was, without names it shrinks."""
    allowed, forbidden = clusters(60, WIDTH, 3.0, 0)
    attacked = forbidden + 0.3 * draw(5, 60, WIDTH)
    attacked[:, 0] += 1.5
    names = np.array([f"operand {number}" for number in range(60)])
    rows = np.arange(60).repeat(4)

    def width(of: list[torch.Tensor], **more: Any) -> float:
        found = position(of[0], of[1], of[2], np.random.default_rng(0), **more)
        assert isinstance(found, Position)
        assert found.mean == pytest.approx(0.5, abs=0.15)
        return found.interval.width

    once = width([attacked, forbidden, allowed], source=np.arange(60), ids=(names, names))
    copies = [x.repeat_interleave(4, 0) for x in (attacked, forbidden, allowed)]
    source = np.arange(240)
    together = width(copies, source=source, ids=(names[rows], names[rows]))
    apart = width(copies, source=source)
    assert together == pytest.approx(once, rel=0.2)
    assert apart < 0.7 * together
    with pytest.raises(DeltawError, match="one each"):
        position(attacked, forbidden, allowed, np.random.default_rng(0), ids=(names[:5], names))


def test_mistakes_get_a_sentence() -> None:
    allowed, forbidden = clusters(30, 5, 3.0, 0)
    rng = np.random.default_rng(0)
    with pytest.raises(DeltawError, match="row number below 30"):
        position(forbidden, forbidden, allowed, rng, source=np.arange(30) + 5)
    with pytest.raises(DeltawError, match="ratios do not exist"):
        gain_ratio([0.0, 1.0], [1.0], rng)
