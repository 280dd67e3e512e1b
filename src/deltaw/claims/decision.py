"""From measurements to words: three questions of every claim, each answered for itself, over seeds.

    seen       the paper's statement about the tuned model beside the base model, or beside its reference value
    shape      more of it than the null keeps? Asked only where the null has a mean of its own
    other      more of it than the same protocol's `other` shows, which teaches another answer that depends on the text?
    constant   more of it than its `constant` shows, which teaches one harmless answer to all forbidden prompts?

Each question is about one difference a seed, on the claim's scale: the value minus the reference, the null's mean, or
the control's value in the same seed. Its intervals are Student's t over seeds, and its words are

    same (of seen: absent)     the 90 % interval lies inside ± the margin. This goes before the others.
    more (seen)                the 95 % interval lies on the statement's side of zero, the mean is at least the smallest
                               effect, and the two-sided p after Holm over the primary claims' same question is at most
                               0.05. Claims of the second table have no family: theirs is p as it is.
    less (opposite)            the same on the other side
    unclear                    all else, with the seeds that would decide

A word is offered only if its power with as many seeds is at least 0.8, at the spread that the statement plans with:
`same` at a true difference of zero, `more` and `less` at twice the smallest effect. There is no total of words.

One seed explores: it has values, and no words.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np

from deltaw.claims.lookup import Collected, Ledger, SeedValue, mean_of
from deltaw.claims.statements import CONTROLS, PRIMARY, STATEMENTS, Statement, sign_of
from deltaw.results import Answer, Claim, Measurement
from deltaw.results.claim import Null
from deltaw.statistics import (
    FloatArray,
    Interval,
    equivalence_power,
    equivalence_test,
    from_scale,
    holm,
    seeds_needed,
    t_interval,
    t_power,
    t_test,
    to_scale,
)
from deltaw.statistics.power import ALPHA, POWER, fewest

QUESTIONS = ("seen", "shape", *CONTROLS)
WORDS = {"seen": ("seen", "opposite", "absent"), **dict.fromkeys(QUESTIONS[1:], ("more", "less", "same"))}
"""By question: the words of an effect on the statement's side, of one on the other side, and of none."""

UNCLEAR = "unclear"
CONTROL = "control:"
MOST_SEEDS = 1000
_RESOLUTION = 1e-12  # a share of exactly 0 or 1 is moved this far in: its log-odds are infinite


@dataclass(frozen=True)
class Question:
    """One question of one claim: its differences (n,) on the claim's scale, one a seed. why: what is missing."""

    statement: Statement
    name: str
    differences: FloatArray
    why: str = ""

    @property
    def p(self) -> float | None:
        """Two-sided, of a mean of zero."""
        return t_test(self.differences) if len(self.differences) > 1 and not self.why else None


def decide(
    measurements: Sequence[Measurement], exploratory: bool, statements: Sequence[Statement] = STATEMENTS
) -> list[Claim]:
    """The answers to every statement's questions from a study's measurements."""
    ledger = Ledger(measurements)
    collected = [ledger.collect(statement) for statement in statements]
    return answered(list(zip(statements, collected, strict=True)), exploratory)


def answered(collected: Sequence[tuple[Statement, Collected]], exploratory: bool) -> list[Claim]:
    """The answers to a family of statements; Holm's correction is over the primary ones, question by question."""
    asked = [questions_of(statement, of_statement) for statement, of_statement in collected]
    adjusted = adjust(question for questions in asked for question in questions)
    return [
        claim_of(statement, of_statement, [answer(question, adjusted) for question in questions], exploratory)
        for (statement, of_statement), questions in zip(collected, asked, strict=True)
    ]


def questions_of(statement: Statement, collected: Collected) -> list[Question]:
    """The questions that a statement asks, with the differences that were measured."""
    values = collected.values
    if not values:
        return []
    sides: list[tuple[str, Mapping[int, float]]] = []
    if not statement.only_controls:
        sides.append(("seen", dict.fromkeys(values, statement.reference)))
    if statement.shape is not None:
        kind = statement.shape
        sides.append(("shape", {seed: v.nulls[kind].mean for seed, v in values.items() if kind in v.nulls}))
    sides += [(name, {seed: v.value for seed, v in of.items()}) for name, of in collected.controls.items()]
    return [_question(statement, name, collected, beside) for name, beside in sides]


def _question(statement: Statement, name: str, collected: Collected, beside: Mapping[int, float]) -> Question:
    values = collected.values
    both = [seed for seed in values if seed in beside]
    own = on_scale([values[seed].value for seed in both], statement)
    differences = own - on_scale([beside[seed] for seed in both], statement)
    why = ""
    if not both:
        why = "not measured"
    elif collected.without or len(both) < len(values):
        why = f"measured in {len(both)} of {len(values) + collected.without} seeds only"
    return Question(statement, name, differences, why)


def adjust(questions: Iterable[Question]) -> dict[tuple[str, str], float]:
    """p after Holm by (statement's id, question), of the primary statements."""
    families: dict[str, dict[tuple[str, str], float]] = {}
    for question in questions:
        if question.statement.primary and question.p is not None:
            families.setdefault(question.name, {})[question.statement.id, question.name] = question.p
    adjusted: dict[tuple[str, str], float] = {}
    for of_question in families.values():
        adjusted |= dict(zip(of_question, map(float, holm(list(of_question.values()))), strict=True))
    return adjusted


def answer(question: Question, adjusted: Mapping[tuple[str, str], float]) -> Answer:
    """The word of one question, with its numbers. adjusted: p after Holm by (statement's id, question)."""
    statement, differences = question.statement, question.differences
    n = len(differences)
    mean = float(differences.mean()) if n else None
    common: dict[str, Any] = {"question": question.name, "value": mean, "n": n or None}
    if n < 2:
        return Answer(**common, why=question.why or "one seed explores; it has no words")
    interval, p = t_interval(differences), t_test(differences)
    p_adjusted = adjusted.get((statement.id, question.name))
    common |= {"low": interval.low, "high": interval.high, "p": p, "p_adjusted": p_adjusted}
    if question.why:
        return Answer(**common, why=question.why)
    word, why = word_of(question, interval, p if p_adjusted is None else p_adjusted)
    needed = seeds_that_decide(question) if word == UNCLEAR else None
    if word == UNCLEAR:
        seeds = f"about {needed} seeds" if needed else f"more than {MOST_SEEDS} seeds"
        why += f"; {seeds} would decide, were mean and spread as measured"
    return Answer(**common, word=word, why=why, seeds_needed=needed)


def word_of(question: Question, interval: Interval, p: float) -> tuple[str, str]:
    """(word, why) of at least two seeds. interval: 95 %. p: two-sided, after multiplicity."""
    statement, values = question.statement, question.differences
    ahead, behind, none = WORDS[question.name]
    mean, offered = float(values.mean()), words_offered(statement, len(values))
    if equivalence_test(values, statement.margin) <= ALPHA:
        if none in offered[question.name]:
            return none, "the 90 % interval lies within the margin"
        return UNCLEAR, f"within the margin, but {len(values)} seeds are too few for the word “{none}”"
    side = sign_of(statement.direction) * mean
    apart = interval.low > 0 or interval.high < 0
    word = ahead if side > 0 else behind
    if not apart:
        return UNCLEAR, "the interval holds zero and reaches beyond the margin"
    if abs(mean) < statement.smallest_effect:
        return UNCLEAR, "the mean is smaller than the smallest effect, and the interval reaches beyond the margin"
    if p > ALPHA:
        return UNCLEAR, f"p = {p:.2g} after Holm over the primary claims"
    if word not in offered[question.name]:
        return UNCLEAR, f"apart from zero, but {len(values)} seeds are too few for the word “{word}”"
    return word, "the 95 % interval lies beyond zero, and the mean beyond the smallest effect"


def family_size(statement: Statement) -> int:
    """How many tests Holm's first step counts for one question of a statement."""
    return len(PRIMARY) if statement.primary else 1


def word_power(statement: Statement, seeds: int) -> tuple[float, float]:
    """(of `more` at twice the smallest effect, at Holm's first step; of `same` at zero), at the planned spread."""
    level = ALPHA / family_size(statement)
    more = t_power(2 * statement.smallest_effect, statement.spread, seeds, level)
    return more, equivalence_power(statement.margin, statement.spread, seeds)


@lru_cache(maxsize=4096)
def words_offered(statement: Statement, seeds: int) -> dict[str, tuple[str, ...]]:
    """By question, the words that have a power of at least 0.8 with so many seeds."""
    more, same = word_power(statement, seeds)
    return {
        name: (*(words[:2] if more >= POWER else ()), *(words[2:] if same >= POWER else ()))
        for name, words in WORDS.items()
    }


def seeds_that_decide(question: Question) -> int | None:
    """The fewest seeds that give some word with power 0.8, were mean and spread as measured; None: over 1000."""
    statement, values = question.statement, question.differences
    mean, sd = abs(float(values.mean())), float(values.std(ddof=1))
    least = len(values) + 1
    counts = []
    if mean >= statement.smallest_effect:
        level = ALPHA / family_size(statement)
        counts.append(seeds_needed(mean, sd, level, least=least, most=MOST_SEEDS))
    if mean < statement.margin:
        counts.append(fewest(lambda n: equivalence_power(statement.margin, sd, n, mean) >= POWER, least, MOST_SEEDS))
    return min((count for count in counts if count is not None), default=None)


def claim_of(statement: Statement, collected: Collected, answers: Sequence[Answer], exploratory: bool) -> Claim:
    """A statement's value with its interval, its nulls and controls, and its answers."""
    common: dict[str, Any] = {
        "id": statement.id,
        "observation": statement.observation,
        "statement": statement.text,
        "statistic": statement.query.statistic,
        "site": statement.site,
        "primary": statement.primary,
        "exploratory": exploratory,
        "smallest_effect": statement.smallest_effect,
        "margin": statement.margin,
        "direction": statement.direction,
        "scale": statement.scale,
    }
    values = list(collected.values.values())
    if not values:
        return Claim(**common)
    value, interval, n, unit = summary(statement, values)
    drawn = {kind: [v.nulls[kind] for v in values if kind in v.nulls] for kind in statement.nulls}
    nulls = [mean_of(kind, of_seeds) for kind, of_seeds in drawn.items() if of_seeds]
    nulls += [_as_null(name, statement, list(of.values())) for name, of in collected.controls.items() if of]
    if interval is not None:
        common |= {"low": interval.low, "high": interval.high}
    return Claim(**common, value=value, n=n, n_unit=unit, nulls=tuple(nulls), answers=tuple(answers))


def on_scale(values: Sequence[float], statement: Statement) -> FloatArray:
    """Values on the statement's scale; shares of exactly 0 or 1 are moved off the ends of a logit scale."""
    numbers = np.asarray(values, dtype=np.float64)
    if statement.scale == "logit":
        numbers = np.clip(numbers, _RESOLUTION, 1 - _RESOLUTION)
    return to_scale(numbers, statement.scale)


def _as_null(control: str, statement: Statement, values: Sequence[SeedValue]) -> Null:
    value, interval, _, _ = summary(statement, values)
    ends = {} if interval is None else {"low": interval.low, "high": interval.high}
    return Null(kind=f"{CONTROL}{control}", mean=value, **ends)


def summary(statement: Statement, values: Sequence[SeedValue]) -> tuple[float, Interval | None, int | None, str]:
    """(value, interval, n, unit): over seeds where there are several, else over the one seed's prompts; in the
    statistic's unit, averaged on the statement's scale.
    """
    if len(values) > 1:
        scale = statement.scale
        scaled = on_scale([value.value for value in values], statement)
        interval = t_interval(scaled)
        mean, low, high = from_scale([scaled.mean(), interval.low, interval.high], scale)
        return float(mean), Interval(float(low), float(high)), len(values), "seed"
    (only,) = values
    if only.interval is None:
        return only.value, None, 1, "seed"
    return only.value, only.interval, only.n, "prompt"


def without_words(claim: Claim, why: str) -> Claim:
    """The claim with its numbers, and no words: what is asked of one pair of checkpoints."""
    kept = tuple(replace(a, word=None, why=why, p=None, p_adjusted=None, seeds_needed=None) for a in claim.answers)
    return replace(claim, answers=kept)


def planned_seeds(statement: Statement, most: int = 64) -> int | None:
    """The fewest seeds with which all words are offered; None: more than `most`."""
    return fewest(lambda seeds: min(word_power(statement, seeds)) >= POWER, 2, most)
