"""Attacks in numbers: success, what each does to allowed prompts, and where attacked prompts lie, as tables."""

import pandas as pd

from deltaw.report.acting import FORBIDDEN
from deltaw.report.breaking import ALLOWED, FAMILIES, attacked_models
from deltaw.report.looks import share
from deltaw.report.tables import Table, Tables, interval, values

ON_PROMPTS = ("co_task", "co_text", "misgen_token", "misgen_text")


def attack_tables(tables: Tables) -> list[Table]:
    """Of the models that were attacked by more than prompts; a row an attack, a column a model. Empty without any."""
    ends = "95 % interval" if tables.seeds == 1 else "least, greatest of the seeds"
    found = []
    for name, words in ((FORBIDDEN, "Forbidden prompts answered"), (ALLOWED, "Allowed prompts answered")):
        frame = tables.take("comply_rate", stage="behaviour", last=True, set=name)
        title = f"{words}, conditional operators, in per cent [{ends}]"
        found.append(_table(tables, frame, title, per_cent=True))
    frame = tables.take("position", last=True, layer=None, site="mlp_post", set=FORBIDDEN)
    title = f"Position of forbidden prompts: 0 as forbidden, 1 as allowed ones; mlp_post, mean over layers [{ends}]"
    found.append(_table(tables, frame, title, per_cent=False))
    return [table for table in found if table is not None]


def _table(tables: Tables, frame: pd.DataFrame, title: str, *, per_cent: bool) -> Table | None:
    models = attacked_models(tables)
    frame = values(frame[frame["attack"].notna() & frame["model"].isin([one.model for one in models])])
    rows = {name: ["–"] * len(models) for name in _order(frame)}
    for place, one in enumerate(models):
        for row in frame[frame["model"] == one.model].to_dict("records"):
            if row["attack"] in rows:
                rows[row["attack"]][place] = _cell(row["value"], row["low"], row["high"], per_cent=per_cent)
    columns = ("attack", *(one.label for one in models))
    return Table(title, columns, tuple((name, *cells) for name, cells in rows.items())) if rows else None


def _order(frame: pd.DataFrame) -> list[str]:
    """Attacks by family, in order of dose as measured; variants after what they vary."""
    there = list(dict.fromkeys(frame["attack"]))
    return [name for family in ("none", *ON_PROMPTS, *FAMILIES) for name in there if name.startswith(family)]


def _cell(value: float, low: float, high: float, *, per_cent: bool) -> str:
    if not per_cent:
        return interval(value, low, high)
    return share(value) if low != low else f"{share(value)} [{share(low)}, {share(high)}]"
