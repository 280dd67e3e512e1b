"""Figures of `capability`: what the tuned and the base model do with neutral texts and harmless questions."""

from collections.abc import Sequence

import pandas as pd

from deltaw.charts.figure import Figure, figure
from deltaw.charts.primitives import TICK, Axis, Panel, domain_of, dots
from deltaw.charts.tables import Tables, values

TUNED, BASE = "tuned model", "base model"
KINDS = ((TUNED, "circle", "series"), (BASE, TICK, "null"))
SHARE = Axis("share", (-0.02, 1.02), (0, 0.25, 0.5, 0.75, 1), ".2f")
STATISTICS = {
    "right_rate": "Questions: answered rightly",
    "question_refuse_rate": "Questions: refused",
    "neutral_loss": "Loss on neutral texts",
}
"""A panel each, and its title."""
WHISKERS = "95 % Wilson intervals; of losses, 95 % bootstrap intervals over texts"


def capability(tables: Tables) -> Sequence[Figure]:
    """One figure: questions that are answered rightly, questions that are refused, and the loss."""
    drawn = figure(
        "capability",
        "What can the tuned model still do?",
        "Harmless questions with one right answer, and the loss per token on neutral texts (below: better).",
        tuple(name for statistic in STATISTICS for name in (statistic, f"{statistic}_base")),
        panels(tables),
        whiskers=WHISKERS,
    )
    return [drawn] if drawn is not None else []


def panels(tables: Tables) -> list[Panel | None]:
    """A panel a statistic, a row a model: the tuned and the base model's value."""
    dot_panels: list[Panel | None] = []
    for statistic, title in STATISTICS.items():
        frame = pd.concat(
            [
                tables.take(f"{statistic}{suffix}", last=True).assign(kind=kind)
                for suffix, kind in (("", TUNED), ("_base", BASE))
            ]
        )
        if len(frame):
            loss = statistic == "neutral_loss"
            axis = Axis("nats per token", domain_of(frame["low"], frame["high"]), format=".3~f") if loss else SHARE
            dot_panels.append(dots(values(frame), tables.series, title, axis, kinds=KINDS))
    return dot_panels
