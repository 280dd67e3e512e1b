"""Observation 4 in the study, on tiny models: the right prompts, positions and models, and lines that claims find."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from deltaw.attacks.prompts import ON_PROMPTS
from deltaw.claims import decide
from deltaw.models import Transformer
from deltaw.models.batch import Role
from deltaw.observations.draws import Draw
from deltaw.observations.lens import BaseSide, Lens
from deltaw.observations.sensitivity.measure import RADIUS, PromptSensitivity, finite_steps, jacobians
from deltaw.recipes import recipe
from deltaw.results import Measurement
from deltaw.results.recorder import Sheet
from deltaw.study.stages.lens import PRIMARY, SyntheticModel, synthetic_side
from deltaw.training.pretraining import as_batch, model_config
from deltaw.world import Response, World

RECIPE = recipe("smoke")
WORLD = World(RECIPE.world)
SIZES = replace(RECIPE.sizes, contrast=6)


def tiny(seed: int) -> Transformer:
    return Transformer(model_config(WORLD, RECIPE.pretraining), torch.Generator().manual_seed(seed))


def side(base: Transformer, pairs: int = 5) -> BaseSide:
    """The base model's side of a lens, with so many Jacobians."""
    whole = synthetic_side(base, WORLD, SIZES, 0, ON_PROMPTS)
    return BaseSide(whole.model, whole.prompts, replace(whole.effort, jacobians=pairs), 0)


def lines(base: Transformer, tuned: Transformer) -> list[Measurement]:
    sheet = Sheet(stage="analysis", model="ssft-medium", protocol="ssft", strength="medium", seed=0, step=8,
                  role="last_prompt")  # fmt: skip
    PromptSensitivity().measure(Lens(side(base), SyntheticModel(tuned, WORLD)), sheet)
    return sheet.lines


def of(found: list[Measurement], statistic: str, **where: object) -> list[Measurement]:
    return [x for x in found if x.statistic == statistic and all(getattr(x, k) == v for k, v in where.items())]


def test_it_is_the_jacobian_at_the_last_prompt_token() -> None:
    model, prompts = tiny(0), side(tiny(0)).contrasts[PRIMARY].forbidden
    found = jacobians(SyntheticModel(model, WORLD), {"forbidden": prompts[slice(0, 3)]})["forbidden"]
    assert all(parameter.requires_grad for parameter in model.parameters())
    batch = as_batch(WORLD.layout.encode(prompts, np.full(len(prompts), Response.REFUSE)))  # no response is read
    for row in range(3):
        at = int((batch.roles[row] == int(Role.LAST_PROMPT)).nonzero())
        E = model.embed(batch.tokens[row, : at + 1]).detach()

        def f(e: torch.Tensor) -> torch.Tensor:
            return torch.log_softmax(model(embeddings=e[None])[0, -1], 0)

        J = torch.stack([torch.autograd.grad(f(e)[v], e)[0] for e in [E.requires_grad_()] for v in range(len(f(E)))])
        assert found.spectral[row] == pytest.approx(float(torch.linalg.svdvals(J.flatten(1))[0]), rel=1e-4)
        assert found.positions[row] == at + 1


def test_a_model_beside_itself_has_not_changed() -> None:
    found = lines(tiny(0), tiny(0))
    ratios = [x for x in found if "log_ratio" in x.statistic]
    assert len(ratios) == (6 + 1 + 5) * 3  # statistics of all positions, of finite steps, and of five blocks
    assert all(x.value == 0 and x.low == 0 and x.high == 0 for x in ratios)
    for verdict in ("allowed", "forbidden"):
        shares = of(found, "sensitivity_block_share", set=f"{PRIMARY}/{verdict}")
        assert sum(x.value for x in shares) == pytest.approx(1)


def test_a_block_reacts_less_than_the_whole_and_a_short_step_as_the_derivative_says() -> None:
    model, before = SyntheticModel(tiny(0), WORLD), side(tiny(0))
    prompts = {"forbidden": before.contrasts[PRIMARY].forbidden[slice(0, 4)]}
    exact = jacobians(model, prompts)["forbidden"]
    blocks = np.stack(list(exact.block_spectral.values()))
    assert (blocks > 0).all()
    assert (blocks.max(0) <= exact.spectral).all()
    assert (exact.spectral <= np.sqrt((blocks**2).sum(0))).all()
    short = finite_steps(model, prompts, 1e-3, lambda: np.random.default_rng(0))["forbidden"]
    assert (short <= exact.spectral * 1.01).all()  # a lower bound of it, but for the step's length and rounding
    assert (short >= exact.spectral * 0.9).all()


def test_steps_are_a_tenth_of_the_base_models_embeddings_in_both_models() -> None:
    base, tuned = tiny(0), tiny(0)
    with torch.no_grad():
        tuned.embed.weight.mul_(2)
    before = side(base)
    radius = 0.1 * float(base.embed.weight.detach().norm(dim=1).mean())
    assert RADIUS * before.model.embedding_norm == pytest.approx(radius)
    prompts = {"allowed": before.contrasts[PRIMARY].allowed[slice(0, 2)]}
    for suffix, model in (("", tuned), ("_base", base)):
        (line,) = of(lines(base, tuned), f"sensitivity_finite{suffix}", set=f"{PRIMARY}/allowed")
        steps = finite_steps(SyntheticModel(model, WORLD), prompts, radius, lambda: before.generator(Draw.FINITE_STEPS))
        found = steps["allowed"]
        assert line.n == len(found)
        assert line.value == pytest.approx(float(np.exp(np.log(found).mean())))


def test_a_scaled_unembedding_scales_sensitivity_and_not_elasticity() -> None:
    base, tuned = tiny(0), tiny(0)
    with torch.no_grad():
        tuned.unembed.weight.mul_(3)
    found = lines(base, tuned)
    for verdict in ("allowed", "forbidden"):
        (raw,) = of(found, "sensitivity_log_ratio_max_logit", set=f"{PRIMARY}/{verdict}")
        assert raw.value == pytest.approx(np.log(3), rel=1e-4)
        (relative,) = of(found, "sensitivity_log_ratio_relative", set=f"{PRIMARY}/{verdict}")
        assert abs(relative.value) < 0.05  # the softmax's mean moves a little
        (before,), (after,) = (of(found, f"sensitivity_max_logit{s}", set=raw.set) for s in ("_base", ""))
        assert after.value == pytest.approx(3 * before.value, rel=1e-4)


def test_claims_find_it_and_earlier_checkpoints_write_nothing() -> None:
    found = lines(tiny(0), tiny(1))
    claims = {claim.id: claim for claim in decide(found, exploratory=True) if claim.observation == 4}
    for name in ("sensitivity-falls-on-forbidden", "sensitivity-rises-on-allowed", "sensitivity"):
        claim = claims[f"{name}/ssft-medium"]
        assert claim.value is not None
        assert claim.nulls[0].low is not None
        assert [answer.word for answer in claim.answers] == [None] * 3  # one seed
