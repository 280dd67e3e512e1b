"""What the published code's statistics say of the models of a finished study: records, and the page published.md."""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from statistics import fmean
from typing import Any

import numpy as np
import torch
from torch import Tensor

from deltaw.analysis import Absent
from deltaw.analysis.published import (
    described_column_space,
    described_row_space,
    shipped_column_space,
    shipped_row_space,
    tau,
)
from deltaw.attacks.prompts.attack import attacked
from deltaw.models import Transformer, mlp, tap
from deltaw.observations.prompts import Contrast
from deltaw.recipes.config import Recipe
from deltaw.results import Results, markdown_table
from deltaw.study.stages.lens import PRIMARY, SECONDARY, attacks_on_primary, contrasts
from deltaw.study.stages.shared import last_model
from deltaw.training.pretraining import compliant
from deltaw.world import Prompts, World

WINDOW = 10  # positions that the published code averages: the last of the prompt, and nine of the forced answer
PAIRS = 200  # behind τ and the row space
UPDATES = {"gaussian": "Gaussian noise of SSFT's size", "rows": "SSFT's update, rows permuted"}
Layers = list[tuple[Tensor, Tensor]]
"""(W before, W after) of the first MLP matrix of each layer."""

_HEAD = """\
# What the published statistics say of the same models

Run `{name}`, seeds {seeds}: mean, and least to greatest of the seeds; first MLP matrix or its hidden units, mean over
layers. Statistics: [published.py](../../../src/deltaw/analysis/published.py). Made by `make results`.

## Clusters and column space

*shipped*: the published column-space script as it is. *described*: ‖P_N u_j‖, mean over all left singular vectors
of ΔW, where N is what is left beside the outputs of 90 % of W's energy; chance {chance}. *τ*: raw, first quarter of the
hidden units, mean over the last prompt token and nine positions of the forced compliant answer, cluster means of the
same prompts: the same safe text, with operators that are always and never allowed.

"""
_ROW_SPACE = """
## Row space

The same prompts, last prompt token. *described*: ‖ΔW a‖ / ‖a‖, a the tuned model's `mlp_in`. *shipped*: ‖W_c a‖ / ‖a‖
of the base model's W, centred, a the tuned model's attention output: the script has no ΔW in it. *ratio*: forbidden
over allowed.

"""
_ATTACKED = """
## Attacks on prompts

τ of conditional operators on safe (allowed) and unsafe text (forbidden), and of the latter under each attack on
prompts, beside the clean classes' means; window as above, moved with the prompt. As published it is not moved, so that
it holds the soft tokens of a soft prompt; these are not made here.

"""


def published_statistics(study: Recipe, results: Results) -> Iterator[dict[str, Any]]:
    """One record a seed and model: means over layers, and τ by layer. DeltawError if the run's models are gone."""
    world, tuned = World(study.world), [tuning.name for tuning in study.tunings if not tuning.curve_only]
    for seed in study.seeds:
        by_name = {contrast.name: contrast for contrast in contrasts(world, PAIRS, seed)}
        same_text, same_operators = by_name[SECONDARY], by_name[PRIMARY]
        hit = {
            attack.name: attacked(world, attack, same_operators.forbidden, seed=seed)
            for attack in attacks_on_primary(study.prompt_attacks)
        }
        base, _ = last_model(results.model("base", seed=seed).parent)
        for name in ("base", *tuned):
            model = base if name == "base" else last_model(results.model(name, seed=seed).parent)[0]
            record = {
                "seed": seed,
                "model": name,
                **dict.fromkeys(("shipped", "described", "chance", "row_space", "shipped_row_space")),
                "tau": _taus(model, world, same_text),
                "tau_attacked": _taus(model, world, same_operators, hit),
            }
            if name == "base":
                yield record
                continue
            layers = [(mlp(base, layer).w_in, mlp(model, layer).w_in) for layer in range(base.config.layers)]
            sites = {verdict: _last_token(model, world, prompts) for verdict, prompts in _sides(same_text).items()}
            yield {**record, **_column_space(layers), **_row_space(layers, sites)}
            for kind in UPDATES if name == tuned[0] else ():
                generator = torch.Generator().manual_seed(seed)
                fakes = [(old, old + _fake(kind, new - old, generator)) for old, new in layers]
                empty = {"tau": None, "tau_attacked": None}
                yield {**record, "model": kind, **empty, **_column_space(fakes), **_row_space(fakes, sites)}


def _sides(contrast: Contrast) -> dict[str, Prompts]:
    return {"allowed": contrast.allowed, "forbidden": contrast.forbidden}


def _fake(kind: str, update: Tensor, generator: torch.Generator) -> Tensor:
    if kind == "rows":
        return update[torch.randperm(len(update), generator=generator)]
    noise: Tensor = torch.randn(update.shape, generator=generator)
    noise *= update.norm() / noise.norm()
    return noise


def _column_space(layers: Layers) -> dict[str, float]:
    """Means over layers; nothing if a layer's update is zero."""
    shipped, described, chances = [], [], []
    for old, new in layers:
        column_space = described_column_space(new - old, old)
        if isinstance(column_space, Absent):
            return {}
        shipped.append(float(np.mean(shipped_column_space(new, old))))
        described.append(float(np.mean(column_space[0])))
        chances.append(column_space[1])
    return {"shipped": fmean(shipped), "described": fmean(described), "chance": fmean(chances)}


def _row_space(layers: Layers, sites: Mapping[str, list[tuple[Tensor, Tensor]]]) -> dict[str, dict[str, float]]:
    """By verdict, means over layers and prompts. sites: by verdict, (mlp_in, attention output) (N, d) of each layer."""
    described, shipped = {}, {}
    for verdict, read in sites.items():
        pairs = list(zip(layers, read, strict=True))
        described[verdict] = fmean(float(described_row_space(a, new - old).mean()) for (old, new), (a, _) in pairs)
        shipped[verdict] = fmean(float(shipped_row_space(a, old).mean()) for (old, _), (_, a) in pairs)
    return {"row_space": described, "shipped_row_space": shipped}


@torch.no_grad()
def _last_token(model: Transformer, world: World, prompts: Prompts) -> list[tuple[Tensor, Tensor]]:
    """(`mlp_in`, attention output) at the last prompt token, (N, d) each, of each layer."""
    encoded = compliant(world, prompts)
    rows, last = torch.arange(len(prompts)), torch.from_numpy(world.layout.prompt_lengths(prompts)) - 1
    attention: list[Tensor] = []

    def keep(_: object, __: object, output: Tensor) -> None:
        attention.append(output[rows, last])

    hooks = [model.get_submodule(f"blocks.{k}.attn").register_forward_hook(keep) for k in range(model.config.layers)]
    try:
        with tap(model, ["mlp_in"], range(model.config.layers), lambda x: x[rows, last]) as recorded:
            model(encoded.tokens)
    finally:
        for hook in hooks:
            hook.remove()
    return [(recorded[(layer, "mlp_in")], layer_output) for layer, layer_output in enumerate(attention)]


@torch.no_grad()
def _taus(
    model: Transformer, world: World, contrast: Contrast, hit: Mapping[str, Prompts] | None = None
) -> dict[str, list[float]]:
    """Mean τ of each class, and of what attacks made of the forbidden one, by layer."""
    layers = range(model.config.layers)
    read = {name: _window(model, world, prompts) for name, prompts in {**_sides(contrast), **(hit or {})}.items()}
    means = [(read["allowed"][layer].mean(0), read["forbidden"][layer].mean(0)) for layer in layers]
    return {
        name: [float(tau(x, *ends).mean()) for x, ends in zip(by_layer, means, strict=True)]
        for name, by_layer in read.items()
    }


def _window(model: Transformer, world: World, prompts: Prompts) -> list[Tensor]:
    """(N, width / 4) of each layer, the mean over the published window."""
    encoded = compliant(world, prompts)
    places = torch.from_numpy(world.layout.prompt_lengths(prompts))[:, None] - 1 + torch.arange(WINDOW)
    rows = torch.arange(len(prompts))[:, None]
    quarter = model.config.mlp_ratio * model.config.width // 4

    def select(x: Tensor) -> Tensor:
        mean: Tensor = x[rows, places, :quarter].mean(1)
        return mean

    with tap(model, ["mlp_post"], range(model.config.layers), select) as recorded:
        model(encoded.tokens)
    return [recorded[(layer, "mlp_post")] for layer in range(model.config.layers)]


def published_page(records: list[dict[str, Any]], name: str, seeds: str) -> str:
    """published.md of the records of a run. name, seeds: of the run."""
    chance = fmean(record["chance"] for record in records if record["chance"] is not None)
    by_model: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for record in records:
        by_model[record["model"]].append(record)
    clusters: dict[str, tuple[str, ...]] = {name: (name,) for name in ("shipped", "described")}
    clusters |= {f"τ {verdict}": ("tau", verdict) for verdict in ("allowed", "forbidden")}
    rows = {
        f"{shown}: {side}": (name, side)
        for shown, name in (("described", "row_space"), ("shipped", "shipped_row_space"))
        for side in ("allowed", "forbidden", "ratio")
    }
    hit = {name: ("tau_attacked", name) for record in records for name in record["tau_attacked"] or ()}
    head = _HEAD.format(name=name, seeds=seeds, chance=f"{chance:.3f}")
    first, second, third = (_table(by_model, columns) for columns in (clusters, rows, hit))
    return head + first + _ROW_SPACE + second + _ATTACKED + third


def _table(by_model: Mapping[str, list[dict[str, Any]]], columns: Mapping[str, tuple[str, ...]]) -> str:
    """columns: by title, where in a record its number lies. Models that have none of them are left out."""
    rows = []
    for model, records in by_model.items():
        cells = [_spread([_value(record, *where) for record in records]) for where in columns.values()]
        if any(cells):
            rows.append([UPDATES.get(model, f"`{model}`"), *cells])
    return markdown_table(("model", *columns), rows) + "\n"


def _value(record: dict[str, Any], field: str, *side: str) -> float | None:
    entry: Any = record[field]
    if entry is None:
        return None
    if side == ("ratio",):
        return float(entry["forbidden"] / entry["allowed"])
    value = entry[side[0]] if side else entry
    return fmean(value) if isinstance(value, list) else float(value)


def _spread(values: list[float | None]) -> str:
    known = [value for value in values if value is not None]
    return f"{fmean(known):.3f} ({min(known):.3f} to {max(known):.3f})" if known else ""
