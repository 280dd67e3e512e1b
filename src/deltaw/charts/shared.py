"""What figures of several observations share: sets by name, groups of models, axes."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from deltaw.charts.primitives import Axis, Panel, curves, dodged, domain_of, layer_axis, null_band
from deltaw.charts.style import Series, family_order
from deltaw.charts.tables import Tables, interval, nulls, values

PRIMARY = "contrast/conditional"
FORBIDDEN = "forbidden/conditional/unsafe"
ALLOWED = "allowed/conditional/safe"


SHARE = Axis("share of prompts", (-0.02, 1.02), (0, 0.25, 0.5, 0.75, 1), "%")


def families(tables: Tables, plain_apart: bool = False) -> list[tuple[str, tuple[Series, ...]]]:
    """(title, series) of each protocol's panel, and of the controls'."""
    plain = [series for series in tables.series if plain_apart and series.strength == "plain"]
    shown = [series for series in tables.series if series not in plain]
    panels = [tuple(series for series in shown if series.family == name) for name in family_order(tables.series)]
    panels += [(series,) for series in plain]
    named = [(members[0].label.partition(",")[0], members) for members in panels if members]
    controls = tuple(series for series in tables.series if series.control is not None)
    return [*named, ("Controls", controls)] if plain_apart and controls else named


def beside(tables: Tables, members: Sequence[Series]) -> list[Series]:
    """A protocol's models with the controls, which stand in every panel."""
    return [*members, *(series for series in tables.series if series.control is not None)]


def shown_apart(tables: Tables) -> list[Series]:
    """The models that get a panel of their own: tunings at the larger rate, plain DPO, controls."""
    tuned = [series for series in tables.series if series.model != "base"]
    return [series for series in tuned if series.main or series.control or series.strength == "plain"]


def as_ratios(frame: pd.DataFrame) -> pd.DataFrame:
    """Rows of log ratios as ratios, intervals and nulls too."""
    columns = ["value", "low", "high", "null_mean", "null_low", "null_high"]
    frame = frame.assign(**{name: np.exp(frame[name]) for name in columns})
    shown = [interval(*ends) for ends in zip(frame["value"], frame["low"], frame["high"], strict=True)]
    return frame.assign(shown=pd.Series(shown, frame.index, dtype="object"))


def layer_panel(tables: Tables, statistic: str, title: str, axis: Axis, **where: object) -> Panel | None:
    """A statistic by layer at the end of each tuning, a line a model; the widest of its nulls as a grey band.

    axis: of the statistic; without a domain it gets that of the numbers. where: as in `Tables.take`.
    """
    frame = tables.layered(statistic, last=True, **where)
    if frame.empty:
        return None
    bands = nulls(frame)
    y = axis if axis.domain else replace(axis, domain=domain_of(*(frame[name] for name in _DRAWN), log=axis.log))
    x = layer_axis(frame["layer"].tolist())
    widest = bands.groupby("layer", as_index=False).agg(
        null_mean=("null_mean", "mean"), null_low=("null_low", "min"), null_high=("null_high", "max")
    )
    under = [null_band(widest, "layer", x, y)] if len(widest) else []
    drawn = dodged(values(frame), "layer", tables.series, 0.06)
    return curves(drawn, tables.of(*frame["model"]), title, x, y, under=under)


_DRAWN = ("value", "low", "high", "null_low", "null_high")
