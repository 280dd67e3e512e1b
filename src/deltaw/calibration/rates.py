"""How often the tests of the claims find what is not there, and how often what is.

Each cell of `conditions` is drawn many times; on every draw the tests are made by the study's own functions. Where the
null is true by construction the rate is a false-positive rate and has a nominal level. Under a null that a test does
not assume it shows what the test may take for a finding: that a control must be beaten too is for this. On a planted
effect it is the power. Each draw has a generator of its own, keyed by seed, cell and number, so that rates do not
depend on order or processes. `tables` and `records` are what `make calibration` writes.
"""

import multiprocessing
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np

from deltaw.calibration.causal_trials import SWEEP_DRAWS
from deltaw.calibration.scenarios import cells
from deltaw.calibration.seed_trials import CLAIMS
from deltaw.calibration.trials import Cell, Trials, merged
from deltaw.results import markdown_table
from deltaw.statistics import Interval, wilson

DRAWS, POWER_DRAWS = 2000, 500
"""Of a cell in which there is nothing to find, and of one with a planted effect."""

CONFIDENCE = 0.99
"""Of a rate's interval: with some hundred rates, 95 % would put five beside their level by chance."""

BAND_LEVEL = 0.025
"""The share of a null beyond its 95 % band on one side."""

LEVELS = {
    "carried_null_minus_column, random_split": 1 / (SWEEP_DRAWS + 1),
    "extrapolation_log_odds, random_direction": 1 / (SWEEP_DRAWS + 1),
    "refusal_returned, random_direction": 1 / (SWEEP_DRAWS + 1),
    "one claim, no difference": 0.05,
    "one claim beside a control, no difference": 0.05,
    f"{CLAIMS} claims, any wrong": 0.05,
}
"""Of the tests that are no bands, or whose bands have fewer draws than 39."""


@dataclass(frozen=True)
class Rate:
    """How often one test found something in one cell.

    effect, unit: what was planted, None if nothing. by_construction: whether its null is true. level: the nominal one.
    beyond: of `draws`, how many were found on the claim's side; other_side: on the other.
    """

    family: str
    condition: str
    test: str
    effect: float | None
    unit: str
    by_construction: bool
    level: float
    draws: int
    beyond: int
    other_side: int

    @property
    def value(self) -> float:
        """The rate on the claim's side."""
        return self.beyond / self.draws

    @property
    def interval(self) -> Interval:
        """Wilson's, for the rate on the claim's side."""
        return wilson(self.beyond, self.draws, CONFIDENCE)

    @property
    def finding(self) -> str:
        """Whether it finds "too often" or "rarely": the level lies outside the interval. Else, and for power, ""."""
        if self.effect is not None:
            return ""
        return "too often" if self.interval.low > self.level else "rarely" if self.interval.high < self.level else ""


def rates_of(cell: Cell, draws: int, seed: int) -> list[Rate]:
    """The rates of a cell's tests in `draws` draws."""
    words, outcomes = zlib.crc32(cell.name.encode()), []
    for number in range(draws):
        rng = np.random.default_rng([seed, words, number])
        outcomes.append(cell.measure(cell.build(rng), rng))
    return [_rate(cell, test, outcomes) for test in merged(outcomes)]


def _rate(cell: Cell, test: str, outcomes: Sequence[Trials]) -> Rate:
    trials = [outcome[test] for outcome in outcomes if test in outcome]
    return Rate(
        family=cell.family,
        condition=cell.condition,
        test=test,
        effect=cell.effect,
        unit=cell.unit,
        by_construction=test.rpartition(", ")[2] in cell.true,
        level=LEVELS.get(test, BAND_LEVEL),
        draws=len(trials),
        beyond=sum(trial.beyond for trial in trials),
        other_side=sum(trial.other_side for trial in trials),
    )


def calibrate(
    seed: int = 0,
    draws: int = DRAWS,
    power_draws: int = POWER_DRAWS,
    workers: int = 1,
    report: Callable[[str], None] | None = None,
) -> list[Rate]:
    """All rates, by cell. workers: processes, each with the cells that come next. report: told each cell's name."""
    work = partial(_rates_by_number, seed=seed, draws=draws, power_draws=power_draws)
    numbers = range(len(cells()))
    if workers == 1:
        return _gathered(map(work, numbers), report)
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        return _gathered(pool.imap(work, numbers), report)


def _rates_by_number(number: int, seed: int, draws: int, power_draws: int) -> list[Rate]:
    """By number, since a cell holds functions, which do not travel between processes."""
    cell = cells()[number]
    return rates_of(cell, draws if cell.effect is None else power_draws, seed)


def _gathered(of_cells: Iterable[list[Rate]], report: Callable[[str], None] | None) -> list[Rate]:
    out: list[Rate] = []
    for rates in of_cells:
        out += rates
        if report is not None and rates:
            report(f"{rates[0].family}: {rates[0].condition}")
    return out


def records(rates: Iterable[Rate]) -> list[dict[str, Any]]:
    """The rates as plain JSON values, with intervals."""
    return [
        {
            **asdict(rate),
            "level": float(rate.level),
            "rate": rate.value,
            "low": rate.interval.low,
            "high": rate.interval.high,
            "finding": rate.finding,
        }
        for rate in rates
    ]


def tables(rates: Sequence[Rate]) -> str:
    """The rates as Markdown, a family a section: first where there is nothing to find, then power."""
    parts = []
    for family in dict.fromkeys(rate.family for rate in rates):
        of_family = [rate for rate in rates if rate.family == family]
        nothing = [rate for rate in of_family if rate.effect is None]
        planted = [rate for rate in of_family if rate.effect is not None]
        parts += [f"## {family[0].upper()}{family[1:]}", markdown_table(_NOTHING, map(_false_positives, nothing))]
        if planted:
            parts += ["Planted effects:", markdown_table(_PLANTED, map(_power, planted))]
    return "\n\n".join(parts) + "\n"


_NOTHING = ("test", "condition", "null", "level", "found", "on the other side", "")
_PLANTED = ("test", "planted", "found", "on the other side")


def _false_positives(rate: Rate) -> tuple[str, ...]:
    null = "true" if rate.by_construction else "not assumed"
    finding = f"**{rate.finding}**" if rate.finding and rate.by_construction else rate.finding
    other = f"{rate.other_side / rate.draws:.3f}"
    return rate.test, rate.condition, null, f"{rate.level:.3f}", _found(rate), other, finding


def _power(rate: Rate) -> tuple[str, ...]:
    return rate.test, rate.condition, _found(rate), f"{rate.other_side / rate.draws:.3f}"


def _found(rate: Rate) -> str:
    return f"{rate.value:.3f} [{rate.interval.low:.3f}, {rate.interval.high:.3f}]"
