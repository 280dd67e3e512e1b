"""The figure of the direction of refusal."""

from deltaw.charts.figure import Figure, figure
from deltaw.charts.primitives import (
    Axis,
    Panel,
    curves,
    dodged,
    domain_of,
    layer_axis,
    null_band,
)
from deltaw.charts.tables import Tables, nulls, values


def refusal(tables: Tables) -> Figure | None:
    """How much of the difference in means lies in the span of ΔW's strongest output directions, by layer."""
    panels: list[Panel | None] = []
    shown = tuple(series.model for series in tables.series if series.main or series.control)
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
        "Cross-fitted share of the squared difference in means, by layer; the angle is arccos of its root. Layers "
        "in which the classes have the same mean have no mark. Right: the direction of the base model. Grey: 95 % of "
        "directions fitted with labels swapped within pairs; the widest of all models. Brown: controls.",
        ("refusal_share", "refusal_share_base"),
        panels,
        columns=2,
        width=345,
        whiskers="95 % jackknife intervals over pairs",
    )
