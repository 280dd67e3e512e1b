"""From measurements to verdicts: the decision rule, over several seeds with multiplicity and power.

A claim has bars: its smallest effect of interest, the far edge of each null's band, and the far end of each control's
interval. It `holds` if its whole interval lies beyond every bar; it `fails` if the interval ends on the near side of
any; else it is `undecided`. With several seeds the interval is Student's t over seeds, on the statement's scale, and a
claim that holds has to pass two more tests:

    p            the probability, were the true mean at the bar, of seeds as far beyond it: Student's t, one-sided, of
                 the differences seed by seed from the smallest effect, each null's mean and each control. A claim says
                 that *all* of these are passed, so its p is the largest (an intersection-union test, Berger, 1982).
                 After Benjamini and Hochberg over all claims that the study could test it must be at most `LEVEL`.
    p_sign_flip  the same by the exact sign-flip test, which needs symmetry and no normal law; at most `LEVEL` as it is.
                 n seeds cannot give less than 2⁻ⁿ: four decide nothing, and over fifty claims six would not survive
                 multiplicity, which is why Benjamini–Hochberg takes the t test's.

An undecided claim with several seeds states its power, the probability that as many seeds again would decide it, and
how many seeds would with probability `POWER`; both if the true mean and spread are as measured.

One seed explores: its interval is over prompts, and a statistic of weights alone then has none, so its verdict is
`undecided` whatever its value.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from deltaw.claims.lookup import Collected, Found, Ledger, mean_of
from deltaw.claims.statements import STATEMENTS, Statement, sign_of
from deltaw.results import Claim, Measurement
from deltaw.results.schema import Null
from deltaw.statistics import (
    FloatArray,
    Interval,
    benjamini_hochberg,
    from_scale,
    seeds_needed,
    sign_flip,
    t_interval,
    t_power,
    t_test,
    to_scale,
)
from deltaw.statistics.power import ALPHA

LEVEL = 0.05
"""Of the false discovery rate, and of the sign-flip test of a single claim."""

LEAST_SEEDS = math.ceil(math.log2(1 / LEVEL))
"""With fewer seeds even one sign for all has a larger probability than `LEVEL`."""

CONTROL = "control:"
SMALLEST = "the smallest effect of interest"
_RESOLUTION = 1e-12  # a share of exactly 0 or 1 is moved this far in: its log-odds are infinite


@dataclass(frozen=True)
class Bar:
    """What a claim must clear, of several seeds, on the statement's scale and turned so that beyond is positive.

    differences: (n,) seed by seed, from the bar's middle. distance: of the mean from the edge that the interval must
    clear. sd: the spread that more seeds would average out.
    """

    name: str
    differences: FloatArray
    distance: float
    sd: float


@dataclass(frozen=True)
class Weighed:
    """A statement's numbers before multiplicity. bars, p, p_sign_flip: empty and None unless there are several seeds.

    missing: nulls and controls that were not measured, or not in every seed, and the value if some seeds have none.
    """

    statement: Statement
    value: float | None = None
    interval: Interval | None = None
    n: int | None = None
    unit: str | None = None
    nulls: tuple[Null, ...] = ()
    missing: tuple[str, ...] = ()
    bars: tuple[Bar, ...] = ()
    p: float | None = None
    p_sign_flip: float | None = None


def decide(
    measurements: Sequence[Measurement], exploratory: bool, statements: Sequence[Statement] = STATEMENTS
) -> list[Claim]:
    """A verdict on every statement from a study's measurements; multiplicity is over all that it can test."""
    ledger = Ledger(measurements)
    return verdicts([weigh(statement, ledger.collect(statement)) for statement in statements], exploratory)


def verdicts(weighed: Sequence[Weighed], exploratory: bool) -> list[Claim]:
    """The verdict on each of a family of claims."""
    adjusted = adjust(weighed)
    return [_claim(one, adjusted.get(one.statement.id), len(adjusted), exploratory) for one in weighed]


def adjust(weighed: Iterable[Weighed]) -> dict[str, float]:
    """p values after Benjamini and Hochberg, by the statement's id; of those that have one."""
    tested = {one.statement.id: one.p for one in weighed if one.p is not None}
    if not tested:
        return {}
    return dict(zip(tested, map(float, benjamini_hochberg(list(tested.values()))), strict=True))


def weigh(statement: Statement, found: Collected) -> Weighed:
    """Value, interval, nulls and p values of one statement."""
    values = list(found.values.values())
    if not values:
        return Weighed(statement)
    value, interval, n, unit = summary(statement, values)
    kinds = {kind: [one.nulls[kind] for one in values if kind in one.nulls] for kind in statement.nulls}
    nulls = [mean_of(kind, some) for kind, some in kinds.items() if some]
    controls = {f"{CONTROL}{name}": list(some.values()) for name, some in found.controls.items()}
    nulls += [_as_null(kind, statement, some) for kind, some in controls.items() if some]
    missing = tuple(kind for kind, some in kinds.items() if len(some) < len(values))
    missing += tuple(kind for kind, some in controls.items() if len(some) < len(values))
    missing += ("the value",) if found.without else ()
    common = Weighed(statement, value, interval, n, unit, tuple(nulls), missing)
    if len(values) < 2:
        return common
    bars = tuple(_bars(statement, found, nulls))
    if not bars:
        return common
    draws = np.random.default_rng(0)  # of signs; not touched up to 20 seeds, whose signs are all counted
    return replace(
        common,
        bars=bars,
        p=max(t_test(bar.differences, "greater") for bar in bars),
        p_sign_flip=max(sign_flip(bar.differences, "greater", draws).p for bar in bars),
    )


def _bars(statement: Statement, found: Collected, nulls: Sequence[Null]) -> Iterable[Bar]:
    """All bars that at least two seeds can be compared with."""
    sign, scale = sign_of(statement.direction), statement.scale

    def turned(values: Sequence[float]) -> FloatArray:
        inside = _inside(np.asarray(values, dtype=np.float64), statement)
        return sign * to_scale(inside, scale)

    own = turned([one.value for one in found.values.values()])
    mean, sd = float(own.mean()), float(own.std(ddof=1))
    smallest = sign * float(to_scale(statement.smallest_effect, scale))
    if np.isfinite(smallest):  # the end of a scale, such as a share of 0, is cleared by every value
        yield Bar(SMALLEST, own - smallest, mean - smallest, sd)
    for null in nulls:
        beside = _beside(null.kind, found)
        if len(beside) < 2:
            continue
        middle = turned(list(beside.values()))
        differences = turned([found.values[seed].value for seed in beside]) - middle
        if null.kind.startswith(CONTROL):  # its interval shrinks as the claim's own does
            distance, spread = mean - float(middle.mean()), sd + float(middle.std(ddof=1))
        else:
            distance, spread = mean - float(turned([_edge(null, sign)])[0]), sd
        yield Bar(f"the null {null.kind}", differences, distance, spread)


def _beside(kind: str, found: Collected) -> dict[int, float]:
    """What a claim is compared with, seed by seed: a control's value, or the mean of a null."""
    if kind.startswith(CONTROL):
        return {seed: one.value for seed, one in found.controls[kind.removeprefix(CONTROL)].items()}
    return {seed: one.nulls[kind].mean for seed, one in found.values.items() if kind in one.nulls}


def _inside(values: FloatArray, statement: Statement) -> FloatArray:
    """Shares of exactly 0 or 1 moved off the ends of a logit scale; all else as it is."""
    return np.clip(values, _RESOLUTION, 1 - _RESOLUTION) if statement.scale == "logit" else values


def _edge(null: Null, sign: float) -> float:
    """The end of a null's band on the claim's side; its mean if it has no band."""
    edges = (null.mean, null.mean) if null.low is None or null.high is None else (null.low, null.high)
    return sign * max(sign * edge for edge in edges)


def _claim(one: Weighed, adjusted: float | None, tested: int, exploratory: bool) -> Claim:
    statement = one.statement
    common: dict[str, Any] = {
        "id": statement.id, "observation": statement.observation, "statement": statement.text,
        "statistic": statement.query.statistic, "site": statement.site, "exploratory": exploratory,
        "smallest_effect": statement.smallest_effect, "direction": statement.direction, "scale": statement.scale,
    }  # fmt: skip
    if one.value is None:
        return Claim(**common, verdict="undecided", why="this study has no measurement of it")
    verdict, why = rule(one, adjusted, tested)
    if not exploratory and (one.unit != "seed" or (one.n or 0) < 2):
        verdict, why = "undecided", f"of this study's seeds only one has it, whose prompts alone say: {why}"
    power, needed = None, None
    if verdict == "undecided" and one.bars and adjusted is not None and not one.missing:
        power, needed = outlook(one, adjusted)
        why += f"; power {power:.2f}, " + (f"about {needed} seeds would decide" if needed else "over 1000 seeds needed")
    if one.interval is not None:
        common |= {"low": one.interval.low, "high": one.interval.high}
        common["beats"] = tuple(_beaten(one, one.interval))
    return Claim(
        **common, value=one.value, n=one.n, n_unit=one.unit, nulls=one.nulls, verdict=verdict, why=why,
        p=one.p, p_sign_flip=one.p_sign_flip, p_adjusted=adjusted, power=power, seeds_needed=needed,
    )  # fmt: skip


def rule(one: Weighed, adjusted: float | None, tested: int) -> tuple[str, str]:
    """(verdict, why) of a claim with a value: its bars, then what it lacks, then p after multiplicity, then signs."""
    statement = one.statement
    verdict, why = judge(one.value or 0.0, one.interval, statement.smallest_effect, one.nulls, statement.direction)
    if verdict != "holds":
        return verdict, why
    if one.missing:
        return "undecided", f"not compared with what was not measured, or not in every seed: {', '.join(one.missing)}"
    if adjusted is None or one.p_sign_flip is None:  # one seed, whose prompts say it
        return "holds", why
    after = f"p = {adjusted:.2g} after Benjamini–Hochberg over {tested} claims"
    if adjusted > LEVEL:
        return "undecided", f"{why}, but {after}"
    if one.p_sign_flip > LEVEL:
        return "undecided", f"{why}, but the signs of {one.n} seeds alone give p = {one.p_sign_flip:.2g}"
    return "holds", f"{why}; {after}"


def outlook(one: Weighed, adjusted: float) -> tuple[float, int | None]:
    """(power, seeds needed) of an undecided claim, were its true mean and spread as measured.

    Power is that of as many seeds again; the seeds needed have `POWER`. Where the mean lies beyond every bar this is
    about holding, and all bars count; else about failing, for which the nearest to it does. Multiplicity enters by the
    level that Benjamini and Hochberg leave at the claim's rank.
    """
    n = one.n or 0
    near = [bar for bar in one.bars if bar.distance <= 0]
    bars = near or one.bars
    alpha = ALPHA
    if not near and one.p and adjusted > 0:
        alpha = min(ALPHA, 2 * LEVEL * one.p / adjusted)
    powers = [t_power(bar.distance, bar.sd, n, alpha) for bar in bars]
    least = 2 if near else LEAST_SEEDS
    counts = [seeds_needed(bar.distance, bar.sd, alpha, least=least) for bar in bars]
    reached = [count for count in counts if count is not None]
    if near:
        return max(powers), min(reached, default=None)
    return min(powers), max(reached) if len(reached) == len(counts) else None


def bars_of(smallest_effect: float, nulls: Iterable[Null], direction: str) -> Mapping[str, float]:
    """What a claim's interval must clear, by name, turned so that beyond is larger."""
    sign = sign_of(direction)
    return {SMALLEST: sign * smallest_effect, **{f"the null {null.kind}": sign * _edge(null, sign) for null in nulls}}


def judge(
    value: float, interval: Interval | None, smallest_effect: float, nulls: Iterable[Null], direction: str
) -> tuple[str, str]:
    """(verdict, why) of a value with its interval against its bars.

    A null without a band counts as its mean. Without an interval nothing is decided; `why` says where the value is.
    """
    sign, bars = sign_of(direction), bars_of(smallest_effect, nulls, direction)
    if interval is None:
        near = [name for name, bar in bars.items() if sign * value <= bar]
        place = f"not beyond {', '.join(near)}" if near else "beyond the smallest effect and every null"
        return "undecided", f"one seed gives no interval; the value lies {place}"
    worst, best = sorted((sign * interval.low, sign * interval.high))
    unreached = [name for name, bar in bars.items() if best <= bar]
    if unreached:
        return "fails", f"the interval does not reach beyond {', '.join(unreached)}"
    straddled = [name for name, bar in bars.items() if worst <= bar]
    if straddled:
        return "undecided", f"the interval reaches across {', '.join(straddled)}"
    return "holds", "the interval lies beyond the smallest effect and every null"


def _beaten(one: Weighed, interval: Interval) -> Iterable[str]:
    """The nulls and controls beyond which the whole interval lies."""
    sign = sign_of(one.statement.direction)
    worst = min(sign * interval.low, sign * interval.high)
    return (null.kind for null in one.nulls if worst > sign * _edge(null, sign))


def _as_null(kind: str, statement: Statement, found: Sequence[Found]) -> Null:
    value, interval, _, _ = summary(statement, found)
    if interval is None:
        return Null(kind=kind, mean=value)
    return Null(kind=kind, mean=value, low=interval.low, high=interval.high)


def summary(statement: Statement, found: Sequence[Found]) -> tuple[float, Interval | None, int | None, str]:
    """(value, interval, n, unit): over seeds where there are several, else over the one seed's prompts; on the
    statement's scale.
    """
    if len(found) > 1:
        scale = statement.scale
        values = _inside(np.array([one.value for one in found]), statement)
        return float(from_scale(to_scale(values, scale).mean(), scale)), t_interval(values, scale), len(values), "seed"
    one = found[0]
    if one.interval is None:
        return one.value, None, 1, "seed"
    return one.value, one.interval, one.n, "prompt"
