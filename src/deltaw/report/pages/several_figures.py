"""Figures of several updates of one base: what every two share, over layers."""

from collections.abc import Iterable

import pandas as pd

from deltaw.charts.figure import Figure, figure
from deltaw.charts.primitives import Axis, curves, domain_of, layer_axis, null_band
from deltaw.charts.style import Series, light, number
from deltaw.charts.tables import interval
from deltaw.report.pages.several import GROUPS, PairOfModels, Several, kind_of, of_most_directions

SHADES = ("ssft", "dpo", "unlearn", "dpo_plain", "added-1", "added-2", "added-3", "added-4")
SHAPES = ("circle", "square", "triangle-up", "diamond", "triangle-down", "cross", "triangle-right", "triangle-left")
DASHES = {"two tunings": (1, 0), "tuning and control": (6, 3), "two controls": (2, 2)}
MOST_LINES = 8
"""Pairs up to this many have a line each in a figure; of more, each group has one."""


def drawn(several: Several) -> list[Figure]:
    """Cosine, overlaps and shared energy over layers, a panel a kind of matrix."""
    figures = [
        _over_layers(
            several,
            "update_cosine",
            "several-cosine",
            "Cosine of every two updates, by layer",
            "cosine",
            "Entries of two updates as vectors. Grey: chance, 95 % under rotations of both sides; in large matrices it "
            "is thinner than a line.",
        ),
        *(
            _over_layers(several, f"{side}_{what}", f"several-{side}-{what}".replace("_", "-"), title, unit, caption)
            for side, word in (("output", "write"), ("input", "read"))
            for what, title, unit, caption in (
                (
                    "overlap",
                    f"Overlap of the {several.k} strongest {word} directions of every two updates, by layer",
                    "mean squared cosine",
                    "1: the same subspace. Grey: chance, 95 % for a uniform subspace.",
                ),
                (
                    "angle",
                    f"The smallest principal angle between the {several.k} strongest {word} directions, by layer",
                    "degrees",
                    "0: they share a direction. Grey: chance, 95 %; the smallest of several angles is not near 90°.",
                ),
                (
                    "energy_shared",
                    f"Energy of one update in the other's {several.k} strongest {word} directions, by layer",
                    "share of energy",
                    "Of the first model's update in the second's directions. Grey: chance, 95 % for uniform "
                    "directions. Its own directions hold the most that so many directions can.",
                ),
            )
        ),
    ]
    return [made for made in figures if made is not None]


def _over_layers(several: Several, statistic: str, name: str, title: str, unit: str, caption: str) -> Figure | None:
    parts = []
    for pair in several.pairs:
        rows = several.of(pair, statistic)
        rows = rows[rows["layer"].notna() & (rows["angle"].isna() | (rows["angle"] == 1))]
        rows = rows if rows["k"].isna().all() else of_most_directions(rows)
        parts.append(rows.assign(series=pair.label, group=pair.group))
    frame = pd.concat(parts)
    if frame.empty:
        return None
    kinds = [kind_of(module, layer) for module, layer in zip(frame["module"], frame["layer"], strict=True)]
    frame = frame.assign(kind=kinds, x=frame["layer"], at=frame["layer"])
    looks = _looks(several.pairs)
    if len(several.pairs) > MOST_LINES:
        frame, looks = _grouped(frame)
        caption = f"Means over the pairs of each group; whiskers span them. {caption}"
    else:
        frame = frame.assign(low=float("nan"), high=float("nan"))
    shown = [
        f"{number(value)}, chance {interval(*null)}"
        for value, *null in zip(frame["value"], frame["null_mean"], frame["null_low"], frame["null_high"], strict=True)
    ]
    frame = frame.assign(shown=shown)
    x = layer_axis(frame["x"].tolist())
    y = Axis(unit, domain_of(frame["value"], frame["low"], frame["high"], frame["null_low"], frame["null_high"]))
    panels = []
    for kind in sorted(set(kinds)):
        part = frame[frame["kind"] == kind]
        null = part.drop_duplicates("layer").sort_values("layer")
        k = part["k"].max()
        panel = kind if k != k or k == several.k else f"{kind}, k = {k:.0f}"
        there = [look for look in looks if look.label in set(frame["series"])]
        panels.append(curves(part.drop(columns="kind"), there, panel, x, y, under=[null_band(null, "layer", x, y)]))
    return figure(name, title, caption, (statistic,), panels)


def _grouped(frame: pd.DataFrame) -> tuple[pd.DataFrame, tuple[Series, ...]]:
    """The mean over the pairs of each group, and their range."""
    means = frame.groupby(["kind", "layer", "group"], sort=False, as_index=False).agg(
        value=("value", "mean"),
        low=("value", "min"),
        high=("value", "max"),
        null_mean=("null_mean", "mean"),
        null_low=("null_low", "mean"),
        null_high=("null_high", "mean"),
        k=("k", "max"),
        x=("x", "first"),
        at=("at", "first"),
    )
    shades = dict(zip(GROUPS, ("ssft", "control", "base"), strict=True))
    looks = tuple(
        Series("", group, None, light(shades[group]), DASHES[group], SHAPES[place], place > 0)
        for place, group in enumerate(GROUPS)
    )
    offsets = {group: 0.12 * (place - 1) for place, group in enumerate(GROUPS)}
    return means.assign(series=means["group"], x=means["x"] + means["group"].map(offsets)), looks


def _looks(pairs: Iterable[PairOfModels]) -> tuple[Series, ...]:
    """Two tunings have a colour each; pairs with controls are brown or grey, and told apart by their marks."""
    looks, places = [], dict.fromkeys(GROUPS, 0)
    for pair in pairs:
        place = places[pair.group]
        places[pair.group] += 1
        colour = {GROUPS[0]: SHADES[place % len(SHADES)], GROUPS[1]: "control", GROUPS[2]: "base"}[pair.group]
        shape, hollow = SHAPES[place % len(SHAPES)], pair.group != GROUPS[0]
        looks.append(Series("", pair.label, None, light(colour), DASHES[pair.group], shape, hollow))
    return tuple(looks)
