"""The first screen: five cards, one an observation, each with one picture. One set of choices is for all of them.

A picture holds the data of every choice and shows those that its parameters name; the page's script sets these. By
default it shows the three protocols with their harmless controls, at the larger rate, by operator, at the end.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import pandas as pd

from deltaw.charts.figure import Drawing, Figure
from deltaw.charts.primitives import Panel
from deltaw.charts.shared import ALLOWED, FORBIDDEN, PRIMARY
from deltaw.charts.style import PROTOCOLS, light, protocol_name, share
from deltaw.charts.tables import Tables, nulls, values

CONTRASTS = {"operator": "contrast/operator", "combination": PRIMARY}
BY_SET = {name: contrast for contrast, name in CONTRASTS.items()}
DASHES = {"tuned": [1, 0], "other": [5, 3], "constant": [1, 3]}
WIDTH, HEIGHT = 250, 150
BESIDE_NAMES = 185  # of pictures with a name beside each row

_OF = "(P == 'all' || datum.protocol == P) && datum.strength == S"
_WHEN = f"{_OF} && datum.checkpoint == T"
_WHERE = f"{_WHEN} && datum.contrast == C"


@dataclass(frozen=True)
class Choice:
    """A choice for all pictures at once. signal: its name in the charts. options: (value, label); the first is set."""

    signal: str
    label: str
    options: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Card:
    """What an observation's card shows. drawing: None where the study did not measure it."""

    observation: int
    title: str
    text: str
    drawing: Drawing | None


def choices(tables: Tables) -> tuple[Choice, ...]:
    """Protocol, strength, contrast, layer and checkpoint, with the options that the run has."""
    frame = _chosen(tables, tables.take("gain_log_ratio_in_situ", stage="analysis"))
    names = list(dict.fromkeys(frame["protocol"]))
    strengths = [name for name in ("medium", "small") if name in set(frame["strength"])]
    rates = {"medium": "larger rate", "small": "smaller rate"}
    contrasts = [name for name, of in CONTRASTS.items() if of in set(frame["set"])]
    layers = sorted({int(layer) for layer in frame["layer"].dropna()})
    steps = sorted({int(step) for step in frame["step"].dropna()})[:-1]
    return (
        Choice("P", "protocol", (("all", "all"), *((name, name) for name in names))),
        Choice("S", "strength", tuple((name, rates[name]) for name in strengths) or (("medium", "larger rate"),)),
        Choice("C", "contrast", tuple((name, f"by {name}") for name in contrasts) or (("operator", "by operator"),)),
        Choice("L", "layer", (("mean", "mean over layers"), *((str(layer), f"layer {layer}") for layer in layers))),
        Choice("T", "checkpoint", (("last", "last"), *((str(step), f"after {step} updates") for step in steps))),
    )


def cards(tables: Tables, chosen: Sequence[Choice]) -> list[Card]:
    """The five cards, drawn as the first option of each choice has it."""
    params = [{"name": choice.signal, "value": choice.options[0][0]} for choice in chosen]
    colours = _colours(tables)
    told: list[tuple[str, str, Panel | None, tuple[str, ...]]] = [
        (
            "Two clusters",
            "Held-out prompts in a plane: hollow before tuning, filled after. Circles: allowed; triangles: forbidden. "
            "Without a choice of layer: where they lie furthest apart.",
            _view(tables),
            ("view_across", "view_beside"),
        ),
        (
            "The null space of the old weights",
            "Share of ΔW's energy there (ρ_N). Grey: what random row signs give.",
            _null_space(tables, colours),
            ("null_energy_left",),
        ),
        (
            "Which prompts ΔW acts on",
            "Log gain on forbidden minus allowed prompts, by layer. Dashed: “other”; dotted: “constant”.",
            _gain(tables, colours),
            ("gain_log_ratio_in_situ",),
        ),
        (
            "Sensitivity",
            "Log change by tuning, whole model, by combination. Triangles: forbidden prompts; circles: allowed ones.",
            _sensitivity(tables, colours),
            ("sensitivity_log_ratio_spectral",),
        ),
        (
            "Attacks",
            "How far attacked prompts lie on the way from forbidden (0) to allowed (1), against success. Mean over "
            "layers, by combination.",
            _attacks(tables, colours),
            ("position", "comply_rate"),
        ),
    ]
    made = []
    for number, (title, text, panel, statistics) in enumerate(told, start=1):
        name, heading = f"card-{number}", f"Observation {number}. {title}"
        figure = Figure(name, heading, text, statistics, (panel,), 1, WIDTH, params=params) if panel else None
        made.append(Card(number, title, text, figure.draw() if figure else None))
    return made


def behaviour(tables: Tables) -> list[dict[str, str]]:
    """What each protocol's model does: it complies on allowed prompts and refuses forbidden ones; and the ceiling."""
    rows: dict[str, dict[str, str]] = {}
    for statistic, name, column in (("comply_rate", ALLOWED, "complies"), ("refuse_rate", FORBIDDEN, "refuses")):
        frame = values(tables.take(statistic, last=True, stage="behaviour", set=name, attack=None))
        frame = _chosen(tables, frame)
        for row in frame[frame["strength"] == "medium"].to_dict("records"):
            if row["kind"] == "tuned":
                rows.setdefault(str(row["protocol"]), {})[column] = share(row["value"])
    ceiling = tables.take("bayes_accuracy")["value"]
    best = share(float(ceiling.min())) if len(ceiling) else "–"
    return [{"name": name, "complies": "–", "refuses": "–", **row, "ceiling": best} for name, row in rows.items()]


def committed() -> dict[str, Any]:
    """The answers of the run that decides, as this version carries them: seeds, and words by claim and question."""
    text = (files("deltaw.report") / "data" / "committed.json").read_text(encoding="utf-8")
    answers: dict[str, Any] = json.loads(text)
    return answers


def _chosen(tables: Tables, frame: pd.DataFrame) -> pd.DataFrame:
    """Rows of protocols and of their own harmless controls, with what the choices ask for."""
    kinds = frame["control"].map(lambda control: "tuned" if control is None else control)
    named = frame["protocol"].map(lambda name: name if name in PROTOCOLS else None)
    frame = frame.assign(kind=kinds, family=named)
    frame = frame[
        frame["family"].notna() & frame["kind"].isin(list(DASHES)) & frame["strength"].isin(["medium", "small"])
    ]
    config = tables.manifest.get("config") or {}
    last = frame.groupby("model")["step"].transform("max")
    checkpoint = ["last" if step == end else f"{step:.0f}" for step, end in zip(frame["step"], last, strict=True)]
    names = [protocol_name(str(name), config) for name in frame["family"]]
    order = {name: place for place, name in enumerate(PROTOCOLS)}
    frame = frame.assign(checkpoint=checkpoint, protocol=names, rank=frame["family"].map(order))
    return frame.sort_values(["rank", "strength"], kind="stable")


def _colours(tables: Tables) -> dict[str, str]:
    config = tables.manifest.get("config") or {}
    return {protocol_name(name, config): light(name) for name in PROTOCOLS}


def _lean(frame: pd.DataFrame, *columns: str) -> list[dict[str, Any]]:
    """The rows as JSON, numbers rounded."""
    kept = ("protocol", "kind", "strength", "checkpoint", *columns)
    return [
        {name: _plain(row[name]) for name in kept if name in row}
        for row in frame[[name for name in kept if name in frame]].to_dict("records")
    ]


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return None if value != value else float(f"{value:.4g}")
    return value


def _panel(
    name: str, rows: list[dict[str, Any]], layers: Sequence[Mapping[str, Any]], shown: str, width: int = WIDTH
) -> Panel:
    spec = {"data": {"name": name}, "transform": [{"filter": shown}], "layer": [dict(layer) for layer in layers]}
    return {**spec, "width": width, "height": HEIGHT, "datasets": {name: rows}}


def _quantity(field: str, title: str, **more: Any) -> dict[str, Any]:
    axis = {"title": title, "tickCount": 4}
    return {"field": field, "type": "quantitative", "scale": {"zero": False}, "axis": axis, **more}


def _colour(colours: Mapping[str, str], legend: bool = True) -> dict[str, Any]:
    scale = {"domain": list(colours), "range": list(colours.values())}
    return _nominal("protocol", scale=scale, legend={"title": None} if legend else None)


def _nominal(field: str, **more: Any) -> dict[str, Any]:
    return {"field": field, "type": "nominal", **more}


def _sides(colours: Sequence[str] | None = None, legend: bool = True) -> dict[str, Any]:
    """Allowed and forbidden prompts, told apart by marker or colour."""
    scale = {"domain": ["allowed", "forbidden"], "range": list(colours or ("circle", "triangle-up"))}
    return _nominal("side", scale=scale, legend={"title": None} if legend else None)


_TOOLTIP = [{"field": "protocol", "title": "protocol"}, {"field": "kind", "title": "tuning"}]
_ROW = _nominal("row", sort=None, axis={"title": None, "labelLimit": 150, "ticks": False, "grid": True})


def _view(tables: Tables) -> Panel | None:
    """Of one seed: planes of several models have no common mean."""
    views = []
    for suffix, when in (("", "after"), ("_base", "before")):
        across, beside = (
            _layers(_of_first_seed(tables, f"view_{name}{suffix}")).set_index(["model", "set", "at"])
            for name in ("across", "beside")
        )
        if across.empty:
            return None
        frame = _chosen(tables, across.join(beside["value"].rename("value_beside")).reset_index())
        frame = frame[frame["kind"] == "tuned"]
        parts = frame["set"].str.split("/")
        contrast = (parts.str[0] + "/" + parts.str[1]).map(BY_SET)
        views.append(
            frame.assign(x=frame["value"], y=frame["value_beside"], side=parts.str[2], contrast=contrast, when=when)
        )
    rows = pd.concat(views)
    rows = rows[rows["contrast"].notna()]
    if rows.empty:
        return None
    names = list(dict.fromkeys(rows["protocol"]))
    bare = {"title": None, "labels": False, "ticks": False, "grid": False}
    encoding = {
        "x": _quantity("x", "", axis=bare),
        "y": _quantity("y", "", axis=bare),
        "color": _sides([light("base"), light("dpo")]),
        "shape": _sides(legend=False),
        "tooltip": [{"field": "side"}, {"field": "when"}, *_TOOLTIP[:1]],
    }
    marks = [
        {
            "transform": [{"filter": f"datum.when == '{when}'"}],
            "mark": {"type": "point", "filled": when == "after", "opacity": opacity, "size": size},
            "encoding": encoding,
        }
        for when, opacity, size in (("before", 0.55, 26), ("after", 0.9, 30))
    ]
    return {
        "data": {"name": "view"},
        "transform": [{"filter": f"{_OF} && datum.contrast == C && datum.at == L"}],
        "facet": {"column": _nominal("protocol", sort=names, header={"title": None})},
        "spec": {"layer": marks, "width": 74, "height": HEIGHT},
        "spacing": 8,
        "resolve": {"scale": {"x": "independent", "y": "independent"}},
        "datasets": {"view": _lean(rows, "at", "x", "y", "side", "contrast", "when")},
    }


def _of_first_seed(tables: Tables, statistic: str) -> pd.DataFrame:
    frame = tables.by_seed[tables.by_seed["statistic"] == statistic]
    first: pd.DataFrame = frame[frame["seed"] == frame["seed"].min()]
    return first


def _named_rows(frame: pd.DataFrame) -> pd.DataFrame:
    labels = [
        name if kind == "tuned" else f"{name}: {kind}"
        for name, kind in zip(frame["protocol"], frame["kind"], strict=True)
    ]
    return frame.assign(row=labels)


def _layers(frame: pd.DataFrame) -> pd.DataFrame:
    names = ["mean" if layer != layer else f"{layer:.0f}" for layer in frame["layer"]]
    return frame.assign(at=pd.Series(names, frame.index, dtype="object"))


def _null_space(tables: Tables, colours: Mapping[str, str]) -> Panel | None:
    of_matrix = tables.take("null_energy_left", stage="analysis")
    drawn = nulls(of_matrix[of_matrix["null_kind"] == "row_sign_flip"])
    frame = _named_rows(_layers(_chosen(tables, drawn)))
    if frame.empty:
        return None
    title = "ρ_N, share of energy"
    layers = [
        {
            "mark": {"type": "rule", "color": light("band"), "strokeWidth": 9},
            "encoding": {"y": _ROW, "x": _quantity("null_low", title), "x2": {"field": "null_high"}},
        },
        {
            "mark": {"type": "point", "filled": True, "size": 46, "opacity": 1},
            "encoding": {
                "y": _ROW,
                "x": _quantity("value", title),
                "color": _colour(colours, legend=False),
                "tooltip": [*_TOOLTIP, {"field": "shown", "title": "ρ_N"}, {"field": "null_shown", "title": "null"}],
            },
        },
    ]
    rows = _lean(frame, "row", "at", "value", "null_low", "null_high", "shown", "null_shown")
    return _panel("null-space", rows, layers, f"{_WHEN} && datum.at == L", BESIDE_NAMES)


def _gain(tables: Tables, colours: Mapping[str, str]) -> Panel | None:
    frame = _chosen(tables, values(tables.layered("gain_log_ratio_in_situ", stage="analysis")))
    frame = frame.assign(contrast=frame["set"].map(BY_SET))
    frame = frame[frame["contrast"].notna()]
    if frame.empty:
        return None
    dash = _nominal("kind", legend=None, scale={"domain": list(DASHES), "range": list(DASHES.values())})
    layers = sorted(set(frame["layer"]))
    x = _quantity("layer", "layer", axis={"title": "layer", "values": layers, "format": "d", "grid": False})
    encoding = {"x": x, "y": _quantity("value", "log ratio of gains"), "color": _colour(colours), "strokeDash": dash}
    tooltip = [*_TOOLTIP, {"field": "layer"}, {"field": "shown", "title": "value"}]
    marks = [
        {"mark": {"type": "line", "strokeWidth": 1.8}, "encoding": {**encoding, "detail": {"field": "kind"}}},
        {
            "mark": {"type": "point", "size": 24, "filled": True, "opacity": 1},
            "encoding": {**{name: encoding[name] for name in ("x", "y", "color")}, "tooltip": tooltip},
        },
    ]
    return _panel("gain", _lean(frame, "contrast", "layer", "value", "shown"), marks, _WHERE)


def _sensitivity(tables: Tables, colours: Mapping[str, str]) -> Panel | None:
    parts = []
    for side in ("allowed", "forbidden"):
        frame = values(tables.take("sensitivity_log_ratio_spectral", stage="analysis", set=f"{PRIMARY}/{side}"))
        parts.append(_named_rows(_chosen(tables, frame)).assign(side=side))
    frame = pd.concat(parts)
    if frame.empty:
        return None
    x, low = (_quantity(name, "log ratio, tuned over base") for name in ("value", "low"))
    looks = {"y": _ROW, "color": _colour(colours, legend=False)}
    tooltip = [*_TOOLTIP, {"field": "side"}, {"field": "shown", "title": "value"}]
    layers = [
        {"mark": {"type": "rule", "opacity": 0.6}, "encoding": {**looks, "x": low, "x2": {"field": "high"}}},
        {
            "mark": {"type": "point", "filled": True, "size": 46, "opacity": 1},
            "encoding": {**looks, "x": x, "shape": _sides(), "tooltip": tooltip},
        },
    ]
    rows = _lean(frame, "row", "side", "value", "low", "high", "shown")
    return _panel("sensitivity", rows, layers, _WHEN, BESIDE_NAMES)


def _attacks(tables: Tables, colours: Mapping[str, str]) -> Panel | None:
    position = values(tables.take("position", last=True, set=FORBIDDEN, site="mlp_post", layer=None))
    success = values(tables.take("comply_rate", last=True, stage="behaviour", set=FORBIDDEN))
    keys = ["model", "attack"]
    where = success[success["attack"].notna()].drop_duplicates(keys).set_index(keys)
    frame = _chosen(tables, position[position["attack"].notna()].drop_duplicates(keys))
    if frame.empty or where.empty:
        return None
    frame = frame.join(where[["value"]].rename(columns={"value": "success"}), on=keys)
    frame = frame[(frame["kind"] == "tuned") & frame["success"].notna()]
    if frame.empty:
        return None
    success_axis = {"title": "success", "format": "%", "tickCount": 4}
    said = [*_TOOLTIP[:1], {"field": "attack"}, {"field": "shown", "title": "position"}]
    points = {
        "mark": {"type": "point", "filled": True, "size": 48, "opacity": 0.85},
        "encoding": {
            "x": _quantity("value", "position"),
            "y": _quantity("success", "success", axis=success_axis, scale={"domain": [0, 1]}),
            "color": _colour(colours),
            "tooltip": [*said, {"field": "success", "format": ".0%"}],
        },
    }
    return _panel("attacks", _lean(frame, "attack", "value", "success", "shown"), [points], _OF)
