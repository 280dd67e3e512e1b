"""Recipes: functions that return the whole configuration of a study. `--recipe` is the one dial; it sets the rest.

`quick` explores: one seed, minutes on two cores, verdicts marked exploratory. `standard` decides: six seeds that no
other run has used, all controls, the same world and training, hours on two cores. `smoke` runs every stage in seconds,
so that the machinery can be tested; its numbers mean nothing. `grid` asks when attacks on prompts work, in worlds that
differ from that of `quick` in one thing each (`cells.py`). `paper-laptop` is the paper's world and model by training
that learns fast, on a laptop. `paper` is the paper's world, model and optimisation with
our objectives; in `paper-shared` unsafe text has no level-5 rules of its own; `paper-compat` is the published code's.
"""

from collections.abc import Callable

from deltaw.errors import DeltawError
from deltaw.recipes import grid, paper, paper_laptop, quick, smoke, standard
from deltaw.recipes.config import Recipe

__all__ = ["RECIPES", "recipe"]

RECIPES: dict[str, Callable[[str, int], Recipe]] = {
    "quick": quick.quick,
    "standard": standard.standard,
    "smoke": smoke.smoke,
    "grid": grid.grid,
    "paper-laptop": paper_laptop.paper_laptop,
    "paper": paper.paper,
    "paper-shared": paper.paper_shared,
    "paper-compat": paper.paper_compat,
}


def recipe(name: str, device: str = "cpu", seed: int = 0) -> Recipe:
    """The recipe of that name. DeltawError lists the names there are."""
    if name not in RECIPES:
        raise DeltawError(f"there is no recipe '{name}'; the recipes are {', '.join(RECIPES)}")
    if seed < 0:
        raise DeltawError(f"seed is {seed}; give a whole number of at least 0")
    return RECIPES[name](device, seed)
