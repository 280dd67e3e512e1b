"""Figures of ranks, of subspaces and probes, and of dose and response."""

from typing import Any

import altair as alt
import pandas as pd

from deltaw.charts.figure import Figure, figure
from deltaw.charts.primitives import (
    TICK,
    Axis,
    Panel,
    curves,
    dodged,
    domain_of,
    dots,
    layer_axis,
    named,
    null_band,
    rule,
)
from deltaw.charts.style import Series, light, number
from deltaw.charts.tables import Tables, interval, nulls, values
from deltaw.report.figures.behaviour import SHARE
from deltaw.report.figures.clusters_and_null_space import PRIMARY
from deltaw.report.figures.update_effect import FORBIDDEN, shown_apart

SITE = "mlp_post"
ALLOWED = "allowed/conditional/safe"
CHANGES = (
    ("rank_log_change", f"{PRIMARY}/forbidden", "Forbidden: tuned over base", "as many as before"),
    ("rank_log_change", f"{PRIMARY}/allowed", "Allowed: tuned over base", "as many as before"),
    ("rank_log_ratio", PRIMARY, "Tuned: forbidden over allowed", "as many"),
)
LEVELS = (
    ("forbidden", "circle", "series"),
    ("allowed, same operators", "square", "open"),
    ("base, forbidden", TICK, "null"),
)
CELL = 46


def ranks_over_training(tables: Tables) -> Figure | None:
    """Log ratios of ranks over checkpoints."""
    panels: list[Panel | None] = []
    shown = tuple(one.model for one in tables.series if one.main or one.control)
    for statistic, name, title, level in CHANGES:
        frame = tables.take(statistic, site=SITE, set=name, layer=None, model=shown)
        if frame.empty:
            continue
        band = nulls(frame)
        ends = (frame["low"], frame["high"], band["null_low"], band["null_high"])
        y, x = Axis("log ratio of ranks", domain_of(*ends, include=(0,))), Axis("update", domain_of(frame["step"]))
        drawn = dodged(values(frame), "step", tables.series, 0.008 * (x.domain or (0, 1))[1])
        null = band.groupby("step", as_index=False).agg(
            null_mean=("null_mean", "mean"), null_low=("null_low", "min"), null_high=("null_high", "max")
        )
        under = [null_band(null, "step", x, y)] if len(null) else []
        panels.append(curves(drawn, tables.of(*frame["model"]), title, x, y, under=[*under, rule(0, level, y)]))
    return figure(
        "rank-over-training",
        "How many directions activations have, over training: log ratio of participation ratios (mlp_post)",
        "Mean over layers, last prompt token, the same conditional operators on safe and unsafe text. −0.22 is a fifth "
        "fewer directions. Grey bars: 95 % with models, or labels, swapped within pairs, widest of the models. Brown: "
        "controls.",
        ("rank_log_change", "rank_log_ratio"),
        panels,
        whiskers="95 % jackknife intervals over prompts",
    )


def rank_levels(tables: Tables) -> Figure | None:
    """The ranks themselves at the last checkpoint, and those of ΔW."""
    panels: list[Panel | None] = []
    for site in (SITE, "resid_out"):
        where: dict[str, Any] = {"last": True, "site": site, "layer": None}
        parts = [
            tables.take("activation_rank", set=f"{PRIMARY}/forbidden", **where).assign(kind=LEVELS[0][0]),
            tables.take("activation_rank", set=f"{PRIMARY}/allowed", **where).assign(kind=LEVELS[1][0]),
            tables.take("activation_rank_base", set=f"{PRIMARY}/forbidden", **where).assign(kind=LEVELS[2][0]),
        ]
        frame = pd.concat(parts)
        if len(frame):
            axis = Axis("dimensions", domain_of(frame["low"], frame["high"], include=(0,)))
            panels.append(dots(frame, tables.series, f"Activations at {site}", axis, kinds=LEVELS))
    frame = tables.layered("update_energy_rank", last=True)
    if len(frame):
        band = nulls(frame)
        x = layer_axis(frame["layer"].tolist())
        y = Axis("dimensions", domain_of(frame["value"], band["null_low"], band["null_high"], include=(0,)))
        null = band.drop_duplicates("layer").sort_values("layer")
        under = [null_band(null, "layer", x, y)] if len(null) else []
        drawn = dodged(values(frame), "layer", tables.series, 0.05)
        panels.append(curves(drawn, tables.of(*frame["model"]), "0.9 of the energy of ΔW", x, y, under=under))
    return figure(
        "rank-levels",
        "How many directions activations and updates have at the end of tuning",
        "Activations: participation ratio without the bias of few prompts, geometric mean over layers. "
        "Update: directions that hold 0.9 of ‖ΔW‖², first MLP matrix, by layer; grey: a random "
        "matrix.",
        ("activation_rank", "activation_rank_base", "update_energy_rank"),
        panels,
        width=355,
        whiskers="95 % jackknife intervals over prompts",
    )


OVERLAPS = (
    ("output_overlap", "mlp.in_proj", "Outputs, first matrix"),
    ("input_overlap", "mlp.in_proj", "Inputs, first matrix"),
    ("output_overlap", "mlp.out_proj", "Outputs, second matrix"),
)


def overlaps(tables: Tables) -> Figure | None:
    """Matrices of overlap between the updates of all models, with chance in each cell."""
    panels: list[Panel | None] = []
    for statistic, module, title in OVERLAPS:
        frame = tables.take(statistic, last=True, module=module, layer=None)
        frame = frame[frame["set"].str.startswith("with=", na=False)]
        frame = frame.assign(other=frame["set"].str.removeprefix("with="))
        labels = {one.model: one.label for one in tables.series}
        frame = frame[frame["other"].isin(labels)]
        if len(frame):
            panels.append(_matrix(frame.assign(column=frame["other"].map(labels)), tables.series, title))
    return figure(
        "update-overlap",
        "Do two updates write to, and read from, the same directions? Overlap of their 8 strongest",
        "Mean squared cosine of the principal angles, mean over layers: 1 is the same subspace. In brackets the upper "
        "end of chance: the highest 97.5 % quantile of uniform subspaces, random row signs (outputs) or subspaces "
        "matched to the activations (inputs). What two controls share with each other has nothing to do with safety.",
        ("output_overlap", "input_overlap"),
        panels,
        width=560,
        columns=2,
    )


ELSEWHERE = (("another layer", "circle", "series"), ("another seed", "square", "open"), ("chance", TICK, "null"))


def overlaps_elsewhere(tables: Tables) -> Figure | None:
    """Overlap of one model's updates in two layers, and of one layer's updates in two seeds, a row a model and kind."""
    panels: list[Panel | None] = []
    axis = Axis("squared cosine", (0, 1))
    for statistic, module, title in OVERLAPS:
        frame = tables.take(statistic, last=True)
        frame = frame[frame["module"].str.endswith(f".{module}", na=False)]
        parts = []
        for kind, prefix in ((ELSEWHERE[0][0], "with=layer "), (ELSEWHERE[1][0], "with=seed ")):
            for label, found in frame[frame["set"].str.startswith(prefix, na=False)].groupby("series", sort=False):
                pairs = found.groupby(["set", "layer", "module"])
                value, high = pairs["value"].mean(), pairs["null_high"].max()
                for name, low, mean, top in (
                    (kind, value.min(), value.mean(), value.max()),
                    (ELSEWHERE[2][0], float("nan"), high.mean(), float("nan")),
                ):
                    parts.append({"series": label, "row": f"{label}: {kind}", "kind": name, "value": mean, "low": low,
                                  "high": top, "shown": interval(mean, low, top)})  # fmt: skip
        if parts:
            drawn = pd.DataFrame(parts)
            labels = [one.label for one in tables.series]
            rows = sorted(set(drawn["row"]), key=lambda row: (labels.index(row.rpartition(": ")[0]), row))
            panels.append(dots(drawn, tables.series, title, axis, kinds=ELSEWHERE, rows=rows, row="row"))
    return figure(
        "update-overlap-elsewhere",
        "Do the updates of two layers, or of two seeds, write to and read from the same directions?",
        "Mean squared cosine of the principal angles of the 8 strongest directions, mean over pairs; whiskers: the "
        "least and the greatest pair. Strokes: the upper end of chance, the highest 97.5 % quantile of uniform "
        "subspaces, random row signs (outputs) or subspaces matched to the activations (inputs), mean over pairs.",
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
            "row": cells["series"], "column": cells["column"], "value": cells["value"].round(4),
            "said": [f"{value:.2f}" for value in cells["value"]],
            "bound": [f"({number(bound, 2)})" for bound in chance],
        }
    )  # fmt: skip
    order = [one.label for one in series if one.label in {*data["row"], *data["column"]}]
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
        chart.mark_text(dy=-6, color=light("ink"), fontSize=10.5).encode(x=x, y=y, text="said:N"),
        chart.mark_text(dy=7, color=light("ink"), fontSize=9).encode(x=x, y=y, text="bound:N"),
    ]
    return alt.layer(*layers).properties(title=title, width=width, height=height)


def refusal(tables: Tables) -> Figure | None:
    """How much of the difference in means lies in the span of ΔW's strongest output directions, by layer."""
    panels: list[Panel | None] = []
    shown = tuple(one.model for one in tables.series if one.main or one.control)
    for module, title in (("mlp.in_proj", "First matrix, hidden units"), ("mlp.out_proj", "Second matrix, stream")):
        for suffix, whose in (("", "tuned model's"), ("_base", "base model's")):
            frame = tables.layered(f"refusal_share{suffix}", last=True, model=shown)
            frame = frame[frame["module"].str.endswith(module, na=False)]
            counts = frame["set"].str.extract(r"k=(\d+)$")[0].astype(float)
            frame = frame[counts == counts.max()]
            if frame.empty:
                continue
            band = nulls(frame)
            band = band[band["null_kind"] == "label_permutation"]
            null = band.groupby("layer", as_index=False).agg(
                null_mean=("null_mean", "mean"), null_low=("null_low", "min"), null_high=("null_high", "max")
            )
            x = layer_axis(frame["layer"].tolist())
            y = Axis("share of squared norm", domain_of(frame["low"], frame["high"], null["null_high"], include=(0,)))
            under = [null_band(null, "layer", x, y)] if len(null) else []
            drawn = dodged(values(frame), "layer", tables.series, 0.07)
            title_ = f"{title}: {whose} direction"
            panels.append(curves(drawn, tables.of(*frame["model"]), title_, x, y, under=under))
    return figure(
        "refusal-direction",
        "How much of the direction from allowed to forbidden prompts lies in the 8 strongest output directions of ΔW",
        "Cross-fitted share of the squared difference in means, by layer; the angle is arccos of its root. A layer "
        "where the classes do not differ in their means has no mark. Right: the direction of the base model. "
        "Grey: 95 % of directions fitted with labels swapped within pairs, widest of the models. Brown: controls.",
        ("refusal_share", "refusal_share_base"),
        panels,
        columns=2,
        width=345,
        whiskers="95 % jackknife intervals over pairs",
    )


def probes(tables: Tables) -> Figure | None:
    """Accuracy of the probe by layer, tuned, base and random model, a panel a tuned model."""
    where: dict[str, Any] = {"last": True, "set": FORBIDDEN}
    kinds = {"": "tuned", "_base": "base", "_random": "random weights"}
    frames = [tables.layered(f"probe_accuracy{suffix}", **where).assign(of=kind) for suffix, kind in kinds.items()]
    allowed = tables.layered("probe_accuracy", last=True, set=ALLOWED).assign(of="tuned, allowed prompts")
    frame = pd.concat([*frames, allowed])
    panels: list[Panel | None] = []
    if len(frame):
        x = layer_axis(frame["layer"].tolist())
        y = Axis("accuracy", domain_of(frame["low"], frame["high"], include=(0, 1)), SHARE.ticks, "%")
        for one in shown_apart(tables):
            part = values(frame[frame["model"] == one.model].assign(statistic=lambda rows: rows["of"]))
            if part.empty:
                continue
            looks = [
                Series("", "tuned", None, one.colour, (1, 0), "circle", False),
                Series("", "tuned, allowed prompts", None, one.colour, (5, 3), "square", True),
                Series("", "base", None, light("base"), (1, 0), "square", False),
                Series("", "random weights", None, light("null"), (2, 2), "cross", False),
            ]
            drawn = dodged(part.assign(series=part["of"]), "layer", looks, 0.07)
            band = nulls(frame[(frame["model"] == one.model) & (frame["set"] == FORBIDDEN) & (frame["of"] == "tuned")])
            null = band[band["null_kind"] == "label_permutation"]
            under = [null_band(null, "layer", x, y)] if len(null) else []
            panels.append(curves(drawn, looks, named(one), x, y, under=under, legend=False))
    return figure(
        "probe",
        "Can the harmful answer still be read? A linear probe for the first letter of the harmful output, by layer",
        "Last prompt token, resid_out; held-out combinations of operators and first letter. Filled circles: the tuned "
        "model on forbidden prompts, which it refuses; hollow squares: on allowed ones; grey squares: the base model, "
        "which answers; grey crosses: random weights, which hold the prompt and compute nothing. Grey band: labels "
        "permuted.",
        ("probe_accuracy", "probe_accuracy_base", "probe_accuracy_random"),
        panels,
        shared=False,
        whiskers="95 % bootstrap intervals over combinations",
    )


def responses(tables: Tables) -> Figure | None:
    """Success in bins of position and of gain, and the slopes within attacks."""
    panels: list[Panel | None] = []
    shown = tuple(one.model for one in tables.series if one.main or one.control)
    for name, title, unit in (
        ("position", "Success by position", "position: 0 forbidden, 1 allowed"),
        ("gain", "Success by gain", "log2 of gain over that without attack"),
    ):
        frame = values(tables.take(f"success_by_{name}", last=True, model=shown))
        if len(frame):
            ends = frame["set"].str.extract(r"=([+-][\d.]+)\.\.([+-][\d.]+)$").astype(float)
            frame = frame.assign(middle=ends.mean(axis=1))
            x = Axis(unit, domain_of(frame["middle"]))
            panels.append(
                curves(dodged(frame, "middle", tables.series, 0.012), tables.of(*frame["model"]), title, x, SHARE)
            )
    for name, title, unit in (
        ("position", "Slope within attacks: position", "log odds a way to allowed"),
        ("gain", "Slope within attacks: gain", "log odds a doubling"),
    ):
        frame = tables.take(f"success_slope_{name}", last=True)
        if len(frame):
            band = nulls(frame)
            axis = Axis(unit, domain_of(frame["low"], frame["high"], band["null_low"], band["null_high"], include=(0,)))
            under = [rule(0, "no slope", axis, vertical=True)]
            panels.append(dots(values(frame), tables.series, title, axis, null=band, under=under))
    return figure(
        "dose-response",
        "Observation 5. Does success follow how far a prompt was moved, or how little the update then acts on it?",
        "Prompts under every attack, and without one. Above: share answered with the exact harmful output. "
        "Attacks differ in more than dose, so the slopes below are within attacks: Firth's logistic regression with "
        "an intercept for each attack; grey: successes permuted within attacks.",
        ("success_by_position", "success_by_gain", "success_slope_position", "success_slope_gain"),
        panels,
        columns=2,
        width=355,
        whiskers="95 % Wilson intervals above, 95 % intervals robust to clusters of prompts below",
    )


def doses(tables: Tables) -> Figure | None:
    """How much nearer to allowed prompts the strongest soft prompt brings activations than the weakest."""
    frame = tables.take("position_dose_difference", last=True)
    panels: list[Panel | None] = []
    if len(frame):
        band = nulls(frame)
        axis = Axis(
            "share of the way to allowed",
            domain_of(frame["low"], frame["high"], band["null_low"], band["null_high"], include=(0,)),
        )
        for kind in dict.fromkeys(band["null"]):
            under = [rule(0, "no further", axis, vertical=True)]
            null = band[band["null"] == kind]
            panels.append(dots(values(frame), tables.series, f"Null: {kind}", axis, null=null, under=under))
    return figure(
        "dose-moves-activations",
        "Observation 5. How much nearer to allowed ones the strongest soft prompt brings prompts than the weakest",
        "Prompt by prompt, mean over layers by precision at mlp_post. Grey: doses swapped within prompts; what random "
        "vectors of the same lengths do.",
        ("position_dose_difference",),
        panels,
        columns=2,
        width=355,
        whiskers="95 % bootstrap intervals over prompts",
    )
