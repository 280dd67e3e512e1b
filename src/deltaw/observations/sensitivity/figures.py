"""Figures of Observation 4: how tuning changes the sensitivity of the next token to its prompt, and where it lies."""

import pandas as pd

from deltaw.charts.figure import Figure, figure
from deltaw.charts.primitives import TICK, Axis, Panel, domain_of, dots, named, rule
from deltaw.charts.shared import PRIMARY, SHARE, shown_apart
from deltaw.charts.tables import Tables, nulls, values

RATIO = "sensitivity_log_ratio_"
SHOWN = {
    "spectral": "Spectral norm, log-probabilities",
    "fisher": "Fisher: λmax(JᵀFJ)",
    "max_logit_published": "Published: largest logit, last left out",
}
SIDES = {f"{PRIMARY}/forbidden": "forbidden", f"{PRIMARY}/allowed": "allowed, same operators"}
KINDS = (("forbidden", "circle", "series"), ("allowed, same operators", "square", "open"))
BLOCKS = ("bos", "operator", "sot", "text", "last_prompt")


def changes(tables: Tables) -> Figure | None:
    """Log ratio of tuned to base sensitivity on forbidden and allowed prompts, and their difference, every model."""
    panels: list[Panel | None] = []
    for kind, title in SHOWN.items():
        frame = values(tables.take(RATIO + kind, last=True, set=tuple(SIDES)))
        if len(frame):
            frame = frame.assign(kind=frame["set"].map(SIDES))
            axis = Axis("log of tuned over base", domain_of(frame["low"], frame["high"], frame["value"], include=(0,)))
            under = [rule(0, "unchanged", axis, vertical=True)]
            panels.append(dots(frame, tables.series, title, axis, kinds=KINDS, under=under))
    for kind, title in SHOWN.items():
        frame = tables.take(f"{RATIO}{kind}_difference", last=True, set=PRIMARY)
        if len(frame):
            band = nulls(frame)
            axis = Axis(
                "forbidden − allowed",
                domain_of(frame["low"], frame["high"], band["null_low"], band["null_high"], include=(0,)),
            )
            under = [rule(0, "alike", axis, vertical=True)]
            panels.append(dots(values(frame), tables.series, f"Difference. {title}", axis, null=band, under=under))
    statistics = [f"{RATIO}{kind}{suffix}" for kind in SHOWN for suffix in ("", "_difference")]
    return figure(
        "sensitivity",
        "Observation 4. Change of the sensitivity of the first response token to the prompt's embeddings",
        "Log of tuned over base, mean over prompts: −0.1 is 10 % less sensitive. Above: forbidden prompts (circles) "
        "and allowed ones with the same operators (hollow squares). Below: their difference, pair by pair. Grey bars: "
        "95 % of labels permuted within pairs. Left, used by the claims: the local Lipschitz constant of the "
        "log-probabilities, all positions. Right: the gradient of the largest logit without the last position, as "
        "published. Brown: controls.",
        statistics,
        panels,
        width=355,
        whiskers="95 % bootstrap intervals over prompts",
    )


def blocks(tables: Tables) -> Figure | None:
    """Which positions the Jacobian's squares lie at, a panel a model."""
    name = "sensitivity_block_share"
    frames = [
        tables.take(name + suffix, last=True, set=f"{PRIMARY}/forbidden", role=BLOCKS) for suffix in ("_base", "")
    ]
    tuned, base = frames[1].assign(kind="tuned model"), frames[0].assign(kind="base model")
    panels: list[Panel | None] = []
    for series in shown_apart(tables):
        part = pd.concat([tuned[tuned["model"] == series.model], base[base["model"] == series.model]])
        if len(part):
            kinds = (("tuned model", "circle", "series"), ("base model", TICK, "null"))
            rows = [block for block in BLOCKS if block in set(part["role"])]
            panels.append(dots(part, tables.series, named(series), SHARE, kinds=kinds, rows=rows, row="role"))
    return figure(
        "sensitivity-by-position",
        "Observation 4. Where in forbidden prompts the sensitivity lies: share of the Jacobian's squares by position",
        "Share of the squared Frobenius norm, mean over prompts. The published statistic excludes last_prompt. Grey "
        "ticks: the base model.",
        (name, f"{name}_base"),
        panels,
        width=345,
        whiskers="95 % bootstrap intervals",
    )
