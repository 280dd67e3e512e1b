"""One draw of each test that the claims use, by the functions that the study itself calls.

A test compares a value with the band of a null. `Trial` says whether the value lies beyond the band on the claim's side
(probability 0.025 if the null is true), or beyond it on the other side.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor

from deltaw.analysis import (
    Absent,
    ActivationRank,
    LogRank,
    Mlp,
    Separation,
    activation_rank,
    column_basis,
    difference_of_differences,
    effect_nulls,
    gain,
    gain_ratio,
    gap_over_layers,
    mean_log_rank,
    mean_position,
    mlp_effect,
    null_energy,
    null_energy_nulls,
    null_minus_column,
    position,
    rank_null,
    row_contrast,
    sensitivity_change,
    separation,
)
from deltaw.calibration.planted_data import Generator, Update
from deltaw.errors import DeltawError
from deltaw.statistics import (
    FloatArray,
    Null,
    mean_null,
    sign_flip_null,
)

DRAWS, BOOTSTRAP = 79, 200
"""Of a null: its band has the same level as that of `quick`'s 200 and costs less; of an interval."""

EFFECT_DRAWS = 39
"""Of the null of the MLP's output, the fewest that have a 95 % band: each costs as much as the effect itself."""

TOP_K = 8
"""Right singular vectors of ΔW whose energy is compared, as in `quick`."""


@dataclass(frozen=True)
class Trial:
    """Whether one draw lay beyond the null's band on the claim's side, or on the other."""

    beyond: bool
    other_side: bool = False


Trials = Mapping[str, Trial]
"""By the test's name: the statistic, and the kind of null."""


@dataclass(frozen=True)
class Cell:
    """A family of tests under one condition.

    build: draws the data. measure: tries the family's tests on them. true: the kinds of null that are true by
    construction. effect: a planted effect's size, in `unit`; None where there is nothing to find.
    """

    family: str
    condition: str
    build: Callable[[Generator], Any]
    measure: Callable[[Any, Generator], Trials]
    true: frozenset[str] = field(default=frozenset())
    effect: float | None = None
    unit: str = ""

    @property
    def name(self) -> str:
        """Unique among the cells; the draws depend on it and on the seed only."""
        return f"{self.family}: {self.condition}"


def compare(value: float, null: Null, direction: str = "greater") -> Trial:
    """A value beside one null. direction: of the claim."""
    above, below = value > null.high, value < null.low
    return Trial(above, below) if direction == "greater" else Trial(below, above)


def mean_beside(statistic: str, values: FloatArray, null: Null, direction: str = "greater") -> Trials:
    """The mean of values (N,), one a prompt, beside the one null of a claim."""
    return {f"{statistic}, {null.kind}": compare(float(values.mean()), null, direction)}


def of_weights(at: Update, rng: Generator) -> Trials:
    """ρ_N of an update beside its three nulls (`observe_weights`)."""
    basis = column_basis(at.W)
    value, nulls = null_energy(at.dW, basis), null_energy_nulls(at.dW, basis, rng, DRAWS)
    if isinstance(value, Absent) or isinstance(nulls, Absent):
        raise DeltawError("the planted update is zero or W has no left null space; plant another one")
    used = [null for null in nulls if null.kind in ("rotation", "row_permutation", "row_sign_flip")]
    return {f"null_energy_left, {null.kind}": compare(value, null) for null in used}


@dataclass(frozen=True, eq=False)
class Mlps:
    """A base and a tuned MLP, and inputs (N, d) of the base one; the tuned one reads the same."""

    base: Mlp
    tuned: Mlp
    a: Tensor


def of_function(at: Mlps, rng: Generator) -> Trials:
    """The null-space part's share of the change of outputs minus the column-space part's (`observe_function`)."""
    effect = mlp_effect(at.base, at.tuned, at.a, at.a)
    nulls = effect_nulls(at.base, at.tuned, at.a, at.a, rng, EFFECT_DRAWS)
    share = null_minus_column(effect, rng, nulls, BOOTSTRAP)
    if share.null is None:
        raise DeltawError("the share has no null; expected those of `effect_nulls`")
    return {f"effect_null_minus_column, {share.null.kind}": compare(share.value, share.null)}


@dataclass(frozen=True, eq=False)
class Clusters:
    """(allowed, forbidden) activations (N, w) of the base and of the tuned model, paired row by row."""

    base: tuple[Tensor, Tensor]
    tuned: tuple[Tensor, Tensor]


def of_clusters(at: Clusters, rng: Generator) -> Trials:
    """The change of the relative gap (`observe_clusters`): equal folds and permutations in both models."""
    before, after = _separations(at, int(rng.integers(2**32)))
    change = difference_of_differences(before, after, rng, draws=BOOTSTRAP)["tau_gap_relative"]
    if change.null is None:
        raise DeltawError("the difference of differences has no null; expected draws in both separations")
    return {"tau_gap_relative_change, label_permutation": compare(change.value, change.null)}


def _separations(at: Clusters, seed: int) -> tuple[Separation, Separation]:
    """Of the base and the tuned model: equal seeds, equal folds and permutations."""
    before, after = (
        separation(*model, np.random.default_rng(seed), paired=True, null_draws=DRAWS, bootstrap_draws=2)
        for model in (at.base, at.tuned)
    )
    return before, after


def of_depth(at: Sequence[Clusters], rng: Generator) -> Trials:
    """How much more the relative gap changes in the later half of the layers (`observe_clusters`)."""
    seed = int(rng.integers(2**32))
    values, null = gap_over_layers([_separations(layer, seed) for layer in at])["tau_gap_relative_change_depth"]
    if null is None:
        raise DeltawError("the change over depth has no null; expected draws in all separations")
    return mean_beside("tau_gap_relative_change_depth", values, null)


def of_rank_ratio(at: Sequence[Clusters], rng: Generator) -> Trials:
    """Directions of forbidden prompts beside those of allowed ones (`observe_ranks`)."""
    clouds = [(layer.tuned[1], layer.tuned[0]) for layer in at]
    return _of_ranks("rank_log_ratio", "label_permutation", clouds, rng)


def of_rank_change(at: Sequence[Clusters], rng: Generator) -> Trials:
    """Directions of forbidden prompts beside those that the base model gives them (`observe_ranks`)."""
    clouds = [(layer.tuned[1], layer.base[1]) for layer in at]
    return _of_ranks("rank_log_change", "model_swap", clouds, rng)


def of_ranks(at: Sequence[Clusters], rng: Generator) -> Trials:
    """Both comparisons of ranks."""
    return {**of_rank_ratio(at, rng), **of_rank_change(at, rng)}


def _of_ranks(statistic: str, kind: str, clouds: Sequence[tuple[Tensor, Tensor]], rng: Generator) -> Trials:
    """Mean over layers of log ranks, first minus second; the same rows are swapped in all layers."""
    seed = int(rng.integers(2**32))
    mean = mean_log_rank([_log_rank(first) - _log_rank(second) for first, second in clouds])
    null = mean_null([rank_null(*pair, kind, np.random.default_rng(seed), DRAWS) for pair in clouds])
    return {f"{statistic}, {kind}": compare(mean.value, null, "less")}


def _log_rank(cloud: Tensor) -> LogRank:
    rank = activation_rank(cloud)
    if not isinstance(rank, ActivationRank):
        raise DeltawError("a planted cloud has no directions; plant another one")
    return rank.log


@dataclass(frozen=True, eq=False)
class Inputs:
    """Inputs (N, n) of allowed and forbidden prompts, paired row by row, and an update that acts on them."""

    allowed: Tensor
    forbidden: Tensor
    update: Update


def of_gain(at: Inputs, rng: Generator) -> Trials:
    """The mean log ratio of gains (`observe_gain`)."""
    of_allowed, of_forbidden = (
        gain(a, at.update.dW, None, at.update.W, None).relative for a in (at.allowed, at.forbidden)
    )
    ratios = np.log(of_forbidden) - np.log(of_allowed)
    null = sign_flip_null("label_permutation", ratios, rng, DRAWS)
    return mean_beside("gain_log_ratio", ratios, null)


def of_rows(at: Inputs, rng: Generator) -> Trials:
    """The difference of row energies beside matched random subspaces (`observe_gain`)."""
    contrast = row_contrast(at.forbidden, at.allowed, at.update.dW, TOP_K, rng, draws=DRAWS)
    return {f"row_energy_difference, {null.kind}": compare(contrast.value, null) for null in contrast.nulls}


def of_rows_over_layers(at: Sequence[Inputs], rng: Generator) -> Trials:
    """The same, mean over layers, with equal draws in all of them (`observe_gain`)."""
    seed = int(rng.integers(2**32))
    contrasts = [
        row_contrast(x.forbidden, x.allowed, x.update.dW, TOP_K, np.random.default_rng(seed), draws=DRAWS) for x in at
    ]
    rows = np.mean([layer.forbidden - layer.allowed for layer in contrasts], axis=0)
    nulls = [mean_null(list(kind)) for kind in zip(*(layer.nulls for layer in contrasts), strict=True)]
    value = float(rows.mean())
    return {f"row_energy_difference over layers, {null.kind}": compare(value, null) for null in nulls}


@dataclass(frozen=True, eq=False)
class Attacked:
    """Activations (N, w) of attacked prompts, of the forbidden ones they were made from (row by row), of allowed ones.

    gains: (attacked, forbidden), (N,) each, of an update on the two.
    """

    attacked: Tensor
    forbidden: Tensor
    allowed: Tensor
    gains: tuple[FloatArray, FloatArray]


def of_attacks(at: Attacked, rng: Generator) -> Trials:
    """Where attacked prompts lie, and how the update acts on them (`observe_attacks`)."""
    source = np.arange(len(at.attacked))
    placed = position(at.attacked, at.forbidden, at.allowed, rng, source=source, draws=BOOTSTRAP)
    ratio = gain_ratio(*at.gains, rng, source=source, draws=BOOTSTRAP)
    value, null_low, null_high = map(float, np.log([ratio.value, ratio.null.low, ratio.null.high]))
    null = Null(ratio.null.kind, 0.0, null_low, null_high)
    tests = {"gain_log_ratio_to_forbidden, exchangeable_with_source": compare(value, null, "less")}
    if not isinstance(placed, Absent):
        tests["position, exchangeable_with_source"] = compare(placed.mean, placed.null)
    return tests


def of_layers(at: Sequence[Attacked], rng: Generator) -> Trials:
    """Where attacked prompts lie, mean over layers by precision (`write_positions`): a prompt is exchanged in all."""
    seed, positions = int(rng.integers(2**32)), []
    for layer in at:
        source, generator = np.arange(len(layer.attacked)), np.random.default_rng(seed)
        placed = position(layer.attacked, layer.forbidden, layer.allowed, generator, source=source, draws=BOOTSTRAP)
        if not isinstance(placed, Absent):
            positions.append(placed)
    if not positions:
        return {}
    means, null = mean_position(positions)
    return mean_beside("position over layers", means, null)


@dataclass(frozen=True, eq=False)
class Sensitivities:
    """Positive sensitivities (N,) of (allowed, forbidden) prompts, in the base and in the tuned model."""

    base: tuple[FloatArray, FloatArray]
    tuned: tuple[FloatArray, FloatArray]


def of_sensitivity(at: Sensitivities, rng: Generator) -> Trials:
    """Falls on forbidden prompts, rises on allowed ones, and the two part (`observe_sensitivity`)."""
    log_ratios = sensitivity_change(at.base, at.tuned, rng, draws=DRAWS)
    if isinstance(log_ratios, Absent):
        raise DeltawError("a planted sensitivity is not positive; plant its logarithm")
    changes = (
        ("sensitivity_log_ratio (forbidden)", log_ratios.forbidden, "less"),
        ("sensitivity_log_ratio (allowed)", log_ratios.allowed, "greater"),
        ("sensitivity_log_ratio_difference", log_ratios.difference, "less"),
    )
    return {
        f"{name}, {change.null.kind}": compare(change.value, change.null, direction)
        for name, change, direction in changes
    }


def merged(outcomes: Sequence[Trials]) -> Mapping[str, list[Trial]]:
    """Trials by test."""
    tests: dict[str, list[Trial]] = {}
    for outcome in outcomes:
        for name, trial in outcome.items():
            tests.setdefault(name, []).append(trial)
    return tests
