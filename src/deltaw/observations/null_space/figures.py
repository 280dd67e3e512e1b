"""Figures of Observation 2: the null space of the base weights, and the size of the update."""

from dataclasses import replace

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
    null_whiskers,
    rule,
)
from deltaw.charts.shared import beside, families, shown_apart
from deltaw.charts.style import NULL_NAMES
from deltaw.charts.tables import Tables, nulls, values


def null_energy(tables: Tables) -> Figure | None:
    """ρ_N by layer with all its nulls, and the controls."""
    frame = tables.layered("null_energy_left", last=True)
    band = nulls(frame)
    kinds = [NULL_NAMES[kind] for kind in NULL_NAMES if NULL_NAMES[kind] in set(band["null"])]
    kinds += sorted(set(band["null"]) - set(kinds))
    panels: list[Panel | None] = []
    if len(frame):
        y = Axis("share of energy", domain_of(frame["value"], band["null_low"], band["null_high"]))
        x = replace(
            layer_axis(frame["layer"].tolist()), domain=(frame["layer"].min() - 0.45, frame["layer"].max() + 0.6)
        )
        for family, members in families(tables):
            shown = beside(tables, members)
            part = values(frame[frame["model"].isin([series.model for series in shown])])
            if part.empty:
                continue
            null = band[band["model"].isin([series.model for series in members if series.main])]
            under = [null_whiskers(null, kinds, x, y)] if len(null) else []
            drawn = dodged(part, "layer", tables.series, 0.07)
            drawn = drawn.assign(x=drawn["x"] - 0.12)
            panels.append(curves(drawn, tables.of(*frame["model"]), family, x, y, under=under))
    return figure(
        "null-energy",
        "Observation 2. Energy of the update in the left null space of the base weights, by layer (first MLP matrix)",
        "ρ_N at the last checkpoint. Grey whiskers: 95 % bands of each null, of the medium model. Flipping row "
        "signs keeps the size of every row and is the strictest null. Brown: controls. There is no interval, because "
        "weights give one value per seed.",
        ("null_energy_left",),
        panels,
    )


def profile(tables: Tables) -> Figure | None:
    """‖P_N u_j‖ of each left singular vector of ΔW, layer by layer, with chance."""
    return _per_layer(
        tables,
        "null_profile",
        "vector=",
        "singular vector, strongest first",
        "norm in the null space",
        "null-profile",
        "Observation 2. How much of each left singular vector of the update lies in the null space of W",
        "‖P_N u_j‖ for the strongest directions of ΔW, larger learning rate and controls. Grey band: 95 % of "
        "random directions.",
    )


def energy_curve(tables: Tables) -> Figure | None:
    """ρ_N over how many singular directions of W count as its column space."""
    return _per_layer(
        tables,
        "null_energy_curve",
        "k=",
        "k, directions counted as column space",
        "share of energy outside them",
        "null-energy-curve",
        "Observation 2. Energy of the update outside the strongest k directions of W",
        "Larger learning rate and controls. Dashed grey: chance, which falls as 1 − k/m. Below chance at small k, the "
        "update prefers the strong directions of W.",
    )


def _per_layer(
    tables: Tables, statistic: str, prefix: str, x_title: str, y_title: str, name: str, title: str, caption: str
) -> Figure | None:
    """A panel a layer, a line a protocol."""
    frame = tables.layered(statistic, last=True)
    panels: list[Panel | None] = []
    shown = [series for series in tables.series if series.main or series.control is not None]
    frame = frame[frame["model"].isin([series.model for series in shown])]
    if len(frame):
        frame = frame.assign(x=frame["set"].str.removeprefix(prefix).astype(float), low=float("nan"), high=float("nan"))
        band = nulls(frame)
        x = Axis(x_title, domain_of(frame["x"]))
        y = Axis(y_title, domain_of(frame["value"], band["null_low"], band["null_high"]))
        for layer in sorted(frame["layer"].unique()):
            part = values(frame[frame["layer"] == layer]).assign(at=lambda rows: rows["x"])
            null = band[band["layer"] == layer].drop_duplicates("x").sort_values("x")
            under = [null_band(null, "x", x, y)] if len(null) else []
            panels.append(
                curves(part, shown, f"layer {layer:.0f}", x, y, under=under, marks=len(part["x"].unique()) < 20)
            )
    return figure(name, title, caption, (statistic,), panels)


def sizes(tables: Tables) -> Figure | None:
    """‖ΔW‖/‖W‖ over training; the cosine of ΔW with W by layer."""
    frame = values(tables.take("update_relative_norm", layer=None))
    panels: list[Panel | None] = []
    if len(frame):
        frame = frame.assign(x=frame["step"], at=frame["step"])
        y = Axis("ratio of norms", domain_of(frame["value"], include=(0.1,), log=True), format=".2~g", log=True)
        x = Axis("update", domain_of(frame["x"]))
        panels.append(curves(frame, tables.of(*frame["model"]), "Relative size", x, y, under=[rule(0.1, "a tenth", y)]))
    for statistic, title, unit in (
        ("cosine_with_weight", "Cosine with W", "cosine"),
        ("stable_rank", "Stable rank", "dimensions"),
        ("participation_ratio", "Participation ratio", "dimensions"),
    ):
        part = tables.layered(statistic, last=True)
        if part.empty:
            continue
        band = nulls(part)
        y = Axis(unit, domain_of(part["value"], band["null_low"], band["null_high"]))
        x = layer_axis(part["layer"].tolist())
        null = band.groupby("layer", as_index=False).agg(
            null_mean=("null_mean", "mean"), null_low=("null_low", "min"), null_high=("null_high", "max")
        )
        under = [null_band(null, "layer", x, y)] if len(null) else []
        drawn = dodged(values(part), "layer", tables.series, 0.05)
        panels.append(curves(drawn, tables.of(*part["model"]), title, x, y, under=under))
    return figure(
        "update-size-and-rank",
        "Size ‖ΔW‖/‖W‖ of the update of the first MLP matrix over training, its cosine with W, and its ranks",
        "All tunings. Grey band on the cosine: 95 % of random matrices of the same size. Ranks have no null except "
        "the controls: compare protocols with the brown lines. Ranks are at most min(m, n).",
        ("update_relative_norm", "cosine_with_weight", "stable_rank", "participation_ratio"),
        panels,
    )


def budget(tables: Tables) -> Figure | None:
    """Share of the squared update by module, and its share of the parameters."""
    frame = values(tables.take("update_share", last=True))
    shares = values(tables.take("parameter_share", last=True))
    panels: list[Panel | None] = []
    if len(frame):
        rows = list(frame.drop_duplicates("module")["module"])
        axis = Axis("share", (0, domain_of(frame["value"], shares["value"])[1]), format="%")
        kinds = (("of the squared update", "circle", "series"), ("of the parameters", TICK, "null"))
        of_kinds = pd.concat([frame.assign(kind=kinds[0][0]), shares.assign(kind=kinds[1][0])])
        for series in shown_apart(tables):
            part = of_kinds[of_kinds["model"] == series.model]
            if len(part):
                panels.append(dots(part, tables.series, named(series), axis, kinds=kinds, rows=rows, row="module"))
    return figure(
        "module-budget",
        "Where the update is: share of ‖Δθ‖² by kind of module, and its share of the parameters",
        "Grey ticks: an update that moves all parameters equally. There is no interval: one value per seed.",
        ("update_share", "parameter_share"),
        panels,
        width=345,
    )
