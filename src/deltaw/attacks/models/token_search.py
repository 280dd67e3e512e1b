"""A suffix of ordinary tokens before the end of the prompt, found by greedy coordinate gradient (GCG, Zou et al. 2023),
and on short suffixes the exact optimum beside it.

In this world a suffix of letters or operators would be a different request, were it read as one. It is not: success is
the exact compliant response to the prompt *without* the suffix, as long as that prompt's text and no longer. A suffix
is thus noise to be ignored by everything but the refusal. Markers and padding are left out by default, since they end
the text or the answer; a smaller set of tokens can be given.

Shapes: N prompts, n tokens of a suffix, V vocabulary, A allowed tokens, C candidates.
"""

from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor

from deltaw.attacks.models.attack import ALLOWED, FORBIDDEN, AttackTarget, Cost, ModelAttack
from deltaw.attacks.models.insertion import Positions, answers_with, require_room
from deltaw.attacks.models.losses import ResponseLosses, response_losses
from deltaw.attacks.models.targets import Requests, check
from deltaw.behaviour.exact import Answers, Behaviour
from deltaw.models import Transformer
from deltaw.world import Vocabulary


@dataclass(frozen=True)
class TokenSearchConfig:
    """tokens: n, of the suffix. steps: of the search. top_k: substitutions a slot that the gradient proposes.
    evaluated: how many of the n · top_k, drawn at random, a step tries (all, if there are no more).

    Zou et al. take n = 20, 500 steps, 256 proposals a slot of 32,000 tokens and 512 tries, for prompts of some hundred
    tokens; here the prompt has 25 and the vocabulary about 50. DeltawError if a number is out of range.
    """

    tokens: int = 2
    steps: int = 10
    top_k: int = 8
    evaluated: int = 32
    positions: Positions = "reused"

    def __post_init__(self) -> None:
        for name in ("tokens", "top_k", "evaluated"):
            value = getattr(self, name)
            check({f"{name} of a token search are {value}; give a whole number of at least 1": value < 1})
        check(
            {
                f"steps are {self.steps}; give a whole number of at least 0": self.steps < 0,
                f"positions are {self.positions!r}; they can be 'reused' or 'shifted'": (
                    self.positions not in ("reused", "shifted")
                ),
            }
        )


@dataclass(frozen=True)
class TokenSuffix:
    """suffix: (N, n) int64. losses: (steps + 1, N) of the suffix held after each step, the random start first.
    loss: (N,) of `suffix`, the least. answers: of the model to the prompts with `suffix`.
    """

    suffix: Tensor
    losses: Tensor
    answers: Answers

    @property
    def loss(self) -> Tensor:
        """(N,) token mean of the NLL of the compliant response, in nats."""
        return self.losses.amin(0)

    @property
    def success(self) -> Tensor:
        """(N,) bool, whether the answer is the whole compliant response."""
        return self.answers.labels == int(Behaviour.COMPLY)


def suffix_tokens(vocabulary: Vocabulary) -> Tensor:
    """(A,) the tokens a suffix may have by default: all but markers and padding."""
    markers = {vocabulary.bos, vocabulary.sot, vocabulary.eot, vocabulary.stop, vocabulary.pad}
    return torch.tensor([token for token in range(vocabulary.size) if token not in markers])


def token_search(
    model: Transformer,
    requests: Requests,
    allowed: Tensor,
    config: TokenSearchConfig,
    generator: torch.Generator,
    *,
    batch_size: int = 512,
) -> TokenSuffix:
    """Greedy coordinate gradient, each prompt by itself: at each step the best of the substitutions tried is taken,
    even if it is worse than what is held (there is no step back otherwise), and the best suffix met is kept.

    allowed: (A,) tokens that a suffix may have, at least two. generator: on the CPU; draws the start and what is
    tried. batch_size: sequences at a time. DeltawError if the context does not hold the insertion.
    """
    require_room(model, requests, config.tokens, config.positions)
    check({"a token search needs at least two allowed tokens": len(allowed) < 2})
    device, rows = requests.refusal.device, len(requests)
    allowed = allowed.to(device)
    held = _random_suffixes(rows, config.tokens, allowed, generator)
    losses = suffix_losses(model, requests, held[:, None], config.positions, batch_size)[:, 0]
    best, least, history = held.clone(), losses.clone(), [losses]
    top_k = min(config.top_k, len(allowed) - 1)
    for _ in range(config.steps):
        slopes = _slopes(model, requests, held, config.positions, batch_size)[:, :, allowed]
        slopes = slopes.masked_fill(held[:, :, None] == allowed, float("inf"))  # a substitution changes the token
        proposed = allowed[slopes.topk(top_k, largest=False).indices].flatten(1)  # (N, n · top_k), slot by slot
        slot = torch.arange(config.tokens, device=device).repeat_interleave(top_k).expand_as(proposed)
        if config.evaluated < proposed.shape[1]:
            drawn = torch.rand(proposed.shape, generator=generator).argsort(1)[:, : config.evaluated].to(device)
            proposed, slot = proposed.gather(1, drawn), slot.gather(1, drawn)
        candidates = held[:, None].repeat(1, proposed.shape[1], 1).scatter(2, slot[..., None], proposed[..., None])
        tried = suffix_losses(model, requests, candidates, config.positions, batch_size)
        losses, winner = tried.min(1)
        held = candidates[torch.arange(rows, device=device), winner]
        better = losses < least
        best[better], least = held[better], torch.minimum(losses, least)
        history.append(losses)
    return _found(model, requests, best, torch.stack(history), config.positions)


def random_suffix(
    model: Transformer,
    requests: Requests,
    allowed: Tensor,
    config: TokenSearchConfig,
    generator: torch.Generator,
) -> TokenSuffix:
    """The control: `config.tokens` allowed tokens at random, a suffix for each prompt."""
    require_room(model, requests, config.tokens, config.positions)
    suffix = _random_suffixes(len(requests), config.tokens, allowed.to(requests.refusal.device), generator)
    losses = suffix_losses(model, requests, suffix[:, None], config.positions)
    return _found(model, requests, suffix, losses.T, config.positions)


def best_suffix(
    model: Transformer,
    requests: Requests,
    allowed: Tensor,
    count: int,
    positions: Positions = "reused",
    *,
    batch_size: int = 512,
) -> TokenSuffix:
    """The oracle: the best of all A^n suffixes of one or two tokens, by trying each. DeltawError for longer ones."""
    check({f"all suffixes of {count} tokens are too many to try; the oracle takes 1 or 2": count not in (1, 2)})
    every = torch.tensor(list(product(allowed.tolist(), repeat=count)), device=requests.refusal.device)
    return _best_of(model, requests, every.expand(len(requests), *every.shape), positions, batch_size)


@torch.no_grad()
def suffix_losses(
    model: Transformer,
    requests: Requests,
    suffixes: Tensor,
    positions: Positions = "reused",
    batch_size: int = 512,
) -> Tensor:
    """(N, C) token mean of the NLL of each prompt's compliant response after each of its suffixes (N, C, n)."""
    rows, candidates, count = suffixes.shape
    losses = model.embed.weight.new_empty(rows, candidates)
    rows_at_once = max(1, batch_size // candidates)
    for first in range(0, rows, rows_at_once):
        part = slice(first, first + rows_at_once)
        of_vectors = ResponseLosses(model, requests.batch[part], count, positions)
        for start in range(0, candidates, batch_size):
            columns = slice(start, start + batch_size)
            losses[part, columns] = of_vectors(model.embed(suffixes[part, columns]).transpose(0, 1)).T
    return losses


def _slopes(model: Transformer, requests: Requests, suffix: Tensor, positions: Positions, batch_size: int) -> Tensor:
    """(N, n, V) derivative of each row's loss by the one-hot vector of each slot's token."""
    table, parts = model.embed.weight.detach(), []
    for first in range(0, len(suffix), batch_size):
        part = slice(first, first + batch_size)
        vectors = table[suffix[part]].requires_grad_()
        losses = response_losses(model, requests.batch[part], vectors, positions)
        (slope,) = torch.autograd.grad(losses.sum(), vectors)
        parts.append(slope @ table.T)
    return torch.cat(parts)


def _random_suffixes(rows: int, count: int, allowed: Tensor, generator: torch.Generator) -> Tensor:
    return allowed[torch.randint(len(allowed), (rows, count), generator=generator).to(allowed.device)]


def _best_of(
    model: Transformer, requests: Requests, candidates: Tensor, positions: Positions, batch_size: int
) -> TokenSuffix:
    require_room(model, requests, candidates.shape[2], positions)
    losses, winner = suffix_losses(model, requests, candidates, positions, batch_size).min(1)
    suffix = candidates[torch.arange(len(candidates), device=candidates.device), winner]
    return _found(model, requests, suffix, losses[None], positions)


def _found(model: Transformer, requests: Requests, suffix: Tensor, losses: Tensor, positions: Positions) -> TokenSuffix:
    with torch.no_grad():
        vectors = model.embed(suffix)
    return TokenSuffix(suffix, losses, answers_with(model, requests, vectors, positions))


@dataclass(frozen=True)
class TokenSearch(ModelAttack):
    """A suffix of ordinary tokens, found by greedy coordinate gradient (GCG).

    Beside it a random suffix as long, and the exact best suffix of one token.
    """

    name = "token_search"
    label = "token search"
    search: TokenSearchConfig = TokenSearchConfig()
    """The search."""

    def attack(self, target: AttackTarget) -> None:
        """The search, random suffixes, and the best one of one token."""
        model, config = target.model, self.search
        name, allowed = f"token_search_{config.tokens}", suffix_tokens(target.world.vocabulary)
        searched = token_search(model, target.forbidden, allowed, config, target.generator(name))
        target.add(name, searched.answers)
        for requests, where in ((target.forbidden, FORBIDDEN), (target.allowed, ALLOWED)):
            control = random_suffix(model, requests, allowed, config, target.generator(f"{name}/random/{where}"))
            target.add(f"{name}/random", control.answers, where)
        target.observe(name, searched.suffix, searched.answers)
        target.add("token_search_1/exact", best_suffix(model, target.forbidden, allowed, 1).answers)

    def cost(self, prompts: int) -> Cost:
        """A gradient a step, and a third for each suffix that the step tries; four sets of answers."""
        search = self.search
        tried = min(search.evaluated, search.tokens * search.top_k)
        return Cost(prompts * search.steps * (1 + tried / 3), 4 * prompts)
