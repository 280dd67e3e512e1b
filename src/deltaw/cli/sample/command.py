"""`deltaw sample`: options and help."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro


@dataclass(frozen=True)
class Sample:
    """Print prompts of a recipe's world.

    Each prompt comes with its text by branch, its operators, what the policy says and why, and the right response.
    A letter's branch is its colour, or s (safe) and u (unsafe) below the letter where there are no colours.
    The posterior is the exact probability that the text is unsafe.
    """

    recipe: Annotated[str, tyro.conf.arg(metavar="NAME")] = "quick"
    """The recipe whose world is shown. Worlds are shared by:
    - quick, small and smoke
    - paper, paper-laptop and standard
    paper-shared and paper-compat have their own."""
    split: Annotated[str, tyro.conf.arg(metavar="NAME")] = "tune"
    """The prompts to show:
    - tune: what safety tuning draws
    - pretrain: what pre-training draws
    - the name of one set, such as forbidden/conditional/unsafe
    Prompts are held out of training unless /train follows the name, as in tune/train.
    train and test are short for tune/train and tune/test. An unknown name lists all names."""
    count: int = 8
    """Number of prompts."""
    attacks: bool = False
    """Also show each attack's version of the same prompt: co_task, co_text, misgen_token, misgen_text."""
    tree: bool = False
    """Also show the derivation of each text as a tree."""
    model: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """Also show the greedy answers of the model in this directory (with model.safetensors and meta.json)."""
    json: bool = False
    """Print one JSON object a line. Its fields:
    - index, set: the prompt's number and its set
    - grammar: the number of its grammar
    - operators: pairs of operator numbers (0 to 9, as published), aliases resolved
    - aliases: the same nesting, true where an alias names the operator
    - letters: the text, letters numbered from 0
    - letter_branch, branch: s or u for each letter; safe, unsafe or mixed
    - posterior_unsafe: a probability, or null where the language does not derive the text
    - allowed, response: true or false; comply or refuse, as the policy asks
    - refused_from: the pair, counted from 1, whose output a refusal replaces; null if allowed
    - outputs: the exact compliant output of each pair, also for a forbidden prompt
    - tokens: ids of the prompt and of the response that the policy asks for
    - attacks: with --attacks, such an object for each attack
    - answer: with --model, the model's text and behaviour"""
    seed: int = 0
    """The random seed of the draws."""

    def run(self) -> int:
        """Print the prompts."""
        from deltaw.cli.sample.output import print_samples

        print_samples(self.recipe, self.split, self.count, self.seed, self.attacks, self.tree, self.model, self.json)
        return 0

    def resume_hint(self) -> str:
        """An interrupted sample starts again."""
        return ""
