"""The stage that measures one cell of a grid: a world, its base and tuned model, all attacks on prompts, and the truth.

A model is called by its name and its cell, `ssft-medium@alias-0.1`. What is exact is measured with it: how far held-out
text lies from what tuning saw, and how surely a reader of the letters could know that a text is unsafe.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from deltaw.attacks.prompts.attack import PromptAttack, attacked
from deltaw.attacks.prompts.co_text import CoText
from deltaw.attacks.prompts.misgen_text import MisgenText
from deltaw.behaviour.exact import BehaviourCounts
from deltaw.models import Transformer
from deltaw.pipeline.stage import StageContext
from deltaw.recipes.grid_worlds import SIDES, Cell, distances
from deltaw.recipes.tuned import Tuned
from deltaw.results.recorder import Sheet
from deltaw.statistics import Interval, t_interval, wilson
from deltaw.study.stages.answers import add_pooled, add_rates, answers_to
from deltaw.study.stages.evaluate import measure_attacks
from deltaw.study.stages.shared import SeedConfig, last_model, prompts_of_sets
from deltaw.study.stages.tuned_models import follow, tuned_fields
from deltaw.world import Branch, Prompts, World

JUNCTIONS = 4  # times as many prompts where they are told apart by their unsafe letters


@dataclass(frozen=True)
class CellConfig:
    """The stage that measures one cell."""

    shared: SeedConfig
    """Its world is the cell's."""
    cell: Cell
    tuned: Tuned
    """The cell's tuned model, by its name."""
    attacks: tuple[PromptAttack, ...]
    """On prompts."""


def base_name(cell: Cell) -> str:
    """What a cell's base model is called."""
    return f"base@{cell.name}"


def make_cell(context: StageContext) -> None:
    """Base and tuned model of a cell on every set and attack; what can be known of its texts."""
    config: CellConfig = context.config
    shared, cell = config.shared, config.cell
    world, seed, sizes = World(shared.world), shared.seed, shared.sizes
    sheet = Sheet(stage="world", model=base_name(cell), seed=seed)
    if cell.axis == "margin":
        _knowledge_of_sides(world, sizes.attacked, seed, sheet)
    else:
        _distances(world, sizes.attacked, seed, sheet)
    models: dict[str, dict[str, Any]] = {
        "base": {"model": base_name(cell), "seed": seed},
        "tuned": tuned_fields(config.tuned, seed),
    }
    for number, (name, fields) in enumerate(models.items()):
        model, meta = last_model(context.inputs[name])
        model.to(config.tuned.config.device)
        own = Sheet(stage="behaviour", **fields, step=int(meta["step"]))
        follow(model, world, prompts_of_sets(world, sizes.final, seed), own, None, seed)
        add_pooled(own)
        context.report(2 * number + 1, 2 * len(models), "attacks")
        if cell.axis == "margin":
            _junctions(model, world, sizes.attacked, seed, own)
        else:
            measure_attacks(model, world, config.attacks, sizes.attacked, seed, own)
        sheet.lines += own.lines
        context.report(2 * number + 2, 2 * len(models))
    sheet.write(context.out)


def side_name(name: str, side: tuple[int, int]) -> str:
    """What a set is called where only prompts with so many letters on the unsafe side are taken."""
    return f"{name}_letters={side[0]:02d}-{side[1]:02d}"


def _by_side(prompts: Prompts) -> list[tuple[tuple[int, int], np.ndarray[Any, np.dtype[np.bool_]]]]:
    letters = (prompts.letter_branch == Branch.UNSAFE).sum(1)
    sides = [((low, high), (letters >= low) & (letters <= high)) for low, high in SIDES]
    return [(side, rows) for side, rows in sides if rows.any()]


def _mixed(world: World, name: str, size: int, seed: int) -> Prompts:
    return attacked(world, CoText(), world.sample(name, range(JUNCTIONS * size), seed=seed), seed=seed)


def _junctions(model: Transformer, world: World, size: int, seed: int, sheet: Sheet) -> None:
    """`co_text` and its benign control by the length of the unsafe side."""
    for name in (*CoText.forbidden_sources, *CoText.benign_sources):
        prompts = _mixed(world, name, size, seed)
        labels, _ = answers_to(model, world, prompts)
        view = sheet.with_(attack=CoText.name)
        add_rates(view, BehaviourCounts.of(labels), set=name)
        for side, rows in _by_side(prompts):
            add_rates(view, BehaviourCounts.of(labels[torch.from_numpy(rows)]), set=side_name(name, side))


def _knowledge_of_sides(world: World, size: int, seed: int, sheet: Sheet) -> None:
    """The exact probability of an unsafe side, by its length: its mean over the prompts of each bin."""
    (name,) = CoText.forbidden_sources
    prompts = _mixed(world, name, size, seed)
    unsafe = world.unsafe_side(prompts.grammar, prompts.letters)
    for side, rows in _by_side(prompts):
        _add_mean(
            sheet, "unsafe_side_probability", unsafe[rows], "probability", attack=CoText.name, set=side_name(name, side)
        )


def _distances(world: World, size: int, seed: int, sheet: Sheet) -> None:
    """How far held-out text lies from tuning's unsafe and safe text, and how surely it can be known to be unsafe."""
    for text in ("unsafe", "safe"):
        for length, distance in distances(world, "held_out", text, size, seed).items():
            place: dict[str, Any] = {"attack": MisgenText.name, "set": f"{text}_text/letters={length:02d}"}
            _add_mean(sheet, "text_distance", distance.contributions, "total variation", **place)
            count, n = distance.underivable, len(distance.contributions)
            view = sheet.with_(**place, n=n, n_unit="window")
            view.add("underivable_share", count / n, wilson(count, n), unit="share")
    (name,) = MisgenText.forbidden_sources
    prompts = attacked(world, MisgenText(), world.sample(name, range(size), seed=seed), seed=seed)
    unsafe = world.unsafe_side(prompts.grammar, prompts.letters)
    _add_mean(sheet, "unsafe_side_probability", unsafe, "probability", attack=MisgenText.name, set=name)


def _add_mean(
    sheet: Sheet, statistic: str, values: np.ndarray[Any, np.dtype[np.float64]], unit: str, **place: Any
) -> None:
    """A mean over windows of numbers from 0 to 1, with its t interval, cut to that range."""
    mean, interval = float(values.mean()), None
    if len(values) > 1:
        whole = t_interval(values)
        interval = Interval(max(0.0, min(whole.low, mean)), min(1.0, max(whole.high, mean)))
    sheet.add(statistic, mean, interval, unit=unit, n=len(values), n_unit="window", **place)
