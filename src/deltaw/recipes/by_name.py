"""All recipes by name. Not in the package's `__init__`, because every stage's configuration imports that."""

from collections.abc import Callable

from deltaw.errors import DeltawError
from deltaw.recipes import grid, paper, paper_laptop, quick, small, smoke, standard
from deltaw.recipes.config import Recipe

RECIPES: dict[str, Callable[[str, int], Recipe]] = {
    "quick": quick.quick,
    "standard": standard.standard,
    "small": small.small,
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
