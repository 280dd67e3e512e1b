"""What `deltaw sample` prints: prompts of a world, for a person or a program, with a model's answers on request."""

import sys
from pathlib import Path

from deltaw.behaviour.exact import Behaviour
from deltaw.cli.sample.page import Page
from deltaw.cli.sample.records import records, to_json
from deltaw.cli.sample.samples import Answer, samples, split_named
from deltaw.errors import DeltawError
from deltaw.models import load
from deltaw.recipes import recipe
from deltaw.study.stages.answers import answers_to
from deltaw.world import Prompts, World


def print_samples(
    name: str, split: str, count: int, seed: int, attacks: bool, tree: bool, model: Path | None, as_json: bool
) -> None:
    """Write prompts of the world of recipe `name` to standard output. DeltawError for a user's mistake."""
    if as_json and tree:
        raise DeltawError("--tree draws for a person and --json writes for a program; give one of them")
    of_recipe = recipe(name)
    world = World(of_recipe.world)
    chosen = split_named(world, split)
    answer = answers_of(model, world, name) if model else None
    page = None if as_json else Page(tree=tree)
    for number, chunk in enumerate(
        samples(world, chosen, count, seed, of_recipe.prompt_attacks if attacks else (), answer)
    ):
        if page is None:
            sys.stdout.writelines(to_json(record) + "\n" for record in records(chunk))
            continue
        if number == 0:
            page.legend(chosen, world)
        page.write(chunk)


def answers_of(directory: Path, world: World, recipe_name: str) -> Answer:
    """What a model answers to prompts of a world. DeltawError if the model is not one of this world's."""
    model, _ = load(directory)
    if model.config.vocabulary_size != world.vocabulary.size or model.config.context < world.layout.length:
        raise DeltawError(
            f"the model in {directory} has {model.config.vocabulary_size} tokens and a context of "
            f"{model.config.context}; the world of recipe '{recipe_name}' needs {world.vocabulary.size} and "
            f"{world.layout.length}; give the --recipe that made it"
        )

    def answer(prompts: Prompts) -> list[tuple[str, str]]:
        labels, outputs = answers_to(model, world, prompts)
        return [
            (world.vocabulary.spell(row), Behaviour(label).name.lower())
            for row, label in zip(outputs.tolist(), labels.tolist(), strict=True)
        ]

    return answer
