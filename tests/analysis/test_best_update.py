"""The best update of rank one, held out: it reaches what was planted, no more than that, and nothing where there is
nothing."""

import numpy as np
import pytest
import torch
from planted import draw, orthogonal
from scipy import linalg
from torch import Tensor

from deltaw.analysis import best_ratio, best_update, gain, split_halves
from deltaw.errors import DeltawError


def inputs(seed: int, stretch: float, pairs: int = 400, width: int = 12) -> tuple[Tensor, Tensor]:
    """(allowed, forbidden): anisotropic, with a common mean; forbidden ones are `stretch` times as far along one
    direction in the middle of the spectrum."""
    turn, sizes = orthogonal(width, 5), torch.linspace(2.0, 0.2, width, dtype=torch.float64)
    mean = 3.0 * draw(6, width)
    mean = mean - (mean @ turn[width // 2]) * turn[width // 2]
    parts = []
    for side, factor in enumerate((1.0, stretch)):
        rows = draw(10 * seed + side, pairs, width) * sizes
        rows[:, width // 2] *= factor
        parts.append(rows @ turn + mean)
    return parts[0], parts[1]


def ratio(a: Tensor, f: Tensor, seed: int = 0, null_draws: int = 99) -> tuple[float, float, float]:
    """(value, the null's upper end, the interval's lower end)."""
    halves = split_halves(len(a), np.random.default_rng([seed, 1]))
    fitted = best_update(a, f, halves, np.random.default_rng([seed, 2]))
    found = best_ratio([fitted], halves, np.random.default_rng([seed, 3]), draws=100, null_draws=null_draws)
    return found.value, found.null.high, found.interval.low


def test_what_is_planted_is_reached_and_nothing_reaches_further() -> None:
    a, f = inputs(1, 3.0, pairs=2000)
    value, high, low = ratio(a, f)
    assert value == pytest.approx(np.log(3), abs=0.06)
    assert value > high
    assert low > 1.0
    moments = [(part.T @ part / len(part)).numpy() for part in (f, a)]
    largest = linalg.eigh(*moments, eigvals_only=True)[-1]  # scipy's own solver, on all pairs
    assert value == pytest.approx(np.log(largest) / 2, abs=0.06)
    for seed in range(20):
        dW = draw(100 + seed, 6, 12)
        sizes = [gain(part, dW, None, draw(1, 6, 12), None).to_input * part.norm(dim=1).numpy() for part in (f, a)]
        assert np.log((sizes[0] ** 2).mean() / (sizes[1] ** 2).mean()) / 2 < value + 0.02


def test_classes_that_do_not_differ_are_not_told_apart() -> None:
    found = [ratio(*inputs(seed, 1.0, pairs=60), seed) for seed in range(200)]
    values = np.array([value for value, _, _ in found])
    assert abs(values.mean()) < 3 * values.std() / np.sqrt(len(values))
    assert np.mean([value > high for value, high, _ in found]) < 0.06


@pytest.mark.parametrize("width", [12, 300])
def test_more_dimensions_than_prompts_give_no_fortune(width: int) -> None:
    value, high, _ = ratio(*inputs(3, 1.0, pairs=50, width=width))
    assert abs(value) < 0.5
    assert value < high + 0.3
    value, high, _ = ratio(*inputs(3, 20.0, pairs=50, width=width))
    assert value > max(high, 0.5)


def test_scale_and_rotation_do_not_matter() -> None:
    a, f = inputs(4, 2.0)
    turn = orthogonal(12, 8)
    assert ratio(50 * a @ turn, 50 * f @ turn)[0] == pytest.approx(ratio(a, f)[0], rel=1e-6)


def test_the_peak_is_read_at_the_layer_that_promises_most() -> None:
    layers = [inputs(seed, 3.0 if seed == 2 else 1.0) for seed in range(4)]
    halves = split_halves(400, np.random.default_rng(0))
    fitted = [best_update(a, f, halves, np.random.default_rng(1)) for a, f in layers]
    peak, alone = (best_ratio(some, halves, np.random.default_rng(2)) for some in (fitted, fitted[2:3]))
    assert peak.value == alone.value
    assert [float(np.mean(update.expected)) > 0.8 for update in fitted] == [False, False, True, False]


def test_pairs_are_asked_for() -> None:
    with pytest.raises(DeltawError, match="of one width"):
        best_update(draw(0, 8, 3), draw(1, 7, 3), np.arange(8) < 4, np.random.default_rng(0))
