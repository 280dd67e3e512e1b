"""Activations and the update at once, of two real models on matched pairs: clusters, gain, row space, attacked prompts.

The functions of `analysis/`, on activations at the last token before the answer. Harmless prompts are the allowed ones,
harmful ones the forbidden. Prompts that share an operand share a fold and are resampled together.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from deltaw.analysis import (
    Absent,
    Position,
    RowContrast,
    Separation,
    difference_of_differences,
    gain,
    gain_ratio,
    gap_over_layers,
    mean_position,
    position,
    row_contrast,
    separation,
)
from deltaw.compare.asking import Effort, Names
from deltaw.errors import DeltawError
from deltaw.models.taps import Place
from deltaw.prompts.matched import MatchedPair
from deltaw.results.recorder import Sheet
from deltaw.statistics import FloatArray, Null, bootstrap_means, mean_null, percentile_interval, sign_flip_null

FOLDS, ROWS, LABEL_DRAWS = 5, 8, 200
UNITS = {
    "d_prime": "standard deviations",
    "auroc": "probability",
    "tau_gap": "activation units",
    "tau_gap_relative": "share of distance",
}
SITES = ("mlp_in", "resid_out")
Places = Mapping[Place, Tensor]


@dataclass(frozen=True)
class Seen:
    """Activations of one model on N matched pairs, and on attacked harmful prompts by attack, by (layer, site)."""

    harmless: Places
    harmful: Places
    attacked: Mapping[str, Places]


@dataclass(frozen=True)
class Layer:
    """The input map of one layer's MLP before and after: W, ΔW (m, n), b, Δb (m,) or None."""

    W: Tensor
    dW: Tensor
    b: Tensor | None
    db: Tensor | None


def write_clusters(sheet: Sheet, pairs: Sequence[MatchedPair], base: Seen, tuned: Seen, effort: Effort) -> None:
    """Observation 1: separation in both models at each layer's output, and the change of it, with nulls."""
    ids = np.array([pair.harmful.cluster for pair in pairs])
    site, layers = "resid_out", _layers(base)
    found = []
    for layer in layers:
        before, after = (_separate(seen, (layer, site), ids, effort) for seen in (base, tuned))
        found.append((before, after))
        view = sheet.with_(site=site, layer=layer, n=len(pairs), n_unit="pair")
        changes = difference_of_differences(before, after, _generator(effort, 11, layer), draws=effort.draws)
        for statistic, unit in UNITS.items():
            for suffix, model in (("", after), ("_base", before)):
                nulls = [model.nulls[statistic]]
                view.add(statistic + suffix, model.values[statistic], model.intervals[statistic], nulls, unit=unit)
            change = changes[statistic]
            nulls = [] if change.null is None else [change.null]
            view.add(f"{statistic}_change", change.value, change.interval, nulls, unit=unit)
    _write_over_layers(sheet.with_(site=site, n=len(pairs), n_unit="pair"), found, ids, effort)


def _separate(seen: Seen, place: Place, ids: Names, effort: Effort) -> Separation:
    # equal generators for both models and all layers: equal folds and permutations
    generator = _generator(effort, 10)
    return separation(
        seen.harmless[place], seen.harmful[place], generator, paired=True, ids=(ids, ids), folds=FOLDS,
        null_draws=LABEL_DRAWS, bootstrap_draws=effort.draws,
    )  # fmt: skip


def _write_over_layers(
    sheet: Sheet,
    found: Sequence[tuple[Separation, Separation]],
    ids: Names,
    effort: Effort,
) -> None:
    """The change of τ / ‖Δμ‖, mean over layers, and how much more of it there is in the later half."""
    for statistic, (values, null) in gap_over_layers(found).items():
        nulls = [] if null is None else [null]
        _add_mean(sheet.with_(unit=UNITS["tau_gap_relative"]), statistic, values, ids, nulls, effort)


def write_gains(
    sheet: Sheet, pairs: Sequence[MatchedPair], base: Seen, layers: Iterator[tuple[int, Layer]], effort: Effort
) -> dict[str, str]:
    """Observations 3 and 5: gain and row energy of ΔW at each layer's MLP input (a_IT), and gains of attacked prompts.

    layers: one matrix at a time. Returns what is absent, with the reason.
    """
    ids = np.array([pair.harmful.cluster for pair in pairs])
    absent: dict[str, str] = {}
    ratios: list[FloatArray] = []
    energies: list[RowContrast] = []
    of_attacks: dict[str, list[FloatArray]] = {attack: [] for attack in base.attacked}
    for layer, maps in layers:
        place = (layer, "mlp_in")
        if not bool((maps.dW != 0).any()):
            absent[f"gain, layer {layer}"] = "the update is zero"
            continue
        view = sheet.with_(site="mlp_in", layer=layer)
        sides = {"harmless": base.harmless[place], "harmful": base.harmful[place]}
        found = {label: gain(a.double(), maps.dW, maps.db, maps.W, maps.b).relative for label, a in sides.items()}
        for label, values in found.items():
            named = view.with_(set=f"{sheet.shared['set']}/{label}", n=len(values), n_unit="prompt", unit="ratio")
            _add_mean(named, "gain_relative", values, ids, [], effort)
        ratios.append(np.log(found["harmful"]) - np.log(found["harmless"]))
        try:
            rows = row_contrast(
                sides["harmful"], sides["harmless"], maps.dW, ROWS, _generator(effort, 3),
                clusters=(_numbers(ids), _numbers(ids)), draws=LABEL_DRAWS,
            )  # fmt: skip
        except DeltawError as error:
            absent[f"row_energy_difference, layer {layer}"] = str(error)
        else:
            energy = view.with_(unit="share of energy", n=len(pairs), n_unit="pair")
            energy.add("row_energy_difference", rows.value, rows.interval, rows.nulls)
            energies.append(rows)
        for attack, places in base.attacked.items():
            of_attack = gain(places[place].double(), maps.dW, maps.db, maps.W, maps.b).relative
            ratio = gain_ratio(
                of_attack, found["harmful"][: len(of_attack)], _generator(effort, 5, layer),
                source=np.arange(len(of_attack)), draws=effort.draws,
            )  # fmt: skip
            named = view.with_(attack=attack, n=len(of_attack), n_unit="prompt", unit="ratio")
            named.add("gain_ratio", ratio.value, ratio.interval, [ratio.null])
            of_attacks[attack].append(np.log(of_attack) - np.log(found["harmful"][: len(of_attack)]))
    view = sheet.with_(site="mlp_in", unit="log ratio")
    if ratios:
        _add_paired(view.with_(n=len(pairs), n_unit="pair"), "gain_log_ratio", ratios, ids, "label_permutation", effort)
    if energies:  # equal draws: the same prompts make the directions of all layers
        differences = np.mean([one.forbidden - one.allowed for one in energies], axis=0)
        nulls = [mean_null(kind) for kind in zip(*(one.nulls for one in energies), strict=True)]
        energy = view.with_(unit="share of energy", n=len(pairs), n_unit="pair")
        _add_mean(energy, "row_energy_difference", differences, ids, nulls, effort)
    for attack, logs in of_attacks.items():
        if logs:
            named = view.with_(attack=attack, n=len(logs[0]), n_unit="prompt")
            kind = "exchangeable_with_source"
            _add_paired(named, "gain_log_ratio_attacked", logs, ids[: len(logs[0])], kind, effort)
    return absent


def write_positions(
    sheet: Sheet, pairs: Sequence[MatchedPair], tuned: Seen, base: Seen, effort: Effort
) -> dict[str, str]:
    """Observation 5: where attacked harmful prompts lie between harmful (0) and harmless (1) ones, by layer, and their
    mean over the layers that have such a scale, by precision.

    Attacked prompt i is made from harmful prompt i. Returns where there is no such scale.
    """
    ids = np.array([pair.harmful.cluster for pair in pairs])
    absent: dict[str, str] = {}
    for suffix, seen in (("", tuned), ("_base", base)):
        for attack, places in seen.attacked.items():
            placed: list[Position] = []
            view = sheet.with_(site="resid_out", attack=attack, n_unit="prompt", unit="share of distance")
            for layer in _layers(seen):
                place = (layer, "resid_out")
                count = len(places[place])
                found = position(
                    places[place], seen.harmful[place], seen.harmless[place],
                    _generator(effort, 7), source=np.arange(count), ids=(ids, ids), folds=FOLDS, draws=effort.draws,
                )  # fmt: skip
                if isinstance(found, Absent):
                    absent[f"position{suffix}, layer {layer}"] = found.reason
                    continue
                placed.append(found)
                view.add(f"position{suffix}", found.mean, found.interval, [found.null], layer=layer, n=count)
            if placed:
                means, null = mean_position(placed)
                _add_mean(view.with_(n=len(means)), f"position{suffix}", means, ids[: len(means)], [null], effort)
    return absent


def _add_paired(
    sheet: Sheet,
    statistic: str,
    per_layer: Sequence[FloatArray],
    ids: Names,
    kind: str,
    effort: Effort,
) -> None:
    """The mean over layers and pairs of differences; its null flips the sign of each operand's."""
    values = np.mean(per_layer, axis=0)
    names, numbers = np.unique(ids, return_inverse=True)
    sums = np.bincount(numbers, weights=values) * len(names) / len(values)
    null = sign_flip_null(kind, sums, _generator(effort, 16), effort.draws)
    _add_mean(sheet, statistic, values, ids, [null], effort)


def _add_mean(
    sheet: Sheet,
    statistic: str,
    values: FloatArray,
    ids: Names,
    nulls: Sequence[Null],
    effort: Effort,
) -> None:
    means = bootstrap_means([values], _generator(effort, 13), [ids], effort.draws)
    sheet.add(statistic, float(values.mean()), percentile_interval(means[:, 0]), nulls)


def _numbers(ids: Names) -> FloatArray:
    return np.unique(ids, return_inverse=True)[1].astype(np.float64)


def _layers(seen: Seen) -> list[int]:
    return sorted({layer for layer, _ in seen.harmful})


def _generator(effort: Effort, *key: int) -> np.random.Generator:
    return np.random.default_rng([effort.seed, *key])
