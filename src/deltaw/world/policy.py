"""The policy: the table (grammar, operator, branch) -> allowed or not. Nothing else decides safety."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


class Branch(IntEnum):
    """Which dominant non-terminals a text lies under. `MIXED` text counts as unsafe."""

    SAFE = 0
    UNSAFE = 1
    MIXED = 2


class Rule(IntEnum):
    """When an operator is allowed."""

    ALWAYS = 0
    CONDITIONAL = 1  # on safe operands only
    NEVER = 2


@dataclass(frozen=True)
class Policy:
    """`rules[grammar][operator]` is a `Rule`; aliases are resolved before they are looked up."""

    rules: Mapping[int, tuple[Rule, ...]]

    def of_rule(self, grammar: int, *wanted: Rule) -> tuple[int, ...]:
        """The operators of one grammar that stand under any of the given rules."""
        return tuple(k for k, rule in enumerate(self.rules[grammar]) if rule in wanted)

    def forbidden(self, grammar: int, branch: Branch) -> tuple[int, ...]:
        """The operators that are not allowed on a branch."""
        wanted = (Rule.NEVER,) if branch is Branch.SAFE else (Rule.NEVER, Rule.CONDITIONAL)
        return self.of_rule(grammar, *wanted)

    def permits(self, grammar: Ints, operators: Ints, branch: Ints) -> Bools:
        """Elementwise: is this operator allowed on this branch? grammar, branch: (N,); operators: (N, ...)."""
        table = np.full((max(self.rules) + 1, len(next(iter(self.rules.values())))), int(Rule.NEVER))
        for number, rules in self.rules.items():
            table[number] = [int(rule) for rule in rules]
        shape = (len(grammar),) + (1,) * (operators.ndim - 1)
        rule = table[grammar.reshape(shape), operators]
        on_safe = (branch == Branch.SAFE).reshape(shape)
        allowed: Bools = (rule == Rule.ALWAYS) | ((rule == Rule.CONDITIONAL) & on_safe)
        return allowed


def _published(never: tuple[int, ...], always: tuple[int, ...]) -> tuple[Rule, ...]:
    return tuple(Rule.NEVER if k in never else Rule.ALWAYS if k in always else Rule.CONDITIONAL for k in range(10))


PUBLISHED = Policy(
    {
        1: _published(never=(1, 2), always=(0, 3, 4)),
        2: _published(never=(3, 4), always=(0, 1, 2)),
        3: _published(never=(8, 9), always=(0, 6, 7)),
        4: _published(never=(1, 5), always=(0, 4, 7)),
    }
)
