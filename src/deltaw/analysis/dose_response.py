"""Dose and response: does an attack's success follow how far it moves activations, or how little ΔW then acts?

A row is a prompt under an attack: its dose (position between forbidden 0 and allowed 1, or the gain of ΔW on it beside
that on the prompt it was made from) and whether the attack succeeded. The slope is in log odds a unit of dose, by
Firth's penalised logistic regression, since attacks often succeed always or never (`statistics.logistic`).

    within   an intercept for each attack: of two prompts under one attack, is the one that moved further answered?
    pooled   one intercept: attacks are compared as well. Attacks that move more may succeed more for other reasons, so
             a pooled slope alone shows nothing about mechanism.

Attacks of which all or none succeeded say nothing about the slope within, and are left out of it. A prompt is under
many attacks, so intervals are robust to clusters of prompts (and of seeds, where several are pooled).

The null permutes successes, within attacks or among all rows. Where clusters hold several rows of an attack (prompts
that share operators), they move as blocks, in the same order under every attack: rows are listed cluster by cluster in
two random orders, and the successes in one order are given to the rows in the other. Clusters of one size are thus
exchanged whole; of unequal sizes, a block is cut where it meets the next one.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from deltaw.analysis.inputs import Absent
from deltaw.errors import DeltawError
from deltaw.statistics import FloatArray, Interval, Null, from_draws, wilson
from deltaw.statistics.arrays import IntArray, clusters_of, vector
from deltaw.statistics.logistic import firth_logistic, permuted_coefficients


@dataclass(frozen=True, eq=False)
class DoseResponse:
    """slope: change of the log odds of success a unit of dose. n: rows it is from. attacks: how many of them."""

    slope: float
    interval: Interval
    null: Null
    n: int
    attacks: int


def dose_response(
    dose: ArrayLike,
    success: ArrayLike,
    attacks: ArrayLike,
    clusters: Sequence[ArrayLike],
    generator: np.random.Generator,
    *,
    within: bool = True,
    draws: int = 200,
) -> DoseResponse | Absent:
    """Slope of success (n,), 0 or 1, on dose (n,), for rows of which attacks (n,) names the attack.

    clusters: arrays of names (n,), of prompts or of what several prompts share first: the first moves as a block in the
    null. Absent if there is no row of an attack that sometimes succeeds
    (pooled: if all or none of all did), or the dose does not vary.
    """
    x, y = vector(dose, "doses"), vector(success, "successes")
    (names,), count = clusters_of([attacks])
    if not len(x) == len(y) == len(names):
        raise DeltawError(f"{len(x)} doses, {len(y)} successes, {len(names)} attacks; expected one of each a row")
    keep = np.ones(len(x), dtype=bool)
    if within:
        rates = np.bincount(names, weights=y, minlength=count) / np.bincount(names, minlength=count)
        keep = ((rates > 0) & (rates < 1))[names]
    x, y, names = x[keep], y[keep], names[keep]
    if not len(y) or y.min() == y.max():
        return Absent("no attack sometimes succeeds and sometimes fails, so success has no slope")
    strata, names = np.unique(names, return_inverse=True)
    intercepts = np.eye(len(strata))[names] if within else np.ones((len(x), 1))
    centred = x - x.mean()
    spread = centred - (np.bincount(names, weights=centred) / np.bincount(names))[names] if within else centred
    if not (spread**2).sum() > 1e-20 * max(1.0, float((x**2).sum())):
        return Absent("all prompts have the same dose, so success has no slope on it")
    design = np.column_stack([centred, intercepts])
    kept = [np.asarray(ids)[keep] for ids in clusters]
    fit = firth_logistic(design, y, kept)
    (blocks,), _ = clusters_of(kept[:1] or [np.arange(len(y))])
    if len(set(zip(names.tolist(), blocks.tolist(), strict=True))) < len(y):
        within_of = names if within else np.zeros_like(names)
        moved = (moved_blocks(y, within_of, blocks, generator) for _ in range(draws))
        by_chance = np.array([firth_logistic(design, draw).coefficients for draw in moved])
    else:
        by_chance = permuted_coefficients(design, y, generator, names if within else np.zeros(len(y)), draws)
    return DoseResponse(
        slope=float(fit.coefficients[0]),
        interval=fit.interval(0),
        null=from_draws("success_permutation", by_chance[:, 0]),
        n=len(y),
        attacks=len(strata),
    )


def moved_blocks(y: FloatArray, strata: IntArray, blocks: IntArray, generator: np.random.Generator) -> FloatArray:
    """Values y (n,) exchanged within strata (n,), blocks (n,) by blocks (see the module's docstring)."""
    count = int(blocks.max()) + 1
    orders = [np.lexsort((generator.random(len(y)), generator.permutation(count)[blocks], strata)) for _ in range(2)]
    out = np.empty_like(y)
    out[orders[1]] = y[orders[0]]
    return out


@dataclass(frozen=True)
class Bin:
    """Prompts whose dose lies in [low, high), the first and last bin without an end: how many, how many succeeded."""

    low: float
    high: float
    n: int
    rate: float
    interval: Interval


def success_by_dose(dose: ArrayLike, success: ArrayLike, edges: FloatArray) -> list[Bin]:
    """Success rates with Wilson's intervals in the bins between `edges`; what lies beyond is in the outer ones."""
    x, y = vector(dose, "doses"), vector(success, "successes")
    place = np.clip(np.searchsorted(edges, x, side="right") - 1, 0, len(edges) - 2)
    bins = []
    for number in np.unique(place):
        hits = y[place == number]
        rate = float(hits.mean())
        ends = (float(edges[number]), float(edges[number + 1]))
        bins.append(Bin(*ends, len(hits), rate, wilson(int(hits.sum()), len(hits))))
    return bins
