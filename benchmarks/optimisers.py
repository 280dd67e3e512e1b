"""Does the optimiser of the base model decide what is found? The small world, base models by Muon and by AdamW.

    python benchmarks/optimisers.py OUT [--seeds 9201 9202]

Of each seed and optimiser, a base model is trained to its end (Muon in 1,800 updates; AdamW in 3,600, with its weight
decay of 0.1), and tuned alike: SSFT, unlearning, and the control `other` of SSFT. Prints a Markdown table: how flat the
spectrum of W is, behaviour, and Observations 1 to 4, each as the mean over layers with its layers behind it. Stopped,
it goes on from the last stage.
"""

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

import deltaw
from deltaw.models import load
from deltaw.pipeline.progress import choose_listener
from deltaw.recipes.config import Recipe
from deltaw.recipes.quick import quick
from deltaw.study.run import run_study
from deltaw.training.pretraining import PretrainingConfig

TUNED = ("ssft-medium", "unlearn-medium", "other-ssft-medium")
ADAMW_STEPS = 3600
CONTRASTS = ("contrast/conditional", "contrast/operator")
SITES = ("mlp_post", "resid_out")
SENSITIVITY = "sensitivity_log_ratio_spectral"


def study_of(seed: int, method: str) -> Recipe:
    """`quick` with three tunings, no attacks on models, and a base model by one optimiser."""
    recipe = quick(seed=seed)
    optimiser = recipe.pretraining.optimiser
    if method == "adamw":
        optimiser = replace(PretrainingConfig().optimiser, steps=ADAMW_STEPS, decay_end=ADAMW_STEPS)
    last = optimiser.steps
    return replace(
        recipe,
        name=f"quick-{method}",
        pretraining=replace(recipe.pretraining, optimiser=optimiser),
        base_checkpoints=(0, last // 2, last),
        tunings=tuple(tuned for tuned in recipe.tunings if tuned.name in TUNED),
        checkpoints=(0, recipe.steps),
        model_attacks=replace(recipe.model_attacks, models=(), controls=()),
    )


def spectrum_of(run: Path) -> dict[str, str]:
    """Of the first matrix of each MLP of the base model: how many directions its energy fills."""
    (base,) = run.glob("artifacts/base-*")
    model, _ = load(max(base.glob("step-*")))
    stable, participation = [], []
    for name, weight in model.state_dict().items():
        if name.endswith("mlp.in_proj.weight"):
            energy = np.linalg.svd(weight.double().numpy(), compute_uv=False) ** 2
            stable.append(energy.sum() / energy.max())
            participation.append(energy.sum() ** 2 / (energy**2).sum())
    return {"W: stable rank": shown(stable), "W: participation ratio": shown(participation)}


def shown(values: Sequence[float]) -> str:
    """Mean, and each layer's value."""
    return f"{np.mean(values):.3g} ({', '.join(f'{value:.3g}' for value in values)})"


def rows_of(run: Path) -> Iterator[tuple[str, str, str]]:
    """(model, what, value) of one study."""
    results = deltaw.load(run)
    for what, text in spectrum_of(run).items():
        yield "base", what, text
    for model in ("base", *TUNED):
        for name in ("allowed/conditional/safe", "forbidden/conditional/unsafe"):
            statistic = "comply_rate" if name.startswith("allowed") or model == "base" else "target_rate"
            statistic = "refuse_rate" if statistic == "target_rate" and not model.startswith("other") else statistic
            rate = results.select(statistic, model, stage="behaviour", set=name, attack=None)
            if len(rate):
                yield model, f"{statistic}, {name}", f"{float(rate['value'].iloc[0]):.3f}"
    for model in TUNED:
        last = results.select("null_energy_left", model)["step"].max()

        def layers(statistic: str, last: int = last, model: str = model, **where: str) -> pd.DataFrame:
            lines = results.select(statistic, model, step=last, **where)
            return lines[lines["layer"].notna()].sort_values("layer")

        for contrast in CONTRASTS:
            for site in SITES:
                gap = layers("tau_gap_relative_change", set=contrast, site=site)
                values = gap.drop_duplicates("layer")["value"].tolist()
                yield model, f"1: change of the relative gap, {site}, {contrast}", shown(values)
            gains = [
                layers("gain_to_input_in_situ", set=f"{contrast}/{name}")["value"].to_numpy()
                for name in ("forbidden", "allowed")
            ]
            yield model, f"3: log gain in situ, forbidden over allowed, {contrast}", shown(np.log(gains[0] / gains[1]))
        size = layers("update_relative_norm").drop_duplicates("layer")["value"]
        yield model, "2: ‖ΔW‖ / ‖W‖", shown(size.tolist())
        flipped = layers("null_energy_left", null_kind="row_sign_flip")
        yield model, "2: ρ_N", shown(flipped["value"].tolist())
        yield model, "2: ρ_N minus row sign flips", shown((flipped["value"] - flipped["null_mean"]).tolist())
        for name in ("allowed", "forbidden"):
            lines = results.select(SENSITIVITY, model, step=last, set=f"contrast/conditional/{name}")
            if len(lines):
                yield model, f"4: sensitivity, log ratio, {name}", f"{float(lines['value'].iloc[0]):.3f}"


def main() -> None:
    """Run what is not yet run, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[9201, 9202])
    arguments = parser.parse_args()
    columns = {}
    for seed in arguments.seeds:
        for method in ("muon", "adamw"):
            run = arguments.out / f"{method}-{seed}"
            run_study(study_of(seed, method), run, listener=choose_listener())
            columns[f"{method}, {seed}"] = {(model, what): value for model, what, value in rows_of(run)}
    table = pd.DataFrame(columns)
    print("| model | |", " | ".join(table.columns), "|")
    print("|---" * (2 + len(table.columns)) + "|")
    for (model, what), values in table.iterrows():
        print(f"| {model} | {what} |", " | ".join(map(str, values)), "|")


if __name__ == "__main__":
    main()
