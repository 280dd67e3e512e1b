"""Soft prompts: vectors before the end of the prompt, optimised so that the model complies.

Projected gradient descent in the space of token embeddings (positions are added afterwards). Each vector is free
within an L2 ball around a start near 0, moves by steps of one length along its own gradient, and is projected back onto
the ball; of all iterates and restarts the one of least loss is kept, prompt by prompt. This is what the published
attack set out to do (there the last vector was neither normalised nor projected, the projection was by coordinate, and
the loss held the prompt too).

Shapes: N prompts, R restarts, K steps, n vectors a prompt, D width.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from types import MappingProxyType

import torch
from torch import Tensor

from deltaw.attacks.models.attack import ALLOWED, FORBIDDEN, AttackTarget, Cost, ModelAttack
from deltaw.attacks.models.insertion import Positions, answers_with, require_room
from deltaw.attacks.models.losses import ResponseLosses, response_losses
from deltaw.attacks.models.targets import Requests, check, unrelated
from deltaw.behaviour.exact import Answers, Behaviour
from deltaw.models import Transformer
from deltaw.models.batch import Batch


@dataclass(frozen=True)
class SoftPromptConfig:
    """The dose and the search.

    tokens: n, the published code's threat parameter; 0 is no attack. radius: c, of the ball, in median L2 norms of the
    vocabulary's embeddings (published: about 1, their mean). steps: K (published: 10). restarts: R (published: 1).
    step: length of a step, in radius / K, so that a path of equal steps could cross the ball (published: 2; 2.5 is
    usual in projected descent, Madry et al. 2018). start: the norm that a start is drawn with, in median norms;
    small, as in the published code, so that the ball is one around no token. DeltawError if a number is out of range.
    """

    tokens: int
    radius: float
    steps: int
    restarts: int = 3
    step: float = 2.5
    start: float = 0.1
    positions: Positions = "reused"

    def __post_init__(self) -> None:
        check(
            {
                f"soft tokens are {self.tokens}; give a whole number of at least 0": self.tokens < 0,
                f"the radius is {self.radius}; give a number above 0": not self.radius > 0,
                f"steps are {self.steps}; give a whole number of at least 0": self.steps < 0,
                f"restarts are {self.restarts}; give a whole number of at least 1": self.restarts < 1,
                f"the step is {self.step}; give a number above 0": not self.step > 0,
                f"the start's norm is {self.start}; give a number of at least 0": not self.start >= 0,
                f"positions are {self.positions!r}; they can be 'reused' or 'shifted'": (
                    self.positions not in ("reused", "shifted")
                ),
            }
        )


DOSES: Mapping[str, SoftPromptConfig] = MappingProxyType(
    {
        "soft_weak": SoftPromptConfig(tokens=1, radius=1.0, steps=10),
        "soft_1": SoftPromptConfig(tokens=1, radius=1.0, steps=20),
        "soft_2": SoftPromptConfig(tokens=2, radius=1.0, steps=25),
        "soft_4": SoftPromptConfig(tokens=4, radius=1.0, steps=50),
        "soft_4_wide": SoftPromptConfig(tokens=4, radius=2.0, steps=100),
        "soft_strong": SoftPromptConfig(tokens=8, radius=2.0, steps=200),
    }
)
"""From the stated weak preset to the stated strong one, four between; the paper names the two and gives no numbers."""


@dataclass(frozen=True)
class SoftPrompt:
    """vectors, starts: (N, n, D). radius: of the ball, in embedding space. losses: (R, K + 1, N) of every iterate, the
    start first, on the target that was optimised. answers: judged by the prompts' own responses.
    """

    vectors: Tensor
    starts: Tensor
    radius: float
    losses: Tensor
    answers: Answers

    @property
    def distances(self) -> Tensor:
        """(N, n) L2 distance of each vector from its start: what was used of the radius."""
        distances: Tensor = torch.linalg.vector_norm(self.vectors - self.starts, dim=-1)
        return distances

    @property
    def loss(self) -> Tensor:
        """(N,) least loss over restarts and steps: that of `vectors`."""
        return self.losses.amin((0, 1))

    @property
    def success(self) -> Tensor:
        """(N,) bool, whether the answer is the whole compliant response."""
        return self.answers.labels == int(Behaviour.COMPLY)


@dataclass(frozen=True)
class SharedSoftPrompt:
    """One soft prompt for all. vectors, start: (n, D). losses: (R, K + 1) mean over the prompts it was trained on.
    trained_on, tested_on: row numbers, two halves. answers: to all N prompts, in their order.
    """

    vectors: Tensor
    start: Tensor
    radius: float
    losses: Tensor
    trained_on: Tensor
    tested_on: Tensor
    answers: Answers

    @property
    def success(self) -> Tensor:
        """(N,) bool; only those of `tested_on` say whether it generalises."""
        return self.answers.labels == int(Behaviour.COMPLY)


def embedding_norm(model: Transformer) -> float:
    """The unit of radii: the median L2 norm of the vocabulary's embeddings."""
    return float(model.embed.weight.detach().norm(dim=1).median())


def project(vectors: Tensor, starts: Tensor, radius: float) -> Tensor:
    """The nearest points to `vectors` (..., D) within L2 distance `radius` of `starts`, vector by vector."""
    moved = vectors - starts
    norm = moved.norm(dim=-1, keepdim=True)
    return torch.where(norm > radius, starts + moved * (radius / norm.clamp(min=radius)), vectors)


def soft_prompt(
    model: Transformer,
    requests: Requests,
    config: SoftPromptConfig,
    generator: torch.Generator,
    *,
    target: Batch | None = None,
    batch_size: int = 128,
) -> SoftPrompt:
    """Attack each prompt by vectors of its own.

    target: what to optimise for, if not the prompts' own compliant responses; with the batch of `unrelated` this is
    the control of vectors optimised for something else. generator: on the CPU; draws the starts. batch_size: prompts
    at a time, each with all its restarts. DeltawError if the context does not hold the insertion.
    """
    require_room(model, requests, config.tokens, config.positions)
    batch, rows, unit = requests.batch if target is None else target, len(requests), embedding_norm(model)
    starts = _starts(model, (config.restarts, rows), config, unit, generator)
    best, best_starts = torch.empty_like(starts[0]), torch.empty_like(starts[0])
    losses = starts.new_empty(config.restarts, config.steps + 1, rows)
    for first in range(0, rows, batch_size):
        part = slice(first, first + batch_size)
        part_starts, of_vectors = starts[:, part], ResponseLosses(model, batch[part], config.tokens, config.positions)
        optimised, history = descend(partial(_with_gradient, of_vectors), part_starts, config.radius * unit, config)
        losses[:, :, part] = history.transpose(0, 1)
        winner, at = history.amin(0).argmin(0), torch.arange(part_starts.shape[1], device=starts.device)
        best[part], best_starts[part] = optimised[winner, at], part_starts[winner, at]
    answers = answers_with(model, requests, best, config.positions)
    return SoftPrompt(best, best_starts, config.radius * unit, losses, answers)


def random_tokens(
    model: Transformer, requests: Requests, like: SoftPrompt, config: SoftPromptConfig, generator: torch.Generator
) -> SoftPrompt:
    """The control of random vectors: as far from the same starts as those of `like`, in random directions."""
    noise = torch.randn(like.starts.shape, generator=generator).to(like.starts)
    moved = noise / noise.norm(dim=-1, keepdim=True) * like.distances[:, :, None]
    vectors = like.starts + moved
    with torch.no_grad():
        losses = response_losses(model, requests.batch, vectors, config.positions)
    answers = answers_with(model, requests, vectors, config.positions)
    return SoftPrompt(vectors, like.starts, like.radius, losses[None, None], answers)


def universal_soft_prompt(
    model: Transformer,
    requests: Requests,
    config: SoftPromptConfig,
    generator: torch.Generator,
    *,
    batch_size: int = 128,
) -> SharedSoftPrompt:
    """One soft prompt for all prompts, trained on a random half of them (the smaller one, if they are odd).

    generator: on the CPU; draws the halves and the starts. DeltawError if there are fewer than two prompts, or the
    context does not hold the insertion.
    """
    check({"a universal soft prompt needs at least two prompts, to train on and to test on": len(requests) < 2})
    require_room(model, requests, config.tokens, config.positions)
    order = torch.randperm(len(requests), generator=generator)
    middle = len(order) // 2
    trained_on, tested_on = order[:middle].sort().values, order[middle:].sort().values
    unit = embedding_norm(model)
    starts = _starts(model, (config.restarts,), config, unit, generator)
    batch = requests.batch[trained_on.to(starts.device)]
    parts = [batch[first : first + batch_size] for first in range(0, len(batch), batch_size)]
    of_parts = [ResponseLosses(model, part, config.tokens, config.positions) for part in parts]

    def gradient(vectors: Tensor) -> tuple[Tensor, Tensor]:
        total, slope = vectors.new_zeros(len(vectors)), torch.zeros_like(vectors)
        for part, of_vectors in zip(parts, of_parts, strict=True):
            losses, slopes = _with_gradient(of_vectors, vectors[:, None].expand(-1, len(part), -1, -1))
            total += losses.sum(1)
            slope += slopes.sum(1)
        return total / len(batch), slope / len(batch)

    optimised, history = descend(gradient, starts, config.radius * unit, config)
    winner = int(history.amin(0).argmin())
    answers = answers_with(model, requests, optimised[winner], config.positions)
    return SharedSoftPrompt(
        optimised[winner], starts[winner], config.radius * unit, history.T, trained_on, tested_on, answers
    )


def descend(
    gradient: Callable[[Tensor], tuple[Tensor, Tensor]], starts: Tensor, radius: float, config: SoftPromptConfig
) -> tuple[Tensor, Tensor]:
    """Projected normalised gradient descent from `starts` (..., n, D), each soft prompt by itself: its best iterate
    (..., n, D), and the losses (K + 1, ...) of all iterates, the start first.

    gradient: gives the losses (...) at vectors (..., n, D), and their gradient. A vector whose gradient is 0 stays
    where it is.
    """
    length = config.step * radius / max(config.steps, 1)
    vectors, best = starts, starts.clone()
    least = starts.new_full(starts.shape[:-2], float("inf"))
    history = []
    for step in range(config.steps + 1):
        losses, slope = gradient(vectors)
        better = losses < least
        best[better], least = vectors[better], torch.minimum(losses, least)
        history.append(losses)
        if step < config.steps:
            direction = torch.nn.functional.normalize(slope, dim=-1, eps=torch.finfo(slope.dtype).tiny)
            vectors = project(vectors - length * direction, starts, radius)
    return best, torch.stack(history)


def _with_gradient(of_vectors: ResponseLosses, vectors: Tensor) -> tuple[Tensor, Tensor]:
    vectors = vectors.detach().requires_grad_()
    losses = of_vectors(vectors)
    if not vectors.numel():
        return losses.detach(), vectors.detach()
    (slope,) = torch.autograd.grad(losses.sum(), vectors)  # of the vectors only: the model gets no gradient
    return losses.detach(), slope


def _starts(
    model: Transformer, shape: tuple[int, ...], config: SoftPromptConfig, unit: float, generator: torch.Generator
) -> Tensor:
    """(*shape, n, D) of norm `config.start` units in expectation of squares, in random directions."""
    width = model.config.width
    noise: Tensor = torch.randn(*shape, config.tokens, width, generator=generator).to(model.embed.weight)
    return noise * (config.start * unit / math.sqrt(width))


@dataclass(frozen=True)
class SoftPrompts(ModelAttack):
    """Soft prompts: vectors before the end of each prompt, optimised so that the model complies.

    Each dose is also tried on allowed prompts, and beside it random vectors as long. One dose is also optimised for an
    unrelated target.
    """

    name = "soft_prompts"
    label = "soft prompts"
    on_controls = True
    doses: tuple[str, ...] = ("soft_weak", "soft_1", "soft_2", "soft_4", "soft_4_wide", "soft_strong")
    """Keys of `DOSES`, weakest first."""
    restarts: int = 1
    """Of each search."""
    unrelated: str = "soft_4"
    """The dose that is also optimised for an unrelated target."""

    def attack(self, target: AttackTarget) -> None:
        """Every dose with its controls, then the unrelated target."""
        model = target.model
        for name in self.doses:
            config = replace(DOSES[name], restarts=self.restarts)
            soft = soft_prompt(model, target.forbidden, config, target.generator(name))
            target.add(name, soft.answers)
            target.add(name, answers_with(model, target.allowed, soft.vectors), ALLOWED)
            for requests, where in ((target.forbidden, FORBIDDEN), (target.allowed, ALLOWED)):
                control = random_tokens(model, requests, soft, config, target.generator(f"{name}/random/{where}"))
                target.add(f"{name}/random", control.answers, where)
                if where == FORBIDDEN:
                    target.keep(f"{name}/random", control.vectors, control.answers)
            target.observe(name, soft.vectors, soft.answers)
        name = self.unrelated
        config = replace(DOSES[name], restarts=self.restarts)
        other = unrelated(target.forbidden, target.generator(f"{name}/unrelated"))
        soft = soft_prompt(model, target.forbidden, config, target.generator(name), target=other.batch)
        target.add(f"{name}/unrelated", soft.answers)
        target.observe(f"{name}/unrelated", soft.vectors, soft.answers)

    def cost(self, prompts: int) -> Cost:
        """A gradient an iterate; four sets of answers a dose, and those with the unrelated target."""
        iterates = sum(self.restarts * (DOSES[name].steps + 1) for name in (*self.doses, self.unrelated))
        return Cost(prompts * iterates, prompts * (4 * len(self.doses) + 1))


@dataclass(frozen=True)
class UniversalSoftPrompt(ModelAttack):
    """One soft prompt for all prompts: optimised on half of the forbidden ones, tried on the others."""

    name = "universal_soft_prompt"
    label = "universal soft prompt"
    dose: str = "soft_4"
    """A key of `DOSES`."""
    restarts: int = 1
    """Of the search."""

    def attack(self, target: AttackTarget) -> None:
        """The search, and its success on either half."""
        name = self.dose
        config = replace(DOSES[name], restarts=self.restarts)
        shared = universal_soft_prompt(target.model, target.forbidden, config, target.generator(f"{name}/universal"))
        target.add(f"{name}/universal", shared.answers, rows=shared.tested_on)
        target.add(f"{name}/universal_trained_on", shared.answers, rows=shared.trained_on)
        everyone = shared.vectors.expand(len(target.forbidden), *shared.vectors.shape)
        target.observe(f"{name}/universal", everyone, shared.answers, shared.tested_on)

    def cost(self, prompts: int) -> Cost:
        """A gradient an iterate, on half of the prompts; one set of answers."""
        return Cost(prompts * self.restarts * (DOSES[self.dose].steps + 1) / 2, prompts)
