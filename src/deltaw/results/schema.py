"""The lines of measurements.jsonl and the models of a manifest, as versioned dataclasses that refuse bad values.

A measurement is one number with its interval, the place where it was taken, and one null. A statistic with three nulls
takes three lines. Tables, claims and report read only this, so every value here is finite, typed and complete.
"""

import json
import math
import numbers
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Self, TypeVar, get_args, get_type_hints

from deltaw.results.aliases import renamed
from deltaw.results.parsing import parse_json

SCHEMA_VERSION = 2
"""2 adds `intervention` and `dose`; lines of version 1 are read as lines of 2 in which neither applies."""
_ADDED = {1: ("intervention", "dose")}


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """One line of measurements.jsonl: a statistic with its interval, and at most one null. None: does not apply.

    ValueError if a field has the wrong type, a number is not finite, an interval is reversed or has one end,
    n < 1, or a null has a value but no kind.
    """

    schema_version: int = SCHEMA_VERSION
    """Version of these fields."""
    stage: str
    """What the study was doing: behaviour, analysis, ..."""
    model: str | None = None
    """Name of the model that was measured."""
    protocol: str | None = None
    """How it was fine-tuned."""
    strength: str | None = None
    """With which learning rate: medium or small."""
    control: str | None = None
    """Which control it is, if it is one."""
    seed: int | None = None
    """Seed of its base model."""
    step: int | None = None
    """Updates of its training."""
    module: str | None = None
    """Name of a weight, without `.weight`."""
    layer: int | None = None
    """Layer, from 0. None: not of one layer, such as a mean over layers."""
    site: str | None = None
    """Where activations were read: mlp_in, mlp_post, resid_out."""
    role: str | None = None
    """Token or block of tokens, such as last_prompt."""
    set: str | None = None
    """Set of prompts, such as forbidden/conditional/unsafe."""
    attack: str | None = None
    """Attack on the prompts or on the model."""
    intervention: str | None = None
    """What was done to the model before the measurement."""
    dose: float | None = None
    """How much of the intervention."""
    statistic: str
    """Name of the statistic."""
    unit: str | None = None
    """Its unit."""
    value: float
    """The number."""
    low: float | None = None
    """Lower end of its interval."""
    high: float | None = None
    """Upper end of its interval."""
    n: int | None = None
    """How many `n_unit` it is from."""
    n_unit: str | None = None
    """What `n` counts: prompt, seed, ..."""
    null_kind: str | None = None
    """Kind of the null."""
    null_mean: float | None = None
    """Its mean."""
    null_low: float | None = None
    """Lower end of its band."""
    null_high: float | None = None
    """Upper end of its band."""

    def __post_init__(self) -> None:
        check_types(self, _MEASUREMENT_TYPES)
        _check_version(self.schema_version)
        check_interval("low", self.low, "high", self.high)
        check_interval("null_low", self.null_low, "null_high", self.null_high)
        check_count(self.n)
        if self.null_kind is None and not (self.null_mean is self.null_low is self.null_high is None):
            raise ValueError("null_mean, null_low and null_high need a null_kind that says which null they describe")
        if self.null_kind is not None and self.null_mean is None:
            raise ValueError(f"the null {self.null_kind!r} needs a null_mean")

    def to_line(self) -> str:
        """The measurement as one JSON line, without newline: every field, in the order above. Floats round-trip."""
        return json.dumps({name: getattr(self, name) for name in MEASUREMENT_FIELDS}, allow_nan=False)

    @classmethod
    def from_line(cls, line: str) -> Self:
        """The measurement of one JSON line. ValueError if a field is missing, unknown or has a bad value."""
        record = renamed(_upgraded(_json_object(line)))
        check_fields(record, MEASUREMENT_FIELDS)
        return cls(**record)


@dataclass(frozen=True, kw_only=True)
class ModelEntry:
    """One entry of the manifest's list `models`."""

    name: str
    """Name of the model."""
    path: str
    """Its directory, relative to the run."""
    step: int
    """Updates of its training."""
    seed: int
    """Seed of its base model."""
    protocol: str | None = None
    """How it was fine-tuned."""
    strength: str | None = None
    """With which learning rate: medium or small."""
    control: str | None = None
    """Which control it is, if it is one."""

    def __post_init__(self) -> None:
        check_types(self, _MODEL_TYPES)

    def to_json(self) -> dict[str, Any]:
        """The entry as plain JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, record: object) -> Self:
        """The entry of one element of the manifest's `models`. ValueError as for `Claim.from_json`."""
        if not isinstance(record, dict):
            raise ValueError(f"a model entry is an object, got {type(record).__name__}")
        check_fields(record, MODEL_FIELDS)
        return cls(**record)


def _json_object(line: str) -> dict[str, Any]:
    record = parse_json(line)
    if not isinstance(record, dict):
        raise ValueError(f"a line is a JSON object, got {type(record).__name__}")
    # The version comes first: another version's fields differ, and saying so helps more than listing them.
    if type(version := record.get("schema_version")) is int and version not in _ADDED:
        _check_version(version)
    return record


def _upgraded(record: dict[str, Any]) -> dict[str, Any]:
    """A line of an older version as one of this: fields that it could not have do not apply."""
    version = record.get("schema_version")
    if type(version) is not int or version not in _ADDED:
        return record
    added = _ADDED[version]
    early = [name for name in added if name in record]
    if early:
        raise ValueError(f"unknown field {early[0]} in a line of schema version {version}")
    return {**record, **dict.fromkeys(added), "schema_version": SCHEMA_VERSION}


def _check_version(version: int) -> None:
    if version != SCHEMA_VERSION:
        raise ValueError(
            f"schema version {version} was found but this deltaw reads version {SCHEMA_VERSION} and older ones; "
            "use the deltaw that wrote the run, or run the study again"
        )


def check_fields(record: Mapping[str, object], expected: tuple[str, ...]) -> None:
    """ValueError if a field is unknown or missing."""
    unknown = [name for name in record if name not in expected]
    missing = [name for name in expected if name not in record]
    if unknown:
        raise ValueError(f"unknown field {', '.join(unknown)}; the fields are {', '.join(expected)}")
    if missing:
        raise ValueError(f"missing field {', '.join(missing)} (write null where a field does not apply)")


def check_interval(low_name: str, low: float | None, high_name: str, high: float | None) -> None:
    """ValueError if an interval has one end, or is reversed."""
    if (low is None) != (high is None):
        raise ValueError(f"{low_name} and {high_name} are the two ends of an interval: give both or neither")
    if low is not None and high is not None and low > high:
        raise ValueError(f"{low_name} must not exceed {high_name}, got {low} and {high}")


def check_count(n: int | None) -> None:
    """ValueError if a count is below 1."""
    if n is not None and n < 1:
        raise ValueError(f"n must be at least 1, got {n}")


def _as_text(name: str, value: object) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError(f"{name} must be a non-empty string, got {value!r}")
    return str(value)


def _as_int(name: str, value: object) -> int:
    # numpy's integers are registered as Integral; bool is one too, but never meant.
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise ValueError(f"{name} must be an integer, got {value!r}")
    return int(value)


def _as_float(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise ValueError(f"{name} must be a number, got {value!r}")
    if not math.isfinite(value):
        raise ValueError(f"{name} must be a finite number, got {value!r}")
    return float(value)


def _as_bool(name: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"{name} must be true or false, got {value!r}")
    return value


_Convert = Callable[[str, object], object]
_CONVERT: dict[type, _Convert] = {str: _as_text, int: _as_int, float: _as_float, bool: _as_bool}


def types(cls: type) -> dict[str, tuple[_Convert, bool]]:
    """For each scalar field: how its value is checked, and whether None is allowed."""
    table = {}
    for name, hint in get_type_hints(cls).items():
        options = get_args(hint) or (hint,)
        kinds = [kind for kind in options if kind in _CONVERT]
        if kinds and len(options) <= 2:
            table[name] = (_CONVERT[kinds[0]], type(None) in options)
    return table


def check_types(record: object, types: Mapping[str, tuple[_Convert, bool]]) -> None:
    """Checks each field, and makes numpy's scalars Python's: they would not survive JSON."""
    for name, (convert, optional) in types.items():
        value = getattr(record, name)
        if value is None and optional:
            continue
        object.__setattr__(record, name, convert(name, value))


_MEASUREMENT_TYPES = types(Measurement)
_MODEL_TYPES = types(ModelEntry)
MEASUREMENT_FIELDS = tuple(f.name for f in fields(Measurement))
MODEL_FIELDS = tuple(f.name for f in fields(ModelEntry))

_Item = TypeVar("_Item")
_Record = TypeVar("_Record")


def parse_lines(lines: Iterable[str], parse: Callable[[str], _Record], where: str) -> list[_Record]:
    """Each line parsed. ValueError naming `where` and the line's number (from 1) for the first bad one."""
    return parse_each(lines, parse, f"{where}, line")


def parse_each(items: Iterable[_Item], parse: Callable[[_Item], _Record], where: str) -> list[_Record]:
    """Each item parsed. ValueError naming `where` and the item's number (from 1) for the first bad one."""
    records = []
    for number, item in enumerate(items, start=1):
        try:
            records.append(parse(item))
        except ValueError as error:
            raise ValueError(f"{where} {number}: {error}") from error
    return records
