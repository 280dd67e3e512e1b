"""Observation 2: does ΔW write where W could not? And how large is ΔW, in how many directions, in which modules?

Of the first matrix of each MLP:

    null_energy_left       ρ_N, the share of ‖ΔW‖² in the left null space of W, with its nulls
    null_energy_curve      the same beyond the first k directions of W; `set` says which k
    null_profile           ‖P_N u‖ of ΔW's strongest output directions u, beside `singular_value`
    update_relative_norm   ‖ΔW‖ / ‖W‖
    stable_rank, participation_ratio, cosine_with_weight
    update_share           of ‖Δθ‖² by kind of module, beside `parameter_share`
"""

from dataclasses import dataclass

import numpy as np

from deltaw.analysis import module_budget, null_curve, null_energy, null_energy_nulls, null_profile, update_spectrum
from deltaw.observations.draws import Draw
from deltaw.observations.lens import Lens
from deltaw.observations.observation import Observation, Statistic
from deltaw.results.recorder import Sheet
from deltaw.statistics import Null, mean_null

PROFILE_VECTORS, CURVE_POINTS = 32, 17  # at the last checkpoint; fewer at earlier ones


@dataclass(frozen=True)
class NullSpaceEnergy(Observation):
    """Observation 2: does ΔW write where W could not, and how large is it, in how many directions?"""

    name = "null_space"
    label = "null space of W"
    statistics = (
        Statistic("null_energy_left", "share of energy", "ρ_N: the share of ‖ΔW‖² in the left null space of W."),
        Statistic("null_energy_curve", "share of energy", "The same beyond the first k directions of W."),
        Statistic("null_profile", "norm", "How much of an output direction of ΔW lies in the null space."),
        Statistic("singular_value", "weight", "The singular value of that direction."),
        Statistic("update_relative_norm", "share of norm", "‖ΔW‖ over ‖W‖."),
        Statistic("stable_rank", "dimensions", "‖ΔW‖² over its largest squared singular value."),
        Statistic("participation_ratio", "dimensions", "(Σσ²)² over Σσ⁴ of ΔW."),
        Statistic("cosine_with_weight", "cosine", "The cosine of ΔW with W."),
        Statistic("update_share", "share of squared norm", "The share of ‖Δθ‖² in a kind of module."),
        Statistic("parameter_share", "share of parameters", "The share of all parameters in a kind of module."),
    )

    def measure(self, lens: Lens, sheet: Sheet) -> None:
        """ρ_N with its nulls, its profile and curve, and the size and ranks of ΔW, by layer and over layers."""
        energies: list[float] = []
        nulls: list[tuple[Null, ...]] = []
        sizes: list[float] = []
        for layer in lens.layers:
            delta, weight = lens.update(layer)
            basis = lens.before.basis(layer)
            view = sheet.with_(layer=layer, module=f"blocks.{layer}.mlp.in_proj", role=None)
            spectrum = lens.present(update_spectrum(delta, weight), f"spectrum, layer {layer}")
            if spectrum is None:
                continue
            sizes.append(spectrum.relative_norm)
            view.add("update_relative_norm", spectrum.relative_norm, unit="share of norm")
            random, dimensions = lens.before.gaussian, view.with_(unit="dimensions")
            dimensions.add("stable_rank", spectrum.stable_rank, nulls=[random.stable_rank])
            dimensions.add("participation_ratio", spectrum.participation_ratio, nulls=[random.participation_ratio])
            along = lens.present(spectrum.along, f"cosine_with_weight, layer {layer}")
            if along is not None:
                view.add("cosine_with_weight", along.cosine, nulls=[along.chance], unit="cosine")
            energy = lens.present(null_energy(delta, basis), f"null_energy_left, layer {layer}")
            if energy is None:
                continue
            drawn = null_energy_nulls(delta, basis, lens.generator(Draw.NULL_ENERGY_NULLS, layer), lens.draws)
            of_layer = lens.present(drawn, f"nulls of null_energy_left, layer {layer}") or ()
            energies.append(energy)
            nulls.append(of_layer)
            view.add("null_energy_left", energy, nulls=of_layer, unit="share of energy")
            _profile(lens, layer, view)
        whole = sheet.with_(module="mlp.in_proj", role=None)
        if sizes:
            size = float(np.exp(np.mean(np.log(sizes))))
            whole.add("update_relative_norm", size, unit="share of norm", n=len(sizes), n_unit="layer")
        if energies:
            over_layers = [mean_null(list(kind)) for kind in zip(*nulls, strict=True)]
            view = whole.with_(unit="share of energy", n=len(energies), n_unit="layer")
            view.add("null_energy_left", float(np.mean(energies)), nulls=over_layers)
        _budget(lens, sheet.with_(role=None))


def _profile(lens: Lens, layer: int, sheet: Sheet) -> None:
    (delta, weight), basis = lens.update(layer), lens.before.basis(layer)
    vectors, points = (PROFILE_VECTORS, CURVE_POINTS)
    if not lens.last:
        vectors, points = PROFILE_VECTORS // 4, CURVE_POINTS // 2 + 1
    profile = lens.present(null_profile(delta, basis, k=vectors), f"null_profile, layer {layer}")
    if profile is not None:
        for number, (sigma, y) in enumerate(zip(profile.sigma, profile.y, strict=True)):
            name = f"vector={number + 1:03d}"
            sheet.add("null_profile", y, nulls=[profile.chance], unit="norm", set=name)
            sheet.add("singular_value", sigma, unit="weight", set=name)
    ks = np.unique(np.linspace(0, basis.k, points).round().astype(int))
    curve = lens.present(null_curve(delta, weight, ks.tolist()), f"null_energy_curve, layer {layer}")
    if curve is not None:
        for k, rho, chance in zip(curve.ks, curve.rho, curve.chance, strict=True):
            null = Null("rotation", chance, chance, chance)
            sheet.add("null_energy_curve", rho, nulls=[null], unit="share of energy", set=f"k={int(k):03d}")


def _budget(lens: Lens, sheet: Sheet) -> None:
    """How ‖Δθ‖² is shared among kinds of modules."""
    if not (lens.before.model.light and lens.tuned.light):
        lens.absent["update_share"] = "the models are read one layer at a time; see the lines of each matrix"
        return
    budget = lens.present(module_budget(lens.before.model.state(), lens.tuned.state()), "update_share")
    if budget is None:
        return
    for kind, share in budget.kinds.items():
        sheet.add("update_share", share.energy, unit="share of squared norm", module=kind)
        sheet.add("parameter_share", share.parameters, unit="share of parameters", module=kind)
