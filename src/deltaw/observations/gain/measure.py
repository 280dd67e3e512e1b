"""Observation 3: does ΔW act more on forbidden prompts, and where do its input directions point?

    gain_relative, gain_absolute    ‖ΔW a + Δb‖ / ‖W a + b‖, and ‖ΔW a + Δb‖, mean over a set's prompts
    gain_log_ratio                  log of forbidden over allowed, pair by pair, mean over layers
    row_energy_difference           share of a in ΔW's strongest input directions, forbidden minus allowed

a is what enters the MLP: the base model's at its own inputs, and with the suffix `_in_situ` the tuned model's.
"""

from dataclasses import dataclass

import numpy as np

from deltaw.analysis import RowContrast, gain, row_contrast, update_rank
from deltaw.errors import DeltawError
from deltaw.observations.draws import Draw
from deltaw.observations.lens import Clusters, Lens, Places
from deltaw.observations.observation import Observation, Statistic
from deltaw.results.recorder import Sheet
from deltaw.statistics import FloatArray, Null, bootstrap_means, mean_null, percentile_interval


@dataclass(frozen=True)
class Gain(Observation):
    """Observation 3: does ΔW act more on forbidden prompts, and where do its input directions point?"""

    name = "gain"
    label = "gain of ΔW"
    statistics = (
        *(
            Statistic(f"{name}{suffix}", unit, f"{sentence}{where}.")
            for suffix, where in (("", ""), ("_in_situ", ", at the tuned model's own inputs"))
            for name, unit, sentence in (
                ("gain_relative", "ratio", "‖ΔW a + Δb‖ over ‖W a + b‖, mean over prompts"),
                ("gain_absolute", "ratio", "‖ΔW a + Δb‖, mean over prompts"),
                ("gain_log_ratio", "log ratio", "Log gain on forbidden prompts minus that on allowed ones"),
            )
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
        """Gains in both models, their log ratios, and row energies at the last checkpoint, by contrast and layer."""
        for name in lens.names:
            logs: dict[str, list[FloatArray]] = {"": [], "_in_situ": []}
            rows: list[FloatArray] = []
            row_nulls: list[tuple[Null, ...]] = []
            allowed, forbidden = lens.before.contrast(name)
            clusters = lens.clusters(name)
            for layer in lens.layers:
                delta, _ = lens.update(layer)
                if not bool((delta != 0).any()):
                    lens.absent[f"gain, layer {layer}"] = "the update is zero"
                    continue
                view = sheet.with_(set=name, site="mlp_in", layer=layer)
                logs[""].append(_gains(lens, name, layer, (allowed, forbidden), "", view))
                logs["_in_situ"].append(_gains(lens, name, layer, lens.after(name), "_in_situ", view))
                if lens.last:
                    contrast = _row_energies(lens, layer, (allowed, forbidden), clusters, self.directions)
                    if contrast is not None:
                        rows.append(contrast.forbidden - contrast.allowed)
                        row_nulls.append(contrast.nulls)
                        energy = view.with_(unit="share of energy", n=len(contrast.allowed), n_unit="pair")
                        energy.add("row_energy_difference", contrast.value, contrast.interval, contrast.nulls)
            view = sheet.with_(set=name, site="mlp_in", n=len(lens.before.contrasts[name].allowed), n_unit="pair")
            for suffix, values in logs.items():
                if values:
                    ratios = np.mean(values, axis=0)
                    null = lens.sign_flips("label_permutation", ratios, clusters)
                    lens.add_mean(view.with_(unit="log ratio"), f"gain_log_ratio{suffix}", ratios, [null], clusters)
            if rows:
                over_layers = [mean_null(list(kind)) for kind in zip(*row_nulls, strict=True)]
                energy = view.with_(unit="share of energy")
                lens.add_mean(energy, "row_energy_difference", np.mean(rows, axis=0), over_layers, clusters)


def _row_energies(
    lens: Lens, layer: int, places: tuple[Places, Places], clusters: Clusters, directions: int
) -> RowContrast | None:
    """The contrast of row energies at a layer; None, with the reason in `absent`, where it cannot be had."""
    allowed, forbidden = (some[(layer, "mlp_in")] for some in places)
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


def _gains(lens: Lens, name: str, layer: int, places: tuple[Places, Places], suffix: str, sheet: Sheet) -> FloatArray:
    """Writes the mean gains of a layer; returns each pair's log ratio of forbidden to allowed, (N,)."""
    old, new = lens.mlps(layer)
    clusters, relative = lens.clusters(name), {}
    ids = None if clusters is None else [clusters]
    for verdict, of_verdict in zip(("allowed", "forbidden"), places, strict=True):
        a = of_verdict[(layer, "mlp_in")].double()
        gains = gain(a, new.w_in - old.w_in, new.b_in - old.b_in, old.w_in, old.b_in)
        relative[verdict] = gains.relative
        for kind, values in (("relative", gains.relative), ("absolute", gains.absolute)):
            means = bootstrap_means([values], lens.generator(Draw.GAIN_INTERVAL), ids, lens.bootstrap)
            view = sheet.with_(set=f"{name}/{verdict}", n=len(values), n_unit="prompt", unit="ratio")
            view.add(f"gain_{kind}{suffix}", float(values.mean()), percentile_interval(means[:, 0]))
    return np.asarray(np.log(relative["forbidden"]) - np.log(relative["allowed"]))
