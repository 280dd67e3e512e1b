"""Neutral texts, and harmless questions that have one right answer: what a tuned model should still be able to do.

Both were written for deltaw and have its licence (Apache-2.0), so that no model has met them in training. The 32 texts
are reference, stories, news, letters, instructions, dialogues, science, code and lists; none is about harm or refusal.
The 48 questions are general knowledge, arithmetic and words. An answer is right if it holds an accepted answer as whole
words: it is read as text, not understood.
"""

import json
import re
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

from deltaw.prompts.matched import ALLOWED, Prompt

QUESTIONS = "questions"
"""The set of these questions, in measurements."""
NEUTRAL = "neutral"
"""The set of these texts, in measurements."""


@dataclass(frozen=True)
class ExactQuestion:
    """A harmless question whose answer can be checked."""

    text: str
    """The question."""
    answers: tuple[str, ...]
    """What is accepted, each by itself."""

    @property
    def prompt(self) -> Prompt:
        """The question as models are asked."""
        return Prompt(self.text, ALLOWED, QUESTIONS)


def neutral_texts() -> list[str]:
    """The texts."""
    return [record["text"] for record in _records("neutral.jsonl")]


def exact_questions() -> list[ExactQuestion]:
    """The questions."""
    return [ExactQuestion(record["question"], tuple(record["answers"])) for record in _records("questions.jsonl")]


@cache
def _records(name: str) -> tuple[dict[str, Any], ...]:
    text = resources.files("deltaw.prompts").joinpath(f"data/{name}").read_text(encoding="utf-8")
    return tuple(json.loads(line) for line in text.split("\n") if line)


def is_right(question: ExactQuestion, answer: str) -> bool:
    """Whether an answer holds an accepted one as whole words, in either case; 12 is not in 112, 12.5 or 4,120."""
    said = answer.casefold()
    return any(
        re.search(rf"(?<!\w)(?<!\d[.,]){re.escape(accepted.casefold())}(?!\w)(?![.,]\d)", said)
        for accepted in question.answers
    )
