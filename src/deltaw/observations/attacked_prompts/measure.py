"""Observation 5: do attacked prompts look allowed, and does ΔW act on them less?

position                        where they lie between forbidden (0) and allowed (1) prompts, in the tuned model
position_base                   the same in the base model
gain_ratio_to_forbidden         how strongly ΔW acts on them, over how it acts on the prompts they were made from
gain_log_ratio_to_forbidden     its log, prompt by prompt, mean over layers
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from deltaw.analysis import Position, gain, gain_ratio, mean_position, position
from deltaw.observations.draws import SITE_KEYS, Draw
from deltaw.observations.lens import SITES, Clusters, Lens, Places
from deltaw.observations.observation import Observation, Statistic, with_base
from deltaw.results.recorder import Sheet
from deltaw.statistics import FloatArray

Updates = Mapping[int, tuple[Tensor, Tensor]]
"""By layer, (ΔW, Δb) of the MLP's first map."""


@dataclass(frozen=True)
class AttackedPrompts(Observation):
    """Observation 5: do attacked prompts look allowed, and does ΔW act on them less?"""

    name = "attacked_prompts"
    label = "attacked prompts"
    statistics = (
        *with_base(Statistic("position", "share of the way to allowed", "0 at forbidden prompts, 1 at allowed ones.")),
        Statistic("gain_ratio_to_forbidden", "ratio", "Gain of ΔW over that on the prompt that was attacked."),
        Statistic("gain_log_ratio_to_forbidden", "log ratio", "Its log, prompt by prompt, mean over layers."),
    )

    def measure(self, lens: Lens, sheet: Sheet) -> None:
        """Positions in the tuned model, and at the last checkpoint in the base model too; gains over the sources'."""
        before = lens.before
        for attacked in before.attacked:
            if attacked.contrast not in lens.names:
                continue
            key = (attacked.contrast, attacked.attack)
            at_base, at_tuned = (side.activations(key, attacked.prompts) for side in (before, lens))
            view = sheet.with_(set=attacked.set, attack=attacked.attack, n=len(attacked.prompts), n_unit="prompt")
            clusters = lens.clusters(attacked.contrast)
            write_positions(lens, "position", lens.after(attacked.contrast), at_tuned, view, clusters)
            if lens.last:
                write_positions(lens, "position_base", before.contrast(attacked.contrast), at_base, view, clusters)
            write_gain_ratios(lens, at_base, before.contrast(attacked.contrast)[1], view, clusters=clusters)


def write_positions(
    lens: Lens,
    statistic: str,
    reference: tuple[Places, Places],
    attacked_at: Places,
    sheet: Sheet,
    clusters: Clusters = None,
) -> dict[str, FloatArray]:
    """Where attacked prompts lie between the reference, (allowed, forbidden); row i was made from forbidden row i.

    Returns each prompt's mean over layers, weighted by precision, by site, where there is a scale.
    """
    view = sheet.with_(unit="share of the way to allowed")
    means: dict[str, FloatArray] = {}
    for site in SITES:
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
    """By layer, where there is a scale: where attacked prompts lie at one site, with equal folds and draws in all."""
    allowed, forbidden = reference
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
            draws=lens.bootstrap,
        )
        present = lens.present(of_layer, f"position, {site}, layer {layer}")
        if present is not None:
            placed[layer] = present
    return placed


def write_gain_ratios(
    lens: Lens,
    attacked_at: Places,
    forbidden_at: Places,
    sheet: Sheet,
    left: Updates | None = None,
    clusters: Clusters = None,
) -> FloatArray | None:
    """How strongly ΔW acts on attacked prompts over how it acts on those they were made from, row by row.

    Both are the base model's activations. left: the update that acts on the attacked ones, by layer, if the attack has
    changed it. Returns each prompt's mean log ratio over layers; None if nothing was updated.
    """
    logs: list[FloatArray] = []
    for layer in lens.layers:
        old, new = lens.mlps(layer)
        delta, shift = new.w_in - old.w_in, new.b_in - old.b_in
        if not bool((delta != 0).any()):
            continue
        place = (layer, "mlp_in")
        update = left[layer] if left else (delta, shift)
        on_attacked = gain(attacked_at[place].double(), *update, old.w_in, old.b_in).relative
        on_forbidden = gain(forbidden_at[place].double(), delta, shift, old.w_in, old.b_in).relative
        source, generator = np.arange(len(on_attacked)), lens.generator(Draw.ATTACKED_GAIN_NULL, layer)
        ratio = gain_ratio(on_attacked, on_forbidden, generator, source=source, draws=lens.bootstrap)
        view = sheet.with_(site="mlp_in", layer=layer, unit="ratio")
        view.add("gain_ratio_to_forbidden", ratio.value, ratio.interval, [ratio.null])
        logs.append(np.log(on_attacked) - np.log(on_forbidden[: len(on_attacked)]))
    if not logs:
        return None
    view = sheet.with_(site="mlp_in", unit="log ratio")
    over_layers: FloatArray = np.mean(logs, axis=0)
    rows = None if clusters is None else clusters[: len(over_layers)]
    null = lens.sign_flips("exchangeable_with_source", over_layers, rows)
    lens.add_mean(view, "gain_log_ratio_to_forbidden", over_layers, [null], rows)
    return over_layers
