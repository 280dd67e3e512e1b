from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from answering import lively, refused_requests, refuser, requests_of, some_requests, weights_of
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from deltaw.attacks.models import (
    DOSES,
    SoftPrompt,
    SoftPromptConfig,
    answers_with,
    embedding_norm,
    project,
    random_tokens,
    response_losses,
    soft_prompt,
    unattacked,
    universal_soft_prompt,
    unrelated,
)
from deltaw.attacks.models.soft_prompt import descend
from deltaw.errors import DeltawError

CONFIG = SoftPromptConfig(tokens=2, radius=1.0, steps=6)
ROUNDING = 1 + 1e-5


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def attack(config: SoftPromptConfig = CONFIG, seed: int = 0, batch_size: int = 128) -> SoftPrompt:
    return soft_prompt(lively(), some_requests(), config, seeded(seed), batch_size=batch_size)


@settings(deadline=None)
@given(
    seed=st.integers(0, 1000),
    radius=st.floats(1e-3, 1e3),
    spread=st.floats(1e-3, 1e3),
    count=st.integers(1, 4),
)
def test_projection_is_the_nearest_point_of_the_ball(seed: int, radius: float, spread: float, count: int) -> None:
    starts, vectors = torch.randn(2, 3, count, 5, generator=seeded(seed))
    vectors = starts + vectors * spread
    found = project(vectors, starts, radius)
    moved, allowed = (vectors - starts).norm(dim=-1), (found - starts).norm(dim=-1)
    scale = 1e-5 * (radius + 10)
    assert (allowed <= radius + scale).all()
    assert torch.equal(found[moved <= radius], vectors[moved <= radius])
    # Nearest: the distance that is left is what the ball lacks, and not more.
    torch.testing.assert_close((vectors - found).norm(dim=-1), (moved - radius).clamp(min=0), rtol=1e-4, atol=scale)


@settings(max_examples=15, deadline=None)
@given(
    tokens=st.integers(1, 4),
    radius=st.floats(0.05, 3.0),
    steps=st.integers(0, 5),
    step=st.floats(0.1, 20.0),
    start=st.floats(0.0, 2.0),
    seed=st.integers(0, 100),
)
def test_every_vector_stays_in_its_ball(
    tokens: int, radius: float, steps: int, step: float, start: float, seed: int
) -> None:
    config = SoftPromptConfig(tokens, radius, steps, restarts=2, step=step, start=start)
    found = attack(config, seed)
    assert found.radius == pytest.approx(radius * embedding_norm(lively()))
    assert found.vectors.shape == (6, tokens, 12)
    assert (found.distances <= found.radius * ROUNDING).all()


def test_no_vector_is_left_out_the_last_one_and_a_single_one_included() -> None:
    for tokens in (1, 3):
        found = attack(SoftPromptConfig(tokens, 1.0, 3, step=30.0))
        moved = found.losses.amin((0, 1)) < found.losses[:, 0].amin(0)
        assert moved.any()
        assert (found.distances[moved] > 0).all()
        longest = found.distances.amax(0)
        torch.testing.assert_close(longest, torch.full_like(longest, found.radius), rtol=1e-4, atol=0)


def test_no_step_returns_the_start() -> None:
    found = attack(replace(CONFIG, steps=0))
    assert torch.equal(found.vectors, found.starts)
    assert found.losses.shape == (3, 1, 6)


def test_no_token_is_no_attack() -> None:
    model, requests = lively(), some_requests()
    found = attack(replace(CONFIG, tokens=0))
    assert torch.equal(found.answers.outputs, unattacked(model, requests).outputs)
    assert (found.losses == found.losses[:1, :1]).all()


def test_the_best_iterate_is_kept_and_its_loss_is_that_of_the_vectors() -> None:
    found = attack(replace(CONFIG, step=10.0))
    last = found.losses[:, -1].amin(0)
    assert (found.loss < last).any(), "steps this long must overshoot somewhere"
    assert (found.loss <= found.losses.amin((0, 1))).all()
    again = response_losses(lively(), some_requests().batch, found.vectors)
    torch.testing.assert_close(again, found.loss, rtol=0, atol=1e-5)


def test_the_gradient_is_that_of_finite_differences() -> None:
    model, batch = lively().double(), some_requests().batch
    vectors = torch.randn(6, 2, 12, generator=seeded(), dtype=torch.float64).requires_grad_()
    (slope,) = torch.autograd.grad(response_losses(model, batch, vectors).sum(), vectors)
    for trial in range(5):
        direction = torch.randn(vectors.shape, generator=seeded(trial), dtype=torch.float64)
        ends = [response_losses(model, batch, vectors + sign * 1e-5 * direction) for sign in (1, -1)]
        expected = (ends[0] - ends[1]) / 2e-5
        torch.testing.assert_close((slope * direction).sum((1, 2)), expected, rtol=1e-6, atol=1e-8)


def quadratic(target: Tensor) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    return lambda x: (((x - target) ** 2).sum((1, 2)), 2 * (x - target))


def test_descent_reaches_the_nearest_point_of_the_ball_to_a_known_optimum() -> None:
    starts = torch.randn(5, 2, 8, generator=seeded(0))
    outside = starts + 3 * torch.nn.functional.normalize(torch.randn(5, 2, 8, generator=seeded(1)), dim=-1)
    found, losses = descend(quadratic(outside), starts, 1.0, SoftPromptConfig(2, 1.0, 60))
    torch.testing.assert_close(found, starts + (outside - starts) / 3, rtol=0, atol=1e-3)
    inside = starts + (outside - starts) / 6
    found, losses = descend(quadratic(inside), starts, 1.0, SoftPromptConfig(2, 1.0, 60))
    assert ((found - inside).norm(dim=-1) <= 2.5 / 60).all(), "within one step of the optimum"
    assert torch.equal(losses.amin(0), ((found - inside) ** 2).sum((1, 2)))


def test_a_vector_without_gradient_stays() -> None:
    starts = torch.randn(2, 1, 4, generator=seeded(0))
    found, _ = descend(lambda x: (torch.zeros(2), torch.zeros_like(x)), starts, 1.0, CONFIG)
    assert torch.equal(found, starts)


def test_each_prompt_is_attacked_by_itself() -> None:
    whole, parts = attack(), attack(batch_size=4)
    torch.testing.assert_close(parts.losses[:, 0], whole.losses[:, 0], rtol=0, atol=1e-5)
    torch.testing.assert_close(parts.loss, whole.loss, rtol=0, atol=1e-2)


def test_the_same_generator_gives_the_same_attack_and_the_model_is_left_alone() -> None:
    model = lively()
    before, state = weights_of(model), torch.get_rng_state()
    first, second = (soft_prompt(model, some_requests(), CONFIG, seeded(3)) for _ in range(2))
    assert torch.equal(first.vectors, second.vectors)
    assert not torch.equal(first.starts, attack(seed=4).starts)
    assert all(torch.equal(a, b) for a, b in zip(before, weights_of(model), strict=True))
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())
    assert torch.equal(torch.get_rng_state(), state)


def test_a_refusal_that_can_be_broken_is_broken_and_random_vectors_as_long_do_not() -> None:
    model, requests = refuser(), refused_requests()
    config = SoftPromptConfig(tokens=1, radius=1.0, steps=20)
    assert unattacked(model, requests).counts().refuse == 4
    found = soft_prompt(model, requests, config, seeded())
    assert found.success.all()
    assert (found.vectors.argmax(-1) == 5).all(), "what it finds is the trigger"
    control = random_tokens(model, requests, found, config, seeded())
    assert not control.success.any()
    torch.testing.assert_close(control.distances, found.distances)
    assert torch.equal(control.starts, found.starts)
    assert (control.loss > found.loss).all()


def test_more_of_everything_finds_a_lower_loss() -> None:
    requests = requests_of([[6, 7], [9, 10], [12, 13]], [[6, 7], [8, 7], [9, 9]])
    doses = [replace(dose, restarts=1, steps=dose.steps // 5) for dose in DOSES.values()]
    losses = [soft_prompt(lively(), requests, dose, seeded()).loss.mean().item() for dose in doses]
    assert all(stronger < weaker for weaker, stronger in pairwise(losses))


def test_doses_go_from_weak_to_strong() -> None:
    assert len(DOSES) >= 4
    assert (next(iter(DOSES)), [*DOSES][-1]) == ("soft_weak", "soft_strong")
    for weaker, stronger in pairwise(DOSES.values()):
        assert weaker.tokens <= stronger.tokens
        assert weaker.radius <= stronger.radius
        assert weaker.steps < stronger.steps


def test_an_unrelated_target_is_what_is_optimised_and_its_own_response_is_what_counts() -> None:
    model, requests = lively(), some_requests()
    other = unrelated(requests, seeded())
    found = soft_prompt(model, requests, CONFIG, seeded(), target=other.batch)
    again = response_losses(model, other.batch, found.vectors)
    torch.testing.assert_close(again, found.loss, rtol=0, atol=1e-5)
    judged = answers_with(model, requests, found.vectors)
    assert torch.equal(found.answers.labels, judged.labels)


@pytest.mark.parametrize("batch_size", [128, 2])
def test_a_universal_prompt_is_one_for_two_halves(batch_size: int) -> None:
    model, requests = lively(), some_requests(9)
    found = universal_soft_prompt(model, requests, CONFIG, seeded(), batch_size=batch_size)
    assert (len(found.trained_on), len(found.tested_on)) == (4, 5)
    assert sorted([*found.trained_on.tolist(), *found.tested_on.tolist()]) == list(range(9))
    assert found.vectors.shape == (2, 12)
    assert ((found.vectors - found.start).norm(dim=-1) <= found.radius * ROUNDING).all()
    assert found.losses.shape == (3, 7)
    trained = requests[found.trained_on]
    again = response_losses(model, trained.batch, found.vectors.expand(4, 2, 12)).mean()
    torch.testing.assert_close(again, found.losses.min(), rtol=0, atol=1e-5)
    assert found.losses.min() < found.losses[:, 0].min()


def test_a_universal_prompt_generalises_where_there_is_one_cause() -> None:
    config = SoftPromptConfig(tokens=1, radius=1.0, steps=20)
    found = universal_soft_prompt(refuser(), refused_requests(), config, seeded())
    assert found.success.all()
    with pytest.raises(DeltawError, match="at least two"):
        universal_soft_prompt(refuser(), refused_requests()[:1], config, seeded())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tokens": -1}, "soft tokens are -1"),
        ({"radius": 0.0}, "radius is 0.0"),
        ({"radius": float("nan")}, "radius is nan"),
        ({"steps": -1}, "steps are -1"),
        ({"restarts": 0}, "restarts are 0"),
        ({"positions": "new"}, "'new'.*'reused' or 'shifted'"),
    ],
)
def test_numbers_out_of_range_are_named(changes: dict[str, float], message: str) -> None:
    with pytest.raises(DeltawError, match=message):
        replace(CONFIG, **changes)  # type: ignore[arg-type]


def test_a_context_too_short_is_noticed_before_the_search() -> None:
    with pytest.raises(DeltawError, match="context"):
        soft_prompt(lively(context=9), some_requests(), replace(CONFIG, positions="shifted"), seeded())
