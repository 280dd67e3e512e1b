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

Which part of ΔW makes the model refuse: what it writes inside the column space of W, outside of it, or the rest?

null, column, rest   -        only these parts of the update (joined by +); null and column are those of the first
                              MLP matrices' ΔW, rest is everything else. `base` has none of them

carried_share              Shapley value of null, column and rest for answering forbidden prompts as the tuned model
carried_null_minus_column  that of null minus that of column: the mean, without and with the rest, of what the null
                           part alone achieves minus what the column part alone does. Null: ΔW split by chance
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from deltaw.analysis import column_basis
from deltaw.errors import DeltawError
from deltaw.interventions.intervention import Intervention
from deltaw.interventions.layers import shapley_values
from deltaw.interventions.size import SweepSize
from deltaw.interventions.states import State, chosen, layers_of, moved
from deltaw.interventions.subject import Answered, Subject
from deltaw.models.state_parts import first_map, first_map_parts
from deltaw.results.recorder import Sheet
from deltaw.statistics import FloatArray, from_draws

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
    for split in drawn:
        table = values.mean(1)
        for number, hits in split.items():
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


SOURCES = ("null", "column", "rest")
ONE_PART = (1, 2, 5, 6)
"""The combinations that have one of the two parts, without and with the rest: those that a random split changes."""


@dataclass(frozen=True)
class SubspaceParts(Intervention):
    """Only what ΔW writes where W could not, or only what it writes where W could, with and without the rest."""

    name = "subspace"
    label = "null-space and column-space part"

    rescaled: bool = False
    """Whether both parts are also made at the norm of ΔW."""

    def measure(self, subject: Subject) -> None:
        """All eight combinations of ΔW's null-space part, its column-space part and the rest of the update, beside ΔW
        split by chance.
        """
        split = split_update(subject.base, subject.tuned)
        combined = [subject.answer(subject.conditional, _with(subject, split, number)) for number in range(8)]
        drawn = [
            {number: subject.answer(subject.few, _with(subject, random, number)) for number in ONE_PART}
            for random in (
                random_split(split, subject.torch_generator(f"split/{k}")) for k in range(subject.size.draws)
            )
        ]
        view = subject.sheet.with_(module="mlp.in_proj")
        for number, answered in enumerate(combined):
            named_view = view.with_(intervention=named(number))
            draws = [random[number] for random in drawn] if number in ONE_PART else []
            subject.add_rates(answered, named_view, draws)
            subject.add_as_tuned(answered, named_view)
        if self.rescaled:
            for number in ONE_PART:
                answered = subject.answer(subject.conditional, _with(subject, _rescaled(split), number))
                subject.add_rates(answered, view.with_(intervention=f"{named(number)}/rescaled"))
        _carried(subject, combined, drawn, view)

    def answered(self, size: SweepSize, blocks: int, attacks: int) -> int:
        """Prompts that are answered."""
        return (9 + 4 * self.rescaled) * size.conditional + (4 * size.draws + 1) * size.both_few


def named(number: int) -> str:
    """Which sources a combination has: bit 0 is null, bit 1 column, bit 2 rest."""
    return "+".join(name for place, name in enumerate(SOURCES) if number >> place & 1) or "base"


def _with(subject: Subject, split: Split, number: int) -> dict[str, Tensor]:
    parts = [part for place, part in enumerate((split.null, split.column)) if number >> place & 1]
    return with_parts(subject.base, subject.tuned, parts, rest=bool(number >> 2 & 1))


def _rescaled(split: Split) -> Split:
    """Both parts at the norm of ΔW, layer by layer."""

    def whole(parts: Parts) -> Parts:
        return {k: with_norm(part, float((split.null[k] + split.column[k]).norm())) for k, part in parts.items()}

    return Split(whole(split.null), whole(split.column), split.kept)


def _carried(
    subject: Subject, combined: Sequence[Answered], drawn: Sequence[Mapping[int, Answered]], view: Sheet
) -> None:
    forbidden = subject.forbidden
    values = np.array([answered.equal(forbidden, subject.own) for answered in combined])
    values = values[:, : subject.size.few]  # the prompts of the null
    shares, chance = carried(
        values,
        [
            {number: answered.equal(forbidden, subject.own_few) for number, answered in random.items()}
            for random in drawn
        ],
    )
    shared = view.with_(set=forbidden, n=values.shape[1], n_unit="prompt", unit="share of prompts")
    for place, source in enumerate(SOURCES):
        nulls = [from_draws("random_split", chance[:, place])] if source != "rest" else []
        shared.add("carried_share", *subject.mean(shares[place], 3, place), nulls, intervention=source)
    difference = from_draws("random_split", chance[:, 0] - chance[:, 1])
    shared.add("carried_null_minus_column", *subject.mean(shares[0] - shares[1], 4), [difference])
