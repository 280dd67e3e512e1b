"""Conditions of the tests of clusters, of their depth, and of ranks."""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import numpy as np

from deltaw.calibration import planted_data as planting
from deltaw.calibration import trials
from deltaw.calibration.planted_data import (
    WIDTH,
    Generator,
    N,
    anisotropic,
    haar,
    isotropic,
    operators,
    swapped,
    tensor,
)
from deltaw.calibration.trials import Cell
from deltaw.statistics import FloatArray


def two_models(
    rng: Generator, before: float, after: float, text: Callable[[Generator, int, int], FloatArray] = isotropic
) -> list[tuple[FloatArray, FloatArray]]:
    """[base, tuned] of (allowed, forbidden) (N, WIDTH): pairs share their text, clusters lie `before` and `after`
    standard deviations apart, half of the noise is common to both models, and the tuned one is turned.
    """
    shared, direction = text(rng, N, WIDTH), haar(rng, WIDTH, 1)[:, 0]
    noise = [isotropic(rng, N, WIDTH) for _ in range(2)]
    anew = [0.7 * old + 0.51**0.5 * isotropic(rng, N, WIDTH) for old in noise]
    turn = haar(rng, WIDTH, WIDTH)
    base = [shared + side * before / 2 * direction + part for side, part in zip((1, -1), noise, strict=True)]
    tuned = [(shared + side * after / 2 * direction + part) @ turn for side, part in zip((1, -1), anew, strict=True)]
    return [(base[0], base[1]), (tuned[0], tuned[1])]


def cluster_cells() -> Iterable[Cell]:
    """How far apart clusters are, in one layer."""

    def as_clusters(models: list[tuple[FloatArray, FloatArray]]) -> trials.Clusters:
        base, tuned = ((tensor(allowed), tensor(forbidden)) for allowed, forbidden in models)
        return trials.Clusters(base, tuned)

    def permuted(rng: Generator, text: Callable[[Generator, int, int], FloatArray]) -> trials.Clusters:
        return as_clusters(swapped(rng, *two_models(rng, 2, 4, text)))

    def moved(rng: Generator, after: float) -> trials.Clusters:
        return as_clusters(two_models(rng, 2, after))

    def by_operator(rng: Generator) -> trials.Clusters:
        base, (allowed, forbidden) = two_models(rng, 0, 0)
        push = planting.pushes(rng, N, WIDTH, 1.0)
        return as_clusters([base, (allowed + push, forbidden - push)])

    def by_own_operator(rng: Generator) -> trials.Clusters:
        base, (allowed, forbidden) = two_models(rng, 0, 0)
        pushes = [planting.pushes(rng, N, WIDTH, 2**0.5) for _ in range(2)]  # as far apart as above
        return as_clusters([base, (allowed + pushes[0], forbidden + pushes[1])])

    def cell(condition: str, build: Callable[[Generator], Any], *true: str, **more: Any) -> Cell:
        return Cell("clusters", condition, build, trials.of_clusters, frozenset(true), **more)

    yield cell("labels permuted", partial(permuted, text=isotropic), "label_permutation")
    yield cell("labels permuted, anisotropic activations", partial(permuted, text=anisotropic), "label_permutation")
    yield cell("clusters as far apart as before", partial(moved, after=2))
    yield cell("operators as clusters, each pushed at random", by_operator)
    yield cell("operators as clusters, others on each side", by_own_operator)
    for more in (0.5, 1.0, 2.0):
        yield cell(
            f"clusters {more} further apart", partial(moved, after=2 + more), effect=more, unit="sd of the noise"
        )


LAYERS = 2
Models = list[tuple[FloatArray, FloatArray]]
"""[base, tuned] of (allowed, forbidden), (N, WIDTH) each."""


def _layers(rng: Generator, models: Models, noise: float = 0.6, count: int = LAYERS) -> list[Models]:
    """Layers that see the same models, each with noise of its own."""
    return [
        [(a + noise * isotropic(rng, *a.shape), f + noise * isotropic(rng, *f.shape)) for a, f in models]
        for _ in range(count)
    ]


def _relabelled(rng: Generator, layers: list[Models]) -> list[Models]:
    """Labels swapped within the same pairs in all layers and both models."""
    pairs = iter(swapped(rng, *(pair for models in layers for pair in models)))
    return [[next(pairs) for _ in models] for models in layers]


def _layered(
    family: str,
    measure: Callable[[Any, Generator], trials.Trials],
    condition: str,
    build: Callable[[Generator], list[Models]],
    *true: str,
    **more: Any,
) -> Cell:
    """A cell of tests that are made over layers."""

    def made(rng: Generator) -> list[trials.Clusters]:
        return [trials.Clusters(*((tensor(a), tensor(f)) for a, f in models)) for models in build(rng)]

    return Cell(family, condition, made, measure, frozenset(true), **more)


def depth_cells() -> Iterable[Cell]:
    """Where in depth clusters move apart."""

    def growing(rng: Generator, more: float) -> list[Models]:
        """Clusters move further apart by 2, and in the later half by `more` than that."""
        early, late = (two_models(rng, 2, 4 + extra) for extra in (0.0, more))
        half = LAYERS // 2
        return [*_layers(rng, early, count=half), *_layers(rng, late, count=half)]

    def relabelled(rng: Generator) -> list[Models]:
        return _relabelled(rng, growing(rng, 2.0))

    def by_operator(rng: Generator) -> list[Models]:
        """Each operator pushes its prompts as far in every layer, in each in a direction of its own."""
        layers = []
        for base, (allowed, forbidden) in growing(rng, 0.0):
            push = planting.pushes(rng, N, WIDTH, 1.0)
            layers.append([base, (allowed + push, forbidden - push)])
        return layers

    cell = partial(_layered, "clusters by depth", trials.of_depth)
    yield cell("labels permuted", relabelled, "label_permutation")
    yield cell("clusters move as far in all layers", partial(growing, more=0.0))
    yield cell("operators as clusters, each pushed at random", by_operator)
    for more in (1.0, 2.0, 4.0):
        build = partial(growing, more=more)
        yield cell(f"clusters {more} further apart in later layers", build, effect=more, unit="sd of the noise")


def rank_cells() -> Iterable[Cell]:
    """How many directions prompts fill."""

    def further(rng: Generator) -> list[Models]:
        return _layers(rng, two_models(rng, 2, 4, anisotropic))

    def relabelled(rng: Generator) -> list[Models]:
        return _relabelled(rng, further(rng))

    def exchanged(rng: Generator) -> list[Models]:
        """What the base and the tuned model make of forbidden prompts, swapped at the same rows in all layers."""
        layers = further(rng)
        pairs = swapped(rng, *((base[1], tuned[1]) for base, tuned in layers))
        return [[(base[0], b), (tuned[0], t)] for (base, tuned), (b, t) in zip(layers, pairs, strict=True)]

    def by_operator(rng: Generator) -> list[Models]:
        """Each operator pushes its prompts, another way in each model and for each verdict."""
        which = operators(rng, N)

        def push() -> FloatArray:
            return np.asarray(isotropic(rng, planting.OPERATORS, WIDTH)[which])

        return _layers(rng, [(a + push(), f + push()) for a, f in two_models(rng, 2, 2)])

    def fewer(rng: Generator, gone: int) -> list[Models]:
        """Tuning takes some directions of forbidden prompts away."""
        base, (allowed, forbidden) = two_models(rng, 2, 2)
        kept = haar(rng, WIDTH, WIDTH - gone)
        return _layers(rng, [base, (allowed, forbidden @ kept @ kept.T)], noise=0.0)

    cell = partial(_layered, "ranks")
    yield cell(trials.of_rank_ratio, "labels permuted", relabelled, "label_permutation")
    yield cell(trials.of_rank_change, "models swapped", exchanged, "model_swap")
    yield cell(trials.of_ranks, "clusters further apart, as many directions", further)
    yield cell(trials.of_ranks, "operators as clusters, each pushed at random", by_operator)
    for gone in (1, 2, 4):
        condition, build = f"directions gone, {gone} of {WIDTH}", partial(fewer, gone=gone)
        yield cell(trials.of_ranks, condition, build, effect=float(gone), unit=f"of {WIDTH} directions")
