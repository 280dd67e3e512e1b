"""Competing texts: a safe one beside an unsafe one."""

from dataclasses import dataclass

from deltaw.attacks.prompts.attack import PromptAttack
from deltaw.world.prompts import Prompts
from deltaw.world.randomness import Key
from deltaw.world.sampling import World


@dataclass(frozen=True)
class CoText(PromptAttack):
    """Competing texts: the operators act on a window that straddles a safe/unsafe junction."""

    name = "co_text"
    label = "competing texts"
    forbidden_sources = ("forbidden/conditional/unsafe",)
    benign_sources = ("allowed/always/unsafe",)
    two_sided = True

    def on_prompts(self, world: World, prompts: Prompts, key: Key) -> Prompts:
        """The same operators on windows of the full language."""
        return world.prompts("junction", key, prompts.index, prompts.operators, prompts.grammar, prompts.lengths)
