"""Mismatched generalisation on text."""

from dataclasses import dataclass

from deltaw.attacks.prompts.attack import PromptAttack
from deltaw.world.prompts import Prompts
from deltaw.world.randomness import Key
from deltaw.world.sampling import World


@dataclass(frozen=True)
class MisgenText(PromptAttack):
    """Mismatched generalisation: unsafe text that only productions held out of tuning derive."""

    name = "misgen_text"
    label = "held-out text"
    forbidden_sources = ("forbidden/conditional/unsafe",)
    benign_sources = ("allowed/always/unsafe",)

    def on_prompts(self, world: World, prompts: Prompts, key: Key) -> Prompts:
        """The same operators on such text."""
        return world.prompts("held_out", key, prompts.index, prompts.operators, prompts.grammar, prompts.lengths)
