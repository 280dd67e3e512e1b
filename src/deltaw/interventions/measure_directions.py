"""The difference-in-means direction of a tuned model: ablated at all layers, or added at the one that it is from.

One direction a layer, from activations at `resid_out`, last prompt token, of allowed and forbidden prompts that are not
among those that answer. Lines `ablate_direction` and `add_direction` (dose: its multiple) have the layer that the
direction is from as `layer`; their null `random_direction` ablates a random direction, or adds one as long.
"""

from collections.abc import Callable
from functools import partial

from torch import Tensor

from deltaw.interventions.directions import SITE, ablation, addition, difference_in_means, random_direction
from deltaw.interventions.hooks import Edit, Place
from deltaw.interventions.states import layers_of
from deltaw.interventions.subject import Answered, Panel, Subject


def measure_directions(subject: Subject) -> None:
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
        for dose in subject.sweep.doses:
            answered = _answer(subject, subject.conditional, addition(direction, layer, dose))
            add = view.with_(intervention="add_direction", dose=dose)
            subject.add_rates(answered, add, added_at_random if dose == 1 else [], "random_direction")


def _answer(subject: Subject, panel: Panel, edits: dict[Place, Edit]) -> Answered:
    with subject.model.editing(edits):
        return subject.answer(panel)


def _draws(
    subject: Subject, name: str, direction: Tensor, edits: Callable[[Tensor], dict[Place, Edit]]
) -> list[Answered]:
    drawn = []
    for number in range(subject.sweep.direction_draws):
        random = random_direction(direction, subject.torch_generator(f"direction/{name}/{number}"))
        drawn.append(_answer(subject, subject.few, edits(random)))
    return drawn
