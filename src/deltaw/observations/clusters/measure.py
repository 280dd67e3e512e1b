"""Observation 1: do allowed and forbidden prompts form two clusters, and does fine-tuning move them apart?

d_prime, auroc, tau_gap, tau_gap_relative    how far apart they are in the tuned model, by site and layer
..._base                                     the same in the base model
..._change                                   their difference, and its mean over layers without `layer`
tau_gap_relative_change_depth                how much more of it there is in the later half of the layers
..._change_peak                              the largest change over layers, the layer chosen on one half of the pairs
                                             and read on the other; not of `tau_gap`: its unit differs between layers
tau_gap_relative_change_peak_layer           where that is, 0 the first layer and 1 the last
"""

from dataclasses import dataclass

import numpy as np

from deltaw.analysis import (
    BY_PAIR,
    Separation,
    difference_of_differences,
    gap_over_layers,
    peaks_over_layers,
    separation,
)
from deltaw.observations.draws import SITE_KEYS, Draw
from deltaw.observations.lens import SITES, Lens, Places
from deltaw.observations.observation import Observation, Statistic, with_base
from deltaw.observations.peaks import DEPTH, write_peak
from deltaw.results.recorder import Sheet

UNITS = {
    "d_prime": "standard deviations",
    "auroc": "probability",
    "tau_gap": "activation units",
    "tau_gap_relative": "share of distance",
}


@dataclass(frozen=True)
class ClusterSeparation(Observation):
    """Observation 1: how far apart allowed and forbidden prompts lie, and how much further after tuning."""

    name = "clusters"
    label = "separation of clusters"
    statistics = (
        *with_base(
            Statistic("d_prime", UNITS["d_prime"], "Distance of the two means along the line that separates them."),
            Statistic("auroc", UNITS["auroc"], "How often an allowed prompt lies further along that line."),
            Statistic(
                "tau_gap", UNITS["tau_gap"], "The paper's gap: mean τ of allowed minus that of forbidden prompts."
            ),
            Statistic("tau_gap_relative", UNITS["tau_gap_relative"], "The gap over the distance of the means."),
        ),
        *(Statistic(f"{name}_change", unit, "Tuned minus base.") for name, unit in UNITS.items()),
        Statistic(
            "tau_gap_relative_change_depth",
            UNITS["tau_gap_relative"],
            "The change in the later half of the layers minus that in the earlier half.",
        ),
        *(
            Statistic(
                f"{name}_change_peak",
                UNITS[name],
                "The largest change over layers: the layer is chosen on one half of the pairs and read on the other.",
            )
            for name in BY_PAIR
        ),
        Statistic(
            "tau_gap_relative_change_peak_layer", DEPTH, "Where the gap changes most: 0 the first layer, 1 the last."
        ),
    )

    sites: tuple[str, ...] = SITES
    """Where activations are compared."""

    def measure(self, lens: Lens, sheet: Sheet) -> None:
        """Separation in both models and the difference of their differences, by contrast, site and layer."""
        for name in lens.names:
            for site in filter(lens.has, self.sites):
                pairs = [(of_base(lens, name, site, layer), of_tuned(lens, name, site, layer)) for layer in lens.layers]
                _write(lens, name, pairs, sheet.with_(set=name, site=site))


def of_base(lens: Lens, name: str, site: str, layer: int) -> Separation:
    """How far apart the base model's clusters are, computed once for all models beside it."""
    key = ("separation", name, site, layer, lens.draws, lens.bootstrap)
    return lens.before.once(key, lambda: separate(lens, name, lens.before.contrast(name), site, layer))


def of_tuned(lens: Lens, name: str, site: str, layer: int) -> Separation:
    """How far apart the tuned model's clusters are."""
    return separate(lens, name, lens.after(name), site, layer)


def separate(lens: Lens, name: str, places: tuple[Places, Places], site: str, layer: int) -> Separation:
    """Separation of (allowed, forbidden) activations at one place, on the folds that both models share."""
    allowed, forbidden = (by_place[(layer, site)] for by_place in places)
    # Equal in all layers: a pair changes its fold or labels as a whole.
    generator = lens.generator(Draw.CLUSTER_FOLDS, SITE_KEYS[site])
    clusters = lens.clusters(name)
    return separation(
        allowed,
        forbidden,
        generator,
        paired=True,
        ids=None if clusters is None else (clusters, clusters),
        null_draws=lens.draws,
        bootstrap_draws=lens.bootstrap,
        halves=lens.halves(name),
    )


def _write(lens: Lens, name: str, pairs: list[tuple[Separation, Separation]], sheet: Sheet) -> None:
    count = {"n": len(pairs[0][1].allowed), "n_unit": "pair"}
    for layer, (before, after) in enumerate(pairs):
        changes = difference_of_differences(
            before, after, lens.generator(Draw.CLUSTER_CHANGE, layer), draws=lens.bootstrap
        )
        for statistic, unit in UNITS.items():
            view = sheet.with_(layer=layer, unit=unit, **count)
            shown = (("", after), ("_base", before)) if lens.last else (("", after),)
            for suffix, model in shown:
                nulls = [model.nulls[statistic]] if statistic in model.nulls else []
                view.add(statistic + suffix, model.values[statistic], model.intervals[statistic], nulls)
            change = changes[statistic]
            view.add(f"{statistic}_change", change.value, change.interval, [change.null] if change.null else [])
    over_layers = sheet.with_(unit=UNITS["tau_gap_relative"], **count)
    for statistic, (values, null) in gap_over_layers(pairs).items():
        lens.add_mean(
            over_layers,
            statistic,
            np.asarray(values),
            [null] if null else [],
            lens.clusters(name),
            draw=Draw.CLUSTER_MEANS,
        )
    peaks = peaks_over_layers(pairs, lens.halves(name), lambda: lens.generator(Draw.PEAK), lens.bootstrap)
    for statistic, peak in peaks.items():
        view = sheet.with_(unit=UNITS[statistic], **count)
        write_peak(view, f"{statistic}_change", peak, where=statistic == "tau_gap_relative")
