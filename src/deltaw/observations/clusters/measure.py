"""Observation 1: do allowed and forbidden prompts form two clusters, and does fine-tuning move them apart?

d_prime, auroc, tau_gap, tau_gap_relative    how far apart they are in the tuned model, by site and layer
..._base                                     the same in the base model
..._change                                   their difference, and its mean over layers without `layer`
tau_gap_relative_change_depth                how much more of it there is in the later half of the layers
..._change_peak                              the largest change over layers, the layer chosen on one half of the pairs
                                             and read on the other; not of `tau_gap`: its unit differs between layers
tau_gap_relative_change_peak_layer           where that is, 0 the first layer and 1 the last
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

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
Pairs = Sequence[tuple[Separation, Separation]]
"""In each layer, how far apart the clusters are in the base and in the tuned model."""


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


def _write(lens: Lens, name: str, pairs: Pairs, sheet: Sheet) -> None:
    write_by_layer(lens, pairs, sheet)
    over_layers = sheet.with_(unit=UNITS["tau_gap_relative"], n=_count(pairs), n_unit="pair")
    for statistic, (values, null) in gap_over_layers(pairs).items():
        lens.add_mean(
            over_layers,
            statistic,
            np.asarray(values),
            [null] if null else [],
            lens.clusters(name),
            draw=Draw.CLUSTER_MEANS,
        )
    write_peaks(lens, name, pairs, sheet, located="tau_gap_relative")


def write_by_layer(
    lens: Lens, pairs: Pairs, sheet: Sheet, units: Mapping[str, str] = MappingProxyType(UNITS), prefix: str = ""
) -> None:
    """Of each layer, the statistics that have `units`: of the tuned model, at the end of the base model too, and their
    change. prefix: of their names.
    """
    for layer, (before, after) in enumerate(pairs):
        changes = difference_of_differences(
            before, after, lens.generator(Draw.CLUSTER_CHANGE, layer), draws=lens.bootstrap
        )
        for statistic, unit in units.items():
            view = sheet.with_(layer=layer, unit=unit, n=_count(pairs), n_unit="pair")
            shown = (("", after), ("_base", before)) if lens.last else (("", after),)
            for suffix, model in shown:
                nulls = [model.nulls[statistic]] if statistic in model.nulls else []
                name = f"{prefix}{statistic}{suffix}"
                view.add(name, model.values[statistic], model.intervals[statistic], nulls)
            change = changes[statistic]
            nulls = [change.null] if change.null else []
            view.add(f"{prefix}{statistic}_change", change.value, change.interval, nulls)


def write_peaks(
    lens: Lens,
    name: str,
    pairs: Pairs,
    sheet: Sheet,
    units: Mapping[str, str] = MappingProxyType(UNITS),
    prefix: str = "",
    located: str = "",
) -> None:
    """The largest change over layers of those statistics that have one. located: the one whose layer is written too."""
    peaks = peaks_over_layers(pairs, lens.halves(name), lambda: lens.generator(Draw.PEAK), lens.bootstrap)
    for statistic in filter(units.__contains__, peaks):
        view = sheet.with_(unit=units[statistic], n=_count(pairs), n_unit="pair")
        write_peak(view, f"{prefix}{statistic}_change", peaks[statistic], where=statistic == located)


def _count(pairs: Pairs) -> int:
    return len(pairs[0][1].allowed)
