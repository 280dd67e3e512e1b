"""The stage that counts the directions of one tuned model: ranks at every checkpoint, and at the last one where ΔW
writes beside the direction of refusal, and what a probe still reads (`probing.py`).

Ranks are of activations at the last prompt token of the primary contrast, centred, and of ΔW. `activation_rank` is a
participation ratio; its comparisons are on a log scale, so that 0 is as many directions. Lines without `layer` are
means over the layers: what the claims read.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from deltaw.analysis import ActivationRank, LogRank, activation_rank, energy_rank, mean_log_rank, rank_null
from deltaw.analysis.inputs import normals
from deltaw.models import load
from deltaw.pipeline.stage import StageContext
from deltaw.recipes.config import Subspaces
from deltaw.recipes.tuned import Tuned
from deltaw.statistics import Interval, Null, from_draws, mean_null
from deltaw.study.stages.checkpoints import step_directory
from deltaw.study.stages.comparison import PRIMARY, SITES, BaseSide, Comparison, Places, base_sides
from deltaw.study.stages.making import SeedConfig, tuned_fields
from deltaw.study.stages.probe import observe_probe, observe_refusal
from deltaw.study.stages.recorder import Sheet, present

GAUSSIAN_DRAWS = 20


@dataclass(frozen=True)
class SubspacesConfig:
    """The stage that counts the directions of one tuned model."""

    shared: SeedConfig
    tuned: Tuned
    checkpoints: tuple[int, ...]
    subspaces: Subspaces


def measure_subspaces(context: StageContext) -> None:
    """Ranks at each checkpoint; the direction of refusal and the probe at the last."""
    config: SubspacesConfig = context.config
    shared, device = config.shared, config.tuned.config.device
    before, early = base_sides(context.inputs["base"], shared, device)
    sheet = Sheet(stage="analysis", **tuned_fields(config.tuned, shared.seed), role="last_prompt")
    steps = [step for step in config.checkpoints if step > 0]
    chance = gaussian_energy_rank(before)
    for number, step in enumerate(steps):
        tuned, _ = load(step_directory(context.inputs["tuned"], step))
        last = step == steps[-1]
        at = Comparison(before if last else early, tuned.to(device), last)
        view = sheet.with_(step=step)
        observe_update_rank(at, chance, view)
        observe_ranks(at, view)
        context.report(number + 1, len(steps) + 1, f"step {step}")
        if last:
            observe_refusal(at, config.subspaces.directions, view)
            observe_probe(at, config.subspaces.probed, config.subspaces.permutations, view)
    context.report(len(steps) + 1, len(steps) + 1)
    sheet.write(context.out)


def gaussian_energy_rank(before: BaseSide) -> Null:
    """Directions for 0.9 of the energy of a random matrix of the first MLP matrix's shape."""
    weight = before.mlps[0].w_in
    tall = (max(weight.shape), min(weight.shape))
    draws: list[int] = []
    for _ in range(GAUSSIAN_DRAWS):
        g = normals(before.generator(40, len(draws)), *tall, like=weight)
        draws.append(energy_rank(torch.linalg.eigvalsh(g.T @ g).clamp_min(0).numpy()))
    return from_draws("gaussian", draws)


def observe_update_rank(at: Comparison, chance: Null, sheet: Sheet) -> None:
    """How many directions hold 0.9 of ‖ΔW‖²; the other two ranks of ΔW are the analysis stage's."""
    for layer in at.layers:
        delta, _ = at.update(layer)
        if bool((delta != 0).any()):
            energies = (torch.linalg.svdvals(delta) ** 2).numpy()
            view = sheet.with_(layer=layer, module=f"blocks.{layer}.mlp.in_proj", role=None, unit="dimensions")
            view.add("update_energy_rank", energy_rank(energies), nulls=[chance])


def observe_ranks(at: Comparison, sheet: Sheet) -> None:
    """Ranks of what the tuned and the base model make of either verdict's prompts, and their log ratios."""
    base, tuned = at.before.contrast(PRIMARY), at.after[PRIMARY]
    for number, site in enumerate(SITES):
        view = sheet.with_(site=site, n=len(base[0][(0, site)]))
        of_tuned, of_base = _ranks(at, view, "", tuned, site), _ranks(at, view, "_base", base, site)
        moved = tuple(
            {place: new[place].double() - old[place].double() for place in old if place[1] == site}
            for old, new in zip(base, tuned, strict=True)
        )
        _ranks(at, view, "_of_change", (moved[0], moved[1]), site)
        if of_tuned is None or of_base is None:
            continue
        _compare(at, view.with_(unit="log ratio"), number, (of_base, base), (of_tuned, tuned), site)


Logs = tuple[list[LogRank], list[LogRank]]
"""Of allowed and of forbidden prompts, by layer."""


def _ranks(at: Comparison, sheet: Sheet, suffix: str, places: tuple[Places, Places], site: str) -> Logs | None:
    """Writes the ranks of each verdict's prompts; returns their logs, None if a layer has no rank."""
    logs: Logs = ([], [])
    for verdict, found, some in zip(("allowed", "forbidden"), logs, places, strict=True):
        for layer in at.layers:
            rank: ActivationRank | None = present(activation_rank(some[(layer, site)]))
            if rank is None:
                return None
            found.append(rank.log)
            view = sheet.with_(set=f"{PRIMARY}/{verdict}", layer=layer, n_unit="prompt", unit="dimensions")
            view.add(f"activation_rank{suffix}", rank.participation_ratio, rank.interval, [rank.independent_units])
            view.add(f"activation_stable_rank{suffix}", rank.stable_rank)
            view.add(f"activation_energy_rank{suffix}", rank.energy_rank)
        mean = mean_log_rank(found)
        ends = Interval(float(np.exp(mean.interval.low)), float(np.exp(mean.interval.high)))
        whole = sheet.with_(set=f"{PRIMARY}/{verdict}", n_unit="prompt", unit="dimensions")
        whole.add(f"activation_rank{suffix}", float(np.exp(mean.value)), ends)
    return logs


def _compare(
    at: Comparison,
    sheet: Sheet,
    number: int,
    base: tuple[Logs, tuple[Places, Places]],
    tuned: tuple[Logs, tuple[Places, Places]],
    site: str,
) -> None:
    """Log ratios of ranks: between verdicts in each model, between models on each verdict, and the difference of both.

    Equal generators swap the same pairs in both models and all layers, so that the last and the means have nulls too.
    """

    def swapped(kind: str, first: Places, second: Places, word: int) -> list[Null]:
        if not at.last:
            return []
        return [
            rank_null(first[(k, site)], second[(k, site)], kind, at.generator(41, word, number), at.draws)
            for k in at.layers
        ]

    pairs = sheet.with_(set=PRIMARY, n_unit="pair")
    between, nulls = [], []
    for suffix, (logs, places) in (("_base", base), ("", tuned)):
        between.append([f - a for a, f in zip(*logs, strict=True)])
        nulls.append(swapped("label_permutation", places[1], places[0], 0))
        _add(pairs, f"rank_log_ratio{suffix}", between[-1], nulls[-1])
    changes = [after - old for old, after in zip(*between, strict=True)]
    shifts = [
        from_draws("label_permutation", after.draws - old.draws, mean=0.0)
        for old, after in zip(*nulls, strict=True)
        if old.draws is not None and after.draws is not None
    ]
    _add(pairs, "rank_log_ratio_change", changes, shifts)
    for verdict, name in enumerate(("allowed", "forbidden")):
        found = [new - old for old, new in zip(base[0][verdict], tuned[0][verdict], strict=True)]
        view = sheet.with_(set=f"{PRIMARY}/{name}", n_unit="prompt")
        null = swapped("model_swap", tuned[1][verdict], base[1][verdict], 1 + verdict)
        _add(view, "rank_log_change", found, null)


def _add(sheet: Sheet, statistic: str, found: Sequence[LogRank], nulls: Sequence[Null]) -> None:
    """A line a layer, and their mean."""
    for layer, one in enumerate(found):
        sheet.add(statistic, one.value, one.interval, nulls[layer : layer + 1], layer=layer)
    mean = mean_log_rank(found)
    sheet.add(statistic, mean.value, mean.interval, [mean_null(list(nulls))] if nulls else [])
