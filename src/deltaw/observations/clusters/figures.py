"""Figures of Observation 1: how far apart allowed and forbidden prompts lie."""

import pandas as pd

from deltaw.charts.figure import Figure, figure
from deltaw.charts.primitives import Axis, Panel, curves, dodged, domain_of, layer_axis, null_band, rule
from deltaw.charts.shared import PRIMARY, beside, families
from deltaw.charts.style import BASE
from deltaw.charts.tables import Tables, nulls, values

SEPARATIONS = (
    ("tau_gap_relative", "Relative gap", "share of distance, at most 2"),
    ("auroc", "AUROC of the projection", "probability"),
    ("d_prime", "d' of the projection", "standard deviations"),
)


def clusters(tables: Tables, site: str = "mlp_post") -> Figure | None:
    """Separation by layer: base, medium, small and controls, with the band of permuted labels."""
    panels: list[Panel | None] = []
    where = {"site": site, "set": PRIMARY}
    for statistic, title, unit in SEPARATIONS:
        frame = tables.layered(statistic, last=True, **where)
        before = tables.layered(f"{statistic}_base", last=True, **where)
        if frame.empty:
            continue
        band = nulls(frame)
        whole = (frame["low"], frame["high"], frame["value"], before["value"], band["null_low"], band["null_high"])
        y = Axis(unit, domain_of(*whole))
        x = layer_axis(frame["layer"].tolist())
        for family, members in families(tables):
            shown = beside(tables, members)
            part = values(frame[frame["model"].isin([series.model for series in shown])])
            base = values(before[before["model"].isin([series.model for series in members])]).drop_duplicates("layer")
            drawn = pd.concat([part, base.assign(series=BASE.label)])
            if part.empty:
                continue
            null = band[band["model"].isin([series.model for series in members if series.main])]
            under = [null_band(null, "layer", x, y)] if len(null) else []
            drawn = dodged(drawn, "layer", tables.series, 0.07)
            panels.append(curves(drawn, (BASE, *tables.of(*frame["model"])), f"{title}: {family}", x, y, under=under))
    return figure(
        f"clusters-{site.replace('_', '-')}",
        f"Observation 1. How far apart allowed and forbidden prompts lie, by layer ({site}, last prompt token)",
        "Relative gap: τ/‖Δμ‖, cross-fitted. The same conditional operators on safe and on unsafe text, after tuning. "
        "Grey squares: the base model, which separates them already; the effect of tuning is the difference. Grey "
        "band: the medium model with labels permuted and everything fitted again. Brown: controls, tuned to do "
        "something else.",
        [name for statistic, *_ in SEPARATIONS for name in (statistic, f"{statistic}_base")],
        panels,
        whiskers="95 % bootstrap intervals over pairs",
    )


def cluster_changes(tables: Tables) -> Figure | None:
    """The change of the relative gap over checkpoints, mean over layers."""
    panels: list[Panel | None] = []
    for site in ("mlp_post", "resid_out"):
        frame = tables.take("tau_gap_relative_change", site=site, set=PRIMARY, layer=None)
        if frame.empty:
            continue
        band = nulls(frame)
        y = Axis(
            "change, share of distance",
            domain_of(frame["low"], frame["high"], band["null_low"], band["null_high"], include=(0,)),
        )
        x = Axis("update", domain_of(frame["step"]))
        for family, members in families(tables):
            shown = beside(tables, members)
            part = values(frame[frame["model"].isin([series.model for series in shown])])
            if part.empty:
                continue
            null = band[band["model"].isin([series.model for series in members if series.main])]
            under = [null_band(null, "step", x, y)] if len(null) else []
            part = dodged(part, "step", tables.series, 0.008 * (x.domain or (0, 1))[1])
            panels.append(
                curves(part, tables.of(*frame["model"]), f"{site}: {family}", x, y, under=[*under, rule(0, "", y)])
            )
    return figure(
        "clusters-over-training",
        "Observation 1. Change of the relative gap τ/‖Δμ‖ over training, mean over layers (tuned minus base)",
        "Dotted line: no change. Claims use the last point at mlp_post. Grey bar: 95 % of permuted labels at the last "
        "checkpoint, medium model. Brown: controls.",
        ("tau_gap_relative_change",),
        panels,
        whiskers="95 % bootstrap intervals over pairs",
    )
