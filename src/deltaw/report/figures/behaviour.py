"""Figures of behaviour: at the end with the ceiling, under attack, and over training."""

import altair as alt
import pandas as pd

from deltaw.charts.figure import Figure, figure
from deltaw.charts.primitives import TICK, WIDTH, Axis, Panel, curves, domain_of, dots, layered, named, rule
from deltaw.charts.shared import SHARE, families
from deltaw.charts.style import BASE, Series, light, operators_of, set_name, shown_attacks
from deltaw.charts.tables import Tables, values

ENDS = (
    ("comply_rate", "allowed/conditional/safe", "Comply on allowed: conditional operators"),
    ("refuse_rate", "forbidden/conditional/unsafe", "Refuse on forbidden: conditional operators"),
    ("comply_rate", "forbidden/conditional/unsafe", "Comply on forbidden: conditional operators"),
    ("comply_rate", "allowed/rest", "Comply on allowed: the rest"),
    ("refuse_rate", "forbidden/rest", "Refuse on forbidden: the rest"),
    ("comply_rate", "forbidden/rest", "Comply on forbidden: the rest"),
)
STAGES = (
    ("behaviour", "end of tuning", "circle", "series"),
    ("matched", "matched checkpoint", "diamond", "open"),
)
STRATA = ("no_identity", "one_identity", "alias")


def behaviour(tables: Tables) -> Figure | None:
    """Exact compliance and refusal of every model, with the Bayes ceiling."""
    threshold = (tables.manifest.get("config") or {}).get("refusal_threshold", 0.95)
    panels = []
    for statistic, name, title in ENDS:
        frame = values(tables.take(statistic, set=name, attack=None, stage=tuple(s for s, *_ in STAGES)))
        if frame.empty:
            continue
        frame = frame.assign(kind=frame["stage"].map({stage: kind for stage, kind, *_ in STAGES}))
        ceiling = tables.take("bayes_accuracy", set=name)
        harm = statistic == "comply_rate" and name.startswith("forbidden/")
        at, said = (float(ceiling["value"].iloc[0]), "Bayes ceiling") if len(ceiling) else (threshold, "required")
        under = [rule(1 - at if harm else at, said, SHARE, vertical=True)]
        kinds = [(kind, marker, filled) for _, kind, marker, filled in STAGES]
        panels.append(dots(frame, tables.series, title, SHARE, kinds=kinds, under=under))
    return figure(
        "behaviour",
        "What the models do: exact answers on allowed prompts, refusals on forbidden ones",
        "Share of held-out prompts, greedy decoding, the whole answer exact. Complying on forbidden prompts is the "
        "harm; answers that neither comply nor refuse are wrong. Dotted line: on conditional operators the Bayes "
        "ceiling, which no reader of the letters can exceed; elsewhere the share that tuning should reach. Hollow "
        "diamonds: the matched checkpoint, the first that refuses that share.",
        ("comply_rate", "refuse_rate", "bayes_accuracy"),
        panels,
        columns=3,
        width=355,
        whiskers="95 % Wilson intervals",
    )


def attacks(tables: Tables) -> Figure | None:
    """Attack success, with no attack and with the attack's benign control."""
    kinds = (
        ("attacked", "circle", "series"),
        ("not attacked", TICK, "null"),
        ("attacked, allowed", "square", "open"),
    )
    panels = []
    for attack, called in shown_attacks(tables.manifest).items():
        rates = values(tables.take("comply_rate", stage="behaviour", attack=attack))
        sources = [name for name in rates["set"].unique() if name.startswith("forbidden/") and "letters" not in name]
        benign = rates[rates["set"].str.startswith("allowed/")] if len(rates) else rates
        for source in sorted(sources):
            attacked = tuple(rates.loc[rates["set"] == source, "model"].unique())
            plain = values(tables.take("comply_rate", stage="behaviour", attack=None, set=source, model=attacked))
            beside = _benign_of(benign, source)
            parts = [rates[rates["set"] == source], plain, beside]
            frame = pd.concat([part.assign(kind=kind) for part, (kind, _, _) in zip(parts, kinds, strict=True)])
            where = ", unsafe text" if source == "forbidden/never/unsafe" else ""
            panels.append(dots(frame, tables.series, f"{called}: {operators_of(source)}{where}", SHARE, kinds=kinds))
    return figure(
        "attacks",
        "Attack success: share of forbidden prompts answered with the exact harmful output",
        "Circles: under the attack. Grey ticks: the same prompts without it. Hollow squares: the attack's benign "
        "control, the same transformation of allowed prompts, where complying is right. Where that is low, the attack "
        "breaks the request and not the refusal.",
        ("comply_rate",),
        panels,
        width=355,
        whiskers="95 % Wilson intervals",
    )


def _benign_of(benign: pd.DataFrame, source: str) -> pd.DataFrame:
    """The benign control nearest to a source: conditional operators for conditional ones, where there is a choice."""
    if benign.empty:
        return benign
    names = sorted(benign["set"].unique(), key=lambda name: ("conditional" in name) != ("conditional" in source))
    nearest: pd.DataFrame = benign[benign["set"] == names[0]]
    return nearest


def base_training(tables: Tables) -> Figure | None:
    """The base model's compliance by stratum, and its loss."""
    shades = {
        "no_identity": (light("ink"), (1, 0)),
        "one_identity": (light("base"), (6, 3)),
        "alias": (light("null"), (1, 2)),
    }
    words = {"no_identity": "no identity", "one_identity": "one identity", "alias": "alias"}
    looks = [Series(n, words[n], None, shades[n][0], shades[n][1], "circle", False) for n in STRATA]
    frame = values(tables.take("comply_rate", stage="pretrain", set=tuple(f"pretrain/{name}" for name in STRATA)))
    panels: list[Panel | None] = []
    if len(frame):
        names = frame["set"].str.removeprefix("pretrain/").map(words)
        frame = frame.assign(series=names, x=frame["step"], at=frame["step"])
        steps = Axis("update", domain_of(frame["x"]), format="~s")
        panels.append(curves(frame, [BASE, *looks], "Exact answers by stratum", steps, SHARE))
    loss = values(tables.take("training_loss", stage="pretrain"))
    if len(loss):
        loss = loss.assign(series=BASE.label, x=loss["step"], at=loss["step"], low=float("nan"), high=float("nan"))
        y = Axis("loss, nats per token", domain_of(loss["value"], log=True), log=True)
        steps = Axis("update", domain_of(loss["x"]), format="~s")
        panels.append(curves(loss, [BASE, *looks], "Training loss", steps, y, marks=False))
    return figure(
        "training-base",
        "Pre-training of the base model: exact answers by stratum, and loss",
        "Strata: pairs without an identity operator, pairs with one, and pairs named by an alias. Held-out "
        "prompts, greedy decoding.",
        ("comply_rate", "training_loss"),
        panels,
        whiskers="95 % Wilson intervals",
    )


def tuning_curves(tables: Tables) -> Figure | None:
    """Comply and refuse over the steps of every tuning, set by set."""
    panels = []
    for model in tables.series[1:]:
        parts = []
        for statistic, verdict in (("comply_rate", "allowed"), ("refuse_rate", "forbidden")):
            frame = values(tables.take(statistic, stage="tune", model=model.model, attack=None))
            parts.append(frame[frame["set"].str.startswith(f"{verdict}/", na=False)] if len(frame) else frame)
        frame = pd.concat(parts)
        if frame["step"].nunique() < 2:  # measured at the end only: no curve
            continue
        lines = [_LINES[name.startswith("forbidden/")] for name in frame["set"]]
        frame = frame.assign(series=lines, kind=frame["set"].map(set_name), x=frame["step"])
        panels.append(_set_curves(frame, model, Axis("update", domain_of(frame["x"])), SHARE))
    return figure(
        "training-tuned",
        "Safety tuning: comply on allowed and refuse on forbidden prompts over updates",
        "One line per set of held-out prompts, with few prompts per checkpoint (the figure above has the final "
        "numbers). Circles, solid: comply on allowed. Hollow triangles, dashed: refuse on forbidden. Thick: "
        "conditional operators, where only the text decides; thin: the other sets. Hover for the set.",
        ("comply_rate", "refuse_rate"),
        panels,
    )


_LINES = ("comply on allowed", "refuse on forbidden")


def _set_curves(frame: pd.DataFrame, model: Series, axis_x: Axis, axis_y: Axis) -> Panel:
    """One model's panel: a line a set; dash and marker tell the verdict, width whether operators are conditional."""
    conditional = frame["set"].str.contains("/conditional/")
    hollow = frame["series"] == _LINES[1]
    data = frame[["x", "value", "series", "set", "kind", "shown"]].assign(
        value=frame["value"].round(4),
        width=[2.2 if yes else 1.0 for yes in conditional],
        shade=[1.0 if yes else 0.6 for yes in conditional],
        fill=[light("paper") if yes else model.colour for yes in hollow],
    )
    x = alt.X("x:Q", scale=axis_x.scale(), axis=axis_x.axis(grid=False))
    y = alt.Y("value:Q", scale=axis_y.scale(), axis=axis_y.axis())
    key = alt.Legend(title=None, symbolStrokeColor=light("ink"), symbolFillColor="transparent")
    shape = alt.Shape("series:N", scale=alt.Scale(domain=list(_LINES), range=["circle", "triangle-up"]), legend=key)
    width, opacity = alt.StrokeWidth("width:Q", scale=None), alt.Opacity("shade:Q", scale=None)
    lines = [
        alt.Chart(data[data["series"] == verdict])
        .mark_line(color=model.colour, strokeDash=dash)
        .encode(x=x, y=y, detail=alt.Detail("set:N"), strokeWidth=width, opacity=opacity)
        for verdict, dash in zip(_LINES, ([1, 0], [5, 3]), strict=True)
    ]
    said = (("kind:N", "set"), ("series:N", "what"), ("x:Q", "update"), ("shown:N", "value"))
    tooltip = [alt.Tooltip(field, title=title) for field, title in said]
    marks = alt.Chart(data).mark_point(size=24, stroke=model.colour, strokeWidth=1.1, opacity=1)
    marks = marks.encode(x=x, y=y, shape=shape, fill=alt.Fill("fill:N", scale=None), tooltip=tooltip)
    return layered(*lines, marks, title=named(model), width=WIDTH, height=150)


def losses(tables: Tables) -> Figure | None:
    """What each tuning minimises, over its updates."""
    loss = values(tables.take("training_loss", stage="tune"))
    panels = []
    for title, members in families(tables, plain_apart=True):
        frame = loss[loss["model"].isin([member.model for member in members])]
        if frame.empty:
            continue
        frame = frame.assign(x=frame["step"], at=frame["step"], low=float("nan"), high=float("nan"))
        unit = frame["unit"].dropna().unique()
        y_title = f"loss, {unit[0]}" if len(unit) == 1 and title in ("SSFT", "Controls") else "objective"
        x, y = Axis("update", domain_of(frame["x"])), Axis(y_title, domain_of(frame["value"]))
        panels.append(curves(frame, tables.of(*loss["model"]), title, x, y, marks=False))
    return figure(
        "training-loss",
        "The objective of each tuning over updates",
        "Protocols minimise different objectives, so panels cannot be compared. Means over a few updates.",
        ("training_loss",),
        panels,
    )
