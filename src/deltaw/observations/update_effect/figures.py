"""Figures of function: how the MLPs' outputs change, and what part of ΔW changes them."""

import pandas as pd

from deltaw.charts.figure import Figure, figure
from deltaw.charts.primitives import (
    Axis,
    Panel,
    bars,
    domain_of,
)
from deltaw.charts.shared import PRIMARY, shown_apart
from deltaw.charts.style import light
from deltaw.charts.tables import Tables, nulls, values

PARTS = {
    "null": "null-space part",
    "column": "column-space part",
    "rest": "rest of the MLP",
    "inherited": "inherited from earlier layers",
}


def effects(tables: Tables) -> Figure | None:
    """The change of the MLP's output on forbidden prompts, divided among its sources."""
    frames = [
        tables.layered(f"effect_share_{part}", last=True, set=f"{PRIMARY}/forbidden").assign(kind=words)
        for part, words in PARTS.items()
    ]
    frame = pd.concat(frames)
    kinds = {words: light(f"part-{part}") for part, words in PARTS.items()}
    panels: list[Panel | None] = []
    if len(frame):
        band = nulls(frame)
        y = Axis(
            "share of the squared change",
            domain_of(frame["low"], frame["high"], band["null_low"], band["null_high"], include=(0,)),
        )
        for series in shown_apart(tables):
            part = values(frame[frame["model"] == series.model])
            if len(part):
                null = band[band["model"] == series.model]
                panels.append(bars(part, null, kinds, series, y))
    return figure(
        "function",
        "What changes the MLP's output on forbidden prompts: shares by source and layer (they add up to 1)",
        "Shapley shares; a negative share works against the change. Grey ticks with bands: the same shares with "
        "random signs of the update's rows. The null space is three times as large as the column space, so compare "
        "its share with the grey, not with zero. Brown panels: controls.",
        [f"effect_share_{part}" for part in PARTS],
        panels,
        whiskers="95 % bootstrap intervals over prompts",
    )
