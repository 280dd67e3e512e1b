"""Measurements as the figures want them: plain columns, one row a value or one a null, seeds averaged."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from deltaw.charts.style import NULL_NAMES, Series, number, series_of, share
from deltaw.results import Results, markdown_table
from deltaw.results.schema import MEASUREMENT_FIELDS

_NUMBERS = ("value", "low", "high", "n", "null_mean", "null_low", "null_high")
_APART = (*_NUMBERS, "schema_version", "seed", "null_kind")
_PLACE = tuple(name for name in MEASUREMENT_FIELDS if name not in _APART)
_SEVERAL = (tuple, list, set, frozenset)


@dataclass(frozen=True)
class Table:
    """A table of the page. columns: its head. rows: of text."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    @classmethod
    def of(cls, title: str, records: Sequence[Mapping[str, str]]) -> "Table | None":
        """A row a record, its keys as the head; None without records."""
        return cls(title, tuple(records[0]), tuple(tuple(row.values()) for row in records)) if records else None

    def markdown(self) -> str:
        """The table as Markdown."""
        return markdown_table(self.columns, self.rows)


class Tables:
    """A run's measurements, ready to be drawn. series: the models in the order they are shown, base first. by_seed:
    the measurements of all seeds apart.
    """

    def __init__(self, results: Results) -> None:
        self.manifest: Mapping[str, Any] = results.manifest
        frame = _plain(results.measurements)
        self.seeds = int(frame["seed"].nunique())
        self.by_seed = frame
        self.frame = _over_seeds(frame) if self.seeds > 1 else frame
        models = self.frame.loc[self.frame["model"].notna(), ["model", "protocol", "strength", "control"]]
        records = models.drop_duplicates("model").to_dict("records")
        self.series = series_of(records, results.manifest.get("config") or {})  # type: ignore[arg-type]
        # Of all that was measured: a statistic that does not exist at a model's last step has no last value.
        self._last = self.frame.groupby("model")["step"].max()
        self._labels = {series.model: series.label for series in self.series}

    def of(self, *models: str) -> tuple[Series, ...]:
        """The series of these models, in the page's order; those that were not measured are left out."""
        return tuple(series for series in self.series if series.model in models)

    def by_model(self, frame: pd.DataFrame) -> Iterator[tuple[Series, pd.DataFrame]]:
        """Each model of the frame, in the page's order, with its rows."""
        for series in self.of(*frame["model"]):
            yield series, frame[frame["model"] == series.model]

    def take(self, statistic: str, *, last: bool = False, **where: object) -> pd.DataFrame:
        """The rows of a statistic where each named column has the value, is one of a tuple's, or is empty (None).

        last: only each model's last step; of a model without steps, as in a comparison of two checkpoints, all.
        Columns as in measurements.jsonl, and `series`, the model's label.
        """
        frame = self.frame[self.frame["statistic"] == statistic]
        for column, wanted in where.items():
            if wanted is None:
                frame = frame[frame[column].isna()]
            elif isinstance(wanted, _SEVERAL):
                frame = frame[frame[column].isin(list(wanted))]
            else:
                frame = frame[frame[column] == wanted]
        if last:
            end = frame["model"].map(self._last)
            frame = frame[(frame["step"] == end) | (frame["step"].isna() & end.isna())]
        columns = (frame["value"], frame["low"], frame["high"], frame["n"], frame["n_unit"])
        shown = [_shown(*row) for row in zip(*columns, strict=True)]
        return frame.assign(
            series=frame["model"].map(self._labels), shown=pd.Series(shown, frame.index, dtype="object")
        )

    def layered(self, statistic: str, *, last: bool = False, **where: object) -> pd.DataFrame:
        """`take` without the lines that are means over layers."""
        frame = self.take(statistic, last=last, **where)
        return frame[frame["layer"].notna()]


def values(frame: pd.DataFrame) -> pd.DataFrame:
    """One row a value: a statistic with three nulls has three lines."""
    keys = [name for name in _PLACE if name not in ("protocol", "strength", "control", "unit", "n_unit")]
    return frame.drop_duplicates(keys)


def nulls(frame: pd.DataFrame) -> pd.DataFrame:
    """One row a null, `null` its name in words, `null_shown` its numbers; a null without a band has its mean's."""
    rows = frame[frame["null_kind"].notna()].copy()
    rows["null"] = [NULL_NAMES.get(kind, str(kind).replace("_", " ")) for kind in rows["null_kind"]]
    for edge in ("null_low", "null_high"):
        rows[edge] = rows[edge].fillna(rows["null_mean"])
    columns = (rows["null"], rows["null_mean"], rows["null_low"], rows["null_high"])
    rows["null_shown"] = [f"{kind}: {interval(*ends)}" for kind, *ends in zip(*columns, strict=True)]
    return rows


def interval(value: float, low: float, high: float) -> str:
    """A value with its interval, if it has one."""
    return number(value) if low != low or low == high else f"{number(value)} [{number(low)}, {number(high)}]"


def first_interval(frame: pd.DataFrame) -> str:
    """The first row's value with its interval; a dash if there is no row."""
    row = frame.to_dict("records")[0] if len(frame) else None
    return "–" if row is None else interval(row["value"], row["low"], row["high"])


def _shown(value: float, low: float, high: float, n: float, unit: str | None) -> str:
    return interval(value, low, high) + counted(n, unit)


def ends(tables: Tables) -> str:
    """What the ends in brackets are."""
    return "95 % interval" if tables.seeds == 1 else "least, greatest of the seeds"


def rate(row: Mapping[Any, Any]) -> str:
    """A rate and its ends in per cent, `97.2 [95.1, 98.5]`."""
    if math.isnan(row["low"]):
        return share(row["value"])
    return f"{share(row['value'])} [{share(row['low'])}, {share(row['high'])}]"


def counted(n: float | None, unit: str | None) -> str:
    """`, n = 512 prompts`; nothing where nothing was counted."""
    if n is None or n != n:
        return ""
    return f", n = {int(n)} {unit}{'' if n == 1 else 's'}" if unit else f", n = {int(n)}"


def _plain(table: pd.DataFrame) -> pd.DataFrame:
    """Text as str or None, numbers as float: pandas' nullable types do not mix with charts."""
    numeric = (*_NUMBERS, "dose", "seed", "step", "layer")
    data: dict[str, pd.Series[Any]] = {}
    for name in table.columns:
        if name in numeric:
            numbers = table[name].astype("Float64").to_numpy(dtype="float64", na_value=float("nan"))
            data[name] = pd.Series(numbers)
        else:
            data[name] = pd.Series([None if text is pd.NA else text for text in table[name]], dtype="object")
    return pd.DataFrame(data)


def _over_seeds(frame: pd.DataFrame) -> pd.DataFrame:
    """The mean over seeds, and the range over seeds as the interval; a null is the mean null, n the number of seeds.

    The matched checkpoint is another step in each seed; its step becomes the mean step.
    """
    steps = frame.groupby(["stage", "model"], dropna=False)["step"].transform("mean").round()
    frame = frame.assign(step=frame["step"].where(frame["stage"] != "matched", steps))
    keys = [*_PLACE, "null_kind"]
    groups = frame.groupby(keys, dropna=False, sort=False)
    how: Any = {name: (name, "mean") for name in ("value", "null_mean", "null_low", "null_high")}
    how |= {"low": ("value", "min"), "high": ("value", "max"), "n": ("seed", "nunique")}
    pooled: pd.DataFrame = groups.agg(**how).reset_index()
    pooled["n"] = pooled["n"].astype("float64")
    pooled["n_unit"] = "seed"
    for name in (*_PLACE, "null_kind"):
        if name not in ("step", "layer", "dose"):
            pooled[name] = pooled[name].astype("object").where(pooled[name].notna(), None)
    return pooled.assign(seed=float("nan"), schema_version=frame["schema_version"].iloc[0])
