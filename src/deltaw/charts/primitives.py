"""Panels, the small charts that figures are made of: curves over layers or steps, rows of dots, bars, points.

A panel is narrow enough for a phone; a figure is panels side by side that wrap where the page is narrow. Axes take
their domain from the whole figure, so that panels can be compared.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Literal

import altair as alt
import pandas as pd

from deltaw.charts.style import Series, light

Panel = dict[str, Any]
"""A layered chart in Vega-Lite's own terms, with the data of its layers under `datasets`."""
Side = Literal["left", "right"]
WIDTH, HEIGHT = 260, 172
ROW = 22  # height of a row of dots
TICK = "M0,-1V1"  # an upright stroke, as a marker
NULL_SHAPES = ("stroke", "cross", "triangle-up", "square", "diamond")


@dataclass(frozen=True)
class Axis:
    """An axis: what it says, units included; its ends; where its ticks are; how its numbers are written."""

    title: str
    domain: tuple[float, float] | None = None
    ticks: tuple[float, ...] | None = None
    format: str | None = None
    log: bool = False

    def scale(self) -> alt.Scale:
        """The scale, which never pads: the domain is the figure's."""
        options: dict[str, Any] = {"type": "log"} if self.log else {"zero": False}
        if self.domain is not None:
            options |= {"domain": list(self.domain), "nice": False}
        return alt.Scale(**options)

    def axis(self, **more: Any) -> alt.Axis:
        """The axis drawn."""
        options: dict[str, Any] = {"title": self.title, "labelOverlap": True, **more}
        if self.ticks is not None:
            options["values"] = list(self.ticks)
        if self.format is not None:
            options["format"] = self.format
        return alt.Axis(**options)


def domain_of(*columns: "pd.Series[float]", include: Sequence[float] = (), log: bool = False) -> tuple[float, float]:
    """The ends of an axis that shows all these numbers with a little room."""
    numbers = [float(number) for column in columns for number in column.dropna()] + list(include)
    if log:
        numbers = [number for number in numbers if number > 0]
        return (min(numbers) / 1.3, max(numbers) * 1.3) if numbers else (0.1, 1.0)
    if not numbers:
        return (0.0, 1.0)
    room = 0.06 * ((max(numbers) - min(numbers)) or abs(max(numbers)) or 1.0)
    return (min(numbers) - room, max(numbers) + room)


def layer_axis(layers: Sequence[float]) -> Axis:
    """Layers on x, with room for what stands beside a layer."""
    ticks = tuple(sorted(set(layers)))
    ends = (ticks[0] - 0.45, ticks[-1] + 0.45) if ticks else (0.0, 1.0)
    return Axis("layer", ends, ticks, "d")


def series_colour(series: Sequence[Series], legend: bool = True) -> dict[str, Any]:
    """Encodings that draw each model in its own way, the same in every panel, so that panels share a legend."""
    domain = [model.label for model in series]
    key = alt.Legend(title=None, symbolType="stroke", symbolStrokeWidth=2.5, symbolSize=260) if legend else None
    return {
        "color": alt.Color(
            "series:N", scale=alt.Scale(domain=domain, range=[model.colour for model in series]), legend=key
        ),
        "strokeDash": alt.StrokeDash(
            "series:N", scale=alt.Scale(domain=domain, range=[list(model.dash) for model in series]), legend=key
        ),
    }


def _tooltips(frame: pd.DataFrame, x: str | None = None) -> list[alt.Tooltip]:
    """What hovering a mark says: which model, where, its value with interval and n, and what else the rows bring."""
    tooltips = [alt.Tooltip("series:N", title="model")] if "series" in frame else []
    if x is not None:
        tooltips.append(alt.Tooltip("at:Q", title=x))
    titles = {"set": "set", "kind": "what", "null": "null", "shown": "value", "null_shown": "null"}
    return tooltips + [alt.Tooltip(f"{name}:N", title=title) for name, title in titles.items() if name in frame]


def _slim(frame: pd.DataFrame, *columns: str) -> pd.DataFrame:
    """Only what is drawn, rounded: the page carries it."""
    kept = frame[[name for name in dict.fromkeys(columns) if name in frame]].copy()
    for name in kept.select_dtypes("number"):
        kept[name] = [float(f"{number:.5g}") for number in kept[name]]
    return kept


def dodged(frame: pd.DataFrame, x: str, series: Sequence[Series], step: float) -> pd.DataFrame:
    """`at` is x; `x` is x moved a little for each model that is there, so that intervals do not hide each other."""
    there = [model.label for model in series if model.label in set(frame["series"])]
    places = {label: (number - (len(there) - 1) / 2) * step for number, label in enumerate(there)}
    return frame.assign(at=frame[x], x=frame[x] + frame["series"].map(places))


def _rows(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows as JSON holds them: what is missing or not finite is null."""
    columns = [
        [None if isinstance(value, float) and not math.isfinite(value) else value for value in frame[name].tolist()]
        for name in frame
    ]
    return [dict(zip(frame.columns, row, strict=True)) for row in zip(*columns, strict=True)]


def layered(
    *layers: alt.Chart | Panel,
    title: str | alt.Title | None = None,
    width: int | None = None,
    height: int | None = None,
) -> Panel:
    """Charts and panels drawn over each other.

    They are joined as dictionaries: Altair's own layers copy every chart many times, and convert its data as often.
    """
    datasets: dict[str, Any] = {}
    names: dict[int, str] = {}  # of each frame, which several charts show

    def converted(chart: alt.Chart) -> Panel:
        frame = chart.data
        if id(frame) not in names:
            rows = _rows(frame)
            names[id(frame)] = f"data-{sha256(json.dumps(rows).encode()).hexdigest()[:32]}"
            datasets[names[id(frame)]] = rows
        chart = chart.copy(deep=False)
        chart.data = alt.NamedData(names[id(frame)])
        return chart.to_dict(validate=False)

    parts = [part if isinstance(part, dict) else converted(part) for part in layers]
    for part in parts:
        datasets |= part.get("datasets", {})
    # The whole has a title and a size, the figure a configuration, and an address the page needs none.
    kept_by_others = {"datasets", "config", "$schema", "title", "width", "height"}
    bare = [{key: part[key] for key in sorted(part.keys() - kept_by_others)} for part in parts]
    heading = title.to_dict(validate=False) if isinstance(title, alt.Title) else title
    given = {"title": heading, "width": width, "height": height}
    return {"layer": bare, "datasets": datasets, **{key: value for key, value in given.items() if value is not None}}


def null_band(frame: pd.DataFrame, x: str, axis_x: Axis, axis_y: Axis) -> Panel:
    """The band of one kind of null, and its mean as a dashed line. frame: rows of `tables.nulls`."""
    data = _slim(frame.assign(x=frame[x]), "x", "null_mean", "null_low", "null_high")
    place = alt.X("x:Q", scale=axis_x.scale(), axis=axis_x.axis())
    chart = alt.Chart(data, width=WIDTH, height=HEIGHT)
    # The axis is given in full here too: in a layered chart the first layer's counts.
    low = alt.Y("null_low:Q", scale=axis_y.scale(), axis=axis_y.axis())
    area = chart.mark_area(color=light("band"), opacity=0.75).encode(x=place, y=low, y2=alt.Y2("null_high:Q"))
    bars = chart.mark_rule(color=light("band"), strokeWidth=9).encode(x=place, y=low, y2=alt.Y2("null_high:Q"))
    mean = chart.mark_line(color=light("null"), strokeDash=[3, 3], strokeWidth=1).encode(
        x=place, y=alt.Y("null_mean:Q")
    )
    return layered(area if data["x"].nunique() > 1 else bars, mean)


def null_whiskers(
    frame: pd.DataFrame, kinds: Sequence[str], axis_x: Axis, axis_y: Axis, offset: float = 0.16, step: float = 0.085
) -> Panel:
    """Several kinds of null beside each other: a grey whisker each, its mean marked by a shape that tells the kind."""
    x_at = frame["layer"] + offset + frame["null"].map(list(kinds).index) * step
    frame = frame.assign(at=frame["layer"], x=x_at)
    data = _slim(frame, "x", "at", "null", "null_mean", "null_low", "null_high", "null_shown")
    x = alt.X("x:Q", scale=axis_x.scale(), axis=axis_x.axis())
    chart = alt.Chart(data, width=WIDTH, height=HEIGHT)
    y = alt.Y("null_low:Q", scale=axis_y.scale(), axis=axis_y.axis())
    whisker = chart.mark_rule(color=light("null"), strokeWidth=1.5).encode(x=x, y=y, y2=alt.Y2("null_high:Q"))
    scale = alt.Scale(domain=list(kinds), range=list(NULL_SHAPES[: len(kinds)]))
    key = alt.Legend(
        title="nulls", orient="bottom", symbolStrokeColor=light("null"), symbolFillColor="transparent", symbolSize=60
    )
    mean = chart.mark_point(color=light("null"), filled=False, size=34, strokeWidth=1.5).encode(
        x=x,
        y=alt.Y("null_mean:Q"),
        shape=alt.Shape("null:N", scale=scale, legend=key),
        tooltip=_tooltips(data[["null_shown"]], "layer"),
    )
    return layered(whisker, mean)


def rule(value: float, text: str, axis: Axis, vertical: bool = False, align: Side | None = None) -> Panel:
    """A reference line, named. align: on which side of its name a vertical line is; by default, where there is room."""
    data = pd.DataFrame({"at": [value], "text": [text]})
    channel = alt.X if vertical else alt.Y
    place = channel("at:Q", scale=axis.scale(), axis=axis.axis())
    chart = alt.Chart(data)
    key = "x" if vertical else "y"
    line = chart.mark_rule(color=light("muted"), strokeDash=[1, 2], strokeWidth=1.2).encode(**{key: place})
    room: Side = "right" if not vertical or (axis.domain and value > sum(axis.domain) / 2) else "left"
    side = align if align and vertical else room
    dx = -2 if not vertical else 4 if side == "right" else -4
    words = chart.mark_text(color=light("muted"), fontSize=10, align=side, dx=dx, dy=-3, baseline="bottom")
    end = {"y": alt.value(0)} if vertical else {"x": alt.value(WIDTH)}
    return layered(line, words.encode(**{key: place}, **end, text=alt.Text("text:N")))


def curves(
    frame: pd.DataFrame,
    series: Sequence[Series],
    title: str | alt.Title,
    axis_x: Axis,
    axis_y: Axis,
    *,
    under: Sequence[Panel] = (),
    marks: bool = True,
    legend: bool = True,
) -> Panel:
    """Lines with intervals and markers. frame: x (drawn), at (said), value, low, high, series, shown.

    under: what is drawn beneath: nulls and reference lines. marks: whether single values are marked.
    """
    fills = {model.label: light("paper") if model.open else model.colour for model in series}
    markers = {model.label: model.shape for model in series}
    frame = frame.assign(fill=frame["series"].map(fills), marker=frame["series"].map(markers)).sort_values("x")
    data = _slim(frame, "x", "at", "value", "low", "high", "series", "fill", "marker", "shown", "kind")
    x = alt.X("x:Q", scale=axis_x.scale(), axis=axis_x.axis(grid=False))
    y = alt.Y("value:Q", scale=axis_y.scale(), axis=axis_y.axis())
    looks = series_colour(series, legend)
    chart = alt.Chart(data, width=WIDTH, height=HEIGHT, title=title)
    layers: list[Any] = [chart.mark_line(strokeWidth=1.8).encode(x=x, y=y, **looks)]
    with_interval = data[data["low"].notna()]
    if len(with_interval):
        low = alt.Y("low:Q", scale=axis_y.scale(), axis=axis_y.axis())
        whiskers = alt.Chart(with_interval).mark_rule(strokeWidth=1.2, opacity=0.75)
        layers.append(whiskers.encode(x=x, y=low, y2=alt.Y2("high:Q"), color=looks["color"]))
    if marks:
        fill = alt.Fill("fill:N", scale=None, legend=None)
        shape, tooltip = alt.Shape("marker:N", scale=None), _tooltips(data, axis_x.title)
        mark = chart.mark_point(size=38, strokeWidth=1.4, opacity=1)
        layers.append(mark.encode(x=x, y=y, color=looks["color"], fill=fill, shape=shape, tooltip=tooltip))
    return layered(*under, *layers, title=title, width=WIDTH, height=HEIGHT)


def dots(
    frame: pd.DataFrame,
    series: Sequence[Series],
    title: str | alt.Title,
    axis: Axis,
    *,
    kinds: Sequence[tuple[str, str, str]] = (),
    null: pd.DataFrame | None = None,
    under: Sequence[Panel] = (),
    width: int = 188,
    rows: Sequence[str] | None = None,
    row: str = "series",
) -> Panel:
    """One row a model: value and interval. frame: series, kind, value, low, high, shown.

    kinds: (kind, marker, "series" | "null" | "open": how it is filled), drawn one above the other in a row. null: rows
    of `tables.nulls` with `series`. rows, row: the rows' names, and the column that holds them, if they are not models.
    """
    kinds = kinds or (("", "circle", "series"),)
    order = list(rows) if rows is not None else [model.label for model in series if model.label in set(frame["series"])]
    height = max(ROW * len(order), 40)
    colours = {model.label: model.colour for model in series}
    fills = {kind: filled for kind, _, filled in kinds}
    kind = frame["kind"] if "kind" in frame else pd.Series("", index=frame.index)
    stroke = [light("null") if fills[k] == "null" else colours[s] for k, s in zip(kind, frame["series"], strict=True)]
    fill = [light("paper") if fills[k] == "open" else s for k, s in zip(kind, stroke, strict=True)]
    drawn = frame.assign(kind=kind, row=frame[row], stroke=stroke, fill=fill)
    data = _slim(drawn, "row", "kind", "series", "value", "low", "high", "shown", "stroke", "fill")
    labels = alt.Axis(title=None, labelLimit=160, ticks=False, grid=True)
    y = alt.Y("row:N", sort=order, scale=alt.Scale(type="band", domain=order), axis=labels)
    names = [name for name, _, _ in kinds]
    # Several kinds stand above each other in a row; one kind stands in its middle.
    within = alt.YOffset("kind:N", sort=names, scale=alt.Scale(domain=names, paddingOuter=0.25))
    offset = {"yOffset": within} if len(kinds) > 1 else {}
    markers = alt.Scale(domain=names, range=[marker for _, marker, _ in kinds])
    key = alt.Legend(title=None, symbolStrokeColor=light("muted"), symbolFillColor="transparent")
    shape = alt.Shape("kind:N", scale=markers, legend=key if len(kinds) > 1 else None)
    chart = alt.Chart(data, width=width, height=height)
    place: dict[str, Any] = {"scale": axis.scale(), "axis": axis.axis(grid=True)}
    layers: list[Any] = []
    if null is not None and len(null):
        bands = _slim(null.assign(row=null[row]), "row", "null_low", "null_high", "null_shown")
        bar = alt.Chart(bands, width=width, height=height).mark_bar(color=light("band"), height=ROW - 8)
        low, high = alt.X("null_low:Q", **place), alt.X2("null_high:Q")
        layers.append(bar.encode(y=y, x=low, x2=high, tooltip=_tooltips(bands)))
    outline = alt.Stroke("stroke:N", scale=None)
    layers += [
        chart.mark_rule(strokeWidth=1.4).encode(
            y=y, **offset, x=alt.X("low:Q", **place), x2=alt.X2("high:Q"), stroke=outline
        ),
        chart.mark_point(size=46, strokeWidth=1.4, opacity=1).encode(
            y=y,
            **offset,
            x=alt.X("value:Q", **place),
            stroke=outline,
            fill=alt.Fill("fill:N", scale=None),
            shape=shape,
            tooltip=_tooltips(data),
        ),
    ]
    return layered(*layers, *under, title=title, width=width, height=height)


def bars(frame: pd.DataFrame, null: pd.DataFrame, kinds: dict[str, str], model: Series, axis_y: Axis) -> Panel:
    """Bars by layer, a bar a kind, of one model.

    frame: layer, kind, value, low, high, shown. null: rows of `tables.nulls` with `kind`. kinds: each kind's colour.
    """
    data = _slim(frame.assign(at=frame["layer"]), "layer", "at", "kind", "value", "low", "high", "shown")
    chart = alt.Chart(data, width=WIDTH, height=HEIGHT)
    x = alt.X("layer:O", axis=alt.Axis(title="layer", labelAngle=0), scale=alt.Scale(paddingInner=0.25))
    offset = alt.XOffset("kind:N", sort=list(kinds), scale=alt.Scale(domain=list(kinds)))
    scale, axis = axis_y.scale(), axis_y.axis()
    low, value = alt.Y("low:Q", scale=scale, axis=axis), alt.Y("value:Q", scale=scale, axis=axis)
    colour = alt.Color(
        "kind:N",
        scale=alt.Scale(domain=list(kinds), range=list(kinds.values())),
        legend=alt.Legend(title=None, symbolType="square"),
    )
    layers: list[Any] = [
        chart.mark_bar().encode(x=x, xOffset=offset, y=value, color=colour, tooltip=_tooltips(data, "layer"))
    ]
    if len(null):
        bands = _slim(
            null.assign(at=null["layer"]), "layer", "at", "kind", "null_mean", "null_low", "null_high", "null_shown"
        )
        base = alt.Chart(bands, width=WIDTH, height=HEIGHT)
        edge, mean = (alt.Y(f"null_{end}:Q", scale=scale, axis=axis) for end in ("low", "mean"))
        layers += [
            base.mark_rule(color=light("band"), strokeWidth=6, opacity=0.9).encode(
                x=x, xOffset=offset, y=edge, y2=alt.Y2("null_high:Q")
            ),
            base.mark_tick(color=light("ink"), thickness=1.5, width=10).encode(
                x=x, xOffset=offset, y=mean, tooltip=_tooltips(bands[["null_shown"]])
            ),
        ]
    layers.append(
        chart.mark_rule(color=light("ink"), strokeWidth=1).encode(x=x, xOffset=offset, y=low, y2=alt.Y2("high:Q"))
    )
    return layered(*layers, title=named(model), width=WIDTH, height=HEIGHT)


def named(model: Series) -> alt.Title:
    """A panel's title in the model's colour."""
    return alt.Title(model.label, color=model.colour)


def points(
    frame: pd.DataFrame, series: Sequence[Series], shapes: dict[str, str], title: str, axis_x: Axis, axis_y: Axis
) -> Panel:
    """A mark a model and attack. frame: at (x), value (y), series, attack, shown."""
    looks = {model.label: model for model in series}
    data = _slim(frame, "at", "value", "series", "attack", "shown").assign(
        stroke=[looks[name].colour for name in frame["series"]],
        fill=[light("paper") if looks[name].open else looks[name].colour for name in frame["series"]],
    )
    there = [attack for attack in shapes if attack in set(frame["attack"])]
    key = alt.Legend(title="attack", symbolStrokeColor=light("ink"), symbolFillColor="transparent")
    said = (("series:N", "model"), ("attack:N", "attack"), ("at:Q", axis_x.title), ("shown:N", "success"))
    tooltip = [alt.Tooltip(field, title=words) for field, words in said]
    chart = (
        alt.Chart(data)
        .mark_point(size=60, strokeWidth=1.5, opacity=1)
        .encode(
            x=alt.X("at:Q", scale=axis_x.scale(), axis=axis_x.axis()),
            y=alt.Y("value:Q", scale=axis_y.scale(), axis=axis_y.axis()),
            stroke=alt.Stroke("stroke:N", scale=None),
            fill=alt.Fill("fill:N", scale=None),
            shape=alt.Shape("attack:N", scale=alt.Scale(domain=there, range=[shapes[a] for a in there]), legend=key),
            tooltip=tooltip,
        )
    )
    return layered(chart, title=title, width=WIDTH, height=WIDTH * 3 // 4)
