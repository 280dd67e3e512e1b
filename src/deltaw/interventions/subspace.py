"""Only what ΔW writes where the old matrix W could not, or only what it writes where W could.

W (m, d) is a layer's first MLP matrix (of a gated MLP, gate and up one above the other), Q an orthonormal basis of its
column space, of dimension k:

    null-space part      P_N ΔW = ΔW − Q Qᵀ ΔW
    column-space part    P_C ΔW = Q Qᵀ ΔW

The two add up to ΔW, which no other matrix is part of: biases, attention and the rest of the update go on as they are
(`rest`) or are left out. Both must be asked: a part may do nothing without the rest, or be done without by it.

N(Wᵀ) has m − k dimensions (three quarters for 4d × d), so it would hold most of any update, and most of any effect. The
null is therefore a split by chance, `random_split`: ΔW is cut along a uniformly random subspace of m − k dimensions and
its complement of k, and the two pieces get the norms of P_N ΔW and P_C ΔW, layer by layer. Dimensions and norms are
matched, and so is the row space; only the tie to W is gone.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from deltaw.analysis import column_basis
from deltaw.errors import DeltawError
from deltaw.interventions.layers import shapley_values
from deltaw.interventions.states import State, chosen, layers_of, moved
from deltaw.models.state_parts import first_map, first_map_parts
from deltaw.statistics import FloatArray

Parts = Mapping[int, Tensor]
"""By layer, a part of ΔW (m, d), float64."""


@dataclass(frozen=True, eq=False)
class Split:
    """ΔW of each first MLP matrix in two parts. kept: by layer, the dimension k of the column space."""

    null: Parts
    column: Parts
    kept: Mapping[int, int]


def split_update(base: State, tuned: State) -> Split:
    """P_N ΔW and P_C ΔW of every layer. DeltawError if a W has no left null space."""
    null, column, kept = {}, {}, {}
    for layer in layers_of(base):
        old = first_map(base, layer)
        delta = first_map(tuned, layer).double() - old.double()
        basis = column_basis(old)
        if basis.left_null is not None:
            raise DeltawError(f"layer {layer}: {basis.left_null.reason}; there is no null-space part to keep")
        column[layer] = basis.Q @ (basis.Q.T @ delta)
        null[layer], kept[layer] = delta - column[layer], basis.k
    return Split(null, column, kept)


def carried(values: FloatArray, drawn: Sequence[Mapping[int, FloatArray]]) -> tuple[FloatArray, FloatArray]:
    """((3, N) Shapley values of the null-space part, the column-space part and the rest, prompt by prompt; (draws, 3)
    their means with the parts cut by chance).

    values: (8, N) of every combination: bit 0 the null-space part, bit 1 the column-space part, bit 2 the rest. drawn:
    in each random split, (N,) of the same prompts, of the combinations with one part only; the others stay the same.
    """
    by_chance = []
    for one in drawn:
        table = values.mean(1)
        for number, hits in one.items():
            table[number] = hits.mean()
        by_chance.append(shapley_values(table))
    return shapley_values(values), np.array(by_chance)


def random_split(split: Split, generator: torch.Generator) -> Split:
    """ΔW cut along a random subspace in the place of C(W): dimensions and norms of both parts are matched."""
    null, column = {}, {}
    for layer, k in split.kept.items():
        delta = split.null[layer] + split.column[layer]
        Q, _ = torch.linalg.qr(torch.randn(delta.shape[0], k, dtype=torch.float64, generator=generator))
        inside = Q @ (Q.T @ delta)
        null[layer] = with_norm(delta - inside, float(split.null[layer].norm()))
        column[layer] = with_norm(inside, float(split.column[layer].norm()))
    return Split(null, column, split.kept)


def with_norm(part: Tensor, norm: float) -> Tensor:
    """The part at another Frobenius norm; 0 stays 0."""
    size = float(part.norm())
    return part * (norm / size) if size > 0 else part


def with_parts(base: State, tuned: State, parts: Sequence[Parts], rest: bool) -> dict[str, Tensor]:
    """First MLP matrices W + Σ parts; all else is the tuned model's (rest) or the base's.

    All parts with the rest give the tuned model up to the rounding of one sum, no parts without it the base exactly.
    """
    changes: dict[str, Tensor] = {}
    for layer in layers_of(base):
        nothing = torch.zeros_like(first_map(base, layer), dtype=torch.float64)
        changes |= first_map_parts(base, layer, sum((part[layer] for part in parts), nothing))
    state = chosen(base, tuned, base.keys() - changes.keys() if rest else ())
    return state | {name: moved(base[name], change) for name, change in changes.items()}
