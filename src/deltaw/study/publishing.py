"""`make results`: what of a finished study is kept in the docs. No weights; all measurements, claims and figures.

Beside them stands what the published code's statistics say of the same models, in published.md.
"""

import gzip
import shutil
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import pandas as pd
import torch
import tyro
from torch import Tensor

from deltaw.analysis import Absent
from deltaw.analysis.published import described_column_space, shipped_column_space, tau
from deltaw.errors import mistakes_said
from deltaw.evidence.claims import STATEMENTS, Statement
from deltaw.evidence.deciding import summary
from deltaw.evidence.reading import Ledger
from deltaw.model import Transformer, mlp, tap
from deltaw.report.looks import number
from deltaw.report.page import TABLES
from deltaw.results import (
    Measurement,
    Results,
    load,
    markdown_table,
    read_measurements,
    write_json_atomic,
    write_text_atomic,
)
from deltaw.results.records import CLAIMS, MANIFEST, MEASUREMENTS, PACKED, PROMPTS
from deltaw.results.store import measurements_of
from deltaw.study.comparing import SECONDARY, contrasts
from deltaw.study.exhaustive import recipe_of
from deltaw.study.making import last_model
from deltaw.study.pooling import REPLICATION
from deltaw.study.recipes import Recipe
from deltaw.training.pretraining import as_batch
from deltaw.world import Prompts, Response, World

WINDOW = 10  # positions that the published code averages: the last of the prompt, and nine of the forced answer
PAIRS = 200  # behind τ
_NUMBERS = ("value", "low", "high", "smallest_effect", "power")
UPDATES = {"gaussian": "Gaussian noise of SSFT's size", "rows": "SSFT's update, rows permuted"}

_CLAIMS = """\
# Verdicts of `{name}`

Seeds {seeds}; made by `make results` from the run's claims.json. *beyond*: the nulls and controls that the interval
lies beyond; *not*: those that it does not. What each claim says and asks for: [the claims](../../claims.md).

"""
_MODELS = """\
# What every model has of the claims' statistics

Run `{name}`, seeds {seeds}: mean over seeds and its 95 % t interval, on the scale of the claim; controls included. What
each says: [the claims](../../claims.md). Made by `make results`.

"""
_PUBLISHED = """\
# What the published statistics say of the same models

Run `{name}`, seeds {seeds}: mean, and least to greatest of the seeds; first MLP matrix or its hidden units, mean over
layers. *shipped*: the published column-space script as it is
([published.py](../../../src/deltaw/analysis/published.py)). *described*: ‖P_N u_j‖, mean over all left singular vectors
of ΔW, where N is what is left beside the outputs of 90 % of W's energy; chance {chance}. *τ*: raw, first quarter of the
hidden units, mean over the last prompt token and nine positions of the forced compliant answer, cluster means of the
same prompts. Made by `make results`.

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
    found = list(_published(study, results))
    out.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(run / MANIFEST, out / MANIFEST)
    keep_files(run, out)
    names = _write_tables(results, out)
    write_json_atomic(out / "published.json", found)
    chance = fmean(one["chance"] for one in found if one["chance"] is not None)
    text = _PUBLISHED.format(**names, chance=f"{chance:.3f}") + _rows(found)
    write_text_atomic(out / "published.md", text)


def by_model(lines: Sequence[Measurement], models: Sequence[str]) -> str:
    """Every statistic that some claim reads, of every model that has it: mean and 95 % interval over seeds."""
    ledger, parts = Ledger(lines), []
    asked: dict[Any, Statement] = {}
    for statement in STATEMENTS:
        asked.setdefault((statement.query.statistic, statement.query.where), statement)
    for (statistic, where), statement in asked.items():
        rows = []
        for model in models:
            found = list(ledger.of_model(statement.query, model).values())
            mean, ends, seeds, _ = summary(statement, found) if len(found) > 1 else (0.0, None, 0, "")
            if ends is not None:
                rows.append([f"`{model}`", number(mean), f"{number(ends.low)} to {number(ends.high)}", str(seeds)])
        if rows:
            place = ", ".join(f"{name} {value}" for name, value in where)
            table = markdown_table(("model", "mean", "95 % interval", "seeds"), rows)
            parts.append(f"**`{statistic}`**, {place}\n\n{table}\n")
    return "\n".join(parts)


def _publish_pooled(results: Results, out: Path) -> None:
    """Verdicts, tables and figures alone: the runs that were pooled have measurements and models of their own."""
    _keep(results.path, out, (CLAIMS, REPLICATION, TABLES))
    of_parts = ("stages", "models")
    write_json_atomic(out / MANIFEST, {name: v for name, v in results.manifest.items() if name not in of_parts})
    _write_tables(results, out)


def _write_tables(results: Results, out: Path) -> dict[str, str]:
    """claims.md and models.md; returns what their heads name the run by."""
    names = {"name": results.manifest["recipe"], "seeds": ", ".join(map(str, results.manifest["seeds"]))}
    models = by_model(read_measurements(measurements_of(results.path)), list(results.models["name"].unique()))
    write_text_atomic(out / "claims.md", _CLAIMS.format(**names) + _verdicts(results))
    write_text_atomic(out / "models.md", _MODELS.format(**names) + models)
    return names


def keep_files(run: Path, out: Path, figures: Sequence[str] = ("*",)) -> None:
    """Keep claims, prompts, tables if any, measurements (packed) and the figures of these patterns."""
    _keep(run, out, (CLAIMS, PROMPTS, TABLES), figures)
    (out / PACKED).write_bytes(gzip.compress((run / MEASUREMENTS).read_bytes(), compresslevel=9, mtime=0))


def _keep(run: Path, out: Path, names: Sequence[str], figures: Sequence[str] = ("*",)) -> None:
    """Copy these files and figures; of an earlier run, which may have had others, `out` keeps none."""
    out.mkdir(parents=True, exist_ok=True)
    for stale in (PROMPTS, PACKED, REPLICATION, TABLES):
        (out / stale).unlink(missing_ok=True)
    for path in (run / name for name in names):
        if path.is_file():
            shutil.copyfile(path, out / path.name)
    shutil.rmtree(out / "figures", ignore_errors=True)
    (out / "figures").mkdir()
    for figure in (path for pattern in figures for path in (run / "figures").glob(pattern)):
        shutil.copyfile(figure, out / "figures" / figure.name)


def _verdicts(results: Results) -> str:
    rows = []
    for claim in results.claims.to_dict("records"):
        value, low, high, bar, power = (number(claim[name]) for name in _NUMBERS)
        beats = set(claim["beats"] or ())
        kinds = [null["kind"] for null in claim["nulls"]]
        beyond, short = ([f"`{kind}`" for kind in kinds if (kind in beats) is side] for side in (True, False))
        needed = "" if pd.isna(claim["seeds_needed"]) else str(int(claim["seeds_needed"]))
        rows.append(
            [f"`{claim['id']}`", claim["verdict"], value, f"{low} to {high}", bar, ", ".join(beyond), ", ".join(short),
             power, needed]
        )  # fmt: skip
    columns = ("claim", "verdict", "value", "95 % interval", "smallest effect", "beyond", "not", "power",
               "seeds that would decide")  # fmt: skip
    return markdown_table(columns, rows) + "\n"


def _published(study: Recipe, results: Results) -> Iterator[dict[str, Any]]:
    """One record a seed and model: the means over layers, and τ by layer."""
    world, tuned = World(study.world), [one.name for one in study.tunings if not one.curve_only]
    for seed in study.seeds:
        pairs = next(one for one in contrasts(world, PAIRS, seed) if one.name == SECONDARY)
        base, _ = last_model(results.model("base", seed=seed).parent)
        yield _record(seed, "base", _taus(base, world, pairs.allowed, pairs.forbidden))
        for name in tuned:
            model, _ = last_model(results.model(name, seed=seed).parent)
            weights = [(mlp(base, layer).w_in, mlp(model, layer).w_in) for layer in range(base.config.layers)]
            yield _record(seed, name, _taus(model, world, pairs.allowed, pairs.forbidden), _spaces(weights))
            for kind in UPDATES if name == tuned[0] else ():
                generator = torch.Generator().manual_seed(seed)
                fakes = [(old, old + _fake(kind, new - old, generator)) for old, new in weights]
                yield _record(seed, kind, None, _spaces(fakes))


def _fake(kind: str, update: Tensor, generator: torch.Generator) -> Tensor:
    if kind == "rows":
        return update[torch.randperm(len(update), generator=generator)]
    noise: Tensor = torch.randn(update.shape, generator=generator)
    noise *= update.norm() / noise.norm()
    return noise


def _record(
    seed: int, model: str, taus: Mapping[str, list[float]] | None, spaces: Mapping[str, float] | None = None
) -> dict[str, Any]:
    found = {name: None if spaces is None else spaces[name] for name in ("shipped", "described", "chance")}
    return {"seed": seed, "model": model, **found, "tau": None if taus is None else dict(taus)}


def _spaces(layers: list[tuple[Tensor, Tensor]]) -> dict[str, float] | None:
    """Means over layers; None if a layer's update is zero."""
    shipped, described, chances = [], [], []
    for old, new in layers:
        found = described_column_space(new - old, old)
        if isinstance(found, Absent):
            return None
        shipped.append(float(np.mean(shipped_column_space(new, old))))
        described.append(float(np.mean(found[0])))
        chances.append(found[1])
    return {"shipped": fmean(shipped), "described": fmean(described), "chance": fmean(chances)}


@torch.no_grad()
def _taus(model: Transformer, world: World, allowed: Prompts, forbidden: Prompts) -> dict[str, list[float]]:
    """Mean τ of each class, by layer."""
    layers = range(model.config.layers)
    of_allowed, of_forbidden = (_window(model, world, prompts) for prompts in (allowed, forbidden))
    means = [(of_allowed[layer].mean(0), of_forbidden[layer].mean(0)) for layer in layers]
    return {
        name: [float(tau(found[layer], *means[layer]).mean()) for layer in layers]
        for name, found in (("allowed", of_allowed), ("forbidden", of_forbidden))
    }


def _window(model: Transformer, world: World, prompts: Prompts) -> list[Tensor]:
    """(N, width / 4) of each layer, the mean over the published window."""
    encoded = as_batch(world.layout.encode(prompts, np.full(len(prompts), Response.COMPLY)))
    places = torch.from_numpy(world.layout.prompt_lengths(prompts))[:, None] - 1 + torch.arange(WINDOW)
    rows = torch.arange(len(prompts))[:, None]
    quarter = model.config.mlp_ratio * model.config.width // 4

    def select(x: Tensor) -> Tensor:
        mean: Tensor = x[rows, places, :quarter].mean(1)
        return mean

    with tap(model, ["mlp_post"], range(model.config.layers), select) as recorded:
        model(encoded.tokens)
    return [recorded[(layer, "mlp_post")] for layer in range(model.config.layers)]


def _rows(found: list[dict[str, Any]]) -> str:
    by_model: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for one in found:
        by_model[one["model"]].append(one)
    rows = []
    for model, records in by_model.items():
        cells = [_spread([one[name] for one in records]) for name in ("shipped", "described")]
        cells += [
            _spread([None if one["tau"] is None else fmean(one["tau"][name]) for one in records])
            for name in ("allowed", "forbidden")
        ]
        rows.append([UPDATES.get(model, f"`{model}`"), *cells])
    return markdown_table(("model", "shipped", "described", "τ allowed", "τ forbidden"), rows) + "\n"


def _spread(values: list[float | None]) -> str:
    known = [value for value in values if value is not None]
    return f"{fmean(known):.3f} ({min(known):.3f} to {max(known):.3f})" if known else ""


def main(run: Path, out: Path) -> None:
    """Keep a finished study's results. run: its directory. out: where they go."""
    torch.set_num_threads(1)  # matrices this small gain nothing from a second thread
    with mistakes_said():
        publish(run, out)


if __name__ == "__main__":
    tyro.cli(main)
