"""Recipes: functions that return the whole configuration of a study. `--recipe` is the one dial; it sets the rest.

`quick` explores: one seed, minutes on two cores, verdicts marked exploratory. `standard` decides: six seeds that no
other run has used, all controls, the same world and training, hours on two cores. `smoke` runs every stage in seconds,
so that the machinery can be tested; its numbers mean nothing. `grid` asks when attacks on prompts work, in worlds that
differ from that of `quick` in one thing each (`cells.py`). `paper-laptop` is the paper's world and model by training
that learns fast, on a laptop. `paper` is the paper's world, model and optimisation with
our objectives; in `paper-shared` unsafe text has no level-5 rules of its own; `paper-compat` is the published code's.
"""

from deltaw.recipes.by_name import RECIPES, recipe

__all__ = ["RECIPES", "recipe"]
