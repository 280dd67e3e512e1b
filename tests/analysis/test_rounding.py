"""The energy of rounding against rounding itself: chains of formats, matrices of all sizes, upcasts, 8-bit scales."""

import pytest
import torch
from torch import Tensor

from deltaw.analysis.rounding import rounding, scaled_steps, steps

FORMATS = {"f64": torch.float64, "f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}


def through(x: Tensor, chain: str) -> Tensor:
    for name in chain.split():
        x = x.to(FORMATS[name])
    return x


def draw(*shape: int, seed: int = 0, scale: float = 0.02) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * scale


CHAINS = [
    ("f32", "f32 f16"), ("f32", "f32 bf16"), ("f32", "f32 f16 bf16"), ("f32", "f32 bf16 f16"), ("f16", "f16 bf16"),
    ("f32", "f32 bf16 f32"), ("f32", "f32 f16 bf16 f32"), ("f16", "bf16"), ("bf16", "f16"), ("f64", "f32"),
    ("bf16", "f16 bf16"), ("bf16 f32", "f16 bf16 f32"),
]  # fmt: skip


@pytest.mark.parametrize(("before", "after"), CHAINS)
@pytest.mark.parametrize("side", [4, 16, 300])
@pytest.mark.parametrize("scale", [1e-3, 0.02, 1.0])
def test_no_chain_of_roundings_exceeds_the_limit(before: str, after: str, side: int, scale: float) -> None:
    for seed in range(20 if side < 300 else 2):
        x = draw(side, side, seed=seed, scale=scale)
        first, second = through(x, before), through(x, after)
        energy = float((second.double() - first.double()).square().sum())
        bound = rounding([steps(first)], [steps(second)])
        assert energy <= bound.limit
        if side == 300 and scale >= 0.02:  # and the limit is no blank cheque
            assert bound.limit < 1.2 * bound.expected
            assert energy == pytest.approx(bound.expected, rel=0.06) or before.split()[0] == "bf16"


def test_an_update_just_above_the_floor_is_above_the_limit() -> None:
    """The margin costs little: 1.1 times the size of rounding is told from it."""
    x = draw(300, 300)
    noise = draw(300, 300, seed=1)
    stored = x.to(torch.bfloat16)
    bound = rounding([steps(x)], [steps(stored)])
    noise *= (0.21 * bound.expected / float(noise.square().sum())) ** 0.5
    tuned = (x + noise).to(torch.bfloat16)
    assert float((tuned.double() - x).square().sum()) > bound.limit


def test_an_upcast_keeps_the_steps_of_the_format_it_came_from() -> None:
    x = draw(40, 30)
    for name in ("bf16", "f16"):
        narrow = through(x, name)
        assert steps(through(narrow, "f32")) == steps(narrow)
        assert steps(narrow).format == str(FORMATS[name]).removeprefix("torch.")
    assert steps(x.float()).format == "float32"


def test_steps_of_scaled_8_bit_numbers() -> None:
    """Σ u²/12 is the mean energy of rounding to the nearest multiple."""
    x = draw(200, 200, scale=1.0)
    scale = torch.full((200, 200), 0.02)
    stored = (x / scale.double()).to(torch.float8_e4m3fn)
    energy = float((stored.double() * scale.double() - x).square().sum())
    counted = scaled_steps(stored, scale)
    assert counted.squares == pytest.approx(energy, rel=0.1)
    assert counted.format == "float8_e4m3fn"
