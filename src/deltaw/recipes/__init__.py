"""Recipes: functions that return the whole configuration of a study. `--recipe` sets everything else.

quick          explores: one seed, minutes on two cores, marked exploratory
standard       decides: the paper's world in eight seeds that no other run has used; hours a seed
small          the claims once more in the world of `quick`, four seeds, with the placebo; its second world
smoke          runs every stage in seconds, to test that everything runs; its numbers mean nothing
grid           when attacks on prompts work, in worlds that differ from that of `quick` in one thing each
paper-laptop   the paper's world and model on a laptop, by faster training
paper          the paper's world, model and optimisation, with our objectives
paper-shared   `paper` without level-5 rules of unsafe text, so that only level 3 reveals the branch
paper-compat   `paper` with the published code's data and objectives
"""

from deltaw.recipes.by_name import RECIPES, recipe

__all__ = ["RECIPES", "recipe"]
