"""`make real-results`: what of `make real` is kept in the docs: numbers, figures and manifests; no weights, no text.

Every cell of its tables is a mean over the tunings of one protocol, which differ in their seed, with the smallest and
the largest of them in brackets.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import combinations_with_replacement
from pathlib import Path
from statistics import fmean

import tyro

from deltaw.charts.style import number
from deltaw.errors import DeltawError, mistakes_said
from deltaw.report.pages.several import Several, over_matrices, whole
from deltaw.results import Results, load, markdown_table, write_json_atomic, write_text_atomic
from deltaw.results.records import MANIFEST
from deltaw.study.keep_results import keep_files
from deltaw.study.real_model import COMPARISON, PLAN, Plan

FIRST_MATRIX = "mlp.gate_up"
KEPT_FIGURES = ("prompts-refused.svg",)
Row = tuple[str, ...]
Numbers = dict[Row, dict[str, list[float]]]
"""By what a row is about, and by tuning (or the base): a value a seed."""

_HEAD = """\
# What four protocols and two controls did to a real model

{tunings}, {seeds} tunings each, made by `make real` and kept by `make real-results`; [how to read
it](../../real-models.md). Every model has a directory here: measurements (`deltaw.load` reads it), claims, manifest,
the judge's verdicts prompt by prompt. Measurements of single layers are not kept. A cell is the mean over tunings, and
in brackets the smallest and the largest of them. {controls} are controls. One small model: no verdicts.

## Refusals

Share of answers that the judge calls refusals. Intervals over prompts (Wilson) are in the measurements; in the smallest
set, of {plain} prompts, a share of a half is known to about {width}.

{refusals}

## Capability

{capability}

## Observations

Mean over matched pairs. ±: half the 95 % interval over groups of pairs that share an operand, mean over all tunings of
the row.

{claims}

## Size and null space

Gate and up as one map, mean over layers; of ρ_N its mean over random signs of rows, and chance.

{weights}

## Two updates

Cosine of all matrices as one vector, in standard deviations of chance, and the overlap of their strongest write
directions (its chance level in brackets): means over pairs of models of these two kinds.

{pairs}
"""


def keep(run: Path, out: Path, plan: Plan) -> None:
    """Fill `out` from the finished `run`. DeltawError if it is not finished."""
    comparison = run / COMPARISON
    if not (comparison / MANIFEST).is_file():
        raise DeltawError(f"{comparison} is not finished; `make real` goes on with it")
    several = load(comparison)
    models: dict[str, Results] = {}
    for entry in several.manifest["several"]["models"]:
        name = entry["name"]
        source, target = comparison / entry["kept"], out / name
        models[name] = load(source)
        keep_files(source, target, KEPT_FIGURES, keep=lambda line: line.layer is None)
        manifest = json.loads((source / MANIFEST).read_text(encoding="utf-8"))
        write_json_atomic(target / MANIFEST, {**manifest, "base": manifest["names"][0], "tuned": name})
    of_plan = {name: [models[f"{name}-{seed}"] for seed in plan.seeds] for name in plan.tunings}
    count = _smallest_count(of_plan)
    text = _HEAD.format(
        tunings=", ".join(f"`{name}`" for name in plan.tunings),
        seeds=len(plan.seeds),
        controls=" and ".join(f"`{name}`" for name in plan.controls),
        plain=count,
        width=f"±{number(0.98 / count**0.5)}",
        refusals=_table(("prompts", "attack"), _refusals(of_plan)),
        capability=_table(("",), _capability(of_plan)),
        claims=_table(("claim",), _claims(of_plan), _widths(of_plan)),
        weights=_weights(of_plan),
        pairs=_pairs(several, plan),
    )
    write_text_atomic(out / "README.md", text)


def _over_tunings(values: Sequence[float]) -> str:
    """Mean (smallest to largest); empty without values."""
    if not values:
        return ""
    ends = "" if min(values) == max(values) else f" ({number(min(values))} to {number(max(values))})"
    return f"{number(fmean(values))}{ends}"


def _table(names: Row, numbers: Numbers, after: Mapping[Row, str] | None = None) -> str:
    """A column a tuning. names: of the columns that say what a row is about. after: one more column."""
    columns = list(dict.fromkeys(column for of_row in numbers.values() for column in of_row))
    rows = [
        [*row, *(_over_tunings(of_row.get(column, [])) for column in columns), *([after[row]] if after else [])]
        for row, of_row in numbers.items()
    ]
    return markdown_table((*names, *columns, *(("±",) if after else ())), rows)


def _collect(
    of_plan: Mapping[str, Sequence[Results]], read: Callable[[Results], Iterator[tuple[Row, str, float]]]
) -> Numbers:
    """read: (what a row is about, `base` or `tuned`, value) of one comparison."""
    numbers: Numbers = {}
    for tuning, comparisons in of_plan.items():
        for comparison in comparisons:
            for row, side, value in read(comparison):
                column = numbers.setdefault(row, {"base": []} if side == "base" else {})
                column.setdefault("base" if side == "base" else tuning, []).append(value)
    return numbers


def _refusals(of_plan: Mapping[str, Sequence[Results]]) -> Numbers:
    def read(results: Results) -> Iterator[tuple[Row, str, float]]:
        for line in results.select("refuse_rate", stage="behaviour").to_dict("records"):
            attack = line["attack"] if isinstance(line["attack"], str) else ""
            yield (str(line["set"]), attack), "base" if line["model"] == "base" else "tuned", line["value"]

    return _collect(of_plan, read)


def _smallest_count(of_plan: Mapping[str, Sequence[Results]]) -> int:
    first = next(iter(of_plan.values()))[0]
    return int(first.select("refuse_rate", stage="behaviour")["n"].min())


def _capability(of_plan: Mapping[str, Sequence[Results]]) -> Numbers:
    def read(results: Results) -> Iterator[tuple[Row, str, float]]:
        for said, both in results.manifest["prompts"]["capability"].items():
            for side, value in both.items():
                yield (said,), side, value

    return _collect(of_plan, read)


def _claims(of_plan: Mapping[str, Sequence[Results]]) -> Numbers:
    def read(results: Results) -> Iterator[tuple[Row, str, float]]:
        for claim in results.claims.to_dict("records"):
            yield (f"`{claim['id']}`",), "tuned", claim["value"]

    return _collect(of_plan, read)


def _widths(of_plan: Mapping[str, Sequence[Results]]) -> dict[Row, str]:
    halves: dict[Row, list[float]] = {}
    for results in (results for comparisons in of_plan.values() for results in comparisons):
        for claim in results.claims.to_dict("records"):
            known = halves.setdefault((f"`{claim['id']}`",), [])
            if isinstance(claim["low"], float) and claim["low"] == claim["low"]:
                known.append((claim["high"] - claim["low"]) / 2)
    return {row: number(fmean(known)) if known else "" for row, known in halves.items()}


def _weights(of_plan: Mapping[str, Sequence[Results]]) -> str:
    rows = []
    for tuning, comparisons in of_plan.items():
        measured = []
        for results in comparisons:
            size = results.select("update_relative_norm", module=FIRST_MATRIX).to_dict("records")[0]
            energy = results.select("null_energy_left", module=FIRST_MATRIX).to_dict("records")
            signs, chance = (
                next(line for line in energy if line["null_kind"] == kind) for kind in ("row_sign_flip", "rotation")
            )
            measured.append((size["value"], signs["value"], signs["null_mean"], chance["null_mean"]))
        rows.append([f"`{tuning}`", *map(_over_tunings, zip(*measured, strict=True))])
    return markdown_table(("tuning", "‖ΔW‖/‖W‖", "ρ_N", "random signs", "chance"), rows)


def _pairs(results: Results, plan: Plan) -> str:
    several = Several(results)
    rows = []
    for first, second in combinations_with_replacement(plan.tunings, 2):
        deviations: list[float] = []
        overlaps: list[Mapping[str, float]] = []
        for pair in several.pairs:
            if sorted((_kind(pair.first), _kind(pair.second))) != sorted((first, second)):
                continue
            in_deviations = whole(several, pair, "update_cosine_deviations")
            overlap = over_matrices(several, pair, "output_overlap")
            deviations += [in_deviations["value"]] if in_deviations else []
            overlaps += [overlap] if overlap else []
        if deviations and overlaps:
            chance = number(fmean(overlap["null_mean"] for overlap in overlaps))
            shared = _over_tunings([overlap["value"] for overlap in overlaps])
            rows.append(
                [f"`{first}`, `{second}`", str(len(deviations)), _over_tunings(deviations), f"{shared} [{chance}]"]
            )
    return markdown_table(("two updates", "pairs", "cosine, in SDs of chance", "write overlap [chance]"), rows)


def _kind(model: str) -> str:
    return model.rpartition("-")[0]


def main(
    run_dir: tyro.conf.Positional[Path] = Path("runs/smollm2"),
    out: tyro.conf.Positional[Path] = Path("docs/results/smollm2"),
) -> None:
    """Keep what a finished run found. run_dir: of `make real`. out: where."""
    with mistakes_said():
        keep(run_dir, out, PLAN)


if __name__ == "__main__":
    tyro.cli(main)
