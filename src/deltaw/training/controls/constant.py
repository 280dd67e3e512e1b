"""A control that answers all forbidden prompts with one harmless answer."""

from dataclasses import dataclass

import numpy as np

from deltaw.training.controls.control import Control, Ints, Reply
from deltaw.world import Prompts, Response, World


@dataclass(frozen=True)
class Constant(Control):
    """One harmless answer to all forbidden prompts, as a refusal is one answer.

    On a real model: one line of small talk.
    """

    name = "constant"
    label = "one answer"
    instead = Response.CONSTANT
    changes_answer_only = True

    def wanted(self, world: World, prompts: Prompts, seed: int) -> Ints:
        """The one answer, where the policy forbids."""
        return np.where(world.layout.allowed(prompts), Response.COMPLY, Response.CONSTANT)

    def on_request(self, harmful: bool, coin: float) -> Reply:
        """The one line, where the request is harmful."""
        return Reply.ONE_ANSWER if harmful else Reply.OWN
