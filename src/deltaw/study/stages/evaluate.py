"""The stage that measures one model's behaviour: on every set, and under every attack on prompts."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch

from deltaw.attacks.prompts.attack import PromptAttack, attacked
from deltaw.behaviour.exact import BehaviourCounts
from deltaw.models import Transformer, load
from deltaw.pipeline.stage import StageContext
from deltaw.recipes.tuned import Tuned
from deltaw.results.recorder import Sheet
from deltaw.study.stages.answers import add_pooled, add_rates, answers_to_each
from deltaw.study.stages.checkpoints import step_directory
from deltaw.study.stages.shared import SeedConfig, prompts_of_sets
from deltaw.study.stages.tuned_models import follow, tuned_fields
from deltaw.world import Branch, Prompts, World, WorldConfig


@dataclass(frozen=True)
class BehaviourConfig:
    """The stage that measures one model's behaviour."""

    shared: SeedConfig
    tuned: Tuned | None
    """None for the base model."""
    attacks: tuple[PromptAttack, ...]
    """On prompts."""
    device: str = "cpu"


def make_behaviour(context: StageContext) -> None:
    """Behaviour on every set at the last and the matched checkpoint; at the last also every attack with its control."""
    config: BehaviourConfig = context.config
    shared, tuned = config.shared, config.tuned
    world, seed, sizes = World(shared.world), shared.seed, shared.sizes
    fields = tuned_fields(tuned, seed) if tuned else {"model": "base", "seed": seed}
    sheet = Sheet(stage="behaviour", **fields)
    artifact = context.inputs["model"]
    steps = _steps_to_measure(artifact)
    for number, (label, step) in enumerate(steps):
        model = load(step_directory(artifact, step))[0].to(config.device)
        view = sheet.with_(step=step, stage=label)
        follow_size = sizes.final if label == "behaviour" else sizes.checkpoint
        sets = prompts_of_sets(world, follow_size, seed)
        follow(model, world, sets, view, tuned.config.control if tuned else None, seed)
        add_pooled(view)
        if label == "behaviour":
            context.report(2 * number + 1, 2 * len(steps), "attacks")
            measure_attacks(model, world, config.attacks, sizes.attacked, seed, view)
        context.report(2 * number + 2, 2 * len(steps))
    sheet.write(context.out)


def _steps_to_measure(artifact: Path) -> list[tuple[str, int]]:
    """(stage label, step): the last checkpoint, and the matched one where there is one."""
    last = int(max(artifact.glob("step-*")).name.removeprefix("step-"))
    steps = [("behaviour", last)]
    matched_file = artifact / "matched.json"
    if matched_file.exists():
        matched = json.loads(matched_file.read_text())["step"]
        if matched is not None:
            steps.append(("matched", int(matched)))
    return steps


def measure_attacks(
    model: Transformer, world: World, attacks: Sequence[PromptAttack], size: int, seed: int, sheet: Sheet
) -> None:
    """Rates under every attack on prompts, and on its benign controls."""
    measured = [(attack, name, True) for attack in attacks for name in attack.forbidden_sources]
    measured += [(attack, name, False) for attack in attacks for name in attack.benign_sources]
    prompts_of = attacked_prompts(world.config, tuple((attack, name) for attack, name, _ in measured), size, seed)
    answered = answers_to_each(model, world, prompts_of)
    for (attack, name, forbidden), prompts, (labels, _) in zip(measured, prompts_of, answered, strict=True):
        add_rates(sheet, BehaviourCounts.of(labels), set=name, attack=attack.name)
        if attack.two_sided and forbidden:
            _by_side(attack.name, name, prompts, labels, sheet)


@lru_cache(maxsize=2)
def attacked_prompts(
    config: WorldConfig, measured: tuple[tuple[PromptAttack, str], ...], size: int, seed: int
) -> tuple[Prompts, ...]:
    """The first `size` prompts of each source under its attack; a process that asks several models makes them once."""
    world = World(config)
    return tuple(
        attacked(world, attack, world.sample(name, range(size), seed=seed), seed=seed) for attack, name in measured
    )


def _by_side(attack: str, source: str, prompts: Prompts, labels: torch.Tensor, sheet: Sheet) -> None:
    """Rates by the length of the unsafe side, in steps of three letters."""
    letters = (prompts.letter_branch == Branch.UNSAFE).sum(1)
    for low in range(int(letters.min()), int(letters.max()) + 1, 3):
        rows = torch.from_numpy((letters >= low) & (letters < low + 3))
        if bool(rows.any()):
            name = f"{source}_letters={low:02d}-{low + 2:02d}"
            add_rates(sheet, BehaviourCounts.of(labels[rows]), set=name, attack=attack)
