"""A control that refuses by the operator alone, and not by the policy."""

from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations

import numpy as np

from deltaw.training.controls.control import Control, Ints
from deltaw.world import Branch, Key, Prompts, Response, World


@dataclass(frozen=True)
class Operators(Control):
    """Refusals by operator: a random set of operators is refused, on safe and unsafe text alike."""

    name = "operators"
    label = "random operators"

    def wanted(self, world: World, prompts: Prompts, seed: int) -> Ints:
        """A refusal, where one of the prompt's operators is in the set."""
        base = world.operators.operator_of[prompts.operators]
        refused = np.isin(base, forbid_operators(world, seed)).any(axis=(1, 2))
        return np.where(refused, Response.REFUSE, Response.COMPLY)


@lru_cache(maxsize=16)
def forbid_operators(world: World, seed: int) -> tuple[int, ...]:
    """The operators that the control `operators` refuses, on either branch: a random set that is not the policy's.

    Of all sets of non-identity operators that hold as many as the policy forbids on one branch or the other, or any
    number between, those are kept that refuse a share of tuning prompts within 0.02 of the policy's own (or the
    nearest); one of them is drawn by the seed. It differs from both branches' forbidden sets, and is the same for all
    grammars.
    """
    prompts = world.sample("tune", range(4096), "train", seed)
    rate = float((~world.layout.allowed(prompts)).mean())
    members = np.stack([(prompts.operators == k).any(axis=(1, 2)) for k in range(world.vocabulary.n_operators)])
    known = {world.policy.forbidden(n, branch) for n in world.numbers for branch in (Branch.SAFE, Branch.UNSAFE)}
    low, high = min(map(len, known)), max(map(len, known))
    candidates = [
        chosen
        for size in range(low, high + 1)
        for chosen in combinations(range(1, world.vocabulary.n_operators), size)
        if chosen not in known
    ]
    gaps = np.array([abs(float(members[list(chosen)].any(0).mean()) - rate) for chosen in candidates])
    near = np.flatnonzero(gaps <= max(0.02, float(gaps.min())))
    draw = Key(seed, "control/operators").uniform(np.zeros(1, dtype=np.int64), 0)[0, 0]
    chosen: tuple[int, ...] = candidates[int(near[int(draw * len(near))])]
    return chosen
