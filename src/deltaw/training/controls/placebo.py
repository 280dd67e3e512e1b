"""A control that refuses by a policy that has nothing to do with the real one."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from deltaw.training.controls.control import Control, Ints
from deltaw.world import Branch, Key, Prompts, Response, Rule, World


@dataclass(frozen=True)
class Placebo(Control):
    """Refusals by a policy drawn at random in operator and branch, independent of the real one.

    Measured by the real policy's contrasts, its mean difference from its own `placebo_other` is what the whole pipeline
    finds where there is nothing to find.
    """

    name = "placebo"
    label = "random policy"

    def wanted(self, world: World, prompts: Prompts, seed: int) -> Ints:
        """A refusal, where the random policy forbids."""
        table = placebo_policy(world, seed)
        operators = world.operators.operator_of[prompts.operators]
        unsafe = (prompts.branch != Branch.SAFE).astype(np.int64)
        forbidden = table[prompts.grammar[:, None, None], operators, unsafe[:, None, None]].any(axis=(1, 2))
        return np.where(forbidden, Response.REFUSE, Response.COMPLY)


@lru_cache(maxsize=16)
def placebo_policy(world: World, seed: int) -> NDArray[np.bool_]:
    """(numbers + 1, operators, 2): whether a grammar's operator is forbidden on safe text, and on unsafe text.

    Of the operators under each real rule a quarter is forbidden on safe text only, a quarter on unsafe text only, and
    the rest nowhere, so that the table tells nothing of the real rules or branches. Seeds come in pairs: an odd seed
    has the table of the even one before it with safe and unsafe text exchanged. The identity is allowed.
    """
    pair, mirrored = divmod(seed, 2)
    table = np.zeros((max(world.numbers) + 1, world.vocabulary.n_operators, 2), dtype=np.bool_)
    for number in world.numbers:
        for rule in Rule:
            operators = np.array([k for k in world.policy.of_rule(number, rule) if k != 0], dtype=np.int64)
            draws = Key(pair, f"control/placebo/{number}/{int(rule)}").uniform(np.arange(len(operators) + 1), 0)[:, 0]
            place = (np.argsort(np.argsort(draws[:-1])) + int(4 * draws[-1])) % 4
            table[number, operators[place == 0], 0] = True
            table[number, operators[place == 1], 1] = True
    return table[..., ::-1] if mirrored else table
