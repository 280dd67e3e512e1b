"""Every token of a fork reads what it would have read alone: values and gradients are those of two batches."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from deltaw.models import ModelConfig, Transformer, response_log_probs, response_weights
from deltaw.models.batch import Batch, Role
from deltaw.protocols import Pair, TuningBatch, reference_log_probs
from deltaw.protocols.dpo_published import DpoPublished
from deltaw.protocols.forks import fork

CONFIG = ModelConfig(9, 12, layers=2, heads=2, width=8)
MASKED = 1  # stands in prompts only and not at their ends: what a model says at a masked token means nothing


def model_of(config: ModelConfig) -> Transformer:
    """With weights large enough for what a token reads to matter."""
    model = Transformer(config, torch.Generator().manual_seed(0)).double()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 2:
                parameter.mul_(15 if "blocks" in name else 30)
    return model


def batch_of(prompts: torch.Tensor, responses: torch.Tensor, ends: torch.Tensor, generator: torch.Generator) -> Batch:
    """Prompts, then responses up to `ends`; some tokens of a response carry no loss, the last one always does."""
    tokens = torch.cat([prompts, responses], 1)
    said = tokens[:, prompts.shape[1] - 1 :]
    said[said == MASKED] += 1
    place = torch.arange(tokens.shape[1])
    inside = (place >= prompts.shape[1]) & (place < ends[:, None])
    weights = inside * torch.randint(0, 3, tokens.shape, generator=generator).float()
    weights[torch.arange(len(tokens)), ends - 1] = 1.5
    return Batch(tokens, weights, torch.full(tokens.shape, int(Role.OUTPUT), dtype=torch.uint8))


@st.composite
def pairs(draw: st.DrawFn) -> Pair:
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10_000)))
    rows, prompt = draw(st.integers(1, 4)), draw(st.integers(1, 6))
    lengths = [draw(st.integers(1, 6)) for _ in range(2)]
    letters = draw(st.sampled_from([2, 9]))  # of two letters, responses often begin alike
    prompts = torch.randint(0, 9, (rows, prompt), generator=generator)
    halves = []
    for length in lengths:
        responses = torch.randint(0, letters, (rows, length), generator=generator)
        ends = prompt + torch.randint(1, length + 1, (rows,), generator=generator)
        halves.append(batch_of(prompts, responses, ends, generator))
    return Pair(*halves)


@pytest.mark.parametrize(
    "config",
    [CONFIG, replace(CONFIG, block="published", positions="sinusoidal"), replace(CONFIG, masked_token=MASKED)],
    ids=["pre_ln", "published", "masked"],
)
@settings(max_examples=40, deadline=None)
@given(pair=pairs())
def test_log_probabilities_are_those_of_each_response_alone(config: ModelConfig, pair: Pair) -> None:
    model = model_of(config)
    found = reference_log_probs(model, pair, batch_size=3)
    for half, log_probs in ((pair.preferred, found.preferred), (pair.dispreferred, found.dispreferred)):
        torch.testing.assert_close(log_probs, response_log_probs(model(half.tokens), half), rtol=1e-10, atol=1e-10)


@settings(max_examples=20, deadline=None)
@given(pair=pairs())
def test_gradients_are_those_of_two_batches(pair: Pair) -> None:
    model = model_of(CONFIG)
    reference = reference_log_probs(model, pair)
    for function in (model, lambda tokens: model(tokens)):  # what is no `Transformer` reads both in full
        model.zero_grad()
        DpoPublished().loss(function, TuningBatch(pair, reference)).value.backward()  # type: ignore[no-untyped-call]
        gradients = [parameter.grad for parameter in model.parameters()]
        if function is model:
            forked = [None if gradient is None else gradient.clone() for gradient in gradients]
    for ours, plain in zip(forked, gradients, strict=True):
        assert (ours is None) == (plain is None)
        if ours is not None and plain is not None:
            torch.testing.assert_close(ours, plain, rtol=1e-9, atol=1e-12)


def test_the_shared_beginning_stands_there_once() -> None:
    generator = torch.Generator().manual_seed(0)
    prompts = torch.randint(0, 9, (2, 6), generator=generator)
    long = batch_of(prompts, torch.full((2, 5), 3), torch.tensor([11, 11]), generator)
    short = batch_of(prompts, torch.full((2, 2), 4), torch.tensor([8, 7]), generator)
    for found in (fork(long, short), fork(short, long)):
        assert found.tokens.tolist() == [[*row, 3, 3, 3, 3, 3, 4, 4] for row in prompts.tolist()]
        assert found.positions.tolist() == [[*range(11), 6, 7]] * 2
    assert fork(long, short).places[1].tolist() == [[*range(6), 11, 12, 12, 12, 12]] * 2
    assert fork(short, long).places[0].tolist() == fork(long, short).places[1].tolist()
    assert response_weights(long).min() > 0


def test_no_token_sees_the_other_continuation() -> None:
    generator = torch.Generator().manual_seed(1)
    prompts = torch.randint(0, 9, (1, 3), generator=generator)
    one = batch_of(prompts, torch.tensor([[1, 2, 3]]), torch.tensor([6]), generator)
    two = batch_of(prompts, torch.tensor([[4, 5, 6]]), torch.tensor([6]), generator)
    visible = fork(one, two).visible[0]
    assert visible[:6, :6].equal(torch.ones(6, 6, dtype=torch.bool).tril())
    assert visible[6:, :3].all()
    assert not visible[6:, 3:6].any()
    assert not visible[:6, 6:].any()
    assert visible[6:, 6:].equal(torch.ones(3, 3, dtype=torch.bool).tril())
