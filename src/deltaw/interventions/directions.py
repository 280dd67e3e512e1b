"""One direction for refusal: taken out of the stream, or added to it (Arditi et al., 2024).

    r        mean of forbidden − mean of allowed activations (difference in means), one layer's, at the last prompt
             token
    ablate   x ↦ x − r̂ r̂ᵀ x,  r̂ = r / ‖r‖, at `resid_out` of every layer and every position, generated ones included
    add      x ↦ x + c r, at `resid_out` of the layer that r is from, every position

If the direction carries refusal, a forbidden prompt is answered without it and an allowed one is refused with it. Null:
a random direction, added at the norm of r.

The difference-in-means direction of a tuned model: ablated at all layers, or added at the one that it is from.

One direction a layer, from activations at `resid_out`, last prompt token, of allowed and forbidden prompts that are not
among those that answer. Lines `ablate_direction` and `add_direction` (dose: its multiple) have the layer that the
direction is from as `layer`; their null `random_direction` ablates a random direction, or adds one as long.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from deltaw.errors import DeltawError
from deltaw.interventions.hooks import Edit, Place
from deltaw.interventions.intervention import Intervention
from deltaw.interventions.size import SweepSize
from deltaw.interventions.states import layers_of
from deltaw.interventions.subject import Answered, Panel, Subject

SITE = "resid_out"


def difference_in_means(forbidden: Tensor, allowed: Tensor) -> Tensor:
    """r (width,), from activations (N, width) and (M, width). DeltawError if the means are equal."""
    direction: Tensor = forbidden.double().mean(0) - allowed.double().mean(0)
    if not float(direction.norm()) > 0:
        raise DeltawError("forbidden and allowed activations have the same mean, so there is no direction between them")
    return direction


def random_direction(like: Tensor, generator: torch.Generator) -> Tensor:
    """A uniformly random direction at the norm of `like` (width,)."""
    drawn = torch.randn(like.shape, dtype=torch.float64, generator=generator)
    direction: Tensor = drawn * (like.double().norm() / drawn.norm())
    return direction


def ablation(direction: Tensor, layers: range) -> dict[Place, Edit]:
    """Edits that take `direction` (width,) out of the stream after every layer."""
    return {(layer, SITE): without(direction) for layer in layers}


def addition(direction: Tensor, layer: int, dose: float = 1.0) -> dict[Place, Edit]:
    """The edit that adds dose · direction after a layer."""
    return {(layer, SITE): shifted(dose * direction)}


def without(direction: Tensor) -> Edit:
    """x − r̂ r̂ᵀ x. DeltawError if the direction is 0."""
    norm = float(direction.norm())
    if not norm > 0:
        raise DeltawError("the direction to be ablated is 0; give one that points somewhere")
    unit = _on(direction / norm)

    def edit(x: Tensor) -> Tensor:
        r = unit(x)
        return x - (x @ r)[..., None] * r

    return edit


def shifted(vector: Tensor) -> Edit:
    """x + vector (width,)."""
    at = _on(vector)
    return lambda x: x + at(x)


def _on(vector: Tensor) -> Callable[[Tensor], Tensor]:
    """The vector in another tensor's dtype and on its device."""
    return lambda x: vector.to(dtype=x.dtype, device=x.device)


@dataclass(frozen=True)
class MeanDifference(Intervention):
    """The difference in means of forbidden and allowed prompts, ablated at all layers or added at one."""

    name = "directions"
    label = "difference in means"

    means: int = 128
    """Prompts of each kind behind it."""
    doses: tuple[float, ...] = (1.0,)
    """Multiples at which it is added."""

    def measure(self, subject: Subject) -> None:
        """Every layer's direction ablated and added, with their nulls."""
        if subject.asked.behind_means is None:
            subject.lens.absent["directions"] = "there are no prompts behind a difference in means"
            return
        allowed, forbidden = (subject.model.activations(prompts, (SITE,)) for prompts in subject.asked.behind_means())
        blocks = layers_of(subject.base)
        ablated_at_random: list[Answered] | None = None
        for layer in blocks:
            place = (layer, SITE)
            direction = difference_in_means(forbidden[place], allowed[place])
            view = subject.sheet.with_(layer=layer, site=SITE)
            if ablated_at_random is None:  # ablated everywhere, at any norm: one null for all
                ablated_at_random = _draws(subject, "ablate", direction, partial(ablation, layers=blocks))
            answered = _answer(subject, subject.conditional, ablation(direction, blocks))
            ablate = view.with_(intervention="ablate_direction", dose=1.0)
            subject.add_rates(answered, ablate, ablated_at_random, "random_direction")
            added_at_random = _draws(subject, f"add/{layer}", direction, partial(addition, layer=layer))
            for dose in self.doses:
                answered = _answer(subject, subject.conditional, addition(direction, layer, dose))
                add = view.with_(intervention="add_direction", dose=dose)
                subject.add_rates(answered, add, added_at_random if dose == 1 else [], "random_direction")

    def answered(self, size: SweepSize, blocks: int, attacks: int) -> int:
        """Prompts that are answered."""
        of_layers = blocks * (1 + len(self.doses)) * size.conditional
        return of_layers + (1 + blocks) * direction_draws(size) * size.both_few


def direction_draws(size: SweepSize) -> int:
    """Behind each null of a direction: fewer, since each layer has its own and random directions do little."""
    return max(2, size.draws // 4)


def _answer(subject: Subject, panel: Panel, edits: dict[Place, Edit]) -> Answered:
    with subject.model.editing(edits):
        return subject.answer(panel)


def _draws(
    subject: Subject, name: str, direction: Tensor, edits: Callable[[Tensor], dict[Place, Edit]]
) -> list[Answered]:
    drawn = []
    for number in range(direction_draws(subject.size)):
        random = random_direction(direction, subject.torch_generator(f"direction/{name}/{number}"))
        drawn.append(_answer(subject, subject.few, edits(random)))
    return drawn
