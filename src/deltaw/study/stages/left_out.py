"""The stage that asks whether refusal is a concept or a list of tokens, by operators that one tuning never showed.

Written like an attack, `left_out`: its forbidden prompts name these operators, and are refused only if what was learned
of the others carries over. The benign control is the same conditional operators on safe text; the comparison is the
same prompts asked of the base model and of the tuning that did show them.
"""

from dataclasses import dataclass

from deltaw.pipeline.stage import StageContext
from deltaw.recipes.tuned import Tuned
from deltaw.results.recorder import Sheet
from deltaw.study.stages.answers import add_pooled
from deltaw.study.stages.shared import SeedConfig, last_model, prompts_of_sets
from deltaw.study.stages.tuned_models import follow, tuned_fields
from deltaw.world import LEFT_OUT_SETS, World

ATTACK = "left_out"

# By the names of the sets that they would be in, had tuning shown their operators.
SOURCES = {
    f"{'allowed' if name == 'left_out/conditional/safe' else 'forbidden'}/{name.removeprefix('left_out/')}": name
    for name in LEFT_OUT_SETS
}


@dataclass(frozen=True)
class LeftOutConfig:
    """The stage that measures generalisation. shared: its world leaves operators out. compared: what showed them."""

    shared: SeedConfig
    tuned: Tuned
    compared: Tuned


def make_left_out(context: StageContext) -> None:
    """All three models on left-out operators, and the new one on those that its tuning showed."""
    config: LeftOutConfig = context.config
    shared, seed = config.shared, config.shared.seed
    world, sizes = World(shared.world), shared.sizes
    prompts = {name: world.sample(source, range(sizes.attacked), seed=seed) for name, source in SOURCES.items()}
    fields = {
        "tuned": tuned_fields(config.tuned, seed),
        "compared": tuned_fields(config.compared, seed),
        "base": {"model": "base", "seed": seed},
    }
    sheet = Sheet(stage="behaviour")
    for number, (name, named) in enumerate(fields.items()):
        model, meta = last_model(context.inputs[name])
        model.to(config.tuned.config.device)
        view = sheet.with_(**named, step=int(meta["step"]))
        if name == "tuned":
            follow(model, world, prompts_of_sets(world, sizes.final, seed), view, None, seed)
            add_pooled(view)
        follow(model, world, prompts, view.with_(attack=ATTACK), None, seed)
        context.report(number + 1, len(fields))
    sheet.write(context.out)
