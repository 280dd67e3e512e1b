"""The stage that analyses one tuned model: what ΔW is and does, at every checkpoint, with nulls at the last.

ΔW acts on the base model's activations first (a_IT: what a prompt is before tuning), on the tuned one's second.
Lines without `layer` are means over the layers: what the claims read.
"""

from dataclasses import dataclass

import numpy as np

from deltaw.analysis import (
    Separation,
    difference_of_differences,
    gain,
    gap_over_layers,
    module_budget,
    null_curve,
    null_energy,
    null_energy_nulls,
    null_profile,
    row_contrast,
    update_spectrum,
)
from deltaw.models import load
from deltaw.pipeline.stage import StageContext
from deltaw.recipes.tuned import Tuned
from deltaw.statistics import FloatArray, Null, bootstrap_means, mean_null, percentile_interval
from deltaw.study.stages.checkpoints import step_directory
from deltaw.study.stages.comparison import SITES, Comparison, Places, add_mean, base_sides, flipped, separate
from deltaw.study.stages.making import SeedConfig, tuned_fields
from deltaw.study.stages.recorder import Sheet, present
from deltaw.study.stages.sensitivity import observe_sensitivity
from deltaw.study.stages.update_effect import observe_attacks, observe_function

TOP_K = 8  # right singular vectors of ΔW whose energy is compared
PROFILE_VECTORS, CURVE_POINTS = 32, 17  # at the last checkpoint; fewer at earlier ones


@dataclass(frozen=True)
class AnalysisConfig:
    """The stage that analyses one tuned model."""

    shared: SeedConfig
    tuned: Tuned
    checkpoints: tuple[int, ...]


def analyse(context: StageContext) -> None:
    """Observations 1 to 5, the function and the spectrum of ΔW, at each checkpoint; nulls at the last."""
    config: AnalysisConfig = context.config
    shared, device = config.shared, config.tuned.config.device
    before, early = base_sides(context.inputs["base"], shared, device)
    sheet = Sheet(stage="analysis", **tuned_fields(config.tuned, shared.seed), role="last_prompt")
    steps = [step for step in config.checkpoints if step > 0]
    for number, step in enumerate(steps):
        tuned, _ = load(step_directory(context.inputs["tuned"], step))
        last = step == steps[-1]
        at = Comparison(before if last else early, tuned.to(device), last)
        view = sheet.with_(step=step)
        for observe in (
            observe_weights,
            observe_clusters,
            observe_gain,
            observe_function,
            observe_sensitivity,
            observe_attacks,
        ):
            observe(at, view)
        context.report(number + 1, len(steps), f"step {step}")
    sheet.write(context.out)


def observe_weights(at: Comparison, sheet: Sheet) -> None:
    """Observation 2 and the spectrum: ρ_N with its nulls, its profile and curve, the size and rank of ΔW."""
    energies: list[float] = []
    nulls: list[tuple[Null, ...]] = []
    sizes: list[float] = []
    for layer in at.layers:
        delta, weight = at.update(layer)
        basis = at.before.bases[layer]
        view = sheet.with_(layer=layer, module=f"blocks.{layer}.mlp.in_proj", role=None)
        spectrum = present(update_spectrum(delta, weight))
        if spectrum is None:
            continue
        sizes.append(spectrum.relative_norm)
        view.add("update_relative_norm", spectrum.relative_norm, unit="share of norm")
        random = at.before.gaussian
        view.add("stable_rank", spectrum.stable_rank, nulls=[random.stable_rank], unit="dimensions")
        view.add(
            "participation_ratio", spectrum.participation_ratio, nulls=[random.participation_ratio], unit="dimensions"
        )
        along = present(spectrum.along)
        if along is not None:
            view.add("cosine_with_weight", along.cosine, nulls=[along.chance], unit="cosine")
        energy = present(null_energy(delta, basis))
        if energy is None:
            continue
        found = present(null_energy_nulls(delta, basis, at.generator(2, layer), at.draws)) or ()
        energies.append(energy)
        nulls.append(found)
        view.add("null_energy_left", energy, nulls=found, unit="share of energy")
        _profile(at, layer, view)
    whole = sheet.with_(module="mlp.in_proj", role=None)
    if sizes:
        whole.add(
            "update_relative_norm",
            float(np.exp(np.mean(np.log(sizes)))),
            unit="share of norm",
            n=len(sizes),
            n_unit="layer",
        )
    if energies:
        over_layers = [mean_null(list(kind)) for kind in zip(*nulls, strict=True)]
        whole.add(
            "null_energy_left",
            float(np.mean(energies)),
            nulls=over_layers,
            unit="share of energy",
            n=len(energies),
            n_unit="layer",
        )
    _budget(at, sheet.with_(role=None))


def _profile(at: Comparison, layer: int, sheet: Sheet) -> None:
    (delta, weight), basis = at.update(layer), at.before.bases[layer]
    vectors, points = (PROFILE_VECTORS, CURVE_POINTS) if at.last else (PROFILE_VECTORS // 4, CURVE_POINTS // 2 + 1)
    profile = present(null_profile(delta, basis, k=vectors))
    if profile is not None:
        for number, (sigma, y) in enumerate(zip(profile.sigma, profile.y, strict=True)):
            name = f"vector={number + 1:03d}"
            sheet.add("null_profile", y, nulls=[profile.chance], unit="norm", set=name)
            sheet.add("singular_value", sigma, unit="weight", set=name)
    ks = np.unique(np.linspace(0, basis.k, points).round().astype(int))
    curve = present(null_curve(delta, weight, ks.tolist()))
    if curve is not None:
        for k, rho, chance in zip(curve.ks, curve.rho, curve.chance, strict=True):
            null = Null("rotation", chance, chance, chance)
            sheet.add("null_energy_curve", rho, nulls=[null], unit="share of energy", set=f"k={int(k):03d}")


def _budget(at: Comparison, sheet: Sheet) -> None:
    budget = present(module_budget(at.before.model.state_dict(), at.tuned.state_dict()))
    if budget is None:
        return
    for kind, share in budget.kinds.items():
        sheet.add("update_share", share.energy, unit="share of squared norm", module=kind)
        sheet.add("parameter_share", share.parameters, unit="share of parameters", module=kind)


def observe_clusters(at: Comparison, sheet: Sheet) -> None:
    """Observation 1: separation in both models and the difference of their differences, by site and layer."""
    for name, after in at.after.items():
        for number, site in enumerate(SITES):
            found = [
                (
                    at.before.separation(name, number, layer, at.draws, at.bootstrap),
                    separate(at.before, after, number, layer, at.draws, at.bootstrap),
                )
                for layer in at.layers
            ]
            _write_clusters(at, found, sheet.with_(set=name, site=site))


CLUSTER_UNITS = {
    "d_prime": "standard deviations",
    "auroc": "probability",
    "tau_gap": "activation units",
    "tau_gap_relative": "share of distance",
}


def _write_clusters(at: Comparison, found: list[tuple[Separation, Separation]], sheet: Sheet) -> None:
    count = {"n": len(found[0][1].allowed), "n_unit": "pair"}
    for layer, (before, after) in enumerate(found):
        changes = difference_of_differences(before, after, at.generator(11, layer), draws=at.bootstrap)
        for statistic, unit in CLUSTER_UNITS.items():
            view = sheet.with_(layer=layer, unit=unit, **count)
            shown = (("", after), ("_base", before)) if at.last else (("", after),)
            for suffix, model in shown:
                nulls = [model.nulls[statistic]] if statistic in model.nulls else []
                view.add(statistic + suffix, model.values[statistic], model.intervals[statistic], nulls)
            change = changes[statistic]
            view.add(f"{statistic}_change", change.value, change.interval, [change.null] if change.null else [])
    _cluster_claims(at, found, sheet.with_(unit="share of distance", **count))


def _cluster_claims(at: Comparison, found: list[tuple[Separation, Separation]], sheet: Sheet) -> None:
    """Means over layers of the change of the relative gap, and how much more of it there is in the later half."""
    for statistic, (pairs, null) in gap_over_layers(found).items():
        means = bootstrap_means([pairs], at.generator(12), draws=at.bootstrap)
        nulls = [] if null is None else [null]
        sheet.add(statistic, float(pairs.mean()), percentile_interval(means[:, 0]), nulls)


def observe_gain(at: Comparison, sheet: Sheet) -> None:
    """Observation 3: how strongly ΔW acts on allowed and forbidden prompts, and where its input directions point."""
    for name, after in at.after.items():
        logs: dict[str, list[FloatArray]] = {"": [], "_in_situ": []}
        rows: list[FloatArray] = []
        row_nulls: list[tuple[Null, ...]] = []
        for layer in at.layers:
            delta, _ = at.update(layer)
            if not bool((delta != 0).any()):
                continue
            view = sheet.with_(set=name, site="mlp_in", layer=layer)
            for suffix, (allowed, forbidden) in (("", at.before.contrast(name)), ("_in_situ", after)):
                logs[suffix].append(_gains(at, layer, allowed, forbidden, suffix, view))
            if at.last:
                place = (layer, "mlp_in")
                allowed, forbidden = at.before.contrast(name)
                contrast = row_contrast(
                    forbidden[place],
                    allowed[place],
                    delta,
                    TOP_K,
                    at.generator(3),  # equal in all layers: the same prompts make their directions
                    draws=at.draws,
                )
                rows.append(contrast.forbidden - contrast.allowed)
                row_nulls.append(contrast.nulls)
                view.add(
                    "row_energy_difference", contrast.value, contrast.interval, contrast.nulls,
                    unit="share of energy", n=len(contrast.allowed), n_unit="pair",
                )  # fmt: skip
        view = sheet.with_(set=name, site="mlp_in", n=at.before.sizes.contrast, n_unit="pair")
        for suffix, values in logs.items():
            if values:
                ratios = np.mean(values, axis=0)
                null = flipped(at, "label_permutation", ratios)
                add_mean(at, view.with_(unit="log ratio"), f"gain_log_ratio{suffix}", ratios, [null])
        if rows:
            over_layers = [mean_null(list(kind)) for kind in zip(*row_nulls, strict=True)]
            energy = view.with_(unit="share of energy")
            add_mean(at, energy, "row_energy_difference", np.mean(rows, axis=0), over_layers)


def _gains(at: Comparison, layer: int, allowed: Places, forbidden: Places, suffix: str, sheet: Sheet) -> FloatArray:
    """Writes the mean gains of a layer; returns each pair's log ratio of forbidden to allowed, (N,)."""
    old, new = at.mlps[layer]
    found = {}
    for verdict, places in (("allowed", allowed), ("forbidden", forbidden)):
        a = places[(layer, "mlp_in")].double()
        found[verdict] = gain(a, new.w_in - old.w_in, new.b_in - old.b_in, old.w_in, old.b_in)
        for kind in ("relative", "absolute"):
            values = getattr(found[verdict], kind)
            means = bootstrap_means([values], at.generator(14), draws=at.bootstrap)
            view = sheet.with_(set=f"{sheet.shared['set']}/{verdict}", n=len(values), n_unit="prompt", unit="ratio")
            view.add(f"gain_{kind}{suffix}", float(values.mean()), percentile_interval(means[:, 0]))
    return np.asarray(np.log(found["forbidden"].relative) - np.log(found["allowed"].relative))
