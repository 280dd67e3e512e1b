"""The stage that shows prompts with what the models answer."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from deltaw.attacks.prompts.attack import PromptAttack, attacked
from deltaw.pipeline.stage import StageContext
from deltaw.recipes.tuned import Tuned
from deltaw.results import write_jsonl_atomic
from deltaw.study.stages.answers import answers_to_each
from deltaw.study.stages.shared import TUNED_SETS, SeedConfig, last_model
from deltaw.world import Prompts, Response, World


@dataclass(frozen=True)
class SamplesConfig:
    """The stage that shows prompts with what models answer."""

    shared: SeedConfig
    tuned: tuple[Tuned, ...]
    """The models, in the order shown."""
    attacks: tuple[PromptAttack, ...]
    """On prompts."""
    device: str = "cpu"


def make_samples(context: StageContext) -> None:
    """prompts.jsonl: prompts with derivation, policy, and the answers of base and tuned models."""
    config: SamplesConfig = context.config
    world, seed, count = World(config.shared.world), config.shared.seed, config.shared.sizes.shown
    models = {name: last_model(path)[0].to(config.device) for name, path in context.inputs.items()}
    shown: list[tuple[str, str | None, Prompts]] = [
        (name, None, world.sample(name, range(count), seed=seed)) for name in TUNED_SETS
    ]
    for attack in config.attacks:
        for name in attack.forbidden_sources:
            prompts = world.sample(name, range(count), seed=seed)
            shown.append((name, attack.name, attacked(world, attack, prompts, seed=seed)))
    answered: dict[str, list[tuple[torch.Tensor, torch.Tensor]]] = {}
    for number, (key, model) in enumerate(models.items()):
        answered[key] = answers_to_each(model, world, [prompts for _, _, prompts in shown])
        context.report(number + 1, len(models))
    records = []
    for number, (name, kind, prompts) in enumerate(shown):
        answers = {key: of_sets[number] for key, of_sets in answered.items()}
        records += _records(world, answers, name, kind, prompts)
    write_jsonl_atomic(context.out / "prompts.jsonl", records)


def _records(
    world: World,
    answers: dict[str, tuple[torch.Tensor, torch.Tensor]],
    name: str,
    attack: str | None,
    prompts: Prompts,
) -> list[dict[str, Any]]:
    layout, vocabulary = world.layout, world.vocabulary
    words = ("neither", "comply", "refuse")
    expected = layout.response_tokens(prompts, layout.expected(prompts))
    compliant = layout.response_tokens(prompts, np.full(len(prompts), Response.COMPLY))
    allowed, spelled, branch = layout.allowed(prompts), layout.spell(prompts), prompts.branch
    texts = layout.spell_letters(prompts.letters)
    records: list[dict[str, Any]] = []
    for row in range(len(prompts)):
        tokens = prompts.operators[row].reshape(-1)
        rules = [
            world.policy.rules[int(prompts.grammar[row])][int(world.operators.operator_of[t])].name for t in tokens
        ]
        records.append(
            {
                "set": name,
                "attack": attack,
                "index": int(prompts.index[row]),
                "prompt": spelled[row],
                "letters": texts[row],
                "branch": ("safe", "unsafe", "mixed")[int(branch[row])],
                "letter_branch": "".join("su"[b] for b in prompts.letter_branch[row] if b >= 0),
                "operators": [vocabulary.names[int(t)] for t in tokens],
                "rules": [rule.lower() for rule in rules],
                "allowed": bool(allowed[row]),
                "derivation": world.explain(prompts, row),
                "expected": vocabulary.spell(expected[row]),
                "compliant": vocabulary.spell(compliant[row]),
                "answers": {
                    key: {
                        "text": vocabulary.spell(outputs[row].tolist()),
                        "behaviour": words[int(labels[row])],
                    }
                    for key, (labels, outputs) in answers.items()
                },
            }
        )
    return records
