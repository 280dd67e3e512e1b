"""How many directions? Ranks of activations, of how tuning moved them, and of ΔW.

Activations are at the last token of the primary contrast's prompts, centred.

    activation_rank, _stable_rank, _energy_rank    of allowed and of forbidden prompts; `_base`, `_of_change`
    rank_log_ratio                                 of forbidden over allowed prompts; `_base`, `_change`
    rank_log_change                                of the tuned model over the base model
    update_energy_rank                             directions that hold 0.9 of ‖ΔW‖²

`activation_rank` is a participation ratio; its comparisons are on a log scale, so that 0 is as many directions. Lines
without `layer` are means over the layers: what the claims read.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from deltaw.analysis import ActivationRank, LogRank, activation_rank, energy_rank, mean_log_rank, rank_null
from deltaw.analysis.inputs import normals
from deltaw.observations.draws import SITE_KEYS, Draw
from deltaw.observations.lens import SITES, BaseSide, Lens, Places
from deltaw.observations.observation import Observation, Statistic, with_base
from deltaw.results.recorder import Sheet
from deltaw.statistics import Interval, Null, from_draws, mean_null

GAUSSIAN_DRAWS = 20
Logs = tuple[list[LogRank], list[LogRank]]
"""Of allowed and of forbidden prompts, by layer."""


@dataclass(frozen=True)
class Ranks(Observation):
    """How many directions ΔW has, and activations, and what tuning changed of them."""

    name = "ranks"
    label = "ranks"
    statistics = (
        *(
            Statistic(f"activation_{kind}{suffix}", "dimensions", f"{sentence} of {subject}.")
            for suffix, subject in (
                ("", "the tuned model's activations"),
                ("_base", "the base model's activations"),
                ("_of_change", "the difference of both models' activations"),
            )
            for kind, sentence in (
                ("rank", "Participation ratio"),
                ("stable_rank", "Stable rank"),
                ("energy_rank", "Directions that hold 0.9 of the energy"),
            )
        ),
        *with_base(Statistic("rank_log_ratio", "log ratio", "Log rank of forbidden prompts minus that of allowed.")),
        Statistic("rank_log_ratio_change", "log ratio", "That log ratio, tuned minus base."),
        Statistic("rank_log_change", "log ratio", "Log rank in the tuned model minus that in the base model."),
        Statistic("update_energy_rank", "dimensions", "Directions that hold 0.9 of ‖ΔW‖²."),
    )

    sites: tuple[str, ...] = SITES
    """Where directions of activations are counted."""

    def measure(self, lens: Lens, sheet: Sheet) -> None:
        """Ranks of ΔW, and of what both models make of either verdict's prompts, with their log ratios."""
        if lens.has("mlp_in"):
            observe_update_rank(lens, sheet)
        observe_activation_ranks(lens, sheet, tuple(filter(lens.has, self.sites)))


def gaussian_energy_rank(before: BaseSide) -> Null:
    """Directions for 0.9 of the energy of a random matrix of the first MLP matrix's shape."""
    weight = before.mlp(0).w_in
    tall = (max(weight.shape), min(weight.shape))
    draws: list[int] = []
    for number in range(GAUSSIAN_DRAWS):
        entries = normals(before.generator(Draw.RANDOM_UPDATE, number), *tall, like=weight)
        draws.append(energy_rank(torch.linalg.eigvalsh(entries.T @ entries).clamp_min(0).numpy()))
    return from_draws("gaussian", draws)


def observe_update_rank(lens: Lens, sheet: Sheet) -> None:
    """How many directions hold 0.9 of ‖ΔW‖²; its other ranks are Observation 2's."""
    chance = lens.before.once("gaussian_energy_rank", lambda: gaussian_energy_rank(lens.before))
    for layer in lens.layers:
        delta, _ = lens.update(layer)
        if bool((delta != 0).any()):
            energies = (torch.linalg.svdvals(delta) ** 2).numpy()
            view = sheet.with_(layer=layer, module=f"blocks.{layer}.mlp.in_proj", role=None, unit="dimensions")
            view.add("update_energy_rank", energy_rank(energies), nulls=[chance])


def observe_activation_ranks(lens: Lens, sheet: Sheet, sites: tuple[str, ...] = SITES) -> None:
    """Ranks of what the tuned and the base model make of either verdict's prompts, and their log ratios."""
    base, tuned = lens.before.contrast(lens.primary), lens.after(lens.primary)
    for site in sites:
        number = SITE_KEYS[site]
        view = sheet.with_(site=site, n=len(base[0][(0, site)]))
        of_tuned, of_base = _ranks(lens, view, "", tuned, site), _ranks(lens, view, "_base", base, site)
        moved = tuple(
            {place: new[place].double() - old[place].double() for place in old if place[1] == site}
            for old, new in zip(base, tuned, strict=True)
        )
        _ranks(lens, view, "_of_change", (moved[0], moved[1]), site)
        if of_tuned is not None and of_base is not None:
            _compare(lens, view.with_(unit="log ratio"), number, (of_base, base), (of_tuned, tuned), site)


def _ranks(lens: Lens, sheet: Sheet, suffix: str, places: tuple[Places, Places], site: str) -> Logs | None:
    """Writes the ranks of each verdict's prompts; returns their logs, None if a layer has no rank."""
    logs: Logs = ([], [])
    for verdict, of_verdict, by_place in zip(("allowed", "forbidden"), logs, places, strict=True):
        for layer in lens.layers:
            question = f"activation_rank{suffix}, {site}, layer {layer}"
            rank: ActivationRank | None = lens.present(
                activation_rank(by_place[(layer, site)], lens.clusters(lens.primary)), question
            )
            if rank is None:
                return None
            of_verdict.append(rank.log)
            view = sheet.with_(set=f"{lens.primary}/{verdict}", layer=layer, n_unit="prompt", unit="dimensions")
            view.add(f"activation_rank{suffix}", rank.participation_ratio, rank.interval, [rank.independent_units])
            view.add(f"activation_stable_rank{suffix}", rank.stable_rank)
            view.add(f"activation_energy_rank{suffix}", rank.energy_rank)
        mean = mean_log_rank(of_verdict)
        ends = Interval(float(np.exp(mean.interval.low)), float(np.exp(mean.interval.high)))
        whole = sheet.with_(set=f"{lens.primary}/{verdict}", n_unit="prompt", unit="dimensions")
        whole.add(f"activation_rank{suffix}", float(np.exp(mean.value)), ends)
    return logs


def _compare(
    lens: Lens,
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
        if not lens.last:
            return []
        return [
            rank_null(
                first[(k, site)],
                second[(k, site)],
                kind,
                lens.generator(Draw.RANK_SWAPS, word, number),
                lens.draws,
                lens.clusters(lens.primary),
            )
            for k in lens.layers
        ]

    pairs = sheet.with_(set=lens.primary, n_unit="pair")
    between, nulls = [], []
    for suffix, (logs, places) in (("_base", base), ("", tuned)):
        between.append([forbidden - allowed for allowed, forbidden in zip(*logs, strict=True)])
        nulls.append(swapped("label_permutation", places[1], places[0], 0))
        _add(pairs, f"rank_log_ratio{suffix}", between[-1], nulls[-1])
    changes = [after - before for before, after in zip(*between, strict=True)]
    shifts = [
        from_draws("label_permutation", after.draws - before.draws, mean=0.0)
        for before, after in zip(*nulls, strict=True)
        if before.draws is not None and after.draws is not None
    ]
    _add(pairs, "rank_log_ratio_change", changes, shifts)
    for verdict, name in enumerate(("allowed", "forbidden")):
        moved = [new - old for old, new in zip(base[0][verdict], tuned[0][verdict], strict=True)]
        view = sheet.with_(set=f"{lens.primary}/{name}", n_unit="prompt")
        null = swapped("model_swap", tuned[1][verdict], base[1][verdict], 1 + verdict)
        _add(view, "rank_log_change", moved, null)


def _add(sheet: Sheet, statistic: str, values: Sequence[LogRank], nulls: Sequence[Null]) -> None:
    """A line a layer, and their mean."""
    for layer, value in enumerate(values):
        sheet.add(statistic, value.value, value.interval, nulls[layer : layer + 1], layer=layer)
    mean = mean_log_rank(values)
    sheet.add(statistic, mean.value, mean.interval, [mean_null(list(nulls))] if nulls else [])
