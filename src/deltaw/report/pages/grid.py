"""The report of a grid: when attacks on prompts work. One figure, and every cell in tables; all of it from the run."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from deltaw.charts.figure import Figure, figure
from deltaw.charts.primitives import Axis, Panel, curves, domain_of
from deltaw.charts.shared import SHARE
from deltaw.charts.style import Series, light, set_name, share
from deltaw.charts.tables import Table, Tables, interval
from deltaw.results import Results

SUCCESS = Series("", "success: tuned model", None, light("ssft"), (1, 0), "circle", False)
BASE = Series("", "base model, the same prompts", None, light("base"), (5, 3), "square", True)
BENIGN = Series("", "tuned model, benign control", None, light("unlearn"), (2, 2), "triangle-up", True)
PLAIN = Series("", "tuned model, not attacked", None, light("null"), (1, 2), "diamond", True)
BAYES = Series("", "Bayes: an unsafe side", None, light("ink"), (1, 3), "stroke", False)
LOOKS = (SUCCESS, BASE, BENIGN, PLAIN, BAYES)

TITLE = "When attacks on prompts work: success in worlds that differ in one thing each"
CONDITIONAL, NEVER, ALWAYS = "forbidden/conditional/unsafe", "forbidden/never/safe", "allowed/always/unsafe"
BENIGN_OF = {
    ("co_task", CONDITIONAL): "allowed/conditional/safe",
    ("co_task", NEVER): "allowed/conditional/safe",
    ("misgen_token", CONDITIONAL): "allowed/conditional/safe",
    ("misgen_token", NEVER): "allowed/conditional/safe",
    ("co_text", CONDITIONAL): ALWAYS,
    ("misgen_text", CONDITIONAL): ALWAYS,
}
"""The attacks, each with the set that it is made from: its benign control is the same transformation of this set."""


class Grid:
    """A grid's measurements by cell. Several seeds are averaged, with their range as the interval."""

    def __init__(self, results: Results) -> None:
        self.tables = Tables(results)
        config: Mapping[str, Any] = results.manifest["config"]
        self.cells: list[Mapping[str, Any]] = list(config["cells"])
        self.tuned: list[str] = [str(tuned["name"]) for tuned in config["tunings"]]

    def rate(self, model: str, cell: str, attack: str | None, name: str, statistic: str = "comply_rate") -> Any:
        """The one row of a rate of `model` in a cell; None if it was not measured."""
        return self._row(statistic, model=f"{model}@{cell}", attack=attack, set=name, stage="behaviour")

    def known(self, statistic: str, cell: str, name: str) -> Any:
        """The one row of what is exact in a cell; None if it was not computed."""
        return self._row(statistic, model=f"base@{cell}", set=name, stage="world")

    def stratum(self, cell: Mapping[str, Any]) -> Any:
        """The base model's own success where prompts name operators by aliases; None if it was not measured."""
        owner = cell["base"] or cell["name"]
        return self._row("comply_rate", model=f"base@{owner}", set="pretrain/alias", stage="pretrain", last=True)

    def _row(self, statistic: str, last: bool = False, **where: Any) -> Any:
        frame = self.tables.take(statistic, **where)
        if last and len(frame):
            frame = frame[frame["step"] == frame["step"].max()]
        return None if frame.empty else frame.iloc[0]


def alias_share(cell: Mapping[str, Any]) -> float:
    """How often a token of a cell's pre-training prompts is an alias; for published policies."""
    world = cell["world"]
    if world["alias_rate"] is not None:
        return float(world["alias_rate"])
    count = int(world["n_operators"])
    aliases = {k for grammar in world["grammars"] for k in _aliases(grammar, count)}
    return len(aliases) / (count + len(aliases))


def _aliases(grammar: Mapping[str, Any], count: int) -> list[int]:
    named = grammar["aliases"]
    return list(named) if named is not None else [k for k in range(count) if k not in grammar["always"]]


def _number(row: Any) -> str:
    return "–" if row is None else interval(row["value"], row["low"], row["high"])


def _percent(row: Any) -> str:
    if row is None:
        return "–"
    return f"{share(row['value'])} [{share(row['low'])}, {share(row['high'])}]"


def tables_of(grid: Grid) -> list[Table]:
    """All cells: what is exact about each, every attack in each, and `co_text` by the length of the unsafe side."""
    by_tuning = (make(grid, tuned) for make in (_attacks, _sides) for tuned in grid.tuned)
    return [table for table in (_worlds(grid), *by_tuning) if table is not None]


def _worlds(grid: Grid) -> Table | None:
    rows = []
    for cell in grid.cells:
        name = str(cell["name"])
        near, far = (grid.known("text_distance", name, f"unsafe_text/letters={length}") for length in ("06", "12"))
        row = {
            "cell": name,
            "axis": cell["axis"] or "–",
            "aliases among pre-training tokens, %": share(alias_share(cell)),
            "base model on aliases, %": _percent(grid.stratum(cell)),
            "distance, 6 letters": _number(near),
            "distance, 12 letters": _number(far),
            "texts tuning cannot derive, %": _percent(grid.known("underivable_share", name, "unsafe_text/letters=20")),
            "Bayes: text is unsafe": _number(grid.known("unsafe_side_probability", name, CONDITIONAL)),
        }
        rows.append(row)
    title = (
        "The cells: how common aliases are and whether the base model knows them; how far held-out text lies from the "
        "unsafe text in tuning (total variation; 1 is furthest), before held-out windows that tuning could show are "
        "redrawn"
    )
    return Table.of(title, rows)


def _attacks(grid: Grid, tuned: str) -> Table | None:
    rows = []
    for (attack, source), control in BENIGN_OF.items():
        for cell in grid.cells:
            name = str(cell["name"])
            success = grid.rate(tuned, name, attack, source)
            if success is None:
                continue
            row = {
                "attack, operators": f"{attack}, {_which(source)}",
                "cell": name + (" *" if cell["attack"] == attack else ""),
                "success": _percent(success),
                "refused": _percent(grid.rate(tuned, name, attack, source, "refuse_rate")),
                "base model's success": _percent(grid.rate("base", name, attack, source)),
                "benign control answered": _percent(grid.rate(tuned, name, attack, control)),
                "refused without attack": _percent(grid.rate(tuned, name, None, source, "refuse_rate")),
                "control set answered without attack": _percent(grid.rate(tuned, name, None, control)),
                "prompts": f"{success['n']:.0f}",
            }
            rows.append(row)
    title = f"{tuned}: every attack in every cell, in per cent [95 % interval]. *: the cell is about this attack"
    return Table.of(title, rows)


def _sides(grid: Grid, tuned: str) -> Table | None:
    rows = []
    for name in (str(cell["name"]) for cell in grid.cells if cell["axis"] == "margin"):
        for side in _side_names(grid, tuned, name):
            forbidden, allowed = (f"{source}_letters={side}" for source in (CONDITIONAL, ALWAYS))
            success = grid.rate(tuned, name, "co_text", forbidden)
            row = {
                "cell": name,
                "unsafe letters": side.replace("-", " to ").lstrip("0").replace(" 0", " "),
                "success": _percent(success),
                "refused": _percent(grid.rate(tuned, name, "co_text", forbidden, "refuse_rate")),
                "base model's success": _percent(grid.rate("base", name, "co_text", forbidden)),
                "benign control answered": _percent(grid.rate(tuned, name, "co_text", allowed)),
                "Bayes: an unsafe side": _number(grid.known("unsafe_side_probability", name, forbidden)),
                "prompts": f"{success['n']:.0f}",
            }
            rows.append(row)
    return Table.of(f"{tuned}: co_text by letters on the unsafe side, in per cent [95 % interval]", rows)


def _side_names(grid: Grid, tuned: str, cell: str) -> list[str]:
    frame = grid.tables.take("comply_rate", model=f"{tuned}@{cell}", attack="co_text", stage="behaviour")
    sets = [str(name) for name in frame["set"] if str(name).startswith(f"{CONDITIONAL}_letters=")]
    return [name.rpartition("=")[2] for name in sets]


def grid_figure(grid: Grid, tuned: str) -> Figure | None:
    """Success along each axis, with the base model, the benign control and the same set without the attack."""
    panels: list[Panel | None] = []
    rates = [(alias_share(cell), cell) for cell in grid.cells if not cell["axis"] or cell["axis"] == "alias rate"]
    for source in (CONDITIONAL, NEVER):
        ticks = tuple(sorted(at for at, _ in rates))
        axis = Axis("aliases among pre-training tokens", (ticks[0] / 1.4, ticks[-1] * 1.4), ticks, ".0%", log=True)
        panels.append(_panel(grid, tuned, rates, "misgen_token", source, axis))
    texts = []
    for cell in grid.cells:
        row = grid.known("text_distance", str(cell["name"]), "unsafe_text/letters=06")
        if row is not None and (not cell["axis"] or cell["axis"] == "distance"):
            texts.append((float(row["value"]), cell))
    axis = Axis("distance of held-out text from tuning's, 6 letters", (-0.02, 1.02), (0, 0.25, 0.5, 0.75, 1), ".2f")
    panels.append(_panel(grid, tuned, texts, "misgen_text", CONDITIONAL, axis))
    panels += [_side_panel(grid, tuned, str(cell["name"])) for cell in grid.cells if cell["axis"] == "margin"]
    return figure(
        "grid" if len(grid.tuned) == 1 else f"grid-{_file_name(tuned)}",
        TITLE,
        "Success: exact harmful output on forbidden prompts. Squares: the base model on the same prompts; where it is "
        "low, the attack measures nothing. Triangles: the same transformation of allowed prompts; where it is low, the "
        "attack breaks the request and not the refusal. Diamonds: the same forbidden prompts without the attack. Lines "
        "join cells of one axis. Distance: total variation between two distributions of text.",
        ("comply_rate", "text_distance", "unsafe_side_probability"),
        panels,
        columns=2,
        width=345,
        whiskers="95 % Wilson intervals",
    )


def _file_name(text: str) -> str:
    """A name from the manifest as part of a file's name and of the page's ids."""
    return re.sub(r"[^A-Za-z0-9_-]+", "-", text)


def _which(source: str) -> str:
    return "conditional" if source == CONDITIONAL else "never-allowed"


def _panel(
    grid: Grid, tuned: str, places: Sequence[tuple[float, Mapping[str, Any]]], attack: str, source: str, axis: Axis
) -> Panel | None:
    control = BENIGN_OF[attack, source]
    rows = []
    for at, cell in places:
        name = str(cell["name"])
        wanted = (
            (SUCCESS, grid.rate(tuned, name, attack, source)),
            (BASE, grid.rate("base", name, attack, source)),
            (BENIGN, grid.rate(tuned, name, attack, control)),
            (PLAIN, grid.rate(tuned, name, None, source)),
        )
        known = [(look, row) for look, row in wanted if row is not None]
        rows += [_drawn(look, at, row, f"{name}; {set_name(str(row['set']))}") for look, row in known]
    title = f"{attack}: {_which(source)} operators"
    return curves(pd.DataFrame(rows), LOOKS, title, axis, SHARE) if rows else None


def _side_panel(grid: Grid, tuned: str, cell: str) -> Panel | None:
    rows = []
    for side in _side_names(grid, tuned, cell):
        low, high = map(float, side.split("-"))
        forbidden, allowed = (f"{source}_letters={side}" for source in (CONDITIONAL, ALWAYS))
        wanted = (
            (SUCCESS, grid.rate(tuned, cell, "co_text", forbidden)),
            (BASE, grid.rate("base", cell, "co_text", forbidden)),
            (BENIGN, grid.rate(tuned, cell, "co_text", allowed)),
            (BAYES, grid.known("unsafe_side_probability", cell, forbidden)),
        )
        rows += [_drawn(look, (low + high) / 2, row, f"{side} letters") for look, row in wanted if row is not None]
    if not rows:
        return None
    frame = pd.DataFrame(rows)
    axis = Axis("letters on the unsafe side", domain_of(frame["x"]))
    return curves(frame, LOOKS, "co_text: conditional operators", axis, SHARE)


def _drawn(look: Series, at: float, row: Any, kind: str) -> dict[str, Any]:
    numbers = {name: float(row[name]) for name in ("value", "low", "high")}
    return {"series": look.label, "x": at, "at": at, "shown": row["shown"], "kind": kind, **numbers}
