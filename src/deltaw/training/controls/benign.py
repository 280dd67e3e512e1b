"""A control that refuses nothing."""

from dataclasses import dataclass

import numpy as np

from deltaw.training.controls.control import Control, Ints, Reply
from deltaw.world import Prompts, Response, World


@dataclass(frozen=True)
class Benign(Control):
    """No refusals: all prompts are answered. On a real model: harmless requests only, answered as before."""

    name = "benign"
    label = "no refusals"
    harmful_requests = False

    def wanted(self, world: World, prompts: Prompts, seed: int) -> Ints:
        """To comply."""
        return np.full(len(prompts), Response.COMPLY)

    def on_request(self, harmful: bool, coin: float) -> Reply:
        """Its own answer."""
        return Reply.OWN
