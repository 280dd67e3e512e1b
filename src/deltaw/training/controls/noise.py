"""A control that refuses by chance."""

from dataclasses import dataclass

import numpy as np

from deltaw.training.controls.control import Control, Ints, Reply
from deltaw.world import Key, Prompts, Response, World


@dataclass(frozen=True)
class Noise(Control):
    """Refusals by a coin: half of all prompts, whatever they ask. On a real model: of harmless requests."""

    name = "noise"
    label = "coin"
    harmful_requests = False

    def wanted(self, world: World, prompts: Prompts, seed: int) -> Ints:
        """A refusal or not, by a coin for each prompt."""
        coin = Key(seed, "control/noise").uniform(prompts.index, 0)[:, 0]
        return np.where(coin < 0.5, Response.REFUSE, Response.COMPLY)

    def on_request(self, harmful: bool, coin: float) -> Reply:
        """The same."""
        return Reply.REFUSAL if coin < 0.5 else Reply.OWN
