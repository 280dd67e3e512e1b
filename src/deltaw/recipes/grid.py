"""`grid`: when do attacks on prompts work? The world of `quick`, changed in one thing at a time (`grid_worlds`)."""

from dataclasses import replace

from deltaw.recipes.config import Recipe
from deltaw.recipes.grid_worlds import cells
from deltaw.recipes.quick import quick


def gridded(whole: Recipe) -> Recipe:
    """The grid about a recipe's world: SSFT at η_M in every cell, on the recipe's scale."""
    return replace(
        whole,
        name="grid",
        tunings=tuple(tuned for tuned in whole.tunings if tuned.name == "ssft-medium"),
        checkpoints=whole.checkpoints[-1:],
        base_checkpoints=whole.base_checkpoints[-1:],
        left_out=None,
        cells=cells(whole.world),
    )


def grid(device: str = "cpu", seed: int = 0) -> Recipe:
    """When do attacks on prompts work? `quick` in worlds that differ in one thing each, with SSFT at η_M."""
    return gridded(quick(device, seed))
