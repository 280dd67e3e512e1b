"""Attacks in numbers: success, what each does to allowed prompts, and where attacked prompts lie, as tables."""

from collections.abc import Callable, Mapping
from typing import Any

import pandas as pd

from deltaw.charts.shared import ALLOWED, FORBIDDEN
from deltaw.charts.style import ATTACKS, attack_labels
from deltaw.charts.tables import Table, Tables, ends, interval, rate, values
from deltaw.report.figures.attacks_on_models import FAMILIES, attacked_models, in_order, other_attacks

ON_PROMPTS = ATTACKS[:4]  # runs of earlier versions do not say which attacks they had
Cell = Callable[[Mapping[Any, Any]], str]


def attack_tables(tables: Tables) -> list[Table]:
    """Of the models that were attacked by more than prompts; a row an attack, a column a model. Empty without any."""
    listed = []
    for name, words in ((FORBIDDEN, "Forbidden prompts answered"), (ALLOWED, "Allowed prompts answered")):
        frame = tables.take("comply_rate", stage="behaviour", last=True, set=name)
        listed.append(_table(tables, frame, f"{words}, conditional operators, in per cent [{ends(tables)}]", rate))
    frame = tables.take("position", last=True, layer=None, site="mlp_post", set=FORBIDDEN)
    title = "Position of forbidden prompts: 0 as forbidden, 1 as allowed ones; mlp_post, mean over layers"
    listed.append(_table(tables, frame, f"{title} [{ends(tables)}]", _place))
    return [table for table in listed if table is not None]


def _table(tables: Tables, frame: pd.DataFrame, title: str, cell: Cell) -> Table | None:
    models = attacked_models(tables)
    frame = values(frame[frame["attack"].notna() & frame["model"].isin([model.model for model in models])])
    on_prompts = dict.fromkeys([*ON_PROMPTS, *attack_labels(tables.manifest, "prompt-attack")])
    there = set(frame["attack"])
    names = [name for name in ("none", *on_prompts) if name in there]
    names += in_order(frame["attack"], FAMILIES, other_attacks(tables, frame["attack"]))
    rows = {name: ["–"] * len(models) for name in names}
    for place, model in enumerate(models):
        for row in frame[frame["model"] == model.model].to_dict("records"):
            if row["attack"] in rows:
                rows[row["attack"]][place] = cell(row)
    columns = ("attack", *(model.label for model in models))
    return Table(title, columns, tuple((name, *cells) for name, cells in rows.items())) if rows else None


def _place(row: Mapping[Any, Any]) -> str:
    return interval(row["value"], row["low"], row["high"])
