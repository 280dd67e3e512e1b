"""What names the questions of a comparison, and whether a control was asked the same."""

import hashlib
import inspect
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from types import ModuleType
from typing import Any

from deltaw.attacks.prompts import ON_REQUESTS, PromptAttack
from deltaw.behaviour.judge import Judge
from deltaw.behaviour.judges.rules import RULES
from deltaw.compare.asking import Effort
from deltaw.errors import DeltawError
from deltaw.models.checkpoint_directory import find_directory
from deltaw.models.checkpoint_files import open_checkpoint
from deltaw.observations.prompts import Prompts as LensPrompts
from deltaw.prompts import neutral
from deltaw.prompts.matched import Prompt
from deltaw.results import Measurement, read_measurements
from deltaw.results.parsing import parse_json


def questions_of(prompts: Sequence[Prompt], judge: Judge, effort: Effort) -> dict[str, Any]:
    """What names the questions, as files hold it: a hash of the prompts, the judge and its rules, the effort."""
    return {
        "prompts": _digest(prompts),
        "judge": _judge_named(judge),
        "effort": json.loads(json.dumps(effort.of_asking())),
    }


def _judge_named(judge: Judge) -> str:
    """A judge's class, its options where it has any, and a hash of the source of its module."""
    kind = type(judge)
    options = ", ".join(f"{name}={value!r}" for name, value in judge.described().items() if name != "name")
    return f"{kind.__module__}.{kind.__qualname__}({options}) {_code_hash(inspect.getmodule(kind))}".strip()


def _code_hash(module: ModuleType | None) -> str:
    return "" if module is None else hashlib.sha256(inspect.getsource(module).encode()).hexdigest()[:16]


def attack_key(attack: PromptAttack) -> str:
    """The attack's name with a hash of its options and its code: answers under another attack are no answers to it."""
    options = json.dumps(attack.described(), sort_keys=True, default=str)
    made_of = f"{options} {_code_hash(inspect.getmodule(type(attack)))}"
    return f"{attack.name} {hashlib.sha256(made_of.encode()).hexdigest()[:16]}"


def read_control(
    directory: Path,
    base: str | Path,
    prompts: Sequence[Prompt],
    judge: Judge = RULES,
    effort: Effort | None = None,
    attacks: Sequence[PromptAttack] = ON_REQUESTS,
) -> tuple[str, list[Measurement]]:
    """(its name, its lines) of a control's comparison. DeltawError unless it is finished, of the same base, and asked
    the same. It may lack attacks.
    """
    try:
        manifest = parse_json((directory / "manifest.json").read_text(encoding="utf-8"))
        asked, of_base = manifest["prompts"], manifest["comparison"]["pair"]["base"]
        name = str(manifest["names"][1])
        made = {attack["name"]: attack["key"] for attack in asked.get("attacks") or ()}  # of old versions: the seven
    except (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise DeltawError(
            f"the control {directory} holds no finished comparison with prompts; make it first: deltaw compare BASE "
            f"CONTROL --out {directory} --prompts FILE"
        ) from error
    if of_base != open_checkpoint(find_directory(base)).fingerprint():
        raise DeltawError(f"the control {directory} compares another base model; give one of the same base")
    for what, expected in questions_of(prompts, judge, effort or Effort()).items():
        if asked.get(what) != expected:
            raise DeltawError(f"the control {directory} was asked otherwise ({what}); compare it with the same prompts")
    for attack in attacks:
        if made.get(attack.name, attack_key(attack)) != attack_key(attack):
            raise DeltawError(
                f"the control {directory} was asked under another attack {attack.name}; compare it with the "
                "same attacks"
            )
    return name, read_measurements(directory / "measurements.jsonl")


def capability_key(prompts: LensPrompts) -> str:
    """What names the neutral texts and exact questions of a lens, and how answers to them are checked."""
    asked = [list(prompts.neutral), [asdict(question) for question in prompts.exact], _code_hash(neutral)]
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:16]


def _digest(prompts: Sequence[Prompt]) -> str:
    text = json.dumps([asdict(prompt) for prompt in prompts], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
