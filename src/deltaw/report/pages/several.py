"""The report on several tuned models of one base: every two updates beside chance and controls, and who refuses what.

Reads measurements and manifest, nothing else. A line about two updates has the first model's name, and `set` has the
second's: with=NAME, with=NAME/k=016, with=NAME/k=016/angle=01.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import pandas as pd

from deltaw.charts.style import number
from deltaw.charts.tables import Table, Tables, first_interval, interval, values
from deltaw.observations.capability.words import OF_OBSERVATION, OF_PROMPTS
from deltaw.results import Results

GROUPS = ("two tunings", "tuning and control", "two controls")
Rows = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class PairOfModels:
    """Two models, and whether controls are among them."""

    first: str
    second: str
    group: str

    @property
    def label(self) -> str:
        """What figures and tables call it."""
        return f"{self.first} and {self.second}"


class Several:
    """The measurements of several models, by pair."""

    def __init__(self, results: Results) -> None:
        self.tables = Tables(results)
        self.manifest = results.manifest
        self.models: list[Mapping[str, Any]] = list(results.manifest["several"]["models"])
        controls = {model["name"] for model in self.models if model["control"]}
        self.pairs = [
            PairOfModels(a["name"], b["name"], GROUPS[len({a["name"], b["name"]} & controls)])
            for a, b in combinations(self.models, 2)
        ]
        frame = self.tables.frame
        frame = frame[frame["stage"] == "several"]
        self.k = self._largest(frame)
        parts = (
            frame["set"].fillna("").str.extract(r"^with=(?P<other>[^/]*)(?:/k=(?P<k>\d+))?(?:/angle=(?P<angle>\d+))?$")
        )
        self.frame = frame.assign(other=parts["other"], k=parts["k"].astype(float), angle=parts["angle"].astype(float))

    def _largest(self, frame: pd.DataFrame) -> int:
        ks = frame["set"].fillna("").str.extract(r"/k=(\d+)$")[0].dropna().astype(int)
        return int(ks.max()) if len(ks) else 0

    def of(self, pair: PairOfModels, statistic: str, null: str = "rotation") -> pd.DataFrame:
        """The rows of a statistic and null about two models: of energy shared, of the first one's in the second's."""
        frame = self.frame
        chosen = (frame["model"] == pair.first) & (frame["other"] == pair.second)
        chosen &= (frame["statistic"] == statistic) & (frame["null_kind"] == null)
        return frame[chosen]

    def references(self) -> list[PairOfModels]:
        """What two tunings are read beside: two controls, or where there is one control, each tuning with it."""
        for group in GROUPS[:0:-1]:
            pairs = [pair for pair in self.pairs if pair.group == group]
            if pairs:
                return pairs
        return []


def whole(several: Several, pair: PairOfModels, statistic: str, null: str = "rotation") -> Mapping[Any, Any] | None:
    """The row about all matrices as one vector."""
    rows = several.of(pair, statistic, null)
    rows = rows[rows["module"].isna()]
    return rows.to_dict("records")[0] if len(rows) else None


def over_matrices(several: Several, pair: PairOfModels, statistic: str) -> Mapping[str, float] | None:
    """Mean over matrices of a number and its chance, each for the largest number of directions that a matrix has.

    The band is that of a mean of independent ones, so a stack of two matrices does not count beside them.
    """
    rows = several.of(pair, statistic)
    rows = of_most_directions(rows[rows["layer"].notna() & rows["angle"].isna()])
    rows = rows[~rows["module"].str.endswith("gate_up")]
    if rows.empty:
        return None
    mean = float(rows["null_mean"].mean())
    low, high = (
        mean + sign * float(((rows[edge] - rows["null_mean"]) ** 2).sum() ** 0.5) / len(rows)
        for edge, sign in (("null_low", -1), ("null_high", 1))
    )
    return {"value": float(rows["value"].mean()), "null_mean": mean, "null_low": low, "null_high": high}


def of_most_directions(rows: pd.DataFrame) -> pd.DataFrame:
    """Of each matrix, the rows about the largest number of directions."""
    return rows[rows["k"] == rows.groupby("module")["k"].transform("max")]


def overview(several: Several) -> Table | None:
    """A row for every two models: all matrices together."""
    pairs = sorted(several.pairs, key=lambda pair: GROUPS.index(pair.group))
    title = "Every two updates, all matrices together; in brackets, the 95 % band of chance"
    return Table.of(title, [_overview_row(several, pair) for pair in pairs])


def _overview_row(several: Several, pair: PairOfModels) -> dict[str, str]:
    cosine = whole(several, pair, "update_cosine")
    plain = whole(several, pair, "update_cosine_deviations")
    strict = whole(several, pair, "update_cosine_deviations", "rotation_of_outputs")
    return {
        "two updates": pair.label,
        "what they are": pair.group,
        "cosine": number(cosine["value"]) if cosine else "–",
        "chance, 95 %": f"±{number(cosine['null_high'])}" if cosine else "–",
        "in chance deviations": number(plain["value"]) if plain else "–",
        "the same, inputs kept": number(strict["value"]) if strict else "–",
        "write overlap [chance]": _beside_chance(over_matrices(several, pair, "output_overlap")),
        "read overlap [chance]": _beside_chance(over_matrices(several, pair, "input_overlap")),
    }


def shared_energy(several: Several) -> Table | None:
    """How much of each update's energy lies in every other's strongest directions, and in its own."""
    rows = []
    for pair in several.pairs:
        for way in (pair, PairOfModels(pair.second, pair.first, pair.group)):
            shared = [over_matrices(several, way, f"{side}_energy_shared") for side in ("output", "input")]
            if any(shared):
                own = several.frame
                own = own[(own["model"] == way.first) & (own["statistic"] == "energy_own") & own["layer"].notna()]
                own = of_most_directions(own.assign(k=own["set"].str.removeprefix("k=").astype(float)))
                own = own[~own["module"].str.endswith("gate_up")]
                row = {
                    "energy of": way.first,
                    "in the directions of": way.second,
                    "write [chance]": _beside_chance(shared[0]),
                    "read [chance]": _beside_chance(shared[1]),
                    "in its own, the most there can be": number(float(own["value"].mean())),
                    "what they are": pair.group,
                }
                rows.append(row)
    title = "Shared and own directions: the share of an update's energy in another's strongest directions"
    return Table.of(title, rows)


def _beside_chance(row: Mapping[Any, Any] | None) -> str:
    """A value and, in brackets, the 95 % band of its chance."""
    if row is None:
        return "–"
    return f"{number(row['value'])} [{number(row['null_low'])}, {number(row['null_high'])}]"


def beside_controls(several: Several) -> Table | None:
    """Two tunings, and what controls give for the same numbers: of all matrices, the pairs' range."""
    tunings, references = [pair for pair in several.pairs if pair.group == GROUPS[0]], several.references()
    if not tunings or not references:
        return None
    rows = []
    for pair in tunings:
        chosen = references
        if references[0].group == GROUPS[1]:  # one control: each of the two tunings with it
            chosen = [other for other in references if {pair.first, pair.second} & {other.first, other.second}]
        for name, read in _READ:
            own, others = read(several, pair), [(other.label, read(several, other)) for other in chosen]
            known = [(label, value) for label, value in others if value is not None]
            if own is not None and known:
                rows.append(
                    (pair.label, name, number(own), "; ".join(f"{label}: {number(value)}" for label, value in known))
                )
    title = "Two tunings, and the same number with controls"
    return Table(title, ("two updates", "number", "value", "with controls"), tuple(rows)) if rows else None


def _whole_value(several: Several, pair: PairOfModels) -> float | None:
    row = whole(several, pair, "update_cosine")
    return None if row is None else float(row["value"])


def _mean_value(statistic: str) -> Any:
    def read(several: Several, pair: PairOfModels) -> float | None:
        means = over_matrices(several, pair, statistic)
        return None if means is None else means["value"]

    return read


_READ = (
    ("cosine", _whole_value),
    ("write overlap", _mean_value("output_overlap")),
    ("read overlap", _mean_value("input_overlap")),
    ("energy of the first in the second's write directions", _mean_value("output_energy_shared")),
    ("energy of the first in the second's read directions", _mean_value("input_energy_shared")),
)


_BY_KIND = {
    "update_cosine": "cosine [chance]",
    "update_cosine_deviations": "in chance deviations",
    "output_overlap": "write overlap [chance]",
    "input_overlap": "read overlap [chance]",
}


def by_kind(several: Several) -> Table | None:
    """Means over layers, a row a pair and kind of matrix."""
    frame, rows = several.frame, []
    for pair in several.pairs:
        for kind in _kinds(frame):
            cells = {}
            for statistic, heading in _BY_KIND.items():
                part = several.of(pair, statistic)
                part = part[(part["module"] == kind) & part["layer"].isna()]
                part = part[part["k"].isna() | (part["k"] == part["k"].max())]
                row = part.to_dict("records")[0] if len(part) else None
                deviations = statistic == "update_cosine_deviations"
                cells[heading] = number(row["value"]) if row is not None and deviations else _beside_chance(row)
            if any(cell != "–" for cell in cells.values()):
                rows.append({"two updates": pair.label, "matrix": kind, **cells})
    return Table.of("Means over layers by kind of matrix, with the 95 % band of chance in brackets", rows)


def _kinds(frame: pd.DataFrame) -> list[str]:
    return sorted(frame.loc[frame["n_unit"] == "layer", "module"].dropna().unique())


def _headings(several: Several) -> dict[str, str]:
    """What tables call the base and each model, by name."""
    named = {
        model["name"]: f"{model['name']} (control)" if model["control"] else model["name"] for model in several.models
    }
    return {"base": "base", **named}


def refusals(several: Several) -> Table | None:
    """Who refuses what: a row a set of prompts and attack, a column a model."""
    frame = values(several.tables.take("refuse_rate", stage="behaviour"))
    if frame.empty:
        return None
    names = _headings(several)
    rows = []
    for (prompts, attack), part in frame.groupby(["set", frame["attack"].fillna("")], sort=False):
        cells = {row["model"]: row for row in part.to_dict("records")}
        count = max(int(row["n"]) for row in cells.values())
        shown = [interval(cells[x]["value"], cells[x]["low"], cells[x]["high"]) if x in cells else "–" for x in names]
        rows.append((str(prompts), str(attack) or "none", str(count), *shown))
    heads = _headings(several).values()
    title = "Share of answers that the judge calls refusals [95 %, Wilson]"
    return Table(title, ("prompts", "attack", "n", *heads), tuple(rows))


CAPABILITY = {key: said for key, said in OF_PROMPTS.items() if key[0] != "neither_rate"}
CHANGES = {**OF_OBSERVATION, "neutral_loss_change": "loss, tuned − base"}


def capability(several: Several) -> Table | None:
    """Safety beside capability: a row a model, of the first set of prompts."""
    tables = several.tables
    plain = values(tables.take("refuse_rate", stage="behaviour", attack=None))
    if plain.empty:
        return None
    first = str(plain["set"].iloc[0]).partition("/")[0]
    rows = []
    for name, heading in _headings(several).items():
        of_prompts = [
            tables.take(statistic, stage="behaviour", attack=None, model=name, set=f"{first}/{label}")
            for statistic, label in CAPABILITY
        ]
        of_capability = [_of_model(tables, statistic, name) for statistic in CHANGES]
        cells = [first_interval(frame) for frame in (*of_prompts, *of_capability)]
        rows.append((heading, *cells))
    columns = ("model", *CAPABILITY.values(), *CHANGES.values())
    title = f"Capability beside safety, prompts of the set {first} without an attack [95 %]"
    return Table(title, columns, tuple(rows))


def _of_model(tables: Tables, statistic: str, name: str) -> pd.DataFrame:
    """The rows of a statistic of `capability`; of the base model those that every tuned one's comparison has."""
    if name != "base":
        return tables.take(statistic, model=name)
    return tables.take(f"{statistic}_base").head(1)


def absent(several: Several) -> Table | None:
    """Matrices that two models were not compared in, and why, those with one reason together."""
    rows = []
    for pair, reasons in several.manifest["absent"].items():
        by_reason: dict[str, list[str]] = {}
        for module, why in reasons.items():
            model, _, rest = str(why).partition(": ")
            below = "below the rounding floor" in rest
            text = f"{model}: the update is below the rounding floor, so it is not interpreted" if below else str(why)
            by_reason.setdefault(text, []).append(module)
        rows += [(pair, why, str(len(names)), ", ".join(names[:3])) for why, names in by_reason.items()]
    title = "Matrices that were not compared, and why"
    return Table(title, ("two updates", "why", "matrices", "such as"), tuple(rows)) if rows else None


def kept(several: Several) -> Table:
    """The models, and where each one's own report is."""
    rows = tuple(
        (model["name"], "control" if model["control"] else "tuning", model["path"], f"{model['kept']}/report.html")
        for model in several.models
    )
    return Table("The models, and where each one's own report is", ("name", "what", "files", "its report"), rows)


def kind_of(module: str, layer: float) -> str:
    """The kind of a matrix: its name without the layer."""
    return module.partition(f".{int(layer)}.")[2] or module


def tables_of(several: Several) -> dict[str, Table | None]:
    """The page's tables; None where there is nothing."""
    return {
        "overview": overview(several),
        "energy": shared_energy(several),
        "controls": beside_controls(several),
        "kinds": by_kind(several),
        "capability": capability(several),
        "refusals": refusals(several),
        "absent": absent(several),
        "models": kept(several),
    }


def head(several: Several) -> dict[str, Any]:
    """The top of the page."""
    manifest, models = several.manifest, several.models
    controls = [model["name"] for model in models if model["control"]]
    facts = [
        ("base", manifest["several"]["base"]),
        ("tuned", ", ".join(model["name"] for model in models if not model["control"])),
        ("controls", ", ".join(controls) or "none"),
        ("architecture", manifest.get("model_type") or "unknown"),
        ("finished", str(manifest["finished"]).replace("T", " ").replace("+00:00", " UTC")),
    ]
    return {
        "title": f"{len(models)} tuned models of {manifest['several']['base']}",
        "facts": [(name, value) for name, value in facts if value],
        "controls": controls,
        "k": several.k,
        "asked": manifest["several"]["asked"],
        "version": manifest["several"]["version"],
    }
