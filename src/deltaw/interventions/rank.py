"""How many directions of ΔW does the behaviour need? ΔW cut to rank k, or without its strongest k directions.

Of every matrix as it is stored (so of gate and up, or of query, key and value, each where they are apart),
ΔW = Σ_j σ_j u_j v_jᵀ, σ_1 ≥ σ_2 ≥ …; the best approximation of rank k in any unitarily invariant norm is the sum of the
first k terms (Eckart and Young, 1936). Vectors (biases, norms) have no rank and keep their update, so that k = 0 is the
base model with the tuned one's vectors: what they do alone stands at the left end of the curve.

How many directions of ΔW does the behaviour need?

truncated, top_removed   k    ΔW of every matrix cut to rank k, or without its strongest k directions
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from deltaw.errors import DeltawError
from deltaw.interventions.intervention import Intervention
from deltaw.interventions.size import SweepSize
from deltaw.interventions.states import State, check_pair, moved, names_in
from deltaw.interventions.subject import Subject


@dataclass(frozen=True, eq=False)
class Decomposition:
    """Singular value decompositions of ΔW of every matrix of a scope: name -> (U (m, r), σ (r,), Vᵀ (r, n)), float64.

    Everything else is the tuned model's.
    """

    base: State
    tuned: State
    matrices: Mapping[str, tuple[Tensor, Tensor, Tensor]]

    @property
    def rank(self) -> int:
        """The largest rank that any ΔW can have."""
        return max((len(sigma) for _, sigma, _ in self.matrices.values()), default=0)


def decomposed(base: State, tuned: State, scope: str = "whole") -> Decomposition:
    """ΔW of the matrices of `scope` by singular directions. DeltawError if the models are not of one shape."""
    check_pair(base, tuned)
    names = [name for name in base if name in names_in(scope, base) and base[name].ndim == 2]
    matrices = {
        name: tuple(torch.linalg.svd(tuned[name].double() - base[name].double(), full_matrices=False)) for name in names
    }
    return Decomposition(base, tuned, matrices)


def truncated(update: Decomposition, k: int, removed: bool = False) -> dict[str, Tensor]:
    """W + (ΔW)_k of every matrix of the decomposition; removed: W + ΔW − (ΔW)_k.

    From the full rank on, this is the tuned model, exactly (removed: its vectors on the base's matrices).
    DeltawError if k < 0.
    """
    if k < 0:
        raise DeltawError(f"rank is {k}; give a whole number of at least 0")
    state = {name: tensor.clone() for name, tensor in update.tuned.items()}
    for name, (left, sigma, right) in update.matrices.items():
        if k >= len(sigma):
            state[name] = (update.base if removed else update.tuned)[name].clone()
        elif not (removed and k == 0):
            kept = slice(k, None) if removed else slice(0, k)
            state[name] = moved(update.base[name], (left[:, kept] * sigma[kept]) @ right[kept])
    return state


@dataclass(frozen=True)
class RankCut(Intervention):
    """How many directions of ΔW the behaviour needs: ΔW cut to rank k, or without its k strongest directions."""

    name = "rank"
    label = "rank of ΔW"

    ranks: tuple[int, ...] = (0, 1, 2, 4, 8, 16, 32)
    """Ranks kept."""
    removed: tuple[int, ...] = (1, 4, 16)
    """Ranks taken out."""

    def measure(self, subject: Subject) -> None:
        """ΔW of every matrix cut to rank k; without its top k."""
        decomposition = decomposed(subject.base, subject.tuned)
        for name, ks, removed in (
            ("truncated", self.ranks, False),
            ("top_removed", self.removed, True),
        ):
            for k in ks:
                answered = subject.answer(subject.conditional, truncated(decomposition, k, removed))
                subject.add_rates(answered, subject.sheet.with_(intervention=name, dose=k, module="whole"))

    def answered(self, size: SweepSize, blocks: int, attacks: int) -> int:
        """Prompts that are answered."""
        return (len(self.ranks) + len(self.removed)) * size.conditional
