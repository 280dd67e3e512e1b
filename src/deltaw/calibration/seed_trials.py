"""The rule over seeds, tried on seeds of which the truth is known: one question of one claim, a claim beside a control,
and the whole family of primary claims with Holm's correction.

Differences are in standard deviations between seeds, as the plan reckons with them. Smallest effect and margin are as
large in these as those of Observation 1, the widest of the primary table.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from deltaw.calibration.planted_data import Generator
from deltaw.calibration.trials import Cell, Trial, Trials
from deltaw.claims.decision import answered
from deltaw.claims.lookup import Collected, SeedValue
from deltaw.claims.statements import OTHER, PRIMARY, Query, Statement
from deltaw.results import Answer
from deltaw.statistics import FloatArray

SEEDS = 8
"""As many as the run that decides has at the least."""

CLAIMS = len(PRIMARY)
"""Of the family over which multiplicity is handled."""

EDGE = max(statement.smallest_effect / statement.spread for statement in PRIMARY if statement.observation == 1)
"""Smallest effect and margin, in standard deviations between seeds."""

_PLANTED = Statement(
    id="planted",
    observation=1,
    text="the mean is greater than 0",
    paper="",
    query=Query("planted", ("model",)),
    smallest_effect=EDGE,
    margin=EDGE,
    spread=1.0,
    controls=(OTHER,),
)
Measure = Callable[[Any, Generator], Trials]


def _collected(values: FloatArray, beside: FloatArray | None = None) -> Collected:
    own, other = (
        {seed: SeedValue(float(value), None, None, {}) for seed, value in enumerate(numbers)}
        for numbers in (values, () if beside is None else beside)
    )
    return Collected(own, {} if beside is None else {OTHER: other})


def _answer(collected: Collected, question: str, statement: Statement = _PLANTED) -> Answer:
    (claim,) = answered([(statement, collected)], exploratory=False)
    return next(answer for answer in claim.answers if answer.question == question)


def _words(name: str, answer: Answer) -> Trials:
    """Whether it says that there is a difference, on either side, and whether it says that there is none."""
    return {
        f"{name}, a difference": Trial(answer.word in ("seen", "more"), answer.word in ("opposite", "less")),
        f"{name}, no difference": Trial(answer.word in ("absent", "same")),
    }


def of_seeds(values: FloatArray, _: Generator) -> Trials:
    """The words of one question alone."""
    return _words("one claim", _answer(_collected(values), "seen"))


def of_pairs(pairs: FloatArray, _: Generator) -> Trials:
    """The words of a claim beside a control; pairs (n, 2), the claim's values and the control's."""
    return _words("one claim beside a control", _answer(_collected(pairs[:, 0], pairs[:, 1]), OTHER))


def of_seeds_added(values: FloatArray, _: Generator) -> Trials:
    """The words over all seeds, twice `SEEDS`; and of two looks, where all seeds say what the first leave unclear."""
    first, whole = (_answer(_collected(part), "seen") for part in (values[:SEEDS], values))
    twice = whole if first.word == "unclear" else first
    return {**_words("as many seeds again", whole), **_words("eight seeds, or all where unclear", twice)}


@dataclass(frozen=True, eq=False)
class Family:
    """Seeds' values (CLAIMS, n), and which claims are true."""

    values: FloatArray
    true: np.ndarray[Any, np.dtype[np.bool_]]


def of_family(at: Family, _: Generator) -> Trials:
    """Whether any primary claim that is not true is said to be, or its opposite: the family-wise error rate."""
    statements = [replace(_PLANTED, id=f"planted/{number}", primary=True) for number in range(CLAIMS)]
    claims = answered(
        [(statement, _collected(values)) for statement, values in zip(statements, at.values, strict=True)],
        exploratory=False,
    )
    words = [claim.answers[0].word for claim in claims]
    wrong = [word in ("seen", "opposite") for word, true in zip(words, at.true, strict=True) if not true]
    right = [word == "seen" for word, true in zip(words, at.true, strict=True) if true]
    trials = {f"{CLAIMS} claims, any wrong": Trial(any(wrong))}
    if right:
        trials[f"{CLAIMS} claims, a true one of them"] = Trial(right[0])
    return trials


def _pairs(rng: Generator, more: float = 0.0, noise: float = 1.0, common: float = 0.5) -> FloatArray:
    """(SEEDS, 2): a claim and a control whose difference has mean `more` and a standard deviation of 1 if the noise of
    both is equal; the control's own noise is `noise` times that of the claim. `common`: a seed's variance in both.
    """
    shared = rng.standard_normal((SEEDS, 1)) * common**0.5
    own = rng.standard_normal((SEEDS, 2)) * np.array([1.0, noise]) / 2**0.5
    return np.asarray(shared + own + np.array([more, 0.0]))


def _normal(rng: Generator, mean: float = 0.0, seeds: int = SEEDS) -> FloatArray:
    return rng.standard_normal(seeds) + mean


def _two_tunings(rng: Generator) -> FloatArray:
    """Four bases with two tunings each, taken for eight seeds; half of the variance is the base's."""
    return np.asarray(np.repeat(rng.standard_normal(SEEDS // 2), 2) + rng.standard_normal(SEEDS)) / 2**0.5


def _family(rng: Generator, share: float, effect: float = 3.0, common: float = 0.0) -> Family:
    """`share` of the claims have a mean of `effect`; `common` of the variance is a seed's own, in all claims alike."""
    true = np.arange(CLAIMS) < round(share * CLAIMS)
    noise = rng.standard_normal((CLAIMS, SEEDS)) * (1 - common) ** 0.5 + rng.standard_normal(SEEDS) * common**0.5
    return Family(noise + effect * true[:, None], true)


def seed_cells() -> Iterable[Cell]:
    """The cells of the rule over seeds."""

    def cell(condition: str, build: Callable[[Generator], Any], measure: Measure, *true: str, **more: Any) -> Cell:
        return Cell("seeds", condition, build, measure, frozenset(true), **more)

    difference, none = "a difference", "no difference"
    yield cell("no difference, normal seeds", _normal, of_seeds, difference)
    yield cell("a difference as large as the margin", partial(_normal, mean=EDGE), of_seeds, none)
    yield cell("heavy tails (t with 3 degrees of freedom)", lambda rng: rng.standard_t(3, size=SEEDS), of_seeds)
    yield cell("skewed to the right (exponential)", lambda rng: rng.exponential(size=SEEDS) - 1, of_seeds)
    yield cell("skewed to the left (exponential)", lambda rng: 1 - rng.exponential(size=SEEDS), of_seeds)
    yield cell("two tunings of each of four bases taken for eight seeds", _two_tunings, of_seeds)
    yield cell("no difference, sixteen seeds", partial(_normal, seeds=2 * SEEDS), of_seeds_added, difference)
    yield cell("claim and control of one law", _pairs, of_pairs, difference)
    yield cell(
        "claim and control of one law, the control three times as noisy", partial(_pairs, noise=3), of_pairs, difference
    )
    yield cell("a control three times as noisy, at the margin", partial(_pairs, more=EDGE, noise=3), of_pairs, none)
    yield cell("no claim is true", partial(_family, share=0.0), of_family, "any wrong")
    yield cell("a quarter of the claims true", partial(_family, share=0.25), of_family, "any wrong")
    alike = partial(_family, share=0.25, common=0.5)
    yield cell("a quarter true, half of a seed's variance common to all claims", alike, of_family, "any wrong")
    for effect in (0.0, 0.5, 1.0, 1.5, 2.0, 3.0):
        planted = {"effect": effect, "unit": "sd between seeds"}
        yield cell(f"mean {effect} sd", partial(_normal, mean=effect), of_seeds, **planted)
        yield cell(f"beside a control, {effect} sd more", partial(_pairs, more=effect), of_pairs, **planted)
        again = partial(_normal, mean=effect, seeds=2 * SEEDS)
        yield cell(f"of sixteen, mean {effect} sd", again, of_seeds_added, **planted)
