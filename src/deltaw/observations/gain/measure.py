"""Observation 3: does ΔW act more on forbidden prompts, and where do its input directions point?

    gain_relative             ‖ΔW a + Δb‖ / ‖W a + b‖, mean over a set's prompts
    gain_to_input             ‖ΔW a + Δb‖ / ‖a‖, the paper's ratio, mean over a set's prompts
    gain_log_ratio            log of forbidden over allowed relative gains, pair by pair, by layer and mean over layers
    gain_to_input_log_ratio   the same of gain_to_input
    gain_log_ratio_peak       the largest gain_log_ratio over layers, the layer chosen on one half of the pairs and read
                              on the other
    gain_best_log_ratio       what the best possible update of rank one reaches at the base model's inputs, held out
                              (`analysis.best_update`): a log ratio of root mean squares of |v·a|, by layer and peak
    row_energy_difference     share of a in ΔW's strongest input directions, forbidden minus allowed

a is what enters the MLP: the base model's at its own inputs, and with the suffix `_in_situ` the tuned model's, as the
paper reads them.
"""

from dataclasses import dataclass

import numpy as np

from deltaw.analysis import (
    BestUpdate,
    RowContrast,
    best_ratio,
    best_update,
    gain,
    row_contrast,
    update_rank,
)
from deltaw.errors import DeltawError
from deltaw.observations.draws import Draw
from deltaw.observations.lens import Lens, Places
from deltaw.observations.observation import Observation, Statistic
from deltaw.observations.peaks import DEPTH, write_peak
from deltaw.observations.prompts import Clusters
from deltaw.results.recorder import Sheet
from deltaw.statistics import FloatArray, Null, bootstrap_means, mean_null, percentile_interval

SUFFIXES = ("", "_in_situ")
"""Of statistics at the base model's own inputs, and at the tuned model's."""

KINDS = {"relative": "", "to_input": "to_input_"}
"""Kind of gain -> how the names of its log ratios begin, after `gain_`."""


@dataclass(frozen=True)
class Gain(Observation):
    """Observation 3: does ΔW act more on forbidden prompts, and where do its input directions point?"""

    name = "gain"
    label = "gain of ΔW"
    statistics = (
        *(
            Statistic(f"{name}{suffix}{peak}", unit, f"{sentence}{where}.")
            for suffix, where in zip(SUFFIXES, ("", ", at the tuned model's own inputs"), strict=True)
            for name, peak, unit, sentence in (
                ("gain_relative", "", "ratio", "‖ΔW a + Δb‖ over ‖W a + b‖, mean over prompts"),
                ("gain_to_input", "", "ratio", "‖ΔW a + Δb‖ over ‖a‖, the paper's ratio, mean over prompts"),
                (
                    "gain_log_ratio",
                    "",
                    "log ratio",
                    "Log relative gain on forbidden prompts minus that on allowed ones",
                ),
                ("gain_to_input_log_ratio", "", "log ratio", "The same of the paper's ratio"),
                (
                    "gain_log_ratio",
                    "_peak",
                    "log ratio",
                    "The largest log ratio over layers, the layer chosen on one half of the pairs, read on the other",
                ),
            )
        ),
        Statistic(
            "gain_log_ratio_in_situ_peak_layer",
            DEPTH,
            "Where the log ratio is largest at the tuned model's own inputs: 0 the first layer, 1 the last.",
        ),
        Statistic(
            "gain_best_log_ratio",
            "log ratio",
            "What the best possible update of rank one reaches at the base model's inputs, held out: log ratio of the "
            "root mean squares of its effect on forbidden and allowed prompts.",
        ),
        Statistic(
            "gain_best_log_ratio_peak",
            "log ratio",
            "The same at the layer that promises most on one half of the pairs, read on the other.",
        ),
        Statistic(
            "row_energy_difference",
            "share of energy",
            "Share of the input in ΔW's strongest input directions, forbidden minus allowed.",
        ),
    )

    directions: int = 8
    """Of ΔW's input, whose energy is compared."""

    def measure(self, lens: Lens, sheet: Sheet) -> None:
        """Gains at both models' inputs, their log ratios, and, at the last checkpoint, row energies and what the best
        update reaches; by contrast and layer.
        """
        for name in lens.names:
            whole = sheet.with_(set=name, site="mlp_in", n=len(lens.before.contrasts[name].allowed), n_unit="pair")
            rows: list[FloatArray] = []
            row_nulls: list[tuple[Null, ...]] = []
            updated = []
            for layer in lens.layers:
                delta, _ = lens.update(layer)
                if not bool((delta != 0).any()):
                    lens.absent[f"gain, layer {layer}"] = "the update is zero"
                    continue
                updated.append(layer)
                if lens.last:
                    contrast = _row_energies(lens, name, layer, self.directions)
                    if contrast is not None:
                        rows.append(contrast.forbidden - contrast.allowed)
                        row_nulls.append(contrast.nulls)
                        energy = whole.with_(unit="share of energy", layer=layer)
                        energy.add("row_energy_difference", contrast.value, contrast.interval, contrast.nulls)
            for suffix, places in zip(SUFFIXES, (lens.before.contrast(name), lens.after(name)), strict=True):
                _write_gains(lens, name, updated, places, suffix, whole)
            if lens.last:
                _write_best(lens, name, whole)
            if rows:
                over_layers = [mean_null(list(kind)) for kind in zip(*row_nulls, strict=True)]
                energy = whole.with_(unit="share of energy")
                values = np.asarray(np.mean(rows, axis=0))
                lens.add_mean(energy, "row_energy_difference", values, over_layers, lens.clusters(name))


def _row_energies(lens: Lens, name: str, layer: int, directions: int) -> RowContrast | None:
    """The contrast of row energies at a layer; None, with the reason in `absent`, where it cannot be had."""
    allowed, forbidden = (by_place[(layer, "mlp_in")] for by_place in lens.before.contrast(name))
    clusters = lens.clusters(name)
    delta, _ = lens.update(layer)
    numbers = None if clusters is None else np.unique(clusters, return_inverse=True)[1].astype(np.float64)
    try:
        return row_contrast(
            forbidden,
            allowed,
            delta,
            min(directions, update_rank(delta)),
            lens.generator(Draw.ROW_SPACE_NULLS),  # equal in all layers: the same prompts make their directions
            clusters=None if numbers is None else (numbers, numbers),
            draws=lens.draws,
        )
    except DeltawError as error:
        lens.absent[f"row_energy_difference, layer {layer}"] = str(error)
        return None


def _write_gains(
    lens: Lens, name: str, layers: list[int], places: tuple[Places, Places], suffix: str, sheet: Sheet
) -> None:
    """Mean gains by layer, and the log ratios of forbidden to allowed: by layer, mean over layers, and peak."""
    clusters = lens.clusters(name)
    logs: dict[str, dict[int, FloatArray]] = {kind: {} for kind in KINDS}
    for layer in layers:
        of_layer = _gains(lens, name, layer, places, suffix, sheet.with_(layer=layer))
        for kind, (allowed, forbidden) in of_layer.items():
            logs[kind][layer] = np.asarray(np.log(forbidden) - np.log(allowed))
    for kind, by_layer in logs.items():
        if not by_layer:
            continue
        statistic = f"gain_{KINDS[kind]}log_ratio{suffix}"
        view = sheet.with_(unit="log ratio")
        write_log_ratios(lens, view, statistic, by_layer, "label_permutation", clusters)
        if kind == "relative":
            peak = lens.peak(by_layer, name, "label_permutation")
            write_peak(view, statistic, peak, where=suffix == "_in_situ")


def write_log_ratios(
    lens: Lens, sheet: Sheet, statistic: str, by_layer: dict[int, FloatArray], kind: str, clusters: Clusters
) -> FloatArray:
    """A line a layer and their mean, of paired log ratios (N,) by layer; returns each pair's mean over layers.

    kind: what the null is called, which gives each pair, or cluster, a random sign.
    """
    over_layers = np.asarray(np.mean(list(by_layer.values()), axis=0))
    lines = [*((sheet.with_(layer=layer), values) for layer, values in by_layer.items()), (sheet, over_layers)]
    ids = np.arange(len(over_layers)) if clusters is None else clusters
    values = [of_line for _, of_line in lines]
    means = bootstrap_means(values, lens.generator(Draw.MEANS), [ids] * len(lines), lens.bootstrap)
    for (view, of_line), draws in zip(lines, means.T, strict=True):
        null = lens.sign_flips(kind, of_line, clusters)
        view.add(statistic, float(of_line.mean()), percentile_interval(draws), [null])
    return over_layers


def _gains(
    lens: Lens, name: str, layer: int, places: tuple[Places, Places], suffix: str, sheet: Sheet
) -> dict[str, tuple[FloatArray, FloatArray]]:
    """Writes the mean gains of a layer; returns each prompt's by kind, (allowed, forbidden)."""
    old, new = lens.mlps(layer)
    clusters = lens.clusters(name)
    ids = None if clusters is None else [clusters, clusters]
    of_verdicts = [
        gain(by_place[(layer, "mlp_in")].double(), new.w_in - old.w_in, new.b_in - old.b_in, old.w_in, old.b_in)
        for by_place in places
    ]
    kinds: dict[str, tuple[FloatArray, FloatArray]] = {
        "relative": (of_verdicts[0].relative, of_verdicts[1].relative),
        "to_input": (of_verdicts[0].to_input, of_verdicts[1].to_input),
    }
    for verdict, values in zip(("allowed", "forbidden"), zip(*kinds.values(), strict=True), strict=True):
        means = bootstrap_means(values, lens.generator(Draw.GAIN_INTERVAL), ids, lens.bootstrap)
        view = sheet.with_(set=f"{name}/{verdict}", n=len(values[0]), n_unit="prompt", unit="ratio")
        for kind, of_kind, draws in zip(kinds, values, means.T, strict=True):
            view.add(f"gain_{kind}{suffix}", float(of_kind.mean()), percentile_interval(draws))
    return kinds


def _write_best(lens: Lens, name: str, sheet: Sheet) -> None:
    """What the best update of rank one reaches at the base model's inputs, by layer and peak; once for all models."""

    def fitted() -> list[BestUpdate]:
        allowed, forbidden = lens.before.contrast(name)
        return [
            best_update(
                allowed[(layer, "mlp_in")],
                forbidden[(layer, "mlp_in")],
                lens.halves(name),
                lens.generator(Draw.BEST_UPDATE),
                lens.clusters(name),
            )
            for layer in lens.layers
        ]

    view = sheet.with_(unit="log ratio")
    try:
        updates = lens.before.once(("best update", name), fitted)
    except DeltawError as error:
        lens.absent[f"gain_best_log_ratio, {name}"] = str(error)
        return
    of_layers = [(layer, [update]) for layer, update in zip(lens.layers, updates, strict=True)]
    for layer, chosen in ((None, updates), *of_layers):
        ratio = best_ratio(
            chosen,
            lens.halves(name),
            lens.generator(Draw.BEST_RATIO),
            lens.clusters(name),
            draws=lens.bootstrap,
            null_draws=lens.draws,
        )
        statistic = "gain_best_log_ratio_peak" if layer is None else "gain_best_log_ratio"
        view.add(statistic, ratio.value, ratio.interval, [ratio.null], layer=layer)
