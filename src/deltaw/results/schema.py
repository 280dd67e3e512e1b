"""The lines of measurements.jsonl and the entries of claims.json, as versioned dataclasses that refuse bad values.

A measurement is one number with its interval, the place where it was taken, and one null. A statistic with three nulls
takes three lines. Tables, claims and report read only this, so every value here is finite, typed and complete.
"""

import json
import math
import numbers
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
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
        _check_types(self, _MEASUREMENT_TYPES)
        _check_version(self.schema_version)
        _check_interval("low", self.low, "high", self.high)
        _check_interval("null_low", self.null_low, "null_high", self.null_high)
        _check_count(self.n)
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
        _check_fields(record, MEASUREMENT_FIELDS)
        return cls(**record)


@dataclass(frozen=True, kw_only=True)
class Null:
    """What a claim is compared with: a null or a control."""

    kind: str
    """Its name."""
    mean: float
    """Its mean."""
    low: float | None = None
    """Lower end of its interval, if it has one."""
    high: float | None = None
    """Upper end of its interval."""

    def __post_init__(self) -> None:
        _check_types(self, _NULL_TYPES)
        _check_interval("low", self.low, "high", self.high)


@dataclass(frozen=True, kw_only=True)
class Answer:
    """The answer to one question of a claim (`deltaw.claims.decision`): one difference a seed, on the claim's scale."""

    question: str
    """seen, shape, or the name of a control."""
    word: str | None = None
    """seen, opposite or absent; of other questions more, less or same; or unclear. None: no word; `why` says why."""
    value: float | None = None
    """Mean of the differences."""
    low: float | None = None
    """Lower end of its 95 % interval."""
    high: float | None = None
    """Upper end of its 95 % interval."""
    n: int | None = None
    """How many seeds it is from."""
    p: float | None = None
    """Two-sided, of a mean of zero."""
    p_adjusted: float | None = None
    """The same after Holm over the primary claims. None for others."""
    seeds_needed: int | None = None
    """Of the word unclear: seeds that would decide. None: over 1000, or no such word."""
    why: str = ""
    """The reason for the word, or for having none."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "why", self.why or "no reason was given")
        _check_types(self, _ANSWER_TYPES)
        _check_interval("low", self.low, "high", self.high)
        _check_count(self.n)


@dataclass(frozen=True, kw_only=True)
class Claim:
    """One entry of claims.json: a claim with its number, its nulls and controls, and its answers.

    Numbers are in the statistic's own unit, those of answers and effects on the claim's scale. ValueError as for
    `Measurement`, and for an unknown observation.
    """

    id: str
    """Its name."""
    observation: int
    """The paper's observation, 1 to 5."""
    statement: str
    """The claim in words."""
    statistic: str
    """The statistic that is read."""
    value: float | None = None
    """Its value. None: not measured."""
    low: float | None = None
    """Lower end of its 95 % interval."""
    high: float | None = None
    """Upper end of its 95 % interval."""
    n: int | None = None
    """How many `n_unit` it is from."""
    n_unit: str | None = None
    """What `n` counts: prompt, seed, ..."""
    nulls: tuple[Null, ...] = field(default=())
    """Nulls and controls that it is compared with."""
    answers: tuple[Answer, ...] = field(default=())
    """One a question that it asks; none if it was not measured."""
    exploratory: bool
    """Whether the study explores and does not decide."""
    primary: bool = False
    """Whether it is in the primary table."""
    site: str | None = None
    """Where it is measured, in words."""
    smallest_effect: float | None = None
    """The smallest effect of interest, above 0."""
    margin: float | None = None
    """Within which a difference is none."""
    direction: str | None = None
    """Side of the reference on which the statement lies: greater or less."""
    scale: str | None = None
    """Scale of means and intervals over seeds: identity, log or logit."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "nulls", tuple(self.nulls))
        object.__setattr__(self, "answers", tuple(self.answers))
        _check_types(self, _CLAIM_TYPES)
        _check_interval("low", self.low, "high", self.high)
        _check_count(self.n)
        if not 1 <= self.observation <= 5:
            raise ValueError(f"observation must be 1 to 5, got {self.observation}")
        if self.value is None and self.answers:
            raise ValueError("a claim without a value cannot have answers")
        if not all(isinstance(null, Null) for null in self.nulls):
            raise ValueError("nulls must be a list of nulls, each with kind, mean, low and high")
        if not all(isinstance(answer, Answer) for answer in self.answers):
            raise ValueError("answers must be a list of answers")

    def to_json(self) -> dict[str, Any]:
        """The claim as plain JSON values, fields in the order above."""
        return {
            **asdict(self),
            "nulls": [asdict(null) for null in self.nulls],
            "answers": [asdict(answer) for answer in self.answers],
        }

    @classmethod
    def from_json(cls, record: object) -> Self:
        """The claim of one entry of claims.json. ValueError if a field is missing, unknown or has a bad value, and for
        an entry of the rule that was withdrawn, which had one verdict.
        """
        if not isinstance(record, dict):
            raise ValueError(f"a claim is an object, got {type(record).__name__}")
        if "verdict" in record:
            raise ValueError("it was decided by a rule that is withdrawn")
        _check_fields(record, CLAIM_FIELDS)
        return cls(
            **{
                **record,
                "nulls": _parts("nulls", record["nulls"], Null, NULL_FIELDS),
                "answers": _parts("answers", record["answers"], Answer, ANSWER_FIELDS),
            }
        )


_Part = TypeVar("_Part")


def _parts(name: str, records: object, kind: Callable[..., _Part], expected: tuple[str, ...]) -> tuple[_Part, ...]:
    if not isinstance(records, list) or not all(isinstance(record, dict) for record in records):
        raise ValueError(f"{name} must be a list of objects with {', '.join(expected)}")
    for record in records:
        _check_fields(record, expected)
    return tuple(kind(**record) for record in records)


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
        _check_types(self, _MODEL_TYPES)

    def to_json(self) -> dict[str, Any]:
        """The entry as plain JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, record: object) -> Self:
        """The entry of one element of the manifest's `models`. ValueError as for `Claim.from_json`."""
        if not isinstance(record, dict):
            raise ValueError(f"a model entry is an object, got {type(record).__name__}")
        _check_fields(record, MODEL_FIELDS)
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


def _check_fields(record: Mapping[str, object], expected: tuple[str, ...]) -> None:
    unknown = [name for name in record if name not in expected]
    missing = [name for name in expected if name not in record]
    if unknown:
        raise ValueError(f"unknown field {', '.join(unknown)}; the fields are {', '.join(expected)}")
    if missing:
        raise ValueError(f"missing field {', '.join(missing)} (write null where a field does not apply)")


def _check_interval(low_name: str, low: float | None, high_name: str, high: float | None) -> None:
    if (low is None) != (high is None):
        raise ValueError(f"{low_name} and {high_name} are the two ends of an interval: give both or neither")
    if low is not None and high is not None and low > high:
        raise ValueError(f"{low_name} must not exceed {high_name}, got {low} and {high}")


def _check_count(n: int | None) -> None:
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


def _types(cls: type) -> dict[str, tuple[_Convert, bool]]:
    """For each scalar field: how its value is checked, and whether None is allowed."""
    table = {}
    for name, hint in get_type_hints(cls).items():
        options = get_args(hint) or (hint,)
        kinds = [kind for kind in options if kind in _CONVERT]
        if kinds and len(options) <= 2:
            table[name] = (_CONVERT[kinds[0]], type(None) in options)
    return table


def _check_types(record: object, types: Mapping[str, tuple[_Convert, bool]]) -> None:
    """Checks each field, and makes numpy's scalars Python's: they would not survive JSON."""
    for name, (convert, optional) in types.items():
        value = getattr(record, name)
        if value is None and optional:
            continue
        object.__setattr__(record, name, convert(name, value))


_MEASUREMENT_TYPES = _types(Measurement)
_NULL_TYPES = _types(Null)
_ANSWER_TYPES = _types(Answer)
_CLAIM_TYPES = _types(Claim)
_MODEL_TYPES = _types(ModelEntry)
MEASUREMENT_FIELDS = tuple(f.name for f in fields(Measurement))
NULL_FIELDS = tuple(f.name for f in fields(Null))
ANSWER_FIELDS = tuple(f.name for f in fields(Answer))
CLAIM_FIELDS = tuple(f.name for f in fields(Claim))
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
