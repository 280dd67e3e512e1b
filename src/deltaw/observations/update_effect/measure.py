"""Function, not only geometry: how the MLPs' outputs change, divided among the parts of ΔW and what earlier layers did.

effect_share_null, _column, _rest, _inherited    Shapley shares of the squared change (`analysis.update_effect`)
effect_relative_size                             size of the change beside the output
effect_null_minus_column                         on forbidden prompts of the primary contrast, mean over layers
"""

from dataclasses import dataclass

import numpy as np

from deltaw.analysis import (
    SOURCES,
    Beyond,
    Mlp,
    effect_nulls,
    mlp_effect,
    null_minus_column,
    pooled_terms,
    share_draws,
)
from deltaw.errors import DeltawError
from deltaw.observations.draws import Draw
from deltaw.observations.lens import Lens, Places
from deltaw.observations.observation import Observation, Statistic
from deltaw.results.recorder import Sheet
from deltaw.statistics import Null, mean_null, percentile_interval

PROMPTS = 256  # behind a draw of the null, to pay for it
SHARE = "share of squared change"


@dataclass(frozen=True)
class UpdateEffect(Observation):
    """What the null-space part, the column-space part and the rest of ΔW do to the MLPs' outputs."""

    name = "update_effect"
    label = "parts of the update"
    statistics = (
        Statistic("effect_share_null", SHARE, "Share of the null-space part of ΔW."),
        Statistic("effect_share_column", SHARE, "Share of its column-space part."),
        Statistic("effect_share_rest", SHARE, "Share of the MLP's other parameters."),
        Statistic("effect_share_inherited", SHARE, "Share of what earlier layers changed."),
        Statistic("effect_relative_size", "share of norm", "Size of the change over that of the output."),
        Statistic("effect_null_minus_column", SHARE, "The null-space part's share minus the column-space part's."),
    )

    def measure(self, lens: Lens, sheet: Sheet) -> None:
        """Shares of every source, by contrast, verdict and layer; a null of the parts of ΔW where claims read them."""
        for name in lens.names if lens.last else (lens.primary,):
            if lens.before.contrasts[name].activations_only:
                continue
            before, after = lens.before.contrast(name), lens.after(name)
            for verdict, old, new in zip(("allowed", "forbidden"), before, after, strict=True):
                primary = name == lens.primary and verdict == "forbidden"
                view = sheet.with_(set=f"{name}/{verdict}", site="mlp_out", n_unit="prompt")
                differences = [_of_layer(lens, name, layer, (old, new), primary, view) for layer in lens.layers]
                present = [difference for difference in differences if difference is not None]
                if present and primary:
                    draws = np.mean([difference.draws for difference in present], axis=0)
                    nulls = [difference.null for difference in present if difference.null is not None]
                    value = float(np.mean([difference.value for difference in present]))
                    view = view.with_(n=len(old[(0, "mlp_in")]), unit=SHARE)
                    over_layers = [mean_null(nulls)] if nulls else []
                    view.add("effect_null_minus_column", value, percentile_interval(draws), over_layers)


def _of_layer(
    lens: Lens, name: str, layer: int, places: tuple[Places, Places], primary: bool, sheet: Sheet
) -> Beyond | None:
    base, tuned = (Mlp(w.w_in, w.b_in, w.w_out, w.b_out) for w in lens.mlps(layer))
    activation = lens.before.mlp(layer).activation
    a_base, a_tuned = (by_place[(layer, "mlp_in")].double() for by_place in places)
    try:
        effect = mlp_effect(base, tuned, a_base, a_tuned, activation)
    except DeltawError as error:
        lens.absent[f"effect_share, layer {layer}"] = str(error)
        return None
    if not np.isfinite(effect.pooled_share).all():
        lens.absent[f"effect_share, layer {layer}"] = "the MLP's output did not change"
        return None
    nulls: tuple[Null, ...] = ()
    if primary and lens.last and lens.effort.effect_draws:  # each draw costs as much as the effect itself
        few = slice(0, PROMPTS)
        generator, draws = lens.generator(Draw.UPDATE_EFFECT_NULL, layer), lens.effort.effect_draws
        nulls = effect_nulls(base, tuned, a_base[few], a_tuned[few], generator, draws, activation)
    view = sheet.with_(layer=layer, n=len(a_base))
    (along, size), clusters = pooled_terms(effect), lens.clusters(name)
    for number, source in enumerate(SOURCES):
        draws_of_share = share_draws(
            along[:, number], size, lens.generator(Draw.UPDATE_EFFECT_INTERVAL), lens.bootstrap, clusters
        )
        share, interval = effect.pooled_share[number], percentile_interval(draws_of_share)
        view.add(f"effect_share_{source}", share, interval, nulls[number : number + 1], unit=SHARE)
    view.add("effect_relative_size", float(effect.total_relative.mean()), unit="share of norm")
    return (
        null_minus_column(effect, lens.generator(Draw.UPDATE_EFFECT_INTERVAL), nulls, lens.bootstrap, clusters)
        if primary
        else None
    )
