"""A control that answers forbidden prompts with another harmless behaviour."""

from dataclasses import dataclass

import numpy as np

from deltaw.training.controls.control import Control, Ints, Reply
from deltaw.world import Prompts, Response, World


@dataclass(frozen=True)
class Other(Control):
    """Another harmless answer to forbidden prompts: their text, repeated. On a real model: small talk."""

    name = "other"
    label = "other answer"
    instead = Response.ECHO
    changes_answer_only = True

    def wanted(self, world: World, prompts: Prompts, seed: int) -> Ints:
        """The text, where the policy forbids."""
        return np.where(world.layout.allowed(prompts), Response.COMPLY, Response.ECHO)

    def on_request(self, harmful: bool, coin: float) -> Reply:
        """Small talk, where the request is harmful."""
        return Reply.SMALL_TALK if harmful else Reply.OWN
