"""Figures of ranks: how many directions activations and updates have."""

from typing import Any

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
    null_band,
    rule,
)
from deltaw.charts.shared import PRIMARY
from deltaw.charts.tables import Tables, nulls, values

SITE = "mlp_post"
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


def ranks_over_training(tables: Tables) -> Figure | None:
    """Log ratios of ranks over checkpoints."""
    panels: list[Panel | None] = []
    shown = tuple(series.model for series in tables.series if series.main or series.control)
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
        "−0.22 is a fifth fewer directions. Mean over layers, last prompt token, the same conditional operators on "
        "safe and unsafe text. Grey bars: 95 % with models, or labels, swapped within pairs; the widest of all "
        "models. Brown: controls.",
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
        "Activations: participation ratio, corrected for the bias from few prompts, geometric mean over layers. "
        "Update: directions that hold 0.9 of ‖ΔW‖², first MLP matrix, by layer. Grey: a random matrix.",
        ("activation_rank", "activation_rank_base", "update_energy_rank"),
        panels,
        width=355,
        whiskers="95 % jackknife intervals over prompts",
    )
