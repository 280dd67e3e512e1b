"""The entries of claims.json: a claim with its number, its nulls and controls, and its answers."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Self, TypeVar

from deltaw.results.schema import check_count, check_fields, check_interval, check_types, types


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
        check_types(self, _NULL_TYPES)
        check_interval("low", self.low, "high", self.high)


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
        check_types(self, _ANSWER_TYPES)
        check_interval("low", self.low, "high", self.high)
        check_count(self.n)


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
        check_types(self, _CLAIM_TYPES)
        check_interval("low", self.low, "high", self.high)
        check_count(self.n)
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
        check_fields(record, CLAIM_FIELDS)
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
        check_fields(record, expected)
    return tuple(kind(**record) for record in records)


_NULL_TYPES, _ANSWER_TYPES, _CLAIM_TYPES = types(Null), types(Answer), types(Claim)
NULL_FIELDS, ANSWER_FIELDS, CLAIM_FIELDS = (
    tuple(field.name for field in fields(kind)) for kind in (Null, Answer, Claim)
)
