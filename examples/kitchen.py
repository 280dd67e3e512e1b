"""A world of one's own: a kitchen, whose language is a file beside this one.

python examples/kitchen.py                  prompts, what the policy says of them, and the best that any model can do
python examples/kitchen.py --study runs/k   a study in this world, on a toy scale: it tests the machinery, no more
"""

import sys
from dataclasses import replace
from pathlib import Path

from deltaw.cli.sample.page import show
from deltaw.pipeline.progress import choose_listener
from deltaw.recipes import recipe
from deltaw.recipes.config import ModelAttacks, Recipe
from deltaw.recipes.sizes import Sizes
from deltaw.study.run import run_study
from deltaw.world import GrammarConfig, World, WorldConfig
from deltaw.world.cues import single_letter_accuracy
from deltaw.world.grammar_file import read_language_text

LANGUAGE = read_language_text(Path(__file__).parent / "worlds" / "kitchen.grammar")

KITCHEN = WorldConfig(
    # Of eight operators 3, 4, 5 and 7 are conditional: allowed in safe dishes only. They are bijections of seed 900.
    grammars=(GrammarConfig(5, LANGUAGE, never=(1, 6), always=(0, 2), aliases=(3, 6), operator_seed=900),),
    alphabet=22,
    n_operators=8,
    text_length=16,
    pairs=2,  # two outputs, the second of the first: a refusal can come late
    late=0.25,
    refusal_nulls=3,  # a refusal is short, however long the text
    left_out=(7,),  # never shown in tuning: is it refused all the same?
)


def tiny(world: WorldConfig) -> Recipe:
    """The recipe `smoke` in another world, with one tuning, few updates and few prompts."""
    smoke = recipe("smoke")
    return replace(
        smoke.in_world(world, "kitchen"),
        pretraining=replace(smoke.pretraining, optimiser=replace(smoke.pretraining.optimiser, steps=4, decay_end=4)),
        base_checkpoints=(0, 4),
        tunings=smoke.tunings[:1],
        checkpoints=(0, 2),
        sizes=Sizes(final=8, checkpoint=4, attacked=8, contrast=24, draws=20, bootstrap=20, ceiling=50, shown=1),
        model_attacks=ModelAttacks(models=()),
    )


def main() -> None:
    """Show the world, or run a study in it."""
    if sys.argv[1:2] == ["--study"]:
        out = sys.argv[2] if len(sys.argv) > 2 else "runs/kitchen"
        print("Report:", run_study(tiny(KITCHEN), out, engine="inline", listener=choose_listener()))
        return
    world = World(KITCHEN)
    show(world, "tune", count=4, attacks=True)
    show(world, "left_out/conditional/unsafe", count=1, tree=True)
    ceiling = world.ceiling(1000)
    print(f"The best possible classifier tells the branch of {ceiling.accuracy:.2%} of {ceiling.n} tuning windows;")
    cues = single_letter_accuracy(world.languages[5], KITCHEN.longest)
    cue = max(cues, key=lambda name: cues[name])
    print(f"one that only counts one letter or leaf, of {cues[cue]:.2%} (it counts '{cue}').")


if __name__ == "__main__":
    main()
