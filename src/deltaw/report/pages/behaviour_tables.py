"""What the models do, as tables."""

from typing import Any

from deltaw.charts.style import set_name, share
from deltaw.charts.tables import Tables, ends, rate, values
from deltaw.report.figures.behaviour import ENDS, STRATA
from deltaw.report.pages.seed_spread import spread_table


def rate_tables(tables: Tables) -> list[dict[str, Any]]:
    """The numbers of the behaviour figure, at the end and at the matched checkpoint, and the base's strata."""
    listed, between = [], ends(tables)
    for stage, title in (
        ("behaviour", "at the end"),
        ("matched", "at the matched checkpoint, the first that refuses enough"),
    ):
        rows: dict[str, list[str]] = {}
        for place, (statistic, name, _) in enumerate(ENDS):
            for row in values(tables.take(statistic, stage=stage, attack=None, set=name)).to_dict("records"):
                line = rows.setdefault(str(row["series"]), [f"{row['step']:.0f}", *["–"] * len(ENDS)])
                line[place + 1] = rate(row)
        if rows:
            order = [series.label for series in tables.series if series.label in rows]
            body = [[label, *rows[label]] for label in order] + _ceiling(tables)
            columns = [
                "model",
                "update",
                *(f"{statistic.removesuffix('_rate')}, {set_name(name)}" for statistic, name, _ in ENDS),
            ]
            listed.append({"title": f"Behaviour {title}, in per cent [{between}]", "columns": columns, "rows": body})
    listed += _targets(tables)
    strata = values(
        tables.take("comply_rate", stage="pretrain", last=True, set=tuple(f"pretrain/{name}" for name in STRATA))
    )
    if len(strata):
        by_stratum = [
            [str(row["set"]).removeprefix("pretrain/").replace("_", " "), rate(row), f"{row['n']:.0f}"]
            for row in strata.to_dict("records")
        ]
        title = f"The base model by stratum: exact answers to held-out prompts, in per cent [{between}]"
        unit = "prompts" if tables.seeds == 1 else "seeds"
        listed.append({"title": title, "columns": ["stratum", "exact answers", unit], "rows": by_stratum})
    spread = spread_table(tables)
    return [*listed, spread] if spread else listed


def _targets(tables: Tables) -> list[dict[str, Any]]:
    """Whether the controls learned what they were taught."""
    frame = values(tables.take("target_rate", stage="behaviour", attack=None))
    if frame.empty:
        return []
    sets = list(dict.fromkeys(frame["set"]))
    rows = []
    for model, part in tables.by_model(frame):
        mine = {str(row["set"]): row for row in part.to_dict("records")}
        rows.append([model.label, *(rate(mine[name]) if name in mine else "–" for name in sets)])
    title = f"Controls: answers that are exactly what the control teaches, in per cent [{ends(tables)}]"
    return [{"title": title, "columns": ["model", *map(set_name, sets)], "rows": rows}]


def _ceiling(tables: Tables) -> list[list[str]]:
    cells = []
    for statistic, name, _ in ENDS:
        frame = tables.take("bayes_accuracy", set=name)
        right = not (statistic == "comply_rate" and name.startswith("forbidden/"))
        cells.append(share(float(frame["value"].iloc[0])) if len(frame) and right else "")
    return [["Bayes ceiling", "", *cells]] if any(cells) else []
