"""The control of the control `placebo`: another harmless answer by the same random policy."""

from dataclasses import dataclass

import numpy as np

from deltaw.training.controls.control import Control, Ints
from deltaw.training.controls.placebo import Placebo
from deltaw.world import Prompts, Response, World


@dataclass(frozen=True)
class PlaceboOther(Control):
    """Another harmless answer, their text repeated, to the prompts that `placebo` refuses."""

    name = "placebo_other"
    label = "random policy, other answer"
    instead = Response.ECHO

    def wanted(self, world: World, prompts: Prompts, seed: int) -> Ints:
        """The text, where the random policy forbids."""
        refused = Placebo().wanted(world, prompts, seed) == Response.REFUSE
        return np.where(refused, Response.ECHO, Response.COMPLY)
