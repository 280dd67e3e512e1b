"""What a study measured for a statement: one number a seed, with its nulls, and the same of its controls."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from deltaw.claims.statements import Query, Statement, as_control
from deltaw.results import Measurement
from deltaw.results.claim import Null
from deltaw.statistics import Interval


@dataclass(frozen=True)
class SeedValue:
    """A query's value for one seed, its interval over prompts if it has one, and its nulls by kind."""

    value: float
    interval: Interval | None
    n: int | None
    nulls: dict[str, Null]


@dataclass(frozen=True)
class Collected:
    """By seed: what a statement is about, and the same of each control that was measured beside it.

    without: how many of the study's seeds lack a value.
    """

    values: dict[int, SeedValue]
    controls: dict[str, dict[int, SeedValue]]
    without: int = 0


class Ledger:
    """Measurements by (statistic, model, seed), and the checkpoints of each model."""

    def __init__(self, measurements: Sequence[Measurement]) -> None:
        self.lines: dict[tuple[str, str, int], list[Measurement]] = {}
        self.steps: dict[tuple[str, int], set[int]] = {}
        for line in measurements:
            if line.model is not None and line.seed is not None and line.step is not None:
                self.lines.setdefault((line.statistic, line.model, line.seed), []).append(line)
                if line.step and line.stage != "tune":  # its losses are averages that end between checkpoints
                    self.steps.setdefault((line.model, line.seed), set()).add(line.step)
        self.seeds = sorted({seed for _, seed in self.steps})

    def find(self, query: Query, model: str, seed: int) -> list[Measurement]:
        """The lines of one model that a query asks for, at the model's last or first checkpoint and no other."""
        steps = self.steps.get((model, seed))
        if not steps:
            return []
        step = max(steps) if query.step == "last" else min(steps)
        return [line for line in self._matching(query, model, seed) if line.step == step]

    def curve(self, query: Query, model: str, seed: int) -> dict[int, float]:
        """What a query asks of one model, by updates, before any too; without attacks unless it names one."""
        unattacked = replace(query, where=(("attack", None), *query.where))
        return {line.step: line.value for line in self._matching(unattacked, model, seed) if line.step is not None}

    def _matching(self, query: Query, model: str, seed: int) -> Iterator[Measurement]:
        where = {"layer": None, **dict(query.where)}
        for line in self.lines.get((query.statistic, model, seed), []):
            if all(getattr(line, name) == value for name, value in where.items()):
                yield line

    def values_of(self, query: Query) -> dict[int, SeedValue]:
        """What a query finds, by seed."""
        measured = {seed: self._look_up(query, seed) for seed in self.seeds}
        return {seed: value for seed, value in measured.items() if value is not None}

    def collect(self, statement: Statement) -> Collected:
        """All that the study measured for a statement. A control counts at seeds where the statement has a value."""
        values: dict[int, SeedValue] = {}
        controls: dict[str, dict[int, SeedValue]] = {name: {} for name in statement.controls}
        for seed in self.seeds:
            value = self._value(statement.query, statement.against, seed)
            if value is None:
                continue
            values[seed] = value
            for name in statement.controls:
                against = None if statement.against is None else as_control(name, statement.against)
                control = self._value(as_control(name, statement.query), against, seed)
                if control is not None:
                    controls[name][seed] = control
        return Collected(values, controls, len(self.seeds) - len(values))

    def _value(self, query: Query, against: Query | None, seed: int) -> SeedValue | None:
        own = self._look_up(query, seed)
        if own is None or against is None:
            return own
        other = self._look_up(against, seed)
        if other is None:
            return None
        difference, interval = own.value - other.value, None
        if own.interval and other.interval:  # as if independent: too wide, since the prompts are the same
            half = float(np.hypot(own.interval.width, other.interval.width)) / 2
            interval = Interval(difference - half, difference + half)
        return SeedValue(difference, interval, own.n, own.nulls)

    def _look_up(self, query: Query, seed: int) -> SeedValue | None:
        """The mean over the query's models and attacks; None if any of them lacks the measurement."""
        queries = [replace(query, where=(*query.where, ("attack", name)), attacks=()) for name in query.attacks]
        parts = [self.find(part, model, seed) for part in queries or [query] for model in query.models]
        if not all(parts):
            return None
        firsts = [value_in(lines) for lines in parts]
        value = float(np.mean([first.value for first in firsts]))
        intervals = [first.interval for first in firsts if first.interval is not None]
        interval = None
        if len(intervals) == len(firsts):
            # The models answer the same prompts: the mean's interval is at most the mean of the intervals.
            interval = Interval(float(np.mean([i.low for i in intervals])), float(np.mean([i.high for i in intervals])))
        kinds: dict[str, list[Null]] = {}
        for first in firsts:
            for kind, null in first.nulls.items():
                kinds.setdefault(kind, []).append(null)
        counts = [first.n for first in firsts if first.n is not None]
        nulls = {kind: mean_of(kind, of_kind) for kind, of_kind in kinds.items()}
        return SeedValue(value, interval, min(counts) if counts else None, nulls)


def value_in(lines: Sequence[Measurement]) -> SeedValue:
    """The lines of one value, a null each, as what was found."""
    first = lines[0]
    interval = None if first.low is None or first.high is None else Interval(first.low, first.high)
    nulls = {
        line.null_kind: Null(kind=line.null_kind, mean=line.null_mean, low=line.null_low, high=line.null_high)
        for line in lines
        if line.null_kind is not None and line.null_mean is not None
    }
    return SeedValue(first.value, interval, first.n, nulls)


def mean_of(kind: str, nulls: Sequence[Null]) -> Null:
    """The mean null of several models or seeds; its band is the mean of the bands (none if any lacks one).

    The band of a mean would be narrower: this one is on the safe side for a claim that must lie beyond it.
    """
    mean = float(np.mean([null.mean for null in nulls])) if nulls else 0.0
    lows, highs = [null.low for null in nulls], [null.high for null in nulls]
    if not nulls or any(edge is None for edge in (*lows, *highs)):
        return Null(kind=kind, mean=mean)
    low, high = (float(np.mean([edge for edge in edges if edge is not None])) for edges in (lows, highs))
    return Null(kind=kind, mean=mean, low=min(low, mean), high=max(high, mean))
