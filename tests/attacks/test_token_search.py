from dataclasses import replace

import pytest
import torch
from answering import TRIGGER, WORDS, lively, refused_requests, refuser, some_requests, weights_of

from deltaw.attacks.models import (
    Requests,
    TokenSearchConfig,
    answers_with,
    best_suffix,
    insert,
    random_suffix,
    response_losses,
    suffix_losses,
    suffix_tokens,
    token_search,
)
from deltaw.errors import DeltawError
from deltaw.models import Transformer, response_log_probs, response_weights
from deltaw.world import World

ALLOWED = torch.arange(4, 17)
CONFIG = TokenSearchConfig(tokens=2, steps=6, top_k=4)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def best_substitution(
    model: Transformer, requests: Requests, suffix: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The best of all suffixes that differ from `suffix` (N, n) in at most one token, and their losses (N,)."""
    candidates = suffix[:, None].repeat(1, suffix.shape[1] * len(ALLOWED) + 1, 1)
    for slot in range(suffix.shape[1]):
        candidates[:, slot * len(ALLOWED) : (slot + 1) * len(ALLOWED), slot] = ALLOWED
    losses, winner = suffix_losses(model, requests, candidates).min(1)
    return candidates[torch.arange(len(candidates)), winner], losses


@pytest.mark.parametrize("tokens", [1, 2])
@pytest.mark.parametrize("seed", range(3))
def test_the_search_is_never_better_than_the_oracle_and_no_worse_than_its_start(tokens: int, seed: int) -> None:
    model, requests = lively(seed), some_requests(seed=seed)
    found = token_search(model, requests, ALLOWED, replace(CONFIG, tokens=tokens), seeded(seed))
    oracle = best_suffix(model, requests, ALLOWED, tokens)
    assert (found.loss >= oracle.loss - 1e-5).all()
    assert (found.loss <= found.losses[0]).all()
    assert found.loss.mean() < found.losses[0].mean()
    assert torch.isin(found.suffix, ALLOWED).all()
    again = suffix_losses(model, requests, found.suffix[:, None])[:, 0]
    torch.testing.assert_close(again, found.loss, rtol=0, atol=1e-5)


@pytest.mark.parametrize("tokens", [1, 2])
def test_trying_everything_the_search_is_the_oracle_of_one_step(tokens: int) -> None:
    """With all substitutions proposed and tried, the first step is the best substitution."""
    model, requests = lively(), some_requests()
    config = TokenSearchConfig(tokens=tokens, steps=1, top_k=99, evaluated=999)
    found = token_search(model, requests, ALLOWED, config, seeded())
    start = random_suffix(model, requests, ALLOWED, config, seeded())
    torch.testing.assert_close(start.loss, found.losses[0], rtol=0, atol=1e-5)
    suffix, loss = best_substitution(model, requests, start.suffix)
    torch.testing.assert_close(found.loss, loss, rtol=0, atol=1e-5)
    assert torch.equal(found.suffix, suffix)
    if tokens == 1:
        assert torch.equal(suffix, best_suffix(model, requests, ALLOWED, 1).suffix)


def test_a_substitution_changes_at_most_one_token_and_every_step_of_the_search_does() -> None:
    model, requests = lively(), some_requests()
    start = random_suffix(model, requests, ALLOWED, replace(CONFIG, tokens=3), seeded())
    suffix, loss = best_substitution(model, requests, start.suffix)
    assert ((suffix != start.suffix).sum(1) <= 1).all()
    assert (loss <= start.loss + 1e-5).all()
    stepped = token_search(model, requests, ALLOWED, TokenSearchConfig(tokens=3, steps=1), seeded())
    assert ((stepped.suffix != start.suffix).sum(1) <= 1).all()
    assert (stepped.losses[1] >= loss - 1e-5).all()


@pytest.mark.parametrize("tokens", [1, 2])
def test_a_planted_token_is_found(tokens: int) -> None:
    """Here one token breaks the refusal, wherever it stands."""
    model, requests = refuser(), refused_requests()
    allowed = torch.tensor([TRIGGER, *WORDS])
    config = TokenSearchConfig(tokens=tokens, steps=4, top_k=1)
    found = token_search(model, requests, allowed, config, seeded())
    oracle = best_suffix(model, requests, allowed, tokens)
    assert (oracle.suffix == TRIGGER).any(1).all()
    assert (found.suffix == TRIGGER).any(1).all()
    torch.testing.assert_close(found.loss, oracle.loss, rtol=0, atol=1e-5)
    assert found.success.all()
    assert torch.equal(found.answers.labels, answers_with(model, requests, model.embed(found.suffix).detach()).labels)
    harmless = random_suffix(model, requests, torch.tensor(WORDS), config, seeded())
    assert not harmless.success.any()
    without = token_search(model, requests, torch.tensor(WORDS), config, seeded())
    assert not without.success.any(), "what is not allowed cannot be found"


def test_suffix_losses_are_those_of_the_longer_prompts() -> None:
    model, requests = lively(), some_requests()
    suffixes = torch.randint(4, 17, (6, 5, 2), generator=seeded())
    found = suffix_losses(model, requests, suffixes, "shifted", batch_size=7)
    for candidate in range(5):
        longer = insert(requests.batch, suffixes[:, candidate])
        expected = -response_log_probs(model(longer.tokens), longer) / response_weights(longer)
        torch.testing.assert_close(found[:, candidate], expected, rtol=0, atol=1e-5)
    reused = suffix_losses(model, requests, suffixes)[:, 0]
    vectors = model.embed(suffixes[:, 0]).detach()
    expected = response_losses(model, requests.batch, vectors)
    torch.testing.assert_close(reused, expected, rtol=0, atol=1e-5)


def test_the_same_generator_gives_the_same_suffix_and_the_model_is_left_alone() -> None:
    model = lively()
    before = weights_of(model)
    config = replace(CONFIG, evaluated=3)
    first, second = (token_search(model, some_requests(), ALLOWED, config, seeded(5)) for _ in range(2))
    assert torch.equal(first.suffix, second.suffix)
    assert all(torch.equal(a, b) for a, b in zip(before, weights_of(model), strict=True))
    assert all(parameter.grad is None for parameter in model.parameters())


def test_markers_are_no_suffix_by_default() -> None:
    vocabulary = World().vocabulary
    allowed = suffix_tokens(vocabulary).tolist()
    markers = {vocabulary.bos, vocabulary.sot, vocabulary.eot, vocabulary.stop, vocabulary.pad}
    assert sorted([*allowed, *markers]) == list(range(vocabulary.size))


def test_what_cannot_be_searched_is_named() -> None:
    model, requests = lively(), some_requests()
    with pytest.raises(DeltawError, match=r"3 tokens are too many.*1 or 2"):
        best_suffix(model, requests, ALLOWED, 3)
    with pytest.raises(DeltawError, match="two allowed tokens"):
        token_search(model, requests, ALLOWED[:1], CONFIG, seeded())
    with pytest.raises(DeltawError, match=r"top_k.* are 0"):
        TokenSearchConfig(top_k=0)
    with pytest.raises(DeltawError, match="context"):
        token_search(lively(context=9), requests, ALLOWED, replace(CONFIG, positions="shifted"), seeded())
