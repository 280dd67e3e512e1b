"""The claims ledger as a page, docs/claims.md: what is claimed, how it is decided, what would fail it, how many seeds.

Nothing is written by hand: the statements are `claims`, the rule is `deciding`, and what is known of the spread comes
from an exploring run, of which `planned` keeps a few numbers a claim (docs/results/ledger/). Re-make the page with

    python -m deltaw.claims.docs_page --docs docs [--run runs/quick] [--late runs/quick/interventions ..]
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import tyro

from deltaw.claims.decision import CONTROL, LEAST_SEEDS, LEVEL, SMALLEST, bars_of, weigh
from deltaw.claims.lookup import Ledger
from deltaw.claims.statements import STATEMENTS, Query, Statement, sign_of
from deltaw.errors import mistakes_said
from deltaw.results import Measurement, Null, markdown_table, read_measurements, write_json_atomic, write_text_atomic
from deltaw.statistics import seeds_needed, tolerated_sd
from deltaw.statistics.power import ALPHA, POWER

SEEDS = 6
"""What `standard` has at the least."""

PLAN = Path("results/ledger/quick.json")
LATE = Path("results/ledger/late.json")
"""What exploring runs say of claims that the first one did not measure, and which were planned after they were decided.
"""

_Z = 1.959964  # half widths of a 95 % interval in standard errors, near enough


@dataclass(frozen=True)
class Planned:
    """What one exploring seed says of a claim.

    value: measured. bar: the name of the one that is hardest to clear, or, if the value is on the near side, the one it
    is farthest from. margin: the distance from it, in the statistic's unit; negative on the near side. within: the
    standard error over the seed's prompts; None where a statistic is of weights alone. controls: those of the claim
    that were measured beside it; others are bars of which the plan knows nothing.
    """

    value: float
    bar: str
    margin: float
    within: float | None
    controls: tuple[str, ...] = ()

    @property
    def seeds(self) -> int | None:
        """Seeds that decide if they differ by nothing but their prompts: a lower bound. None: over 1000."""
        return seeds_needed(self.margin, self.within or 0.0, least=self.least)

    @property
    def least(self) -> int:
        """Fewer cannot hold by the sign-flip test; failing needs an interval only."""
        return LEAST_SEEDS if self.margin > 0 else 2

    @property
    def tolerated(self) -> float:
        """The largest standard deviation between seeds at which `SEEDS` decide with power `POWER`."""
        return tolerated_sd(self.margin, SEEDS)


def planned(measurements: Sequence[Measurement], statements: Iterable[Statement] = STATEMENTS) -> dict[str, Planned]:
    """By claim, what an exploring run of one seed says; claims that it did not measure are left out.

    Of a run of several seeds the first counts: the spread between seeds is `decide`'s business.
    """
    ledger = Ledger(measurements)
    ledger.seeds = ledger.seeds[:1]
    found = {}
    for statement in statements:
        collected = ledger.collect(statement)
        one = weigh(statement, collected)
        if one.value is None:
            continue
        sign = sign_of(statement.direction)
        # A control counts by its value: how wide it will be over seeds is not known from one.
        nulls = [Null(kind=null.kind, mean=null.mean) if null.kind.startswith(CONTROL) else null for null in one.nulls]
        bars = bars_of(statement.smallest_effect, nulls, statement.direction)
        bar = max(bars, key=lambda name: bars[name])
        within = None if one.interval is None else one.interval.width / (2 * _Z)
        controls = tuple(name for name in statement.controls if collected.controls[name])
        found[statement.id] = Planned(one.value, bar, sign * one.value - bars[bar], within, controls)
    return found


def page(
    plan: dict[str, Planned],
    source: str = "quick",
    statements: Sequence[Statement] = STATEMENTS,
    late: dict[str, Planned] | None = None,
) -> str:
    """The whole page as Markdown. source: the name of the run that `plan` is from. late: what was planned too late."""
    parts = [_head(len(statements))]
    for number in sorted({statement.observation for statement in statements}):
        parts.append(f"## Observation {number}")
        parts += [_entry(statement) for statement in statements if statement.observation == number]
    return "\n\n".join([*parts, _seeds(plan, source, statements, late or {})]) + "\n"


def _head(count: int) -> str:
    return f"""\
# The claims

Made from [statements.py](../src/deltaw/claims/statements.py) by `make ledger`; a test fails if the two differ. What is
here was written down before the study that decides it, and the history of that file is the proof. {count} claims.

> **The rule of decision below is withdrawn** ([why](standard.md)). It stays here as what the runs were decided by.
> The measurements stand. The question is asked again by another rule.

**Unit of inference.** A seed: its own sample of the world, initialisation and order of batches, of the base model and
of the tunings. One number a seed and claim, aggregated over layers and prompts as its site says. A study of one seed,
such as `quick`, explores: its intervals are over prompts and say nothing about another base model.

**Decision.** The interval over seeds is Student's t, 95 %, on the claim's scale. The *bars* are the smallest effect
of interest, the far edge of each null's 95 % band (mean of the seeds' bands) and the far end of each control's
interval.

- *holds*: the whole interval lies beyond every bar; p ≤ {LEVEL} after Benjamini–Hochberg over all claims that the
  study can test; and exact sign flips of the seeds give p ≤ {LEVEL} too. p is one-sided, the largest over the bars
  (all must be passed), seed by seed: value minus smallest effect, minus the null's mean, minus the control's value.
  It is Student's t test, since six seeds' signs cannot show less than 1/64, which would not survive {count} claims;
  the signs are the check that needs no normal law. Of several seeds, fewer than {LEAST_SEEDS}
  never hold.
- *fails*: the interval ends on the near side of any bar. Failing against a control is failing: what tuning on the
  same prompts for something else does as well is no finding about safety.
- *undecided*: all else; also where a null or control was not measured in every seed, or where one seed alone of a
  study that decides has a value. It states its power and the seeds that would decide it, were the true mean and
  spread as measured; `deltaw pool` adds the seeds of another run.

**Scales.** Where a statistic is positive, or a share of weights, the interval is on a log or logit scale, and its row
says so. Log ratios, log odds and their slopes are logarithms already. Differences and positions change sign and have
no logarithm; `refusal_returned`, a share of some prompts, may be 0 in a seed. These are left as they are.

**Controls.** `other` is each model's own: the tuning by the same protocol that gives another harmless answer to the
same prompts, in the place of each model that a claim names; `operators` and `constant` (one harmless answer to all
forbidden prompts) are by SSFT, whatever the claim's protocol. Where no control has a meaning, the claim says why.

What each null keeps and rules out is said in
[null_energy_nulls.py](../src/deltaw/analysis/null_energy_nulls.py) (weights),
[clusters.py](../src/deltaw/analysis/clusters.py), [rowspace.py](../src/deltaw/analysis/rowspace.py) and
[attack_position.py](../src/deltaw/analysis/attack_position.py); how often each is wrong, in
[calibration](calibration.md). A random update with ΔW's spectrum has the law of a rotated one, so that `rotation`
stands for both. `position` is where the paper reads τ, on a scale without unit: forbidden prompts have mean 0, held-out
allowed ones 1."""


def _entry(statement: Statement) -> str:
    rows = [
        ("where", statement.paper),
        ("statistic", _query(statement.query) + (f" − {_query(statement.against)}" if statement.against else "")),
        ("site", statement.site or "–"),
        ("holds if", _rule(statement)),
        ("nulls", ", ".join(f"`{kind}`" for kind in statement.nulls) or "none"),
        ("controls", ", ".join(f"`{name}`" for name in statement.controls) or f"none: {statement.uncontrolled}"),
        ("fails if", statement.failing),
    ]
    if statement.scale != "identity":
        rows.insert(3, ("scale", f"interval over seeds on a {statement.scale} scale"))
    lines = "\n".join(f"| {name} | {text} |" for name, text in rows)
    return f"### `{statement.id}`\n\n{statement.text}.\n\n| | |\n| --- | --- |\n{lines}"


def _query(query: Query) -> str:
    models = ", ".join(f"`{model}`" for model in query.models)
    mean = f"mean of {models}" if len(query.models) > 1 else models
    where = ", ".join(str(value) for _, value in query.where if value is not None)
    step = "" if query.step == "last" else f", {query.step} checkpoint"
    return f"`{query.statistic}` of {mean}" + (f" ({where}{step})" if where or step else "")


def _rule(statement: Statement) -> str:
    side = ">" if statement.direction == "greater" else "<"
    beyond = "beyond " + " and ".join(
        word for word, there in (("every null", statement.nulls), ("every control", statement.controls)) if there
    )
    return f"{side} {statement.smallest_effect:.3g}" + (f", {beyond}" if statement.nulls or statement.controls else "")


def _seeds(plan: dict[str, Planned], source: str, statements: Sequence[Statement], late: dict[str, Planned]) -> str:
    head = f"""\
## Seeds needed

Power {POWER} at a t interval of {1 - ALPHA:.0%}, from one seed of `{source}` before any study decided. **One seed has
no variance between seeds.** What it has is the standard error over its prompts, which is part of what makes seeds
differ and a lower bound of it, and no more; of statistics of weights alone it has not even that. So two numbers are
given:

- *seeds, at least*: if seeds differed by nothing but their prompts (and never fewer than {LEAST_SEEDS}, or 2 to
  fail);
- *{SEEDS} seeds suffice up to*: the largest standard deviation between seeds at which {SEEDS} seeds decide, in the
  statistic's unit, and in parentheses as a multiple of the standard error over prompts. Where seeds differ by more,
  more are needed.

*margin*: from the bar that is hardest to clear, a control's being its value; negative where the value lies on its
near side, so that the seeds are those that let the claim fail. Multiplicity is not counted: it asks for more. *not
measured*: controls of the claim that the run does not have. They are no bars here, and may turn out the hardest.

"""
    columns = ("claim", "value", "margin", "bar", "not measured", "standard error over prompts", "seeds, at least",
               f"{SEEDS} seeds suffice up to")  # fmt: skip
    early = [one for one in statements if one.id in plan or one.id not in late]
    tables = [markdown_table(columns, [_planned(one, plan.get(one.id)) for one in early])]
    if late:
        tables.append(f"""\
### Planned too late

`{source}` does not measure these, and they were decided without a plan. What follows is of the same exploring seed,
with its interventions (`make interventions`), ranks and doses, and was written after `standard` had decided: a check
of such plans, not one.""")
        rest = [one for one in statements if one.id in late and one.id not in plan]
        tables.append(markdown_table(columns, [_planned(one, late[one.id]) for one in rest]))
    return head + "\n\n".join(tables)


def _planned(statement: Statement, one: Planned | None) -> tuple[str, ...]:
    name = statement.id
    if one is None:
        return (f"`{name}`", *["–"] * 7)
    tolerated, within = f"{one.tolerated:.2g}", "–"
    if one.within:
        tolerated, within = f"{tolerated} ({one.tolerated / one.within:.1f}×)", f"{one.within:.2g}"
    seeds = str(one.seeds) if one.seeds is not None else "over 1000"
    bar = "smallest effect" if one.bar == SMALLEST else one.bar.removeprefix("the null ").replace(":", " ")
    lacks = ", ".join(control.partition("-")[0] for control in statement.controls if control not in one.controls)
    return f"`{name}`", f"{one.value:.3g}", f"{one.margin:+.2g}", bar, lacks or "–", within, seeds, tolerated


def read_plan(path: Path) -> tuple[str, dict[str, Planned]]:
    """(the run's name, the plan) of a file that `write` has left."""
    record = json.loads(path.read_text(encoding="utf-8"))
    return str(record["source"]), {name: _as_planned(fields) for name, fields in record["claims"].items()}


def _as_planned(fields: dict[str, Any]) -> Planned:
    return Planned(**{**fields, "controls": tuple(fields.get("controls", ()))})


def _keep(path: Path, source: str, found: dict[str, Planned]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json_atomic(path, {"source": source, "claims": {name: asdict(one) for name, one in found.items()}})


def write(docs: Path, run: Path | None = None, late: tuple[Path, ...] = ()) -> None:
    """Write claims.md into `docs`, and with the directory of a finished run, what that says about spread before.

    late: directories of finished runs that measure claims which `run` does not; the first that has a claim counts.
    """
    if run is not None:
        _keep(docs / PLAN, run.name, planned(read_measurements(run / "measurements.jsonl")))
    source, plan = read_plan(docs / PLAN) if (docs / PLAN).is_file() else ("quick", {})
    if late:
        found: dict[str, Planned] = {}
        for directory in late:
            for name, one in planned(read_measurements(directory / "measurements.jsonl")).items():
                if name not in plan:
                    found.setdefault(name, one)
        _keep(docs / LATE, ", ".join(directory.name for directory in late), found)
    added = read_plan(docs / LATE)[1] if (docs / LATE).is_file() else {}
    write_text_atomic(docs / "claims.md", page(plan, source, late=added))


if __name__ == "__main__":
    with mistakes_said():
        tyro.cli(write)
