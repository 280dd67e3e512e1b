"""Control against control: what the claims' statistics say of two tunings that teach no safety, from a finished study.

Each control is judged as if it were the model of the claim, with the other as the one to be beaten. How often they
differ is no false-positive rate: they are a few models, no draws of a law, and they do differ in what they teach.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import permutations

from deltaw.claims.decision import CONTROL, decide
from deltaw.claims.statements import STATEMENTS, Statement, as_control
from deltaw.results import Claim, Measurement, Null, markdown_table


@dataclass(frozen=True)
class Compared:
    """A claim made of `control`, with `other` as its only control; the claim's own nulls stay."""

    control: str
    other: str
    claim: Claim


def compare_controls(
    measurements: Sequence[Measurement], statements: Iterable[Statement] = STATEMENTS
) -> list[Compared]:
    """Every statistic that some claim compares with controls, once for each ordered pair of these; where all controls
    are tuned alike, as those of SSFT are.
    """
    found: dict[str, Compared] = {}
    for statement in statements:
        if len(statement.query.models) > 1:
            continue
        models = [as_control(name, statement.query).models[0] for name in statement.controls]
        if len({name.partition("-")[2] for name in models}) > 1:
            continue
        for control, other in permutations(models, 2):
            name = "/".join((statement.id.partition("/")[0], control, other))
            query = replace(statement.query, models=(control,))
            swapped = replace(statement, id=name, query=query, controls=(other,), text=f"{control} beyond {other}")
            if name not in found:
                (claim,) = decide(measurements, exploratory=True, statements=[swapped])
                found[name] = Compared(control, other, claim)
    return [one for one in found.values() if one.claim.value is not None and _beside(one.claim)]


def table(compared: Sequence[Compared]) -> str:
    """As Markdown."""
    head = ("claim", "control", "value", "beside the other control", "smallest effect", "verdict", "why")
    rows = [_row(one) for one in compared]
    return markdown_table(head, rows) + "\n"


def _beside(claim: Claim) -> list[Null]:
    """The control that was measured beside it, if it was."""
    return [null for null in claim.nulls if null.kind.startswith(CONTROL)]


def _row(one: Compared) -> tuple[str, ...]:
    claim = one.claim
    beside = _beside(claim)
    other = _number(beside[0].mean, beside[0].low, beside[0].high) if beside else "–"
    side = "<" if claim.direction == "less" else ">"
    return (
        claim.id.partition("/")[0], f"`{one.control}`", _number(claim.value, claim.low, claim.high),
        f"`{one.other}`: {other}", f"{side} {claim.smallest_effect:.3g}", claim.verdict, claim.why,
    )  # fmt: skip


def _number(value: float | None, low: float | None, high: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:.3f}" if low is None or high is None else f"{value:.3f} [{low:.3f}, {high:.3f}]"
