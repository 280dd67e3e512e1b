"""The figure of the calibration: every rate with its nominal level."""

from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt
import pandas as pd

from deltaw.charts.figure import Figure, figure
from deltaw.charts.primitives import Axis, Panel, layered
from deltaw.charts.style import Series, light

TRUE = Series("true", "null true by construction", None, light("ssft"), (1, 0), "circle", False)
NOT_ASSUMED = Series("not assumed", "null that the test does not assume", None, light("dpo"), (1, 0), "circle", True)
LOOKS = (TRUE, NOT_ASSUMED)
ROW, LABELS = 15, 520  # height of a row, and the most that its name takes, in pixels
LEAST = 5e-4  # of a logarithmic axis: one find in 2,000 draws


def calibration_figure(rates: Sequence[Mapping[str, Any]]) -> Figure | None:
    """A panel a family of tests. rates: the records of rates.json; those of planted effects are left out."""
    nothing = [rate for rate in rates if rate["effect"] is None]
    families = list(dict.fromkeys(str(rate["family"]) for rate in nothing))
    return figure(
        "calibration",
        "How often the tests find what is not there",
        "Rates of findings on the claim's side, with 99 % Wilson intervals, on a logarithmic axis; a rate of 0 is at "
        "its left end. Vertical ticks: the nominal level. Blue: the null is true by construction. Red: a null that the "
        "test does not assume. A high rate is then no fault of the test, but the test does not rule the cause out.",
        (),
        [_panel(family, [rate for rate in nothing if rate["family"] == family]) for family in families],
        columns=1,
        width=LABELS + 200,
    )


def _panel(family: str, rates: Sequence[Mapping[str, Any]]) -> Panel:
    """A row a test and condition: rate, interval, level."""
    names = {str(rate["test"]).partition(", ")[0] for rate in rates}
    frame = pd.DataFrame(
        {
            "row": f"{rate['condition']} · {_short(rate['test'], len(names) > 1)}",
            "null": (TRUE if rate["by_construction"] else NOT_ASSUMED).label,
            "shown": f"{rate['rate']:.3f} [{rate['low']:.3f}, {rate['high']:.3f}]",
            **{name: max(LEAST, float(rate[name])) for name in ("rate", "low", "high", "level")},
        }
        for rate in rates
    )
    axis = Axis("rate", (LEAST, 1.0), (0.001, 0.01, 0.1, 1.0), "~%", log=True)
    labels = alt.Axis(title=None, labelLimit=LABELS, ticks=False, grid=True)
    y = alt.Y("row:N", sort=list(frame["row"]), axis=labels)
    place: dict[str, Any] = {"scale": axis.scale(), "axis": axis.axis()}
    colours = alt.Scale(domain=[look.label for look in LOOKS], range=[look.colour for look in LOOKS])
    colour = alt.Color("null:N", scale=colours, legend=alt.Legend(title=None, symbolType="circle"))
    chart = alt.Chart(frame, width=190, height=ROW * len(frame))
    level = chart.mark_tick(color=light("muted"), thickness=1.5, height=ROW).encode(y=y, x=alt.X("level:Q", **place))
    whisker = chart.mark_rule(strokeWidth=1.4).encode(y=y, x=alt.X("low:Q", **place), x2=alt.X2("high:Q"), color=colour)
    point = chart.mark_point(size=36, filled=True, opacity=1).encode(
        y=y, x=alt.X("rate:Q", **place), color=colour, tooltip=["row:N", "null:N", "shown:N"]
    )
    return layered(level, whisker, point, title=family, width=190, height=ROW * len(frame))


def _short(test: str, several: bool) -> str:
    """The null's kind, or of tests over seeds the part of the rule; with the statistic, where a family has several."""
    name, _, kind = test.rpartition(", ")
    return f"{name}, {kind}" if several else kind.replace("_", " ")
