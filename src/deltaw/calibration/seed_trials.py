"""The rule over seeds, tried on seeds of which the truth is known: one claim, a claim beside a null or a control, and
the whole family of claims with Benjamini–Hochberg.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from deltaw.calibration.planted_data import Generator
from deltaw.calibration.trials import Cell, Trial, Trials
from deltaw.claims.decision import LEVEL, Weighed, adjust, judge, rule, weigh
from deltaw.claims.lookup import Collected, Found
from deltaw.claims.statements import STATEMENTS, Query, Statement
from deltaw.results.schema import Null
from deltaw.statistics import FloatArray

SEEDS = 6
"""As many as `standard` has at the least."""

CLAIMS = len(STATEMENTS)
"""Of the family over which multiplicity is handled."""

_STATEMENT = Statement(
    "planted", 1, "the mean is greater than 0", "", Query("planted", ("model",)), smallest_effect=0.0
)
Measure = Callable[[Any, Generator], Trials]
NONE = -1e9
"""A smallest effect that is no bar, so that only the null or the control is."""

PROMPTS_END = 1.96 * 0.25
"""How far an interval over prompts reaches, in sd of a seed: prompts have a sixteenth of its variance."""

_BAND = Null(kind="rotation", mean=0.0, low=-1.959964, high=1.959964)


def _collected(values: FloatArray, nulls: Mapping[str, Null] | None = None) -> Collected:
    return Collected({seed: Found(float(v), None, None, dict(nulls or {})) for seed, v in enumerate(values)}, {})


def _verdict(weighed: Weighed) -> Trial:
    """Whether the one claim holds; on the other side, whether it fails."""
    verdict, _ = rule(weighed, weighed.p, 1)
    return Trial(verdict == "holds", verdict == "fails")


def of_seeds(values: FloatArray, _: Generator) -> Trials:
    """The three parts of the rule for one claim: mean greater than 0."""
    weighed = weigh(_STATEMENT, _collected(values))
    verdict, _why = judge(weighed.value or 0.0, weighed.interval, 0.0, (), "greater")
    interval = weighed.interval
    below = interval is not None and interval.high < 0
    signs = weighed.p_sign_flip is not None and weighed.p_sign_flip <= LEVEL
    return {
        "one claim, t interval": Trial(verdict == "holds", below),
        "one claim, sign_flip": Trial(signs),
        "one claim, whole rule": _verdict(weighed),
    }


def of_seeds_added(values: FloatArray, _: Generator) -> Trials:
    """The verdict over all seeds, as many again as the first `SEEDS`; and two ways to take either look for a finding:
    where the first seeds leave the claim undecided, all seeds say, or those that were added.
    """
    first, added, whole = (_verdict(weigh(_STATEMENT, _collected(v))) for v in (values[:SEEDS], values[SEEDS:], values))
    undecided = not (first.beyond or first.other_side)
    return {
        "one claim, as many seeds again, whole rule": whole,
        "one claim, six seeds, or all where undecided, whole rule": whole if undecided else first,
        "one claim, six seeds, or those added where undecided, whole rule": added if undecided else first,
    }


def of_seeds_beside_a_null(values: FloatArray, _: Generator) -> Trials:
    """A claim that must lie beyond a null's band, of which each seed is a draw."""
    statement = replace(_STATEMENT, nulls=("rotation",), smallest_effect=NONE)
    weighed = weigh(statement, _collected(values, {"rotation": _BAND}))
    return {"one claim beside a null's band, whole rule": _verdict(weighed)}


def of_seeds_beside_a_measured_null(pairs: FloatArray, _: Generator) -> Trials:
    """A claim that must lie beyond what was measured with something else in its place, in the same seeds: an interval
    over prompts in each; pairs (n, 2), the claim's values and the null's.
    """
    statement = replace(_STATEMENT, nulls=("random_vectors",), smallest_effect=NONE)
    found = {}
    for seed, (value, mean) in enumerate(pairs):
        low, high = float(mean - PROMPTS_END), float(mean + PROMPTS_END)
        null = Null(kind="random_vectors", mean=float(mean), low=low, high=high)
        found[seed] = Found(float(value), None, None, {null.kind: null})
    return {"one claim beside a measured null, whole rule": _verdict(weigh(statement, Collected(found, {})))}


def of_seeds_beside_a_control(pairs: FloatArray, _: Generator) -> Trials:
    """A claim that must lie beyond a control; pairs (n, 2), the claim's values and the control's."""
    statement = replace(_STATEMENT, controls=("other",), smallest_effect=NONE)
    values = _collected(pairs[:, 0])
    weighed = weigh(statement, Collected(values.values, {"other": _collected(pairs[:, 1]).values}))
    return {
        "one claim beside a control, t test of the pairs": Trial(weighed.p is not None and weighed.p <= LEVEL / 2),
        "one claim beside a control, whole rule": _verdict(weighed),
    }


@dataclass(frozen=True, eq=False)
class Family:
    """Seeds' values (CLAIMS, n), and which claims are true."""

    values: FloatArray
    true: np.ndarray[Any, np.dtype[np.bool_]]


def of_family(at: Family, rng: Generator) -> Trials:
    """Whether a discovery, drawn at random from those of the family, is false: its rate is the false discovery rate."""
    weighed = [
        weigh(replace(_STATEMENT, id=f"planted/{number}"), _collected(values))
        for number, values in enumerate(at.values)
    ]
    adjusted = adjust(weighed)
    by_t = np.array([adjusted[one.statement.id] <= LEVEL for one in weighed])
    by_rule = np.array([rule(one, adjusted[one.statement.id], CLAIMS)[0] == "holds" for one in weighed])

    def false(found: np.ndarray[Any, np.dtype[np.bool_]]) -> bool:
        return bool(found.any()) and not at.true[rng.choice(np.flatnonzero(found))]

    return {
        f"{CLAIMS} claims, Benjamini–Hochberg": Trial(false(by_t)),
        f"{CLAIMS} claims, whole rule": Trial(false(by_rule)),
    }


def _two_tunings(rng: Generator) -> FloatArray:
    """Three bases with two tunings each, taken for six seeds; half of the variance is the base's."""
    return np.asarray(np.repeat(rng.standard_normal(SEEDS // 2), 2) + rng.standard_normal(SEEDS)) / 2**0.5


def _pairs(rng: Generator, common: float = 0.5) -> FloatArray:
    """(SEEDS, 2) of one law; `common` of the variance is a seed's own, in both alike."""
    shared = rng.standard_normal((SEEDS, 1))
    return np.asarray(common**0.5 * shared + (1 - common) ** 0.5 * rng.standard_normal((SEEDS, 2)))


def _family(rng: Generator, share: float, effect: float = 3.0, common: float = 0.0) -> Family:
    """`share` of the claims have a mean of `effect`; `common` of the variance is a seed's own, in all claims alike."""
    true = np.arange(CLAIMS) < round(share * CLAIMS)
    noise = rng.standard_normal((CLAIMS, SEEDS)) * (1 - common) ** 0.5 + rng.standard_normal(SEEDS) * common**0.5
    return Family(noise + effect * true[:, None], true)


def seed_cells() -> Iterable[Cell]:
    """The cells of the rule over seeds."""

    def cell(condition: str, build: Callable[[Generator], Any], measure: Measure, *true: str, **more: Any) -> Cell:
        return Cell("seeds", condition, build, measure, frozenset(true), **more)

    family = ("Benjamini–Hochberg", "whole rule")
    yield cell("normal seeds, mean at the bar", _normal, of_seeds, "t interval", "sign_flip", "whole rule")
    yield cell("twelve normal seeds, mean at the bar", _twice_as_many, of_seeds_added, "whole rule")
    yield cell("heavy tails (t with 3 degrees of freedom)", _heavy, of_seeds, "sign_flip")
    yield cell("skewed to the right (exponential)", lambda rng: rng.exponential(size=SEEDS) - 1, of_seeds)
    yield cell("skewed to the left (exponential)", lambda rng: 1 - rng.exponential(size=SEEDS), of_seeds)
    yield cell("two tunings of each of three bases taken for six seeds", _two_tunings, of_seeds)
    yield cell("seeds drawn from the null", _normal, of_seeds_beside_a_null)
    pairs = "claim and control of one law, half of the variance shared"
    yield cell(pairs, _pairs, of_seeds_beside_a_control, "t test of the pairs", "whole rule")
    measured = "claim and measured null of one law"
    yield cell(f"{measured}, half of the variance shared", _pairs, of_seeds_beside_a_measured_null, "whole rule")
    apart = partial(_pairs, common=0.0)
    yield cell(f"{measured}, none of it shared", apart, of_seeds_beside_a_measured_null, "whole rule")
    yield cell("no claim is true", partial(_family, share=0.0), of_family, *family)
    yield cell("a quarter of the claims true", partial(_family, share=0.25), of_family, *family)
    alike = partial(_family, share=0.25, common=0.5)
    yield cell("a quarter true, half of a seed's variance common to all claims", alike, of_family)
    for effect in (0.5, 1.0, 1.5, 2.0):
        build = partial(_normal, mean=effect)
        yield cell(f"mean {effect} sd beyond the bar", build, of_seeds, effect=effect, unit="sd of a seed")
        again = partial(_twice_as_many, mean=effect)
        yield cell(f"of twelve, {effect} sd beyond the bar", again, of_seeds_added, effect=effect, unit="sd of a seed")


def _normal(rng: Generator, mean: float = 0.0) -> FloatArray:
    return rng.standard_normal(SEEDS) + mean


def _twice_as_many(rng: Generator, mean: float = 0.0) -> FloatArray:
    return rng.standard_normal(2 * SEEDS) + mean


def _heavy(rng: Generator) -> FloatArray:
    return rng.standard_t(3, size=SEEDS)
