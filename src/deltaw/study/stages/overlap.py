"""The stages that compare updates with each other: do they write to, and read from, the same directions?

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
)
from deltaw.models import Transformer, mlp
from deltaw.pipeline.stage import StageContext
from deltaw.recipes.config import Subspaces
from deltaw.recipes.tuned import Tuned
from deltaw.statistics import Null, mean_null
from deltaw.study.stages.comparison import PRIMARY, contrasts, read
from deltaw.study.stages.making import SeedConfig, last_model, tuned_fields
from deltaw.study.stages.recorder import Sheet
from deltaw.world import World

IN, OUT = "mlp.in_proj", "mlp.out_proj"
SIDES = (("output", IN), ("input", IN), ("output", OUT))
SHARED = SIDES[1:]  # those whose space is the residual stream
Roots = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class AligningConfig:
    """The stage that compares the tuned models of one base model."""

    shared: SeedConfig
    tuned: tuple[Tuned, ...]
    subspaces: Subspaces


@dataclass(frozen=True)
class SeedsConfig:
    """The stage that compares each tuning's models across seeds."""

    shared: tuple[SeedConfig, ...]
    tuned: tuple[Tuned, ...]
    subspaces: Subspaces


@dataclass(frozen=True)
class Directions:
    """One layer's update: the top directions by (side, module), and roots of the second moment of its inputs, as it is
    and centred. Empty where nothing was updated.
    """

    spans: dict[tuple[str, str], Tensor]
    roots: Roots


def directions_of(base: Transformer, tuned: Transformer, roots: Sequence[Roots], k: int) -> list[Directions]:
    """The directions of each layer's update. roots: of the base model, by layer."""
    found = []
    for layer in range(base.config.layers):
        old, new = mlp(base, layer).cpu().double(), mlp(tuned, layer).cpu().double()
        deltas = {IN: new.w_in - old.w_in, OUT: new.w_out - old.w_out}
        spans = {
            (side, module): (top_left if side == "output" else top_right)(deltas[module], min(k, *deltas[module].shape))
            for side, module in SIDES
            if bool((deltas[module] != 0).any())
        }
        found.append(Directions(spans, roots[layer]))
    return found


def input_roots(base: Transformer, world: World, shared: SeedConfig) -> list[Roots]:
    """Roots of the second moment of what enters each MLP of the base model on the primary contrast."""
    contrast = next(c for c in contrasts(world, shared.sizes.contrast, shared.seed) if c.name == PRIMARY)
    places = [read(base, world, prompts) for prompts in (contrast.forbidden, contrast.allowed)]
    found = []
    for layer in range(base.config.layers):
        pools = (places[0][(layer, "mlp_in")], places[1][(layer, "mlp_in")])
        found.append((pooled_root(pools), pooled_root(pools, centred=True)))
    return found


def align_models(context: StageContext) -> None:
    """Every pair of tuned models, and every pair of layers of each one at the larger rate."""
    config: AligningConfig = context.config
    shared, k = config.shared, config.subspaces.directions
    base = last_model(context.inputs["base"])[0].to(config.tuned[0].config.device)
    roots = input_roots(base, World(shared.world), shared)
    sheet, updates, views = Sheet(stage="analysis"), [], []
    for tuned in config.tuned:
        model, meta = last_model(context.inputs[tuned.name])
        updates.append(directions_of(base, model, roots, k))
        views.append(sheet.with_(**tuned_fields(tuned, shared.seed), step=int(meta["step"])))
    draws, compared = shared.sizes.draws, 0
    for first, of_first in enumerate(updates):
        for second in range(first + 1, len(updates)):
            view = views[first].with_(set=f"with={config.tuned[second].name}")
            write_overlaps(of_first, updates[second], SIDES, (shared.seed, 50, compared), draws, view)
            compared += 1
        context.report(first + 1, len(updates))
    for tuned, view, layers in zip(config.tuned, views, updates, strict=True):
        if tuned.strength == "medium":
            write_layers(layers, (shared.seed, 51), draws, view)
    sheet.write(context.out)


def align_seeds(context: StageContext) -> None:
    """Each tuning's models in every pair of seeds."""
    config: SeedsConfig = context.config
    sheet, k = Sheet(stage="analysis"), config.subspaces.directions
    updates: dict[tuple[str, int], tuple[list[Directions], Sheet]] = {}
    for number, shared in enumerate(config.shared):
        base = last_model(context.inputs[f"base-s{shared.seed}"])[0].to(config.tuned[0].config.device)
        roots = input_roots(base, World(shared.world), shared)
        for tuned in config.tuned:
            model, meta = last_model(context.inputs[f"{tuned.name}-s{shared.seed}"])
            view = sheet.with_(**tuned_fields(tuned, shared.seed), step=int(meta["step"]))
            updates[(tuned.name, shared.seed)] = directions_of(base, model, roots, k), view
        context.report(number + 1, len(config.shared))
    seeds = [shared.seed for shared in config.shared]
    for tuned in config.tuned:
        for place, first in enumerate(seeds):
            layers, view = updates[(tuned.name, first)]
            for second in seeds[place + 1 :]:
                other, _ = updates[(tuned.name, second)]
                words, draws = (first, 52, second), config.shared[place].sizes.draws
                write_overlaps(layers, other, SIDES, words, draws, view.with_(set=f"with=seed {second}"))
    sheet.write(context.out)


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
                value, found = _write(a, b, side, lambda *w, at=(number, layer): (*words, *at, *w), draws, view)
                values.append(value)
                nulls.append(found)
        if values:
            over_layers = [mean_null(list(kind)) for kind in zip(*nulls, strict=True)]
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
    one, other = a.spans[side], b.spans[side]
    (m, k), count = one.shape, other.shape[1]
    nulls = [rotation_overlap_null(m, k, count)]
    if side[0] == "output":
        nulls.append(row_sign_overlap_null(one, other, np.random.default_rng(words(0)), draws))
    else:
        nulls += [
            matched_overlap_null(
                (a.roots[c], b.roots[c]), k, np.random.default_rng(words(1 + c)), centred=bool(c), draws=draws
            )
            for c in (0, 1)
        ]
    found = subspace_overlap(one, other)
    sheet.add(f"{side[0]}_overlap", found.overlap, nulls=nulls, unit="squared cosine")
    angle = rotation_angle_null(m, k, count, np.random.default_rng(words(3)), draws)
    sheet.add(f"{side[0]}_angle", float(found.angles[0]), nulls=[angle], unit="degrees")
    return found.overlap, nulls
