"""Figures of dose and response."""

from deltaw.charts.figure import Figure, figure
from deltaw.charts.primitives import (
    Axis,
    Panel,
    curves,
    dodged,
    domain_of,
    dots,
    rule,
)
from deltaw.charts.shared import SHARE
from deltaw.charts.tables import Tables, nulls, values


def responses(tables: Tables) -> Figure | None:
    """Success in bins of position and of gain, and the slopes within attacks."""
    panels: list[Panel | None] = []
    shown = tuple(series.model for series in tables.series if series.main or series.control)
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
        "Prompts under every attack, and without one. Above: share answered with the exact harmful output. Below: "
        "slopes within attacks, because attacks differ in more than dose (Firth's logistic regression with an "
        "intercept for each attack). Grey: successes permuted within attacks.",
        ("success_by_position", "success_by_gain", "success_slope_position", "success_slope_gain"),
        panels,
        columns=2,
        width=355,
        whiskers="95 % Wilson intervals above, 95 % intervals robust to clusters of prompts below",
    )


def doses(tables: Tables) -> Figure | None:
    """How much closer to allowed prompts the strongest soft prompt moves activations than the weakest."""
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
        "Observation 5. How much closer to allowed prompts the strongest soft prompt moves prompts than the weakest",
        "Prompt by prompt, at mlp_post, mean over layers weighted by precision. Grey: doses swapped within prompts; "
        "random vectors of the same lengths.",
        ("position_dose_difference",),
        panels,
        columns=2,
        width=355,
        whiskers="95 % bootstrap intervals over prompts",
    )
