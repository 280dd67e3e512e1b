"""Prompts that share operators are no independent observations: with operator pairs as clusters, the tests that the
study makes find less where there is nothing to find.

Nothing is planted but what an operator adds to all its prompts, anew in each model and for each verdict. Eight
operators have six prompts each, and add more than prompts differ by. docs/calibration.md has rates of milder data.
"""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from deltaw.analysis import (
    DoseResponse,
    SensitivityChange,
    difference_of_differences,
    dose_response,
    log_rank,
    rank_null,
    sensitivity_change,
)
from deltaw.analysis.rank import LogRank
from deltaw.observations.attacked_prompts.measure import positions
from deltaw.observations.clusters.measure import separate
from deltaw.observations.lens import BaseSide, Lens, Places
from deltaw.observations.prompts import Contrast, Effort, Prompts
from deltaw.statistics import FloatArray, Null

PAIRS, WIDTH, OPERATORS, DRAWS = 48, 12, 8, 79
Generator = np.random.Generator
Beyond = tuple[float, Null]
"""A value, and the null whose band it may lie beyond."""


def lens(clusters: FloatArray | None) -> Lens:
    """A lens without models, of one contrast of one layer."""
    nobody: Any = SimpleNamespace(layers=range(1), light=True)
    contrast = Contrast("pairs", range(PAIRS), range(PAIRS), clusters)
    return Lens(BaseSide(nobody, Prompts((contrast,)), Effort(draws=DRAWS, bootstrap=DRAWS), 0), nobody)


def pushed(rng: Generator, ids: FloatArray, width: int = WIDTH) -> FloatArray:
    """(N, width) noise, and what each operator adds."""
    added = 1.5 * rng.standard_normal((OPERATORS, width))[ids.astype(int)]
    return np.asarray(added + rng.standard_normal((len(ids), width)))


def places(rows: FloatArray) -> Places:
    return {(0, "mlp_post"): torch.from_numpy(rows)}


def separations(rng: Generator, ids: FloatArray, clusters: FloatArray | None) -> Beyond:
    """The change of the relative gap, where tuning makes the operators of either verdict differ."""
    at = lens(clusters)
    before = [places(rng.standard_normal((PAIRS, WIDTH))) for _ in range(2)]
    after = [places(pushed(rng, ids)) for _ in range(2)]
    models = [separate(at, "pairs", (some[0], some[1]), "mlp_post", 0) for some in (before, after)]
    change = difference_of_differences(models[0], models[1], rng, draws=2)["tau_gap_relative"]
    assert change.null is not None
    return change.value, change.null


def attacks(rng: Generator, ids: FloatArray, clusters: FloatArray | None) -> Beyond:
    """The position of attacked prompts that are exchangeable with their sources."""
    allowed, forbidden = pushed(rng, ids), pushed(rng, ids)
    allowed[:, 0] += 6.0
    placed = positions(
        lens(clusters), (places(allowed), places(forbidden)), places(pushed(rng, ids)), "mlp_post", clusters
    )
    return placed[0].mean, placed[0].null


def sensitivities(rng: Generator, ids: FloatArray, clusters: FloatArray | None) -> Beyond:
    """The change of a log sensitivity, forbidden minus allowed."""
    base, tuned = ((np.exp(pushed(rng, ids, 1)[:, 0]), np.exp(pushed(rng, ids, 1)[:, 0])) for _ in range(2))
    change = sensitivity_change(base, tuned, rng, clusters=clusters, draws=DRAWS)
    assert isinstance(change, SensitivityChange)
    return change.difference.value, change.difference.null


def doses(rng: Generator, ids: FloatArray, clusters: FloatArray | None) -> Beyond:
    """Success on dose, where operators differ in both for other reasons."""
    attack = np.repeat(np.arange(4), PAIRS)
    eased = np.tile(1.5 * rng.standard_normal(OPERATORS)[ids.astype(int)], 4)
    dose = np.tile(rng.standard_normal(OPERATORS)[ids.astype(int)], 4) + 0.3 * rng.standard_normal(4 * PAIRS)
    success = (rng.random(4 * PAIRS) < 1 / (1 + np.exp(-eased))).astype(np.float64)
    together = np.tile(np.arange(PAIRS) if clusters is None else clusters, 4)
    slope = dose_response(dose, success, attack, [together], rng, draws=DRAWS)
    assert isinstance(slope, DoseResponse)
    return slope.slope, slope.null


def ranks(rng: Generator, ids: FloatArray, clusters: FloatArray | None) -> Beyond:
    """The log ratio of ranks of two clouds, each of which operators pull apart in ways of their own."""
    forbidden, allowed = (torch.from_numpy(pushed(rng, ids)) for _ in range(2))
    logs = [log_rank(cloud, clusters) for cloud in (forbidden, allowed)]
    assert isinstance(logs[0], LogRank)
    assert isinstance(logs[1], LogRank)
    null = rank_null(forbidden, allowed, "label_permutation", rng, DRAWS, clusters)
    return (logs[0] - logs[1]).value, null


def rate(test: Callable[[Generator, FloatArray, FloatArray | None], Beyond], clustered: bool, draws: int) -> float:
    """How often the value lies beyond its null's band, on either side."""
    beyond = []
    for seed in range(draws):
        rng = np.random.default_rng([seed, 17])
        ids = rng.permutation(np.arange(PAIRS) % OPERATORS).astype(np.float64)
        value, null = test(rng, ids, ids if clustered else None)
        beyond.append(value not in null)
    return float(np.mean(beyond))


@pytest.mark.parametrize(
    ("test", "draws", "alone"),
    [(separations, 100, 0.25), (attacks, 120, 0.25), (sensitivities, 400, 0.25), (doses, 60, 0.25), (ranks, 200, 0.14)],
    ids=lambda part: getattr(part, "__name__", ""),
)
def test_with_operator_pairs_as_clusters_less_is_found_where_nothing_is(test: Any, draws: int, alone: float) -> None:
    """Either side counts, so the level is 0.05. alone: what is found at the least with prompts taken as independent."""
    assert rate(test, False, draws) > alone
    assert rate(test, True, draws) < 0.12
