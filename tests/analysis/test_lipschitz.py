"""The iterative estimators against the exact ones, on a linear map and on a transformer; bounds that must bound."""

import numpy as np
import pytest
import torch
from planted import draw
from torch import Tensor

from deltaw.analysis import Sensitivity, finite_lipschitz, power_iteration, sensitivity
from deltaw.analysis.sensitivity import Readout
from deltaw.errors import DeltawError
from deltaw.models import ModelConfig, Transformer

B, T, D, V = 4, 6, 8, 13


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def transformer(dtype: torch.dtype = torch.float64) -> tuple[Readout, Tensor, Tensor]:
    """A model with lively weights, embeddings (B, T, D), and a mask whose rows end at different places."""
    torch_generator = torch.Generator().manual_seed(0)
    model = Transformer(ModelConfig(vocabulary_size=V, context=T, layers=2, heads=2, width=D), torch_generator).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.4 * torch.randn(parameter.shape, generator=torch_generator, dtype=torch.float64))
    model.to(dtype).requires_grad_(False)
    at = torch.tensor([5, 4, 5, 3])
    return (
        lambda E: model(embeddings=E)[torch.arange(len(E)), at],
        draw(2, B, T, D).to(dtype),
        torch.arange(T)[None, :] <= at[:, None],
    )


def exact(readout: Readout, E: Tensor, mask: Tensor) -> Sensitivity:
    last = mask & ~torch.cat([mask[:, 1:], torch.zeros(len(mask), 1, dtype=torch.bool)], 1)
    return sensitivity(readout, E, {"rest": mask & ~last, "last": last}, "last")


def test_power_iteration_agrees_with_the_exact_norm_of_a_transformer() -> None:
    readout, E, mask = transformer()
    truth = exact(readout, E, mask)
    for metric, value in (("log_probs", truth.spectral), ("fisher", truth.fisher)):
        found = power_iteration(readout, E, mask, generator(), metric=metric, iterations=300, tolerance=1e-9)  # type: ignore[arg-type]
        np.testing.assert_allclose(found.value, value, rtol=1e-4, err_msg=metric)
        assert (found.value <= value * (1 + 1e-9)).all()
        assert found.iterations < 300


def test_the_direction_is_the_one_that_moves_the_log_probabilities_most() -> None:
    readout, E, mask = transformer()
    found = power_iteration(readout, E, mask, generator(), iterations=300, tolerance=1e-9)
    step = 1e-5 * found.direction
    moved = torch.log_softmax(readout(E + step), 1) - torch.log_softmax(readout(E - step), 1)
    np.testing.assert_allclose(moved.norm(dim=1) / 2e-5, found.value, rtol=1e-4)
    np.testing.assert_allclose(found.direction.flatten(1).norm(dim=1), 1)
    assert not found.direction[~mask].any()


def test_positions_outside_the_mask_do_not_count() -> None:
    """A linear map that reads every position, half of which is masked."""
    A, mask = draw(4, V, T, D), torch.arange(T)[None, :].expand(B, T) < 3

    def readout(E: Tensor) -> Tensor:
        return torch.einsum("vtd,btd->bv", A, E)

    E = 0.1 * draw(5, B, T, D)
    p = torch.softmax(readout(E), 1)[:, None]
    J = A[:, :3].flatten(1)
    truth = torch.linalg.svdvals(J - p @ J)[:, 0]
    found = power_iteration(readout, E, mask, generator(), iterations=400, tolerance=1e-10)
    np.testing.assert_allclose(found.value, truth, rtol=1e-3)


def test_finite_differences_bound_from_below_and_ascent_comes_near() -> None:
    readout, E, mask = transformer()
    truth = exact(readout, E, mask).spectral
    found = finite_lipschitz(readout, E, mask, generator(), radius=1e-4, directions=8, steps=200)
    assert (found.random <= found.ascent).all()
    assert (found.ascent <= truth * (1 + 1e-3)).all()
    np.testing.assert_allclose(found.ascent, truth, rtol=0.01)
    assert (found.random < 0.9 * truth).all()  # few random directions are the worst one


def test_beyond_the_linear_range_the_bound_sees_more_than_the_jacobian() -> None:
    """f is flat at 0 and steep beside it: no derivative at 0 tells."""

    def readout(E: Tensor) -> Tensor:
        x = E.sum((1, 2))
        return torch.stack([50 * x**3, torch.zeros_like(x)], 1)

    E, mask = torch.zeros(1, 1, 2, dtype=torch.float64), torch.ones(1, 1, dtype=torch.bool)
    assert power_iteration(readout, E, mask, generator()).value[0] == pytest.approx(0, abs=1e-9)
    assert finite_lipschitz(readout, E, mask, generator(), radius=0.5).ascent[0] > 10


def test_fused_attention_in_float32_gives_the_same_by_both_ways() -> None:
    """The exact way runs through whatever kernel the model takes, the iterative one must find another."""
    readout, E, mask = transformer(torch.float32)
    found = power_iteration(readout, E, mask, generator(3), iterations=300, tolerance=1e-6)
    np.testing.assert_allclose(found.value, exact(readout, E, mask).spectral, rtol=1e-3)


def test_numbers_that_make_no_sense_are_refused() -> None:
    readout, E, mask = transformer()
    with pytest.raises(DeltawError, match="radius is 0"):
        finite_lipschitz(readout, E, mask, generator(), radius=0)
