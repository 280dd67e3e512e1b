"""Figures of Observation 3: on which prompts ΔW acts."""

import pandas as pd

from deltaw.charts.figure import Figure, figure
from deltaw.charts.primitives import (
    Axis,
    Panel,
    curves,
    dodged,
    domain_of,
    dots,
    layer_axis,
    named,
    null_whiskers,
    rule,
)
from deltaw.charts.shared import PRIMARY, shown_apart
from deltaw.charts.style import Series
from deltaw.charts.tables import Tables, nulls, values


def gains(tables: Tables) -> Figure | None:
    """Gain on forbidden and on allowed prompts, by layer, a panel a model."""
    frame = values(tables.layered("gain_relative", last=True))
    frame = frame[frame["set"].isin([f"{PRIMARY}/allowed", f"{PRIMARY}/forbidden"])]
    panels: list[Panel | None] = []
    if len(frame):
        y = Axis("gain, ratio of norms", domain_of(frame["low"], frame["high"], frame["value"], include=(0,)))
        x = layer_axis(frame["layer"].tolist())
        for series in shown_apart(tables):
            part = frame[frame["model"] == series.model]
            if part.empty:
                continue
            looks = [
                Series("", "forbidden", None, series.colour, (1, 0), "circle", False),
                Series("", "allowed, same operators", None, series.colour, (5, 3), "triangle-up", True),
            ]
            names = [looks[name.endswith("/allowed")].label for name in part["set"]]
            drawn = dodged(part.assign(series=names), "layer", looks, 0.05)
            panels.append(curves(drawn, looks, named(series), x, y, legend=False))
    return figure(
        "gain",
        "Observation 3. Gain ‖ΔW a + Δb‖ / ‖W a + b‖ of the update on forbidden and on allowed prompts, by layer",
        "Filled circles, solid: forbidden prompts. Hollow triangles, dashed: allowed prompts with the same operators. "
        "Activations are the base model's at mlp_in, last prompt token. Brown panels: controls. A gap that they also "
        "show is not about safety.",
        ("gain_relative",),
        panels,
        shared=False,
        whiskers="95 % bootstrap intervals of the mean",
    )


def gain_ratios(tables: Tables) -> Figure | None:
    """Mean over layers of the log ratio of gains, every model."""
    panels: list[Panel | None] = []
    frames = [tables.take(f"gain_log_ratio{suffix}", last=True, set=PRIMARY, layer=None) for suffix in ("", "_in_situ")]
    whole = pd.concat(frames)
    if len(whole):
        axis = Axis(
            "log ratio of gains, forbidden to allowed",
            domain_of(whole["low"], whole["high"], whole["value"], include=(0,)),
        )
        titles = ("On the base model's activations", "On the tuned model's own activations")
        for frame, title in zip(frames, titles, strict=True):
            if len(frame):
                under = [rule(0, "equal", axis, vertical=True)]
                panels.append(dots(values(frame), tables.series, title, axis, under=under))
    rows = tables.take("row_energy_difference", last=True, set=PRIMARY, layer=None)
    if len(rows):
        band = nulls(rows)
        axis = Axis(
            "difference of shares of energy",
            domain_of(rows["low"], rows["high"], band["null_low"], band["null_high"], include=(0,)),
        )
        drawn = band[band["null_kind"] == "m_matched"]
        panels.append(
            dots(
                values(rows),
                tables.series,
                "Energy on the top directions of ΔW",
                axis,
                null=drawn,
                under=[rule(0, "equal", axis, vertical=True)],
            )
        )
    return figure(
        "acts-on-forbidden",
        "Observation 3. The update on forbidden and on allowed prompts, mean over layers, as the claims use it",
        "Left, middle: log ratio of gains; 0 is equal, 0.1 is 10 % more on forbidden prompts. Right: how much more "
        "of forbidden activations lies on the 8 strongest input directions of ΔW. Grey bars: 95 % of random "
        "subspaces matched to the activations' second moment. Compare with the controls.",
        ("gain_log_ratio", "gain_log_ratio_in_situ", "row_energy_difference"),
        panels,
        width=355,
        whiskers="95 % bootstrap intervals over pairs",
    )


def row_energy(tables: Tables) -> Figure | None:
    """The difference of row energies by layer, with both matched nulls, a panel a model."""
    frame = tables.layered("row_energy_difference", last=True, set=PRIMARY)
    band = nulls(frame)
    kinds = sorted(band["null"].unique())
    panels: list[Panel | None] = []
    if len(frame):
        y = Axis(
            "forbidden − allowed, share of energy",
            domain_of(frame["low"], frame["high"], band["null_low"], band["null_high"], include=(0,)),
        )
        x = layer_axis(frame["layer"].tolist())
        for series in shown_apart(tables):
            part = values(frame[frame["model"] == series.model])
            if part.empty:
                continue
            null = band[band["model"] == series.model]
            under = [null_whiskers(null, kinds, x, y, offset=0.13)] if len(null) else []
            drawn = dodged(part, "layer", [series], 0)
            panels.append(curves(drawn, [series], named(series), x, y, under=[rule(0, "", y), *under], legend=False))
    return figure(
        "row-energy",
        "Observation 3. How much more of forbidden activations lies on the 8 strongest input directions of ΔW, by "
        "layer",
        "Grey: 95 % of random 8-dimensional subspaces drawn from the pooled second moment of the activations, raw and "
        "centred. Dotted line: no difference. Brown panels: controls.",
        ("row_energy_difference",),
        panels,
        shared=False,
        whiskers="95 % bootstrap intervals over pairs",
    )
