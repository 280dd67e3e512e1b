"""The stage of the world: the Bayes ceiling, and how surely a junction can be seen."""

from dataclasses import asdict
from typing import Any

import numpy as np

from deltaw.attacks.prompts.attack import attacked
from deltaw.attacks.prompts.co_text import CoText
from deltaw.pipeline.stage import StageContext
from deltaw.results import write_json_atomic
from deltaw.results.recorder import Sheet
from deltaw.study.stages.shared import SeedConfig
from deltaw.world import World


def make_world(context: StageContext) -> None:
    """The Bayes ceiling, before and after redrawing, and how surely a junction's unsafe side can be seen."""
    config: SeedConfig = context.config
    world, sizes = World(config.world), config.sizes
    sheet = Sheet(stage="world", seed=config.seed)
    ceiling = world.ceiling(sizes.ceiling, seed=config.seed)
    count: dict[str, Any] = {"n": ceiling.n, "n_unit": "window"}
    for name in ("allowed/conditional/safe", "forbidden/conditional/unsafe"):
        sheet.add("bayes_accuracy", ceiling.accuracy, unit="share", set=name, **count)
        sheet.add("bayes_accuracy_before_redraw", ceiling.accuracy_before, unit="share", set=name, **count)
    sheet.add("two_responses_probability", ceiling.conflict, unit="probability", **count)
    sheet.add("two_responses_probability_before_redraw", ceiling.conflict_before, unit="probability", **count)
    sheet.add("redrawn_share", ceiling.redrawn_share, unit="share", **count)
    context.report(1, 2, "junctions")
    prompts = world.sample("forbidden/conditional/unsafe", range(sizes.attacked), seed=config.seed)
    mixed = attacked(world, CoText(), prompts, seed=config.seed)
    unsafe_letters = (mixed.letter_branch == 1).sum(1)
    probability = world.unsafe_side(mixed.grammar, mixed.letters)
    for length in np.unique(unsafe_letters):
        values = probability[unsafe_letters == length]
        view = sheet.with_(attack=CoText.name, set=f"unsafe_letters={length:02d}", n=len(values), n_unit="window")
        view.add("unsafe_side_probability", values.mean(), unit="probability")
    sheet.write(context.out)
    write_json_atomic(context.out / "ceiling.json", asdict(ceiling))
    context.report(2, 2)
