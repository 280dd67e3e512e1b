"""What a tuned model's update does: to the outputs of MLPs (function), and to attacked prompts (Observation 5)."""

import numpy as np
from torch import Tensor

from deltaw.analysis import (
    SOURCES,
    Beyond,
    Mlp,
    Position,
    effect_nulls,
    gain,
    gain_ratio,
    mean_position,
    mlp_effect,
    null_minus_column,
    pooled_terms,
    position,
    share_draws,
)
from deltaw.attacks.prompts import FORBIDDEN_SOURCES, attacked
from deltaw.statistics import FloatArray, Null, mean_null, percentile_interval
from deltaw.study.stages.comparison import PRIMARY, SECONDARY, SITES, Comparison, Places, add_mean, flipped, read
from deltaw.study.stages.recorder import Sheet, present

EFFECT_DRAWS, EFFECT_PROMPTS = 40, 256  # a 95 % band takes 39 draws; prompts, to pay for them
Updates = dict[int, tuple[Tensor, Tensor]]  # layer -> (ΔW, Δb) of the MLP's first map
CONTRAST_OF = {"forbidden/conditional/unsafe": PRIMARY, "forbidden/never/safe": SECONDARY}


def observe_function(at: Comparison, sheet: Sheet) -> None:
    """How the MLPs' outputs change on forbidden prompts, divided among the parts of ΔW and what earlier layers did."""
    for name, after in at.after.items():
        for verdict, old, new in zip(("allowed", "forbidden"), at.before.contrast(name), after, strict=True):
            differences: list[Beyond] = []
            for layer in at.layers:
                base, tuned = (Mlp(w.w_in, w.b_in, w.w_out, w.b_out) for w in at.mlps[layer])
                a_base, a_tuned = (places[(layer, "mlp_in")].double() for places in (old, new))
                effect = mlp_effect(base, tuned, a_base, a_tuned)
                primary = name == PRIMARY and verdict == "forbidden"
                found: tuple[Null, ...] = ()
                if primary and at.last:  # each draw costs as much as the effect itself
                    found = effect_nulls(
                        base, tuned, a_base[:EFFECT_PROMPTS], a_tuned[:EFFECT_PROMPTS], at.generator(6, layer),
                        EFFECT_DRAWS,
                    )  # fmt: skip
                view = sheet.with_(set=f"{name}/{verdict}", site="mlp_out", layer=layer, n=len(a_base), n_unit="prompt")
                along, size = pooled_terms(effect)
                for number, source in enumerate(SOURCES):
                    draws = share_draws(along[:, number], size, at.generator(15), at.bootstrap)
                    view.add(
                        f"effect_share_{source}", effect.pooled_share[number], percentile_interval(draws),
                        found[number : number + 1], unit="share of squared change",
                    )  # fmt: skip
                view.add("effect_relative_size", float(effect.total_relative.mean()), unit="share of norm")
                if primary:
                    differences.append(null_minus_column(effect, at.generator(15), found, at.bootstrap))
            if differences:
                draws = np.mean([one.draws for one in differences], axis=0)
                nulls = [one.null for one in differences if one.null is not None]
                view = sheet.with_(set=f"{name}/{verdict}", site="mlp_out", n=at.before.sizes.contrast, n_unit="prompt")
                view.add(
                    "effect_null_minus_column", float(np.mean([one.value for one in differences])),
                    percentile_interval(draws), [mean_null(nulls)] if nulls else [], unit="share of squared change",
                )  # fmt: skip


def observe_attacks(at: Comparison, sheet: Sheet) -> None:
    """Observation 5: where attacked prompts lie between forbidden (0) and allowed (1), and how ΔW acts on them."""
    before = at.before
    for attack, sources in FORBIDDEN_SOURCES.items():
        for source in sources:
            name = CONTRAST_OF[source]
            if name not in at.names:
                continue
            prompts = attacked(before.world, attack, before.contrasts[name].forbidden, seed=before.seed)
            of_base = before.activations((name, attack), prompts)
            view = sheet.with_(set=source, attack=attack, n=len(prompts), n_unit="prompt")
            write_positions(at, "position", at.after[name], read(at.tuned, before.world, prompts), view)
            if at.last:
                write_positions(at, "position_base", before.contrast(name), of_base, view)
            write_gain_ratios(at, of_base, before.contrast(name)[1], view)


def write_positions(
    at: Comparison, statistic: str, reference: tuple[Places, Places], attacked_at: Places, sheet: Sheet
) -> dict[str, FloatArray]:
    """Where attacked prompts lie between the reference, (allowed, forbidden); row i was made from forbidden row i.

    Returns each prompt's mean over layers, weighted by precision, by site, where there is a scale.
    """
    view = sheet.with_(unit="share of the way to allowed")
    means: dict[str, FloatArray] = {}
    for site in SITES:
        placed = positions(at, reference, attacked_at, site)
        for layer, found in placed.items():
            view.add(statistic, found.mean, found.interval, [found.null], site=site, layer=layer)
        if placed:
            means[site], null = mean_position(list(placed.values()))
            add_mean(at, view.with_(site=site), statistic, means[site], [null])
    return means


def positions(at: Comparison, reference: tuple[Places, Places], attacked_at: Places, site: str) -> dict[int, Position]:
    """By layer, where there is a scale: where attacked prompts lie at one site, with equal folds and draws in all."""
    allowed, forbidden = reference
    placed = {}
    for layer in at.layers:
        place = (layer, site)
        source, generator = np.arange(len(attacked_at[place])), at.generator(5, SITES.index(site))
        found = present(
            position(attacked_at[place], forbidden[place], allowed[place], generator, source=source, draws=at.bootstrap)
        )
        if found is not None:
            placed[layer] = found
    return placed


def write_gain_ratios(
    at: Comparison, attacked_at: Places, forbidden_at: Places, sheet: Sheet, left: Updates | None = None
) -> FloatArray | None:
    """How strongly ΔW acts on attacked prompts over how it acts on those they were made from, row by row.

    Both are the base model's activations. left: the update that acts on the attacked ones, by layer, if the attack has
    changed it. Returns each prompt's mean log ratio over layers; None if nothing was updated.
    """
    logs: list[FloatArray] = []
    for layer in at.layers:
        old, new = at.mlps[layer]
        delta, shift = new.w_in - old.w_in, new.b_in - old.b_in
        if not bool((delta != 0).any()):
            continue
        place = (layer, "mlp_in")
        on_attacked, on_forbidden = (
            gain(places[place].double(), *update, old.w_in, old.b_in).relative
            for places, update in (
                (attacked_at, left[layer] if left else (delta, shift)),
                (forbidden_at, (delta, shift)),
            )
        )
        source, generator = np.arange(len(on_attacked)), at.generator(7, layer)
        ratio = gain_ratio(on_attacked, on_forbidden, generator, source=source, draws=at.bootstrap)
        view = sheet.with_(site="mlp_in", layer=layer, unit="ratio")
        view.add("gain_ratio_to_forbidden", ratio.value, ratio.interval, [ratio.null])
        logs.append(np.log(on_attacked) - np.log(on_forbidden[: len(on_attacked)]))
    if not logs:
        return None
    view = sheet.with_(site="mlp_in", unit="log ratio")
    over_layers: FloatArray = np.mean(logs, axis=0)
    null = flipped(at, "exchangeable_with_source", over_layers)
    add_mean(at, view, "gain_log_ratio_to_forbidden", over_layers, [null])
    return over_layers
