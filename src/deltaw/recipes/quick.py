"""`quick`: one seed of a small world, in minutes on two cores; an exploration."""

from dataclasses import replace

from deltaw.recipes.common import stopped, strengths, training_dtype, tunings_of
from deltaw.recipes.config import LeftOut, Recipe
from deltaw.recipes.tuned import Tuned
from deltaw.training.pretraining import PretrainingConfig
from deltaw.world import WorldConfig

PLAIN_STOPS = 160  # updates of plain DPO, which is only followed: by then it answers no prompt rightly


LEFT_OUT = (2, 6, 8)  # of grammar 1: a never-allowed operator and two conditional ones; one and three are left


def left_out_of(tunings: tuple[Tuned, ...]) -> LeftOut:
    """`ssft-medium` with other prompts: the operators `LEFT_OUT` are not among them."""
    known = next(tuned for tuned in tunings if tuned.name == "ssft-medium")
    return LeftOut(LEFT_OUT, replace(known, name="left-out-ssft-medium", protocol="ssft_left_out"), known.name)


def quick(device: str = "cpu", seed: int = 0) -> Recipe:
    """Grammar 1, one operator pair, 20 letters, a model of 0.8 M parameters: an exploration on a laptop."""
    dtype = training_dtype(device)
    pretraining = PretrainingConfig(device=device, compute_dtype=dtype)
    steps = pretraining.optimiser.steps
    checkpoints = (0, 20, 40, 80, 120, 160, 240, 320, 400)
    tunings = tuple(
        stopped(tuned, PLAIN_STOPS) if tuned.curve_only else tuned
        for tuned in tunings_of(64, device, dtype, strengths(checkpoints[-1]))
    )
    return Recipe(
        name="quick",
        world=WorldConfig(),
        pretraining=pretraining,
        tunings=tunings,
        checkpoints=checkpoints,
        base_checkpoints=tuple(round(steps * k / 8) for k in range(9)),
        seeds=(seed,),
        left_out=left_out_of(tunings),
    )
