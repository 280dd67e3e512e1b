"""The figure of the probe."""

from typing import Any

import pandas as pd

from deltaw.charts.figure import Figure, figure
from deltaw.charts.primitives import (
    Axis,
    Panel,
    curves,
    dodged,
    domain_of,
    layer_axis,
    named,
    null_band,
)
from deltaw.charts.shared import ALLOWED, FORBIDDEN, SHARE, shown_apart
from deltaw.charts.style import Series, light
from deltaw.charts.tables import Tables, nulls, values


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
        band = nulls(frame[(frame["set"] == FORBIDDEN) & (frame["of"] == "tuned")])
        y = Axis("accuracy", domain_of(frame["low"], frame["high"], include=(0, 1)), SHARE.ticks, "%")
        for series in shown_apart(tables):
            part = values(frame[frame["model"] == series.model].assign(statistic=lambda rows: rows["of"]))
            if part.empty:
                continue
            looks = [
                Series("", "tuned", None, series.colour, (1, 0), "circle", False),
                Series("", "tuned, allowed prompts", None, series.colour, (5, 3), "square", True),
                Series("", "base", None, light("base"), (1, 0), "square", False),
                Series("", "random weights", None, light("null"), (2, 2), "cross", False),
            ]
            drawn = dodged(part.assign(series=part["of"]), "layer", looks, 0.07)
            null = band[(band["model"] == series.model) & (band["null_kind"] == "label_permutation")]
            under = [null_band(null, "layer", x, y)] if len(null) else []
            panels.append(curves(drawn, looks, named(series), x, y, under=under, legend=False))
    return figure(
        "probe",
        "Can the harmful answer still be read? A linear probe for the first letter of the harmful output, by layer",
        "Last prompt token, resid_out; held-out combinations of operators and first letter. Filled circles: the tuned "
        "model on forbidden prompts, which it refuses. Hollow squares: on allowed ones. Grey squares: the base model, "
        "which answers. Grey crosses: random weights, which carry the prompt but compute nothing. Grey band: labels "
        "permuted.",
        ("probe_accuracy", "probe_accuracy_base", "probe_accuracy_random"),
        panels,
        shared=False,
        whiskers="95 % bootstrap intervals over combinations",
    )
