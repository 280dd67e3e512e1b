"""Figures of overlap: do two updates write to, and read from, the same directions?"""

import altair as alt
import pandas as pd

from deltaw.charts.figure import Figure, figure
from deltaw.charts.primitives import (
    TICK,
    Axis,
    Panel,
    dots,
    layered,
)
from deltaw.charts.style import Series, light, number
from deltaw.charts.tables import Tables, interval, nulls

CELL = 46
OVERLAPS = (
    ("output_overlap", "mlp.in_proj", "Outputs, first matrix"),
    ("input_overlap", "mlp.in_proj", "Inputs, first matrix"),
    ("output_overlap", "mlp.out_proj", "Outputs, second matrix"),
)
ELSEWHERE = (("another layer", "circle", "series"), ("another seed", "square", "open"), ("chance", TICK, "null"))


def overlaps(tables: Tables) -> Figure | None:
    """Matrices of overlap between the updates of all models, with chance in each cell."""
    panels: list[Panel | None] = []
    for statistic, module, title in OVERLAPS:
        frame = tables.take(statistic, last=True, module=module, layer=None)
        frame = frame[frame["set"].str.startswith("with=", na=False)]
        frame = frame.assign(partner=frame["set"].str.removeprefix("with="))
        labels = {series.model: series.label for series in tables.series}
        frame = frame[frame["partner"].isin(labels)]
        if len(frame):
            panels.append(_matrix(frame.assign(column=frame["partner"].map(labels)), tables.series, title))
    return figure(
        "update-overlap",
        "Do two updates write to, and read from, the same directions? Overlap of their 8 strongest",
        "Mean squared cosine of the principal angles, mean over layers: 1 is the same subspace. In brackets: the upper "
        "end of chance, the highest 97.5 % quantile of uniform subspaces, random row signs (outputs) or subspaces "
        "matched to the activations (inputs). Overlap of two controls is not about safety.",
        ("output_overlap", "input_overlap"),
        panels,
        width=560,
        columns=2,
    )


def overlaps_elsewhere(tables: Tables) -> Figure | None:
    """Overlap of one model's updates in two layers, and of one layer's updates in two seeds, a row a model and kind."""
    panels: list[Panel | None] = []
    axis = Axis("squared cosine", (0, 1))
    for statistic, module, title in OVERLAPS:
        frame = tables.take(statistic, last=True)
        frame = frame[frame["module"].str.endswith(f".{module}", na=False)]
        parts = []
        for kind, prefix in ((ELSEWHERE[0][0], "with=layer "), (ELSEWHERE[1][0], "with=seed ")):
            for label, part in frame[frame["set"].str.startswith(prefix, na=False)].groupby("series", sort=False):
                pairs = part.groupby(["set", "layer", "module"])
                value, high = pairs["value"].mean(), pairs["null_high"].max()
                for name, low, mean, top in (
                    (kind, value.min(), value.mean(), value.max()),
                    (ELSEWHERE[2][0], float("nan"), high.mean(), float("nan")),
                ):
                    parts.append((label, f"{label}: {kind}", name, mean, low, top, interval(mean, low, top)))
        if parts:
            drawn = pd.DataFrame(parts, columns=["series", "row", "kind", "value", "low", "high", "shown"])
            labels = [series.label for series in tables.series]
            rows = sorted(set(drawn["row"]), key=lambda row: (labels.index(row.rpartition(": ")[0]), row))
            panels.append(dots(drawn, tables.series, title, axis, kinds=ELSEWHERE, rows=rows, row="row"))
    return figure(
        "update-overlap-elsewhere",
        "Do the updates of two layers, or of two seeds, write to and read from the same directions?",
        "Mean squared cosine of the principal angles of the 8 strongest directions, mean over pairs; whiskers: lowest "
        "and highest pair. Ticks: the upper end of chance, the highest 97.5 % quantile of uniform subspaces, random "
        "row signs (outputs) or subspaces matched to the activations (inputs), mean over pairs.",
        ("output_overlap", "input_overlap"),
        panels,
        width=355,
    )


def _matrix(frame: pd.DataFrame, series: tuple[Series, ...], title: str) -> Panel:
    """A cell a pair: its value, and the upper end of the highest null. frame: series, column, value, null_high."""
    high = nulls(frame).groupby(["series", "column"])["null_high"].max()
    cells = frame.drop_duplicates(["series", "column"])
    chance = [float(high.get(pair, float("nan"))) for pair in zip(cells["series"], cells["column"], strict=True)]
    data = pd.DataFrame(
        {
            "row": cells["series"],
            "column": cells["column"],
            "value": cells["value"].round(4),
            "said": [f"{value:.2f}" for value in cells["value"]],
            "bound": [f"({number(bound, 2)})" for bound in chance],
        }
    )
    order = [member.label for member in series if member.label in {*data["row"], *data["column"]}]
    ends = [sorted(pair, key=order.index) for pair in zip(data["row"], data["column"], strict=True)]
    data = data.assign(row=[first for first, _ in ends], column=[second for _, second in ends])  # above the diagonal
    rows, columns = ([name for name in order if name in set(data[axis])] for axis in ("row", "column"))
    x = alt.X("column:N", sort=columns, axis=alt.Axis(title=None, labelAngle=-40, labelLimit=150, orient="bottom"))
    y = alt.Y("row:N", sort=rows, axis=alt.Axis(title=None, labelLimit=170))
    width, height = CELL * len(columns), 34 * len(rows)
    chart = alt.Chart(data, width=width, height=height)
    names = {"row": "model", "column": "with", "said": "overlap", "bound": "chance, upper end"}
    tooltip = [alt.Tooltip(f"{name}:N", title=words) for name, words in names.items()]
    strength = alt.Opacity("value:Q", scale=alt.Scale(domain=[0, 1], range=[0.04, 0.75]), legend=None)
    layers = [
        chart.mark_rect(color=light("ssft")).encode(x=x, y=y, opacity=strength, tooltip=tooltip),
        chart.mark_text(dy=-6, color=light("ink"), fontSize=10.5).encode(x=x, y=y, text=alt.Text("said:N")),
        chart.mark_text(dy=7, color=light("ink"), fontSize=9).encode(x=x, y=y, text=alt.Text("bound:N")),
    ]
    return layered(*layers, title=title, width=width, height=height)
