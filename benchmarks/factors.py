"""Does one choice decide what is found? The small world, where one thing differs: optimiser, rate or depth.

    python benchmarks/factors.py depth OUT [--seeds 9301 9302 9303]

optimiser   of the base model: Muon in 1,800 updates, AdamW in 3,600 with its weight decay of 0.1. Muon flattens W's
            spectrum.
rate        of the tunings, four from a thirtieth to a third of 1e-3, for as many updates. One base model a seed.
depth       4 × 128, 6 × 192, 8 × 256 (layers × width): where does each tuning separate the classes?

Prints a Markdown table: behaviour, and Observations 1 to 4, each as the mean over seeds (with the standard deviation
between them), then layer by layer. Stopped, it goes on from the last stage.
"""

import argparse
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

import deltaw
from deltaw.models import load
from deltaw.pipeline.progress import choose_listener
from deltaw.recipes.common import controlled
from deltaw.recipes.config import Recipe
from deltaw.recipes.quick import quick
from deltaw.results import markdown_table
from deltaw.study.run import run_study
from deltaw.training.controls.other import Other
from deltaw.training.optimisers import OptimiserConfig
from deltaw.training.pretraining import PretrainingConfig

Tuning = Callable[[OptimiserConfig], OptimiserConfig]
Values = dict[tuple[str, str], list[float]]
"""By model and what: one value, or one a layer."""

MUON_STEPS, ADAMW_STEPS, TUNING_STEPS = 1800, 3600, 400
RATES = (3.3e-5, 7.2e-5, 1.5e-4, 3.3e-4)
DEPTHS = {"4 × 128": (4, 128), "6 × 192": (6, 192), "8 × 256": (8, 256)}  # heads of 32
CONTRASTS = ("contrast/conditional", "contrast/operator")
SITES = ("mlp_post", "resid_out")
SENSITIVITY = "sensitivity_log_ratio_spectral"


def study_of(seed: int, tuned: Sequence[str], last: OptimiserConfig, tuning: Tuning = lambda same: same) -> Recipe:
    """`quick` with these tunings, each with its own `other`, no attacks on models, and a base model by `last`."""
    recipe = quick(seed=seed)
    known = {made.name: made for made in recipe.tunings}
    own = [replace(known[name], config=replace(known[name].config, optimiser=tuning(known[name].config.optimiser)))
           for name in tuned]  # fmt: skip
    return replace(
        recipe,
        name="factors",
        pretraining=replace(recipe.pretraining, optimiser=last),
        base_checkpoints=(0, last.steps),
        tunings=tuple(made for first in own for made in (first, controlled(first, Other()))),
        checkpoints=(0, own[0].config.optimiser.steps),
        model_attacks=replace(recipe.model_attacks, models=(), controls=()),
        left_out=None,
    )


def muon(steps: int = MUON_STEPS) -> OptimiserConfig:
    """As in `quick`, for as many updates."""
    return replace(quick().pretraining.optimiser, steps=steps, decay_end=steps)


def for_longer(optimiser: OptimiserConfig) -> OptimiserConfig:
    """A tuning of as many updates as all here have."""
    return replace(optimiser, steps=TUNING_STEPS, decay_end=TUNING_STEPS)


def optimisers(seed: int) -> dict[str, Recipe]:
    """The base model by each."""
    adamw = replace(PretrainingConfig().optimiser, steps=ADAMW_STEPS, decay_end=ADAMW_STEPS)
    methods = {"Muon": muon(), "AdamW": adamw}
    return {
        name: study_of(seed, ("ssft-medium", "unlearn-medium"), method, for_longer) for name, method in methods.items()
    }


def rates(seed: int) -> dict[str, Recipe]:
    """The tunings at each."""

    def at(rate: float) -> Tuning:
        return lambda optimiser: replace(for_longer(optimiser), peak_lr=rate, min_lr=rate / 100)

    names = ("ssft-medium", "dpo-medium", "unlearn-medium")
    return {f"{rate:.1e}": study_of(seed, names, muon(), at(rate)) for rate in RATES}


def depths(seed: int) -> dict[str, Recipe]:
    """Models of each depth, as wide as they are deep."""
    made = {}
    for name, (layers, width) in DEPTHS.items():
        recipe = study_of(seed, ("ssft-medium", "dpo-medium"), muon(), for_longer)
        shape = replace(recipe.pretraining, layers=layers, width=width, heads=width // 32)
        made[name] = replace(recipe, pretraining=shape)
    return made


FACTORS: Mapping[str, Callable[[int], dict[str, Recipe]]] = {"optimiser": optimisers, "rate": rates, "depth": depths}


def spectrum_of(run: Path) -> list[float]:
    """Of the first matrix of each MLP of the base model, its stable rank: ‖W‖² / ‖W‖₂²."""
    (base,) = run.glob("artifacts/base-*")
    model, _ = load(max(base.glob("step-*")))
    energies = [
        np.linalg.svd(weight.double().numpy(), compute_uv=False) ** 2
        for name, weight in model.state_dict().items()
        if name.endswith("mlp.in_proj.weight")
    ]
    return [float(energy.sum() / energy.max()) for energy in energies]


def values_of(run: Path) -> Values:
    """All that the table has of one study."""
    results = deltaw.load(run)
    return {("base", "W: stable rank"): spectrum_of(run), **dict(_behaviour(results)), **dict(_observations(results))}


def _behaviour(results: deltaw.Results) -> Iterator[tuple[tuple[str, str], list[float]]]:
    for model in results.models["name"].unique():
        allowed, forbidden = "allowed/conditional/safe", "forbidden/conditional/unsafe"
        taught = "comply_rate" if model == "base" else "target_rate" if model.startswith("other") else "refuse_rate"
        for name, statistic in ((allowed, "comply_rate"), (forbidden, taught)):
            rate = results.select(statistic, model, stage="behaviour", set=name, attack=None)
            rate = rate[rate["step"] == rate["step"].max()]
            if len(rate):
                yield (model, f"{statistic}, {name}"), [float(rate["value"].iloc[0])]


def _observations(results: deltaw.Results) -> Iterator[tuple[tuple[str, str], list[float]]]:
    for model in [name for name in results.models["name"].unique() if name != "base"]:
        last = results.select("null_energy_left", model)["step"].max()

        def lines(statistic: str, last: int = last, model: str = model, **where: str) -> pd.DataFrame:
            return results.select(statistic, model, step=last, **where)

        def layers(statistic: str, **where: str) -> pd.DataFrame:
            rows = lines(statistic, **where)
            return rows[rows["layer"].notna()].sort_values("layer").drop_duplicates("layer")

        def whole(statistic: str, **where: str) -> list[float]:
            rows = lines(statistic, **where)
            return [float(value) for value in rows[rows["layer"].isna()]["value"].iloc[:1]]

        for contrast in CONTRASTS:
            for site in SITES:
                at, told = {"set": contrast, "site": site}, f"{site}, {contrast}"
                gaps = layers("tau_gap_relative_change", **at)["value"]
                yield (model, f"1: change of the gap, own maximum, {told}"), whole("tau_gap_relative_change_peak", **at)
                yield (model, f"1: its layer, 0 to 1, {told}"), whole("tau_gap_relative_change_peak_layer", **at)
                yield (
                    (model, f"1: change of the gap, {told}"),
                    gaps.tolist(),
                )
            gain = {"set": contrast, "site": "mlp_in"}
            gains = layers("gain_log_ratio_in_situ", **gain)["value"]
            yield (model, f"3: log gain in situ, own maximum, {contrast}"), whole("gain_log_ratio_in_situ_peak", **gain)
            yield (
                (model, f"3: log gain in situ, {contrast}"),
                gains.tolist(),
            )
        yield (model, "2: ‖ΔW‖ / ‖W‖"), layers("update_relative_norm")["value"].tolist()
        flipped = layers("null_energy_left", null_kind="row_sign_flip")
        yield (model, "2: ρ_N minus row sign flips"), (flipped["value"] - flipped["null_mean"]).tolist()
        for name in ("allowed", "forbidden"):
            yield (model, f"4: sensitivity, log ratio, {name}"), whole(SENSITIVITY, set=f"contrast/conditional/{name}")


def shown(seeds: Sequence[Sequence[float]]) -> str:
    """Mean over seeds of the mean over layers (± standard deviation between seeds), then the mean of each layer."""
    values = [np.asarray(layers) for layers in seeds if len(layers)]
    if not values:
        return "–"
    means = [float(layers.mean()) for layers in values]
    spread = f" ± {np.std(means, ddof=1):.2g}" if len(means) > 1 else ""
    by_layer = "" if len(values[0]) == 1 else f" ({', '.join(f'{layer:.3g}' for layer in np.mean(values, axis=0))})"
    return f"{np.mean(means):.3g}{spread}{by_layer}"


def share_base(first: Path, run: Path) -> None:
    """Give a run what another has made of its base model; where it is of another kind, its key says so."""
    for made in first.glob("artifacts/*base-*"):
        if not (run / "artifacts" / made.name).exists():
            shutil.copytree(made, run / "artifacts" / made.name)


def main() -> None:
    """Run what is not yet run, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("factor", choices=list(FACTORS))
    parser.add_argument("out", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[9301, 9302, 9303])
    arguments = parser.parse_args()
    measured: dict[str, list[Values]] = {}
    for seed in arguments.seeds:
        first = None
        for number, (level, recipe) in enumerate(FACTORS[arguments.factor](seed).items()):
            run = arguments.out / f"{arguments.factor}-{number}-{seed}"
            if first is not None:
                share_base(first, run)
            run_study(recipe, run, listener=choose_listener())
            measured.setdefault(level, []).append(values_of(run))
            first = first or run
    names = list(dict.fromkeys(name for values in measured.values() for name in values[0]))
    rows = [(*name, *(shown([one.get(name, []) for one in values]) for values in measured.values())) for name in names]
    print(markdown_table(("model", "", *measured), rows))


if __name__ == "__main__":
    main()
