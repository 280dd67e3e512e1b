"""A finished run as tables: `load(run)`.

Not in `records`, because every stage writes records: a change in how runs are read must not re-make models.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from deltaw.errors import DeltawError
from deltaw.results.claim import CLAIM_FIELDS, Claim
from deltaw.results.parsing import parse_json
from deltaw.results.records import (
    CLAIMS,
    MANIFEST,
    MEASUREMENTS,
    PACKED,
    PROMPTS,
    read_claims,
    read_entries,
    read_json,
    read_lines,
    read_measurements,
)
from deltaw.results.schema import MEASUREMENT_FIELDS, MODEL_FIELDS, ModelEntry
from deltaw.results.shapes import check_manifest, check_prompt

_INTEGERS = ("schema_version", "seed", "step", "layer", "n", "observation")
_NUMBERS = ("dose", "value", "low", "high", "null_mean", "null_low", "null_high", "smallest_effect", "margin")


@dataclass(frozen=True)
class Results:
    """A finished run, read into memory."""

    path: Path
    """Its directory."""
    manifest: dict[str, Any]
    """manifest.json: configuration, versions, stages."""
    measurements: pd.DataFrame
    """One row per line of measurements.jsonl. Texts are pandas' nullable strings, counts nullable integers, numbers
    float64 (NaN where nothing was measured)."""
    claims: pd.DataFrame
    """One row per claim; `nulls` and `answers` are lists of dicts."""
    models: pd.DataFrame
    """One row per model directory; `path` is absolute."""
    prompts: list[dict[str, Any]]
    """The sample of prompts in prompts.jsonl."""

    def select(self, statistic: object = None, model: object = None, **filters: object) -> pd.DataFrame:
        """The rows of `measurements` in which every named column has the given value, or one of a list of values.

        For columns other than `statistic` and `model`, None selects the rows to which the column does not apply.
        DeltawError lists what there is if a column does not exist or never has the value.
        """
        wanted = {name: value for name, value in (("statistic", statistic), ("model", model)) if value is not None}
        table = self.measurements
        keep = pd.Series(True, index=table.index)
        for column, value in {**wanted, **filters}.items():
            if column not in table.columns:
                raise DeltawError(f"There is no column {column!r}; the columns are {_listed(table.columns)}.")
            keep &= _matches(table[column], value, column)
        return table[keep].reset_index(drop=True)

    def model(self, name: str, step: int | None = None, seed: int | None = None) -> Path:
        """The directory of a model, at its last step unless `step` is given.

        DeltawError lists what there is if there is no such model, step or seed, or if several seeds match. It also
        comes if the directory is gone.
        """
        rows = self.models[self.models["name"] == name]
        if rows.empty:
            raise DeltawError(f"{self.path} has no model {name!r}; it has {_listed(self.models['name'].unique())}.")
        for column, value in (("seed", seed), ("step", step)):
            present = sorted(rows[column].unique())
            if value is not None:
                rows = rows[rows[column] == value]
            elif column == "step":
                rows = rows[rows["step"] == present[-1]]
            if rows.empty:
                raise DeltawError(f"The model {name!r} has no {column} {value}; it has {_listed(present)}.")
            if column == "seed" and rows["seed"].nunique() > 1:
                raise DeltawError(f"The model {name!r} has the seeds {_listed(present)}; say which, with seed=.")
        path = Path(str(rows["path"].iloc[0]))
        if not path.is_dir():
            raise DeltawError(f"{path} is named in the manifest but is gone; run the study again to make it again.")
        return path


def load(run: str | Path) -> Results:
    """A finished run, from its directory (such as runs/quick).

    DeltawError if there is no such directory, if the study has not finished, or if a file is damaged.
    """
    path = Path(run).absolute()
    _check_finished(path)
    try:
        manifest = check_manifest(read_json(path / MANIFEST))
    except ValueError as error:
        raise DeltawError(
            f"{path / MANIFEST} is not a study's manifest: {error}. Run the study again to write it again."
        ) from error
    models = read_entries(manifest.get("models") or [], ModelEntry.from_json, f"{path / MANIFEST}, model")
    return Results(
        path=path,
        manifest=manifest,
        measurements=_table(read_measurements(measurements_of(path)), MEASUREMENT_FIELDS),
        claims=_claims_table(read_claims(path / CLAIMS)),
        models=_table(models, MODEL_FIELDS).assign(path=[str(path / entry.path) for entry in models]),
        prompts=read_lines(path / PROMPTS, _parse_prompt),
    )


def measurements_of(path: Path) -> Path:
    """The file of a run's measurements, which is packed if the run was kept without its models."""
    packed = path / PACKED
    return packed if packed.is_file() and not (path / MEASUREMENTS).is_file() else path / MEASUREMENTS


def _check_finished(path: Path) -> None:
    if not path.is_dir():
        runs = sorted(p.parent.name for p in path.parent.glob(f"*/{MANIFEST}")) if path.parent.is_dir() else []
        there = f"{path.parent} has the runs {_listed(runs)}" if runs else f"{path.parent} has no finished run"
        raise DeltawError(f"There is no run at {path}; {there}. `deltaw study` makes one.")
    files = (path / MANIFEST, measurements_of(path), path / CLAIMS, path / PROMPTS)
    missing = [file.name for file in files if not file.is_file()]
    if not missing:
        return
    if _is_pooled(path / MANIFEST) or _is_pooled(path / "study.json"):
        raise DeltawError(
            f"{path} has only the claims of pooled runs ({_listed(missing)} missing); "
            "`deltaw pool` on those runs makes the whole."
        )
    if (path / "study.json").is_file() or len(missing) < 4:
        raise DeltawError(
            f"The run at {path} has not finished ({_listed(missing)} missing); "
            "run the same `deltaw study` again to continue it."
        )
    raise DeltawError(f"{path} is not a run of deltaw: it has no {MANIFEST}. `deltaw study` makes a run.")


def _is_pooled(path: Path) -> bool:
    try:
        record = read_json(path)
    except DeltawError:
        return False
    parts = (record, record.get("study")) if isinstance(record, dict) else ()
    return any(isinstance(part, dict) and "pooled" in part for part in parts)


def _matches(column: pd.Series, value: object, name: str) -> "pd.Series[bool]":
    if value is None:
        return column.isna()
    values = list(value) if isinstance(value, Collection) and not isinstance(value, str | bytes) else [value]
    present = set(column.dropna().unique())
    absent = [v for v in values if v is not None and v not in present]
    if absent:
        known = _listed(sorted(present)) if present else "no values"
        raise DeltawError(f"No measurement has {name} {_listed(absent)}; there is {known}.")
    hit = column.isin([v for v in values if v is not None]).fillna(False).astype(bool)
    return hit | column.isna() if None in values else hit


def _table(records: Sequence[object], columns: tuple[str, ...]) -> pd.DataFrame:
    """One row per record. A column has the same type whether or not any row has a value in it."""
    data: dict[str, Any] = {}
    for name in columns:
        values = [getattr(record, name) for record in records]
        if name in _INTEGERS:
            data[name] = pd.array(values, dtype="Int64")
        elif name in _NUMBERS:
            data[name] = pd.Series(values, dtype="float64")
        elif name in ("exploratory", "primary"):
            data[name] = pd.Series(values, dtype="bool")
        elif name in ("nulls", "answers"):
            data[name] = pd.Series(values, dtype="object")
        else:
            data[name] = pd.array(values, dtype="string")
    return pd.DataFrame(data, columns=list(columns))


def _claims_table(claims: Sequence[Claim]) -> pd.DataFrame:
    records = [claim.to_json() for claim in claims]
    parts = {name: pd.Series([record[name] for record in records], dtype="object") for name in ("nulls", "answers")}
    return _table(claims, CLAIM_FIELDS).assign(**parts)


def _parse_prompt(line: str) -> dict[str, Any]:
    return check_prompt(parse_json(line))


def _listed(names: Iterable[object], most: int = 20) -> str:
    """Names for a message, shortened where there are very many."""
    texts = [str(name) for name in names]
    shown = ", ".join(texts[:most])
    return shown if len(texts) <= most else f"{shown} and {len(texts) - most} more"
