"""What observations show that were added to a run: the figures that they come with, or a table of their numbers.

Nothing that measures is imported: the manifest says what each is, and which function draws it.
"""

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from deltaw.charts.figure import Figure
from deltaw.charts.style import number
from deltaw.charts.tables import Table, Tables, interval, rate, values
from deltaw.errors import DeltawError

MOST = 200  # rows of a table


@dataclass(frozen=True)
class Added:
    """An observation that is not the recipe's own."""

    name: str
    label: str
    sentence: str
    figures: tuple[Figure, ...]
    missing: str
    """Why there are no figures; empty if there are, or if it comes with none."""
    table: Table | None
    """Its numbers, where no figure shows them."""


def added(manifest: Mapping[str, Any], tables: Tables) -> tuple[Added, ...]:
    """Every added observation that the manifest names."""
    return tuple(_added(record, tables) for record in manifest.get("observations") or ())


def added_interventions(manifest: Mapping[str, Any], tables: Tables) -> Table | None:
    """What models do under interventions that no figure of deltaw's knows: a row a model, dose and set of prompts."""
    names = [
        str(told["name"])
        for told in manifest.get("components") or ()
        if told.get("kind") == "intervention" and told.get("origin", "deltaw") != "deltaw"
    ]
    rows = []
    frame = tables.take("refuse_rate", stage="intervention")
    for line in values(frame[frame["intervention"].isin(names)]).to_dict("records"):
        place_of = {name: line[name] for name in ("model", "intervention", "dose", "set")}
        comply = values(tables.take("comply_rate", stage="intervention", **place_of))
        cells = [rate(line), *(rate(row) for row in comply.to_dict("records"))]
        place = (str(line["series"]), str(line["intervention"]), number(line["dose"]), str(line["set"]))
        rows.append((*place, *cells[:2]))
    columns = ("model", "intervention", "dose", "prompts", "refused, in per cent [95 %]", "answered")
    return Table("Added interventions", columns, tuple(rows[:MOST])) if rows else None


def _added(record: Mapping[str, Any], tables: Tables) -> Added:
    figures, missing = _drawn(str(record.get("figures") or ""), tables)
    table = None if figures else _table(record, tables)
    label, sentence = str(record["label"]), str(record["sentence"])
    return Added(str(record["name"]), label, sentence, figures, missing, table)


def _drawn(place: str, tables: Tables) -> tuple[tuple[Figure, ...], str]:
    """(figures, why there are none)."""
    if not place:
        return (), ""
    module, _, function = place.partition(":")
    try:
        drawn: Sequence[object] = tuple(getattr(importlib.import_module(module), function)(tables))
        if not all(isinstance(figure, Figure) for figure in drawn):
            raise DeltawError(f"{place} gave what is no figure")
        return tuple(figure for figure in drawn if isinstance(figure, Figure)), ""
    except Exception as error:  # a plug-in's: the page is made without its figures
        return (), f"{place} cannot be drawn: {type(error).__name__}: {error}"


def _table(record: Mapping[str, Any], tables: Tables) -> Table | None:
    rows = []
    for statistic in record.get("statistics") or ():
        frame = values(tables.take(str(statistic["name"]), stage="analysis", last=True))
        for line in frame.to_dict("records"):
            place = [str(line["set"] or ""), str(line["site"] or ""), _layer(line["layer"])]
            shown = interval(line["value"], line["low"], line["high"]) if line["low"] == line["low"] else None
            cells = (str(line["model"]), str(statistic["name"]), str(statistic["sentence"]), str(statistic["unit"]))
            rows.append((*cells, ", ".join(filter(None, place)) or "–", shown or number(line["value"])))
    if not rows:
        return None
    left = f" (the first {MOST} of {len(rows)}; all are in measurements.jsonl)" if len(rows) > MOST else ""
    columns = ("model", "statistic", "what it says", "unit", "of what", "value [95 %]")
    return Table(f"{record['label']}{left}", columns, tuple(rows[:MOST]))


def _layer(layer: float) -> str:
    return f"layer {layer:.0f}" if layer == layer else ""
