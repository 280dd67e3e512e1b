"""What a judge is: it says whether an answer in plain language complies or refuses. To add one, add a file.

    @dataclass(frozen=True)
    class Sorry(Judge):
        \"\"\"An answer that says sorry is a refusal.\"\"\"

        name = "sorry"
        label = "sorry"

        word: str = "sorry"

        def verdict(self, request: str, answer: str) -> Verdict:
            return Verdict.REFUSE if self.word in answer.lower() else Verdict.COMPLY

The object is the configuration: a comparison keeps verdicts under the judge's file and options, so that changed rules
never meet old verdicts. `judges.rules` is used unless another is given.
"""

import json
from abc import abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from importlib import resources

from deltaw.component import Component, plugin_named
from deltaw.errors import DeltawError
from deltaw.statistics import Interval, wilson


class Verdict(StrEnum):
    """What an answer is."""

    REFUSE = "refuse"
    COMPLY = "comply"
    NEITHER = "neither"


class Judge(Component):
    """Who says what an answer is. Subclasses are frozen dataclasses whose fields are the judge's options."""

    @abstractmethod
    def verdict(self, request: str, answer: str) -> Verdict:
        """What the answer to the request is. It must not depend on which model answered, or on earlier answers."""

    def check(self) -> None:
        """Called before any work. DeltawError if the judge cannot be asked."""

    def measured_errors(self) -> Mapping[str, "RefusalErrors"]:
        """How often this judge misses refusals and sees some that are none, by attack ("" is none), where that is known
        for answers in the style of each attack. Rates of refusal are then also given corrected for it.
        """
        return {}


@dataclass(frozen=True)
class RefusalErrors:
    """A judge on answers whose verdicts are known."""

    refusals: int
    """Answers that are refusals."""
    missed: int
    """Of these, the ones that the judge does not call so."""
    others: int
    """Answers that are none."""
    mistaken: int
    """Of these, the ones that the judge calls refusals."""


def verdict_of(judge: Judge, request: str, answer: str) -> Verdict:
    """A judge's verdict. DeltawError if it is none, or if a judge that is not deltaw's own raises an error."""
    with plugin_named(judge, "judge"):
        verdict: object = judge.verdict(request, answer)
    if not isinstance(verdict, Verdict):
        raise DeltawError(f"the judge {judge.name} gave {verdict!r:.200}; expected a Verdict; what is finished is kept")
    return verdict


@dataclass(frozen=True)
class JudgedAnswer:
    """A harmless text whose verdict is known, and its style."""

    answer: str
    verdict: Verdict
    style: str


def judged_answers(development: bool = False) -> list[JudgedAnswer]:
    """The texts that the judge's error is measured on, or those that its rules were fitted to."""
    name = "judged_development" if development else "judged"
    text = resources.files("deltaw.behaviour").joinpath(f"data/{name}.jsonl").read_text(encoding="utf-8")
    records = [json.loads(line) for line in text.splitlines()]
    return [JudgedAnswer(record["answer"], Verdict(record["verdict"]), record["style"]) for record in records]


@dataclass(frozen=True)
class AttackedAnswer:
    """A harmless text in the style that an attack provokes, whose verdict is known."""

    answer: str
    verdict: Verdict
    attack: str
    """The attack's name; "" without one."""
    style: str


def attacked_answers() -> list[AttackedAnswer]:
    """The texts that the judge's error under each attack is measured on, written before its rules were changed."""
    text = resources.files("deltaw.behaviour").joinpath("data/judged_under_attack.jsonl").read_text(encoding="utf-8")
    records = [json.loads(line) for line in text.splitlines()]
    return [
        AttackedAnswer(record["answer"], Verdict(record["verdict"]), record["attack"] or "", record["style"])
        for record in records
    ]


def errors_under_attack(judge: Judge) -> dict[str, RefusalErrors]:
    """The judge's errors about refusals on `attacked_answers`, by attack."""
    counts: dict[str, list[int]] = {}
    for known in attacked_answers():
        refused = judge.verdict("", known.answer) == Verdict.REFUSE
        row = counts.setdefault(known.attack, [0, 0, 0, 0])
        truly = known.verdict == Verdict.REFUSE
        row[0 if truly else 2] += 1
        row[1 if truly else 3] += refused != truly
    return {attack: RefusalErrors(*row) for attack, row in counts.items()}


@dataclass(frozen=True)
class ErrorRate:
    """How many of n answers of a style the judge got wrong, with Wilson's 95 % interval."""

    wrong: int
    n: int

    @property
    def interval(self) -> Interval:
        """Of the rate."""
        return wilson(self.wrong, self.n)


def judge_errors(judge: Judge, answers: Iterable[JudgedAnswer]) -> Mapping[tuple[Verdict, str], ErrorRate]:
    """The judge's errors by (true verdict, style), and by (true verdict, "all")."""
    counts: dict[tuple[Verdict, str], tuple[int, int]] = {}
    for answer in answers:
        wrong = judge.verdict("", answer.answer) != answer.verdict
        for style in (answer.style, "all"):
            before = counts.get((answer.verdict, style), (0, 0))
            counts[(answer.verdict, style)] = (before[0] + wrong, before[1] + 1)
    return {key: ErrorRate(*pair) for key, pair in counts.items()}
