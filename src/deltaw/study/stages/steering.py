"""The difference-in-means direction of a tuned model: ablated at all layers, or added at the one that it is from.

One direction a layer, from activations at `resid_out`, last prompt token, of allowed and forbidden conditional prompts
that are not among those that answer. Lines `ablate_direction` and `add_direction` (dose: its multiple) have the layer
that the direction is from as `layer`; their null `random_direction` ablates a random direction, or adds one as long.
"""

from collections.abc import Callable
from functools import partial

from torch import Tensor

from deltaw.interventions import (
    Edit,
    Place,
    ablation,
    addition,
    difference_in_means,
    editing,
    layers_of,
    random_direction,
)
from deltaw.interventions.directions import SITE
from deltaw.models import activations
from deltaw.models.batch import Role
from deltaw.recipes.intervention_sweeps import Sweep
from deltaw.study.stages.edited import ALLOWED, FORBIDDEN, Answered, Panel, Subject
from deltaw.training.pretraining import compliant

MEANS_FROM = 1 << 30  # of the test prompts; no measurement of behaviour reaches so far


def directions(subject: Subject) -> None:
    """Every layer's direction ablated and added, with their nulls."""
    found = {name: _read(subject, name) for name in (ALLOWED, FORBIDDEN)}
    blocks = layers_of(subject.base)
    drawn: list[Answered] | None = None
    for layer in blocks:
        place = (layer, SITE)
        direction = difference_in_means(found[FORBIDDEN][place], found[ALLOWED][place])
        view = subject.sheet.with_(layer=layer, site=SITE)
        if drawn is None:  # ablated everywhere, at any norm: one null for all
            drawn = _draws(subject, "ablate", direction, partial(ablation, layers=blocks))
        answered = _answer(subject, subject.conditional, ablation(direction, blocks))
        here = view.with_(intervention="ablate_direction", dose=1.0)
        subject.add_rates(answered, here, drawn, "random_direction")
        added = _draws(subject, f"add/{layer}", direction, partial(addition, layer=layer))
        for dose in subject.sweep.doses:
            answered = _answer(subject, subject.conditional, addition(direction, layer, dose))
            here = view.with_(intervention="add_direction", dose=dose)
            subject.add_rates(answered, here, added if dose == 1 else [], "random_direction")


def direction_draws(sweep: Sweep) -> int:
    """Draws behind each null: fewer than of others, since each layer has its own and random directions do little."""
    return max(2, sweep.draws // 4)


def _read(subject: Subject, name: str) -> dict[Place, Tensor]:
    rows = range(MEANS_FROM, MEANS_FROM + subject.sweep.means)
    prompts = subject.world.sample(name, rows, seed=subject.seed)
    batch = compliant(subject.world, prompts).to(subject.model.embed.weight.device)
    return activations(subject.model, batch, (SITE,), layers_of(subject.base), Role.LAST_PROMPT)


def _answer(subject: Subject, panel: Panel, edits: dict[Place, Edit]) -> Answered:
    with editing(subject.model, edits):
        return subject.answer(panel)


def _draws(
    subject: Subject, name: str, direction: Tensor, edits: Callable[[Tensor], dict[Place, Edit]]
) -> list[Answered]:
    found = []
    for number in range(direction_draws(subject.sweep)):
        random = random_direction(direction, subject.torch_generator(f"direction/{name}/{number}"))
        found.append(_answer(subject, subject.few, edits(random)))
    return found
