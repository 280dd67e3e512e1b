"""The stages that compare updates with each other (`observations.overlap`): of one base model, and of several seeds."""

from collections.abc import Sequence
from dataclasses import dataclass

from deltaw.observations.draws import Draw
from deltaw.observations.lens import BaseSide, Lens
from deltaw.observations.overlap.measure import (
    SIDES,
    Directions,
    Overlap,
    directions_of,
    write_layers,
    write_overlaps,
)
from deltaw.pipeline.stage import StageContext
from deltaw.recipes.tuned import Tuned
from deltaw.results.recorder import Sheet
from deltaw.study.stages.lens import SyntheticModel, base_side
from deltaw.study.stages.shared import SeedConfig, last_model
from deltaw.study.stages.tuned_models import tuned_fields
from deltaw.world import World

NEXT = 7
"""With how many of the seeds after it a seed is compared: with all of them in a study of eight."""


@dataclass(frozen=True)
class AligningConfig:
    """The stage that compares the tuned models of one base model."""

    shared: SeedConfig
    tuned: tuple[Tuned, ...]
    observation: Overlap


@dataclass(frozen=True)
class SeedsConfig:
    """The stage that compares each tuning's models across seeds."""

    shared: tuple[SeedConfig, ...]
    tuned: tuple[Tuned, ...]
    observation: Overlap


def align_models(context: StageContext) -> None:
    """Every pair of tuned models, and every pair of layers of each one at the larger rate."""
    config: AligningConfig = context.config
    shared, k = config.shared, config.observation.directions
    before, world = _side(context, "base", shared, config.tuned), World(shared.world)
    sheet, updates, views = Sheet(stage="analysis"), [], []
    for tuned in config.tuned:
        model, meta = last_model(context.inputs[tuned.name])
        updates.append(directions_of(Lens(before, SyntheticModel(model, world)), k))
        views.append(sheet.with_(**tuned_fields(tuned, shared.seed), step=int(meta["step"])))
    draws, compared = shared.sizes.draws, 0
    for first, of_first in enumerate(updates):
        for second in range(first + 1, len(updates)):
            view = views[first].with_(set=f"with={config.tuned[second].name}")
            write_overlaps(
                of_first, updates[second], SIDES, (shared.seed, Draw.OVERLAP_OF_MODELS, compared), draws, view
            )
            compared += 1
        context.report(first + 1, len(updates))
    for tuned, view, layers in zip(config.tuned, views, updates, strict=True):
        if tuned.strength == "medium":
            write_layers(layers, (shared.seed, 51), draws, view)
    sheet.write(context.out)


def align_seeds(context: StageContext) -> None:
    """Each tuning's models in every pair of seeds that stand at most `NEXT` apart: the work grows with the seeds."""
    config: SeedsConfig = context.config
    sheet, k = Sheet(stage="analysis"), config.observation.directions
    updates: dict[tuple[str, int], tuple[list[Directions], Sheet]] = {}
    for number, shared in enumerate(config.shared):
        before, world = _side(context, f"base-s{shared.seed}", shared, config.tuned), World(shared.world)
        for tuned in config.tuned:
            model, meta = last_model(context.inputs[f"{tuned.name}-s{shared.seed}"])
            view = sheet.with_(**tuned_fields(tuned, shared.seed), step=int(meta["step"]))
            updates[(tuned.name, shared.seed)] = directions_of(Lens(before, SyntheticModel(model, world)), k), view
        context.report(number + 1, len(config.shared))
    seeds = [shared.seed for shared in config.shared]
    for tuned in config.tuned:
        for place, first in enumerate(seeds):
            layers, view = updates[(tuned.name, first)]
            for second in seeds[place + 1 : place + 1 + NEXT]:
                second_layers, _ = updates[(tuned.name, second)]
                words, draws = (first, Draw.OVERLAP_OF_SEEDS, second), config.shared[place].sizes.draws
                write_overlaps(layers, second_layers, SIDES, words, draws, view.with_(set=f"with=seed {second}"))
    sheet.write(context.out)


def _side(context: StageContext, base: str, shared: SeedConfig, tuned: Sequence[Tuned]) -> BaseSide:
    device = tuned[0].config.device
    return base_side(context.inputs[base], shared.world, shared.sizes, shared.seed, device)
