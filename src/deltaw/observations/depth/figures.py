"""Figures of `depth`: divergence of the tuned from the base model along forced answers."""

from collections.abc import Sequence

import pandas as pd

from deltaw.charts.figure import Figure, figure
from deltaw.charts.primitives import Axis, Panel, curves, dodged, domain_of, dots, null_band
from deltaw.charts.tables import Tables, nulls, values


def depth(tables: Tables) -> Sequence[Figure]:
    """One figure: KL by token, forbidden minus allowed, and the share of the first tokens."""
    frame, gaps = _by_token(tables, "kl_by_position"), _by_token(tables, "kl_gap")
    panels: list[Panel | None] = []
    for table, prefix in ((frame, ""), (gaps, "Forbidden minus allowed: ")):
        band = nulls(table)
        y = Axis("nats", domain_of(table["low"], table["high"], band["null_low"], band["null_high"], include=(0,)))
        names = dict.fromkeys(table["of"])
        panels += [_curve(tables, table[table["of"] == name], f"{prefix}{name}", y) for name in names]
    shares = tables.take("kl_early_share", last=True)
    for name in dict.fromkeys(shares["set"]):
        part = shares[shares["set"] == name]
        axis = Axis("share on the first tokens", (-0.02, 1.02), (0, 0.25, 0.5, 0.75, 1), "%")
        panels.append(dots(values(part), tables.series, _title(str(name)), axis, null=nulls(part)))
    drawn = figure(
        "depth",
        "How deep into an answer does the tuning reach? KL of the tuned from the base model at each token",
        "Both models are forced to say a refusal, or a harmless sentence. Grey band under differences: labels "
        "permuted; under shares: the tokens of each prompt in random order. Brown: controls.",
        ("kl_by_position", "kl_gap", "kl_early_share"),
        panels,
        whiskers="95 % bootstrap intervals over prompts",
    )
    return [drawn] if drawn is not None else []


def _by_token(tables: Tables, statistic: str) -> pd.DataFrame:
    frame = tables.take(statistic, last=True)
    parts = [str(name).rpartition("/token=") for name in frame["set"]]
    return frame.assign(of=[_title(name) for name, _, _ in parts], token=[float(token) for _, _, token in parts])


def _title(name: str) -> str:
    """VERDICT/ANSWER, or ANSWER, of a set whose contrast's own name may have a slash."""
    parts = name.split("/")
    return ", ".join(parts[-2:] if {*parts[-2:]} & {"allowed", "forbidden"} else parts[-1:])


def _curve(tables: Tables, frame: pd.DataFrame, title: str, y: Axis) -> Panel:
    ticks = tuple(sorted(set(frame["token"])))
    x = Axis("token of the answer", (ticks[0] - 0.5, ticks[-1] + 0.5), ticks, "d")
    band = nulls(frame)
    widest = band.groupby("token", as_index=False).agg(
        null_mean=("null_mean", "mean"), null_low=("null_low", "min"), null_high=("null_high", "max")
    )
    under = [null_band(widest, "token", x, y)] if len(widest) else []
    drawn = dodged(values(frame), "token", tables.series, 0.04)
    return curves(drawn, tables.of(*frame["model"]), title, x, y, under=under)
