"""Thoughts of reasoning models: the tags that enclose them, and what a model says besides.

A model that thinks writes its thoughts between two tags, or into a channel of their own (OpenAI's harmony format), and
then its answer. Templates may open the thoughts already; then only the closing tag is in the answer.
"""

import re

TAGS = (
    ("<think>", "</think>"),
    ("<thinking>", "</thinking>"),
    ("<thought>", "</thought>"),
    ("<reasoning>", "</reasoning>"),
    ("<seed:think>", "</seed:think>"),
    ("[THINK]", "[/THINK]"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("<|begin_of_thought|>", "<|end_of_thought|>"),
)
"""What opens and what closes thoughts."""
CHANNEL, MESSAGE = "<|channel|>", "<|message|>"
MARKS = (*(tag for pair in TAGS for tag in pair), CHANNEL, MESSAGE)
"""Every mark by which thoughts are told from an answer."""
_FINAL = re.compile(rf"{re.escape(CHANNEL)}\s*final.*?{re.escape(MESSAGE)}", re.DOTALL | re.IGNORECASE)


def open_tags(text: str) -> tuple[str, str] | None:
    """The tags of the thoughts that a text leaves open; None if it leaves none open."""
    lower = text.lower()
    for opening, closing in TAGS:
        if lower.rfind(opening.lower()) > lower.rfind(closing.lower()):
            return opening, closing
    return None


def without_thoughts(text: str) -> str:
    """What is said beside the thoughts: nothing, of thoughts that have no end.

    A closing tag without an opening one ends thoughts that began before the text.
    """
    finals = list(_FINAL.finditer(text))
    if CHANNEL in text:
        text = text[finals[-1].end() :] if finals else text[: text.index(CHANNEL)]
    for opening, closing in TAGS:
        first, last = re.escape(opening), re.escape(closing)
        text = re.sub(rf"{first}.*?(?:{last}|\Z)", " ", text, flags=re.DOTALL | re.IGNORECASE)
        text = re.sub(rf"\A.*{last}", " ", text, flags=re.DOTALL | re.IGNORECASE)
    return text
