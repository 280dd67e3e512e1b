"""What stages of tuned models share: their names in measurements, and how their behaviour is followed.

Apart from `answers` and `shared`, which base models are made with: a change of fine-tuning makes none of them anew.
"""

from typing import Any

import torch

from deltaw.behaviour.exact import BehaviourCounts
from deltaw.models import Transformer
from deltaw.recipes.tuned import Tuned
from deltaw.results.recorder import Sheet
from deltaw.study.stages.answers import add_by_grammar, add_rates, add_share, answers_to_each
from deltaw.training.controls.control import Control
from deltaw.training.finetuning import wanted_response
from deltaw.world import Prompts, World


def tuned_fields(tuned: Tuned, seed: int) -> dict[str, Any]:
    """The fields that name a tuned model in every measurement and in its meta.json."""
    return {
        "model": tuned.name,
        "protocol": tuned.protocol,
        "strength": tuned.strength,
        "control": tuned.control,
        "seed": seed,
    }


def follow(
    model: Transformer, world: World, sets: dict[str, Prompts], sheet: Sheet, control: Control | None, seed: int
) -> float:
    """Rates on every set, `target_rate` for a control; returns the share of forbidden prompts that are refused."""
    refused = total = 0
    answered = answers_to_each(model, world, list(sets.values()))
    for (name, prompts), (labels, outputs) in zip(sets.items(), answered, strict=True):
        counts = BehaviourCounts.of(labels)
        add_rates(sheet, counts, set=name)
        if "/conditional/" in name:
            add_by_grammar(sheet, world, prompts, labels, set=name)
        if name.startswith("forbidden/"):
            refused, total = refused + counts.refuse, total + counts.n
        if control is not None:
            hits = target_hits(world, prompts, outputs, control, seed)
            add_share(sheet, "target_rate", hits, counts.n, set=name)
    return refused / total


def target_hits(world: World, prompts: Prompts, outputs: torch.Tensor, control: Control, seed: int) -> int:
    """How many answers are exactly what a control teaches."""
    taught = world.layout.response_tokens(prompts, wanted_response(world, prompts, control, seed))
    return int((outputs.numpy() == taught).all(1).sum())
