"""`make results`: what of a finished study is kept in the docs: claims, the measurements that claims and the docs'
tables read, and the manifest. No weights, and no figures but those that a page shows.

Beside them stands what the published code's statistics say of the same models, in published.md.
"""

import gzip
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
import tyro

from deltaw.charts.style import number
from deltaw.claims.decision import summary
from deltaw.claims.equal_behaviour import Reached, equal_behaviour_claims
from deltaw.claims.lookup import Ledger
from deltaw.claims.placebo import placebo_claims
from deltaw.claims.statements import STATEMENTS, Statement
from deltaw.errors import mistakes_said
from deltaw.recipes.config import Recipe
from deltaw.report.render import TABLES
from deltaw.results import (
    Claim,
    Measurement,
    Results,
    load,
    markdown_table,
    read_claims,
    read_measurements,
    write_json_atomic,
    write_text_atomic,
)
from deltaw.results.records import CLAIMS, MANIFEST, MEASUREMENTS, PACKED, PROMPTS
from deltaw.results.store import measurements_of
from deltaw.study.all_interventions import recipe_of
from deltaw.study.pool import REPLICATION
from deltaw.study.published_statistics import published_page, published_statistics

BESIDE_CLAIMS = {
    "bayes_accuracy",
    "comply_rate",
    "gain_log_ratio",
    "gain_log_ratio_in_situ",
    "gain_log_ratio_to_forbidden",
    "gain_relative_in_situ",
    "redrawn_share",
    "refuse_rate",
    "sensitivity_log_ratio_max_logit_published",
    "target_rate",
    "update_relative_norm",
}
"""Statistics that no claim reads and that the docs' tables do (`benchmarks/standard.py`)."""

BY_LAYER = {"gain_log_ratio_in_situ", "gain_relative_in_situ", "null_energy_left", "tau_gap_relative_change"}
"""Statistics that are kept layer by layer; of all others only what is over layers."""

_CLAIMS = """\
# Answers of `{name}`

Seeds {seeds}; made by `make results` from the run's claims.json. A word, the mean difference over seeds with its 95 %
interval on the claim's scale, and p (after Holm for primary claims). What each claim says and asks for: [the
claims](../../claims.md).

"""
_EQUAL = """\
## At equal behaviour

The primary claims where each model first complies with 0.95 of allowed prompts and gives 0.95 of forbidden ones the
answer that it was taught, and not after as many updates as its controls.

"""
_PLACEBO = """\
## The placebo

The primary claims of tunings that refuse by a random policy, minus their own control: what is found where there is
nothing to find.

"""
_MODELS = """\
# What every model has of the claims' statistics

Run `{name}`, seeds {seeds}: mean over seeds and its 95 % t interval, on the scale of the claim; controls included. What
each says: [the claims](../../claims.md). Made by `make results`.

"""


def publish(run: Path, out: Path, *, chosen: Recipe | None = None) -> None:
    """Fill `out` from the finished study `run`. chosen: its recipe, if it has none of the known names.

    Of a pooled run it keeps what its parts do not have. DeltawError if the run is not finished, or its models are gone.
    """
    results = load(run)
    if "pooled" in results.manifest:
        _publish_pooled(results, out)
        return
    study = recipe_of(results.manifest) if chosen is None else chosen
    records = list(published_statistics(study, results))
    out.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(run / MANIFEST, out / MANIFEST)
    keep_files(run, out)
    names = _write_tables(results, out)
    write_json_atomic(out / "published.json", records)
    write_text_atomic(out / "published.md", published_page(records, **names))


def by_model(lines: Sequence[Measurement], models: Sequence[str]) -> str:
    """Every statistic that some claim reads, of every model that has it: mean and 95 % interval over seeds."""
    ledger = Ledger(lines)
    asked: dict[Any, Statement] = {}
    for statement in STATEMENTS:
        asked.setdefault((statement.query.statistic, statement.query.where), statement)
    return "\n".join(filter(None, (_of_models(ledger, statement, models) for statement in asked.values())))


def _of_models(ledger: Ledger, statement: Statement, models: Sequence[str]) -> str:
    """The table of one statistic; empty if no model has it in two seeds."""
    rows = []
    for model in models:
        seed_values = list(ledger.values_of(replace(statement.query, models=(model,))).values())
        mean, ends, seeds, _ = summary(statement, seed_values) if len(seed_values) > 1 else (0.0, None, 0, "")
        if ends is not None:
            rows.append([f"`{model}`", number(mean), f"{number(ends.low)} to {number(ends.high)}", str(seeds)])
    place = ", ".join(f"{name} {value}" for name, value in statement.query.where)
    table = markdown_table(("model", "mean", "95 % interval", "seeds"), rows)
    return f"**`{statement.query.statistic}`**, {place}\n\n{table}\n" if rows else ""


def _publish_pooled(results: Results, out: Path) -> None:
    """Claims, tables and figures alone: the runs that were pooled have measurements and models of their own."""
    _keep(results.path, out, (CLAIMS, REPLICATION, TABLES))
    of_parts = ("stages", "models")
    write_json_atomic(out / MANIFEST, {name: v for name, v in results.manifest.items() if name not in of_parts})
    _write_tables(results, out)


def _write_tables(results: Results, out: Path) -> dict[str, str]:
    """claims.md and models.md; returns what their heads name the run by."""
    names = {"name": results.manifest["recipe"], "seeds": ", ".join(map(str, results.manifest["seeds"]))}
    lines = read_measurements(measurements_of(results.path))
    models = by_model(lines, list(results.models["name"].unique()))
    claims = read_claims(results.path / CLAIMS)
    parts = [_CLAIMS.format(**names) + _answers(claims)]
    equal, places = equal_behaviour_claims(lines)
    if equal:
        parts.append(_EQUAL + _reached(places) + "\n" + _answers(equal))
    if placebo := placebo_claims(lines):
        parts.append(_PLACEBO + _answers(placebo))
    write_text_atomic(out / "claims.md", "\n".join(parts))
    write_text_atomic(out / "models.md", _MODELS.format(**names) + models)
    return names


def keep_files(
    run: Path,
    out: Path,
    figures: Sequence[str] = (),
    keep: Callable[[Measurement], bool] | None = None,
) -> None:
    """Keep claims, prompts, tables if any, measurements (packed) and the figures of these patterns.

    keep: which measurements; None: those that claims and the docs' tables read.
    """
    _keep(run, out, (CLAIMS, PROMPTS, TABLES), figures)
    lines = read_measurements(run / MEASUREMENTS)
    chosen = kept_lines(lines) if keep is None else [line for line in lines if keep(line)]
    text = "".join(f"{line.to_line()}\n" for line in chosen)
    (out / PACKED).write_bytes(gzip.compress(text.encode(), compresslevel=9, mtime=0))


def kept_lines(lines: Sequence[Measurement]) -> list[Measurement]:
    """Those that claims and the docs' tables read."""
    queries = [query for claim in STATEMENTS for query in (claim.query, claim.against) if query is not None]
    names = BESIDE_CLAIMS | {query.statistic for query in queries}
    return [line for line in lines if line.statistic in names and (line.layer is None or line.statistic in BY_LAYER)]


def _keep(run: Path, out: Path, names: Sequence[str], figures: Sequence[str] = ()) -> None:
    """Copy these files and figures; of an earlier run, which may have had others, `out` keeps none."""
    out.mkdir(parents=True, exist_ok=True)
    for stale in (PROMPTS, PACKED, REPLICATION, TABLES):
        (out / stale).unlink(missing_ok=True)
    for path in (run / name for name in names):
        if path.is_file():
            shutil.copyfile(path, out / path.name)
    shutil.rmtree(out / "figures", ignore_errors=True)
    if figures:
        (out / "figures").mkdir()
    for figure in (path for pattern in figures for path in (run / "figures").glob(pattern)):
        shutil.copyfile(figure, out / "figures" / figure.name)


def _answers(claims: Sequence[Claim]) -> str:
    rows = []
    for claim in claims:
        for answer in claim.answers:
            p = answer.p if answer.p_adjusted is None else answer.p_adjusted
            ends = "" if answer.low is None else f"{number(answer.low)} to {number(answer.high)}"
            needed = "" if answer.seeds_needed is None else str(answer.seeds_needed)
            cells = (answer.question, answer.word or "–", number(answer.value), ends, number(p), needed)
            rows.append([f"`{claim.id}`", "primary" if claim.primary else "", *cells])
    columns = ("claim", "", "question", "word", "difference", "95 % interval", "p", "seeds that would decide")
    return markdown_table(columns, rows) + "\n"


def _reached(places: Sequence[Reached]) -> str:
    """By model: in how many seeds it gets there, after how many updates, and how large its update is then."""
    rows = []
    for model in dict.fromkeys(place.model for place in places):
        own = [place for place in places if place.model == model]
        sizes = [place.size for place in own if place.size is not None]
        updates = number(fmean(place.updates for place in own))
        rows.append((f"`{model}`", str(len(own)), updates, number(fmean(sizes)) if sizes else "–"))
    return markdown_table(("model", "seeds", "updates", "‖ΔW‖ / ‖W‖"), rows) + "\n"


def main(run: Path, out: Path) -> None:
    """Keep a finished study's results. run: its directory. out: where they go."""
    torch.set_num_threads(1)  # matrices this small gain nothing from a second thread
    with mistakes_said():
        publish(run, out)


if __name__ == "__main__":
    tyro.cli(main)
