"""The policy: the table (grammar, operator, branch) -> allowed or not. Nothing else decides safety."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property

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

    @cached_property
    def _table(self) -> Ints:
        """(largest number + 1, K) the rule of each operator under each grammar number."""
        table = np.full((max(self.rules) + 1, len(next(iter(self.rules.values())))), int(Rule.NEVER))
        for number, rules in self.rules.items():
            table[number] = [int(rule) for rule in rules]
        return table

    def permits(self, grammar: Ints, operators: Ints, branch: Ints) -> Bools:
        """Elementwise: is this operator allowed on this branch? grammar, branch: (N,); operators: (N, ...)."""
        shape = (len(grammar),) + (1,) * (operators.ndim - 1)
        rule = self._table[grammar.reshape(shape), operators]
        on_safe = (branch == Branch.SAFE).reshape(shape)
        allowed: Bools = (rule == Rule.ALWAYS) | ((rule == Rule.CONDITIONAL) & on_safe)
        return allowed


def rules(never: tuple[int, ...], always: tuple[int, ...], n_operators: int = 10) -> tuple[Rule, ...]:
    """The rule of each operator: those that are named, and conditional for the rest."""
    return tuple(
        Rule.NEVER if k in never else Rule.ALWAYS if k in always else Rule.CONDITIONAL for k in range(n_operators)
    )


PUBLISHED = Policy(
    {
        1: rules(never=(1, 2), always=(0, 3, 4)),
        2: rules(never=(3, 4), always=(0, 1, 2)),
        3: rules(never=(8, 9), always=(0, 6, 7)),
        4: rules(never=(1, 5), always=(0, 4, 7)),
    }
)
