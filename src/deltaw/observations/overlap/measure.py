"""Do two updates write to, and read from, the same directions?

Between the tuned models of one base model (protocols, strengths, controls), between the layers of one of them, and
between seeds, whose base models share nothing but their world: there agreement is chance by construction. A line is of
`model`, and its `set` says with what: `with=dpo-medium`, `with=layer 2`, `with=seed 1`.

    output_overlap   of the top output directions, `module` says of which matrix
    input_overlap    of the top input directions of the MLP's first matrix
    *_angle          the smallest principal angle

The outputs of a first matrix are hidden units, which two layers or seeds do not share, so layers are compared by the
first matrix's inputs and the second's outputs, which all lie in the residual stream.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from deltaw.analysis import (
    matched_overlap_null,
    pooled_root,
    rotation_angle_null,
    rotation_overlap_null,
    row_sign_overlap_null,
    subspace_overlap,
    top_left,
    top_right,
    update_rank,
)
from deltaw.observations.draws import Draw
from deltaw.observations.lens import BaseSide, Lens
from deltaw.observations.observation import Observation, Statistic
from deltaw.results.recorder import Sheet
from deltaw.statistics import Null, mean_of_each_kind

IN, OUT = "mlp.in_proj", "mlp.out_proj"
SIDES = (("output", IN), ("input", IN), ("output", OUT))
SHARED = SIDES[1:]  # those whose space is the residual stream
Roots = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Directions:
    """One layer's update.

    spans: the top directions by (side, module); empty where nothing was updated.
    roots: of the second moment of its inputs, as it is and centred.
    """

    spans: dict[tuple[str, str], Tensor]
    roots: Roots


@dataclass(frozen=True)
class Overlap(Observation):
    """Do two updates, or two layers of one, write to and read from the same directions?"""

    name = "overlap"
    label = "overlap of updates"
    every_checkpoint = False
    statistics = tuple(
        statistic
        for side in ("output", "input")
        for statistic in (
            Statistic(f"{side}_overlap", "squared cosine", f"Mean overlap of the strongest {side} directions."),
            Statistic(f"{side}_angle", "degrees", "The smallest principal angle."),
        )
    )

    directions: int = 8
    """Of each update, the strongest."""

    def measure(self, lens: Lens, sheet: Sheet) -> None:
        """Of each pair of layers of the lens's update."""
        words = (lens.before.seed, Draw.OVERLAP_OF_LAYERS)
        write_layers(directions_of(lens, self.directions), words, lens.before.effort.draws, sheet)


def directions_of(lens: Lens, k: int) -> list[Directions]:
    """The k strongest directions of each layer's update."""
    directions = []
    for layer in lens.layers:
        old, new = lens.mlps(layer)
        deltas = {IN: new.w_in - old.w_in, OUT: new.w_out - old.w_out}
        counts = {module: min(k, update_rank(delta)) for module, delta in deltas.items()}
        spans = {
            (side, module): (top_left if side == "output" else top_right)(deltas[module], counts[module])
            for side, module in SIDES
            if counts[module]
        }
        directions.append(Directions(spans, input_roots(lens.before, layer)))
    return directions


def input_roots(before: BaseSide, layer: int) -> Roots:
    """Roots of the second moment of what enters an MLP of the base model on the primary contrast."""

    def make() -> Roots:
        allowed, forbidden = (places[(layer, "mlp_in")] for places in before.contrast(before.primary))
        pools = (forbidden, allowed)
        return pooled_root(pools), pooled_root(pools, centred=True)

    return before.once(("input roots", layer), make)


def write_overlaps(
    first: Sequence[Directions],
    second: Sequence[Directions],
    sides: Sequence[tuple[str, str]],
    words: tuple[int, ...],
    draws: int,
    sheet: Sheet,
) -> None:
    """Overlap of two updates layer by layer, with the smallest angle; and its mean over layers."""
    for number, side in enumerate(sides):
        values, nulls = [], []
        for layer, (a, b) in enumerate(zip(first, second, strict=True)):
            if side in a.spans and side in b.spans:
                view = sheet.with_(layer=layer, module=f"blocks.{layer}.{side[1]}")
                value, layer_nulls = _write(a, b, side, lambda *w, at=(number, layer): (*words, *at, *w), draws, view)
                values.append(value)
                nulls.append(layer_nulls)
        if values:
            over_layers = mean_of_each_kind(nulls)
            view = sheet.with_(module=side[1], unit="squared cosine", n=len(values), n_unit="layer")
            view.add(f"{side[0]}_overlap", float(np.mean(values)), nulls=over_layers)


def write_layers(layers: Sequence[Directions], words: tuple[int, ...], draws: int, sheet: Sheet) -> None:
    """Overlap of each pair of layers of one update, where both live in the residual stream."""
    for number, side in enumerate(SHARED):
        for first, a in enumerate(layers):
            for second in range(first + 1, len(layers)):
                b = layers[second]
                if side in a.spans and side in b.spans:
                    view = sheet.with_(layer=first, module=f"blocks.{first}.{side[1]}", set=f"with=layer {second}")
                    _write(a, b, side, lambda *w, at=(number, first, second): (*words, *at, *w), draws, view)


def _write(
    a: Directions, b: Directions, side: tuple[str, str], words: Callable[..., tuple[int, ...]], draws: int, sheet: Sheet
) -> tuple[float, list[Null]]:
    """Writes one overlap with its nulls, and the smallest angle; returns the former."""
    span_a, span_b = a.spans[side], b.spans[side]
    (m, k), count = span_a.shape, span_b.shape[1]
    nulls = [rotation_overlap_null(m, k, count)]
    if side[0] == "output":
        nulls.append(row_sign_overlap_null(span_a, span_b, np.random.default_rng(words(0)), draws))
    else:
        nulls += [
            matched_overlap_null(
                (a.roots[c], b.roots[c]), (k, count), np.random.default_rng(words(1 + c)), centred=bool(c), draws=draws
            )
            for c in (0, 1)
        ]
    subspaces = subspace_overlap(span_a, span_b)
    sheet.add(f"{side[0]}_overlap", subspaces.overlap, nulls=nulls, unit="squared cosine")
    angle = rotation_angle_null(m, k, count, np.random.default_rng(words(3)), draws)
    sheet.add(f"{side[0]}_angle", float(subspaces.angles[0]), nulls=[angle], unit="degrees")
    return subspaces.overlap, nulls
