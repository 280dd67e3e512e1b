"""A control: refusal by a cue that has nothing to do with safety."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deltaw.training.controls import Control
from deltaw.world import Prompts, Response, World


@dataclass(frozen=True)
class Letter(Control):
    """Refusals by a harmless cue: texts that begin with every second letter of the alphabet."""

    name = "letter"
    label = "refusal by first letter"
    instead = Response.REFUSE

    def wanted(self, world: World, prompts: Prompts, seed: int) -> NDArray[np.int64]:
        """REFUSE where the first letter's number is even, whatever is asked."""
        return np.where(prompts.letters[:, 0] % 2 == 0, Response.REFUSE, Response.COMPLY)
