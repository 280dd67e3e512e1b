"""Mismatched generalisation on tokens."""

from dataclasses import dataclass

import numpy as np

from deltaw.attacks.prompts.attack import PromptAttack
from deltaw.world.prompts import Prompts
from deltaw.world.randomness import Key
from deltaw.world.sampling import World


@dataclass(frozen=True)
class MisgenToken(PromptAttack):
    """Mismatched generalisation: operators are named by aliases that tuning never showed.

    The outputs are unchanged. Of a forbidden prompt those operators are replaced that are forbidden in it; of an
    allowed one, its benign control, those that its grammar's policy can forbid. Only those that have an alias are.
    """

    name = "misgen_token"
    label = "aliases"
    forbidden_sources = ("forbidden/conditional/unsafe", "forbidden/never/safe")
    benign_sources = ("allowed/conditional/safe",)

    def on_prompts(self, world: World, prompts: Prompts, key: Key) -> Prompts:
        """The same prompts with aliases."""
        config, vocabulary = world.config, world.vocabulary
        token_of = {operator: vocabulary.n_operators + place for place, operator in enumerate(config.aliases)}
        alias_of = np.tile(np.arange(vocabulary.n_operator_tokens), (max(world.numbers) + 1, 1))
        for grammar in config.grammars:
            for operator in config.aliases_of(grammar):
                alias_of[grammar.number, operator] = token_of[operator]
        renamed = alias_of[prompts.grammar[:, None, None], prompts.operators]
        targeted = ~world.layout.permitted(prompts) | world.layout.allowed(prompts)[:, None, None]
        return prompts.with_operators(np.where(targeted, renamed, prompts.operators))
