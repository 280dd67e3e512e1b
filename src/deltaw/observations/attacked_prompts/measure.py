"""Observation 5: do attacked prompts look allowed, and does ΔW act on them less?

position                        where they lie between forbidden (0) and allowed (1) prompts, in the tuned model
position_base                   the same in the base model
gain_ratio_to_forbidden         how strongly ΔW acts on them, over how it acts on the prompts they were made from
gain_log_ratio_to_forbidden     its log, prompt by prompt, by layer and mean over layers
..._in_situ                     the same where the tuned model's own activations enter the MLP, not the base model's
gain_log_ratio_to_forbidden_in_situ_peak   its smallest value over layers, the layer chosen on one half of the prompts
                                           and read on the other
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from deltaw.analysis import Position, gain, gain_ratio, mean_position, position
from deltaw.observations.draws import SITE_KEYS, Draw
from deltaw.observations.gain.measure import write_log_ratios
from deltaw.observations.lens import SITES, Lens, Places
from deltaw.observations.observation import Observation, Statistic, with_base
from deltaw.observations.peaks import write_peak
from deltaw.observations.prompts import Clusters
from deltaw.results.recorder import Sheet
from deltaw.statistics import FloatArray

FOLDS = 5
"""Of positions, which `analysis.position` makes."""

Updates = Mapping[int, tuple[Tensor, Tensor]]
"""By layer, (ΔW, Δb) of the MLP's first map."""


@dataclass(frozen=True)
class AttackedPrompts(Observation):
    """Observation 5: do attacked prompts look allowed, and does ΔW act on them less?"""

    name = "attacked_prompts"
    label = "attacked prompts"
    statistics = (
        *with_base(Statistic("position", "share of the way to allowed", "0 at forbidden prompts, 1 at allowed ones.")),
        *(
            Statistic(f"{name}{suffix}", unit, f"{sentence}{where}.")
            for suffix, where in (("", ""), ("_in_situ", ", at the tuned model's own inputs"))
            for name, unit, sentence in (
                ("gain_ratio_to_forbidden", "ratio", "Gain of ΔW over that on the prompt that was attacked"),
                ("gain_log_ratio_to_forbidden", "log ratio", "Its log, prompt by prompt"),
            )
        ),
        Statistic(
            "gain_log_ratio_to_forbidden_in_situ_peak",
            "log ratio",
            "The smallest log ratio over layers, the layer chosen on one half of the prompts and read on the other.",
        ),
    )

    sites: tuple[str, ...] = SITES
    """Where positions are read."""

    def measure(self, lens: Lens, sheet: Sheet) -> None:
        """Positions in the tuned model, and at the last checkpoint in the base model too; gains over the sources'.

        Before the last checkpoint, of attacks on the primary contrast.
        """
        before = lens.before
        for attacked in before.attacked:
            if attacked.contrast != lens.primary and not lens.last:
                continue
            key = (attacked.contrast, attacked.attack)
            at_base, at_tuned = (side.activations(key, attacked.prompts) for side in (before, lens))
            view = sheet.with_(set=attacked.set, attack=attacked.attack, n=len(attacked.prompts), n_unit="prompt")
            name, clusters = attacked.contrast, lens.clusters(attacked.contrast)
            of_base, of_tuned = before.contrast(name), lens.after(name)
            sites = tuple(filter(lens.has, self.sites))
            write_positions(lens, "position", of_tuned, at_tuned, view, clusters, sites)
            if lens.last:
                write_positions(lens, "position_base", of_base, at_base, view, clusters, sites)
            if not lens.has("mlp_in"):
                continue
            write_gain_ratios(lens, name, at_base, of_base[1], view)
            write_gain_ratios(lens, name, at_tuned, of_tuned[1], view, "_in_situ")


def write_positions(
    lens: Lens,
    statistic: str,
    reference: tuple[Places, Places],
    attacked_at: Places,
    sheet: Sheet,
    clusters: Clusters = None,
    sites: tuple[str, ...] = SITES,
) -> dict[str, FloatArray]:
    """Where attacked prompts lie between the reference, (allowed, forbidden); row i was made from forbidden row i.

    Returns each prompt's mean over layers, weighted by precision, by site, where there is a scale.
    """
    view = sheet.with_(unit="share of the way to allowed")
    means: dict[str, FloatArray] = {}
    for site in sites:
        placed = positions(lens, reference, attacked_at, site, clusters)
        for layer, of_layer in placed.items():
            view.add(statistic, of_layer.mean, of_layer.interval, [of_layer.null], site=site, layer=layer)
        if placed:
            means[site], null = mean_position(list(placed.values()))
            rows = None if clusters is None else clusters[: len(means[site])]
            lens.add_mean(view.with_(site=site), statistic, means[site], [null], rows)
    return means


def positions(
    lens: Lens, reference: tuple[Places, Places], attacked_at: Places, site: str, clusters: Clusters = None
) -> dict[int, Position]:
    """By layer, where there is a scale: where attacked prompts lie at one site, with equal folds and draws in all.

    clusters: of the reference's pairs; fewer of them than folds cannot be kept apart, and prompts then count singly.
    """
    allowed, forbidden = reference
    if clusters is not None and len(np.unique(clusters)) < FOLDS:
        clusters = None
    placed = {}
    for layer in lens.layers:
        place = (layer, site)
        source, generator = np.arange(len(attacked_at[place])), lens.generator(Draw.POSITION_NULL, SITE_KEYS[site])
        of_layer = position(
            attacked_at[place],
            forbidden[place],
            allowed[place],
            generator,
            source=source,
            ids=None if clusters is None else (clusters, clusters),
            folds=FOLDS,
            draws=lens.bootstrap,
        )
        present = lens.present(of_layer, f"position, {site}, layer {layer}")
        if present is not None:
            placed[layer] = present
    return placed


def write_gain_ratios(
    lens: Lens,
    name: str,
    attacked_at: Places,
    forbidden_at: Places,
    sheet: Sheet,
    suffix: str = "",
    left: Updates | None = None,
) -> FloatArray | None:
    """How strongly ΔW acts on attacked prompts over how it acts on those they were made from, row by row.

    name: of the contrast. attacked_at, forbidden_at: activations of the base model, or with the suffix `_in_situ` of
    the tuned one. left: the update that acts on the attacked ones, by layer, if the attack has changed it. Returns each
    prompt's mean log ratio over layers; None if nothing was updated.
    """
    logs: dict[int, FloatArray] = {}
    clusters, rows = lens.clusters(name), None
    for layer in lens.layers:
        old, new = lens.mlps(layer)
        delta, shift = new.w_in - old.w_in, new.b_in - old.b_in
        if not bool((delta != 0).any()):
            continue
        place = (layer, "mlp_in")
        update = left[layer] if left else (delta, shift)
        on_attacked = gain(attacked_at[place].double(), *update, old.w_in, old.b_in).relative
        source_at = forbidden_at[place][: len(on_attacked)].double()
        on_forbidden = gain(source_at, delta, shift, old.w_in, old.b_in).relative
        source, generator = np.arange(len(on_attacked)), lens.generator(Draw.ATTACKED_GAIN_NULL, layer)
        rows = None if clusters is None else clusters[: len(on_attacked)]
        ratio = gain_ratio(on_attacked, on_forbidden, generator, source=source, ids=rows, draws=lens.bootstrap)
        view = sheet.with_(site="mlp_in", layer=layer, unit="ratio")
        view.add(f"gain_ratio_to_forbidden{suffix}", ratio.value, ratio.interval, [ratio.null])
        logs[layer] = np.asarray(np.log(on_attacked) - np.log(on_forbidden))
    if not logs:
        return None
    view = sheet.with_(site="mlp_in", unit="log ratio")
    statistic, kind = f"gain_log_ratio_to_forbidden{suffix}", "exchangeable_with_source"
    if suffix:
        write_peak(view, statistic, lens.peak(logs, name, kind, "less"))
    return write_log_ratios(lens, view, statistic, logs, kind, rows)
