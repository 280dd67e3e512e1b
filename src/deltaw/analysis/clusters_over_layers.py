"""Observation 1 over layers: the mean change of the gap, how it grows with depth, and its own maximum."""

from collections.abc import Callable, Sequence

import numpy as np

from deltaw.analysis.clusters import BY_PAIR, Separation, pair_contributions
from deltaw.analysis.peak import Halves, Peak, split_peak
from deltaw.statistics import FloatArray, Null, from_draws


def gap_over_layers(separations: Sequence[tuple[Separation, Separation]]) -> dict[str, tuple[FloatArray, Null | None]]:
    """From the (base, tuned) separations of the same pairs in each layer: what each pair (N,) has of the change of the
    relative gap, and the null of its mean if all separations have draws.

    `tau_gap_relative_change` is the mean over layers; `tau_gap_relative_change_depth`, of two layers or more, that of
    the later half minus that of the earlier one. The separations' generators must be equal, so that a draw permutes the
    same labels in all layers.
    """
    name = "tau_gap_relative"
    gaps = np.array(
        [(b.allowed[:, 2] - a.allowed[:, 2]) - (b.forbidden[:, 2] - a.forbidden[:, 2]) for a, b in separations]
    )  # (layers, pairs)
    draws = [model.nulls[name].draws if name in model.nulls else None for pair in separations for model in pair]
    known = np.array([draw for draw in draws if draw is not None])
    shifts = known[1::2] - known[::2] if len(known) == len(draws) else None  # (layers, draws), tuned minus base

    def deeper(values: FloatArray) -> FloatArray:
        half = len(values) // 2
        return np.asarray(values[half:].mean(0) - values[:half].mean(0))

    kinds: dict[str, Callable[[FloatArray], FloatArray]] = {f"{name}_change": lambda values: values.mean(0)}
    if len(gaps) > 1:
        kinds[f"{name}_change_depth"] = deeper
    return {
        statistic: (of(gaps), None if shifts is None else from_draws("label_permutation", of(shifts)))
        for statistic, of in kinds.items()
    }


def peaks_over_layers(
    pairs: Sequence[tuple[Separation, Separation]],
    halves: Halves,
    generator: Callable[[], np.random.Generator],
    draws: int = 1000,
) -> dict[str, Peak]:
    """The peak over layers of each statistic's change, from the (base, tuned) separations of the same pairs in each
    layer, by `BY_PAIR`; all made with `halves`.

    generator: gives one in the same state for every statistic. Each draw of the null permutes the same labels in all
    layers and both models, fits anew, and goes through the same choice of the layer.
    """
    contributions = [tuple(pair_contributions(model) for model in pair) for pair in pairs]
    out = {}
    for name in BY_PAIR:
        values = np.array([after[name] - before[name] for before, after in contributions])
        curves = None
        if all(name in model.half_draws for pair in pairs for model in pair):
            shifts = np.array([after.half_draws[name] - before.half_draws[name] for before, after in pairs])
            curves = shifts[:, :, 0].T, shifts[:, :, 1].T
        out[name] = split_peak(
            values,
            halves,
            generator(),
            clusters=pairs[0][0].ids[0],
            kind="label_permutation",
            null_curves=curves,
            null_draws=0,
            draws=draws,
        )
    return out
