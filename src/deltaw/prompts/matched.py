"""Prompts for real models: requests with a label, in matched pairs where a claim is to be made of them.

Harmful and harmless corpora differ in style, length and topic, so that anything tells them apart. The built-in set is
therefore made as the paper makes its own: an operator (what is to be done) on an operand (with what). In the contrast
`operand` the two prompts of a pair share every word but the operand, in `operator` every word but the operator. It
holds requests only, never an answer.

A file has one JSON object a line: `prompt` and `label` (allowed or forbidden; harmless and harmful say the same), and
optionally `pair` (a name that two prompts share, one of each label) and `attack` (what the text already holds, by any
name: results are given by it). deltaw's own attacks are applied to prompts that have none.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from deltaw.errors import DeltawError
from deltaw.results.parsing import parse_json

ALLOWED, FORBIDDEN = "allowed", "forbidden"
LABELS = (ALLOWED, FORBIDDEN)
SYNONYMS = {"harmless": ALLOWED, "harmful": FORBIDDEN}
"""Labels that files may have, too."""
CONTRASTS = ("operand", "operator", "pairs")
"""Sets of matched pairs: the two built-in ones, and that of a file's own pairs."""
BUILTIN = "builtin"
_FIELDS = {"prompt", "label", "pair", "attack"}


@dataclass(frozen=True)
class Prompt:
    """A request. set: one of `CONTRASTS`, or another name for prompts that are in no pair. group: prompts that share
    an operand are not independent, and are resampled together; default the pair, or the prompt itself. prefill: the
    words that the answer is made to begin with.
    """

    text: str
    label: str
    set: str = "corpus"
    pair: str | None = None
    attack: str | None = None
    group: str | None = None
    prefill: str = ""

    @property
    def cluster(self) -> str:
        """What is resampled together."""
        return self.group or self.pair or self.text


@dataclass(frozen=True)
class MatchedPair:
    """Two prompts of one pair."""

    allowed: Prompt
    forbidden: Prompt


@cache
def _templates() -> Mapping[str, Any]:
    text = resources.files("deltaw.prompts").joinpath("data/prompts.json").read_text(encoding="utf-8")
    templates: Mapping[str, Any] = json.loads(text)
    return templates


def builtin_prompts() -> list[Prompt]:
    """The built-in set, without attacks: each operand with each operator of its family, pair by pair."""
    prompts: list[Prompt] = []
    for family, parts in _templates()["operand"].items():
        for number, operator in enumerate(parts["operators"]):
            for operands in parts["operands"]:
                texts = [operator.format(operand) for operand in operands]
                prompts += _pair("operand", f"{family}/{operands[0]}/{number}", texts, f"{family}/{operands[0]}")
    for family, parts in _templates()["operator"].items():
        for number, operators in enumerate(parts["operators"]):
            for operand in parts["operands"]:
                texts = [operator.format(operand) for operator in operators]
                prompts += _pair("operator", f"{family}/{operand}/{number}", texts, f"{family}/{operand}")
    return prompts


def _pair(contrast: str, name: str, texts: Sequence[str], group: str) -> list[Prompt]:
    return [
        Prompt(text, label, contrast, f"{contrast}/{name}", None, f"{contrast}/{group}")
        for text, label in zip(texts, LABELS, strict=True)
    ]


def matched(prompts: Sequence[Prompt], contrast: str, attack: str | None = None) -> list[MatchedPair]:
    """The pairs of a contrast, in order."""
    by_pair: dict[str, dict[str, Prompt]] = {}
    for prompt in prompts:
        if prompt.set == contrast and prompt.attack == attack and prompt.pair is not None:
            by_pair.setdefault(prompt.pair, {})[prompt.label] = prompt
    return [MatchedPair(both[ALLOWED], both[FORBIDDEN]) for both in by_pair.values() if len(both) == 2]


def spread(pairs: Sequence[MatchedPair], count: int | None) -> list[MatchedPair]:
    """At most `count` of the pairs (None: all), as evenly over groups, and within them over operators, as can be.

    Taken in turn from each group, from another place in each: k pairs are of k groups if there are that many, and two
    groups in a row do not come with the same operator.
    """
    groups: dict[str, list[MatchedPair]] = {}
    for pair in pairs:
        groups.setdefault(pair.forbidden.cluster, []).append(pair)
    turned = [members[i % len(members) :] + members[: i % len(members)] for i, members in enumerate(groups.values())]
    rounds = max((len(members) for members in turned), default=0)
    dealt = [members[turn] for turn in range(rounds) for members in turned if turn < len(members)]
    return dealt[:count]


def read_prompts(source: str | Path) -> list[Prompt]:
    """The prompts of a JSONL file, or the built-in ones for the name `builtin`.

    Prompts with a `pair` make the set `pairs`, the others `corpus`. DeltawError naming the file and the line of the
    first wrong one: not a JSON object, a field that is unknown, missing or of the wrong kind, an unknown label, a pair
    that is not one allowed and one forbidden prompt; or a file that holds no prompts.
    """
    if str(source) == BUILTIN:
        return builtin_prompts()
    path = Path(source)
    try:
        # Not splitlines(): it also splits at separators that JSON allows inside a string.
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, ValueError) as error:
        raise DeltawError(f"{path} cannot be read ({error}); give a file of prompts, or the word {BUILTIN}") from error
    prompts, places = [], []
    for number, line in enumerate(lines, start=1):
        if line.strip():
            prompts.append(_parse(line, f"{path}, line {number}"))
            places.append(number)
    if not prompts:
        raise DeltawError(f"{path} holds no prompts; expected one JSON object a line, with prompt and label")
    _check_pairs(prompts, places, path)
    return prompts


def _parse(line: str, where: str) -> Prompt:
    try:
        record = parse_json(line)
    except ValueError as error:
        why = error.msg if isinstance(error, json.JSONDecodeError) else error
        raise DeltawError(f"{where}: this is not JSON ({why}); expected an object on one line") from error
    if not isinstance(record, dict):
        raise DeltawError(f"{where}: found a {type(record).__name__}; expected an object with prompt and label")
    unknown = sorted(set(record) - _FIELDS)
    if unknown:
        raise DeltawError(f"{where}: unknown field {unknown[0]!r}; the fields are prompt, label, pair and attack")
    for name in ("prompt", "label"):
        if not isinstance(record.get(name), str) or not record[name].strip():
            raise DeltawError(f"{where}: {name} is {record.get(name)!r}; expected a non-empty string")
    for name in ("pair", "attack"):
        if record.get(name) is not None and not (isinstance(record[name], str) and record[name]):
            raise DeltawError(f"{where}: {name} is {record[name]!r}; expected a non-empty string, or leave it out")
    label = SYNONYMS.get(record["label"], record["label"])
    if label not in LABELS:
        raise DeltawError(f"{where}: label is {record['label']!r}; expected {', '.join((*LABELS, *SYNONYMS))}")
    pair = record.get("pair")
    return Prompt(record["prompt"], label, "pairs" if pair else "corpus", pair, record.get("attack"))


def _check_pairs(prompts: Sequence[Prompt], places: Sequence[int], path: Path) -> None:
    counts = Counter((prompt.pair, prompt.attack, prompt.label) for prompt in prompts if prompt.pair is not None)
    for prompt, place in zip(prompts, places, strict=True):
        if prompt.pair is None:
            continue
        sides = [counts[(prompt.pair, prompt.attack, label)] for label in LABELS]
        if sides != [1, 1]:
            with_attack = f" with the attack {prompt.attack}" if prompt.attack else ""
            raise DeltawError(
                f"{path}, line {place}: the pair {prompt.pair!r}{with_attack} has {sides[0]} allowed and {sides[1]} "
                "forbidden prompts; expected one of each"
            )
