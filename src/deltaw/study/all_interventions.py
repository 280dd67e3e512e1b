"""The exhaustive sweep of interventions on a finished study, from the models that it left.

Nothing of the study is made again or changed. The directory `interventions` in its run becomes a run of its own: the
study's measurements with those of the sweep in the place of what interventions it had, the claims decided anew, and a
report; its manifest has the sweep, which tells it from the study. Models are taken by the hashes in the manifest, so
that a stopped sweep goes on and a changed study is noticed.
"""

import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from deltaw.claims import decide
from deltaw.errors import DeltawError
from deltaw.interventions.sweep import Sweep
from deltaw.pipeline.artifacts import plain
from deltaw.pipeline.progress import Listener
from deltaw.pipeline.run_directory import claim_directory
from deltaw.pipeline.scheduler import StageRecord, check_engine, execute
from deltaw.pipeline.stage import Stage, StageContext
from deltaw.plugins import resolve
from deltaw.recipes import RECIPES, recipe
from deltaw.recipes.choose import with_protocols
from deltaw.recipes.config import Recipe
from deltaw.recipes.intervention_sweeps import EXHAUSTIVE
from deltaw.report import write_report
from deltaw.results import (
    load,
    read_measurements,
    write_claims,
    write_json_atomic,
    write_measurements,
    write_text_atomic,
)
from deltaw.results.records import MEASUREMENTS
from deltaw.study.stages.intervene import STAGE, InterveningConfig, intervene
from deltaw.study.stages.shared import SeedConfig

FOLDER = "interventions"


@dataclass(frozen=True)
class GivenConfig:
    """A model that another study made: its artifact's directory, and the hash of what it held when it was made."""

    path: str
    digest: str


def take(context: StageContext) -> None:
    """Copy the last checkpoint."""
    config: GivenConfig = context.config
    last = max(Path(config.path).glob("step-*"))
    shutil.copytree(last, context.out / last.name)


def run_interventions(
    run_dir: str | Path,
    sweep: Sweep = EXHAUSTIVE,
    *,
    chosen: Recipe | None = None,
    engine: str = "dask",
    workers: int | None = None,
    listener: Listener | None = None,
) -> Path:
    """Make the sweep on every tuned model of the finished run; returns the path of its report.

    chosen: the study's recipe, if it is not one of `RECIPES`. DeltawError if the run is not finished, is a grid, is of
    another recipe, or its models are gone.
    """
    check_engine(engine)
    run_dir = Path(run_dir).absolute()
    results = load(run_dir)
    study = recipe_of(results.manifest) if chosen is None else chosen
    _check_same(study, results.manifest, run_dir)
    out = run_dir / FOLDER
    graph = list(_graph(study, run_dir, results.manifest, sweep))
    claim_directory(out, {"interventions": plain(sweep), "recipe": plain(study)})
    records = execute(graph, out, engine, workers, listener)
    manifest = {name: value for name, value in results.manifest.items() if name != "pooled"}  # which the sweep is not
    return _finish(study, run_dir, out, {**manifest, "sweep": plain(sweep)}, records)


def recipe_of(manifest: Mapping[str, Any]) -> Recipe:
    """The recipe that a run was made by. DeltawError if it has none of the known names."""
    name = manifest.get("recipe")
    if name not in RECIPES:
        raise DeltawError(
            f"the run is of the recipe {name!r}, which is none of {', '.join(RECIPES)}; call "
            "deltaw.study.all_interventions.run_interventions with that recipe"
        )
    device = ((manifest.get("config") or {}).get("pretraining") or {}).get("device")
    if device is None or not manifest.get("seeds"):
        raise DeltawError("the run's manifest does not say its device or its seeds; make the study again")
    try:
        known = recipe(str(name), device)
    except RuntimeError as error:  # PyTorch's
        raise DeltawError(
            f"the run's manifest names the device {device!r}, which is none; make the study again"
        ) from error
    return replace(_with_its_protocols(known, manifest), seeds=tuple(manifest["seeds"]))


def _with_its_protocols(known: Recipe, manifest: Mapping[str, Any]) -> Recipe:
    """The recipe with the protocols that the run was made with, if they are not the recipe's own."""
    tunings = (manifest.get("config") or {}).get("tunings")
    if known.cells or tunings == plain(known.tunings) or not isinstance(tunings, list):
        return known
    own = {tuned.protocol: tuned.config.protocol for tuned in known.tunings}
    try:
        names = list(dict.fromkeys(str(tuned["protocol"]) for tuned in tunings))
    except (KeyError, TypeError):
        return known  # what differs is said by who compares the two
    try:
        return with_protocols(known, [own[name] if name in own else resolve("protocol", name) for name in names])
    except DeltawError as error:
        raise DeltawError(
            f"the run was made with the protocols {', '.join(names)} ({error}); install what has them, or call "
            "deltaw.study.all_interventions.run_interventions with the run's recipe"
        ) from error


def _check_same(study: Recipe, manifest: Mapping[str, Any], run_dir: Path) -> None:
    if study.cells:
        raise DeltawError(f"{run_dir} is a grid; interventions are made on a study of one world")
    for name in ("world", "tunings", "sizes"):
        if plain(getattr(study, name)) != (manifest.get("config") or {}).get(name):
            raise DeltawError(f"{run_dir} was made with other {name} than this recipe has; make the study again")
    made = (manifest.get("config") or {}).get("prompt_attacks")
    if made is not None and made != plain(study.prompt_attacks):  # earlier versions always had the default ones
        raise DeltawError(
            f"{run_dir} was made with other attacks on prompts than this recipe has; call "
            "deltaw.study.all_interventions.run_interventions with the recipe that has them"
        )


def _graph(study: Recipe, run_dir: Path, manifest: Mapping[str, Any], sweep: Sweep) -> Iterator[Stage]:
    stages = manifest.get("stages") or ()
    saved = {str(stage["name"]): stage for stage in stages if all(stage.get(key) for key in ("name", "path", "digest"))}
    tunings = [tuned for tuned in study.tunings if not tuned.curve_only]
    main = [tuned.name for tuned in tunings if tuned.control is None and tuned.strength == "medium"]
    partners = dict(zip(main, main[1:] + main[:1], strict=True)) if len(main) > 1 else {}
    for seed in study.seeds:
        names = [f"base-s{seed}", *(f"tune-{tuned.name}-s{seed}" for tuned in tunings)]
        for name in names:
            if name not in saved or not (run_dir / saved[name]["path"]).is_dir():
                raise DeltawError(f"{run_dir} has no models of {name}; run the study again to make them anew")
            yield Stage(name, take, GivenConfig(str(run_dir / saved[name]["path"]), saved[name]["digest"]))
        shared = SeedConfig(study.world, study.sizes, seed)
        for tuned in tunings:
            partner = partners.get(tuned.name)
            inputs = {"base": f"base-s{seed}", "tuned": f"tune-{tuned.name}-s{seed}"}
            inputs |= {"partner": f"tune-{partner}-s{seed}"} if partner else {}
            config = InterveningConfig(shared, tuned, replace(sweep, partner=partner), study.prompt_attacks)
            yield Stage(f"interventions-{tuned.name}-s{seed}", intervene, config, inputs, weight=100)


def _finish(study: Recipe, run_dir: Path, out: Path, manifest: Mapping[str, Any], records: list[StageRecord]) -> Path:
    lines = [line for line in read_measurements(run_dir / MEASUREMENTS) if line.stage != STAGE]
    for record in records:
        if (record.path / MEASUREMENTS).exists():
            lines += read_measurements(record.path / MEASUREMENTS)
    write_measurements(out / MEASUREMENTS, lines)
    write_claims(out / "claims.json", decide(lines, study.exploratory))
    write_text_atomic(out / "prompts.jsonl", (run_dir / "prompts.jsonl").read_text(encoding="utf-8"))
    kept = {name: [_from_below(entry) for entry in manifest.get(name) or ()] for name in ("models", "stages")}
    swept = [
        {
            "name": record.name,
            "key": record.key,
            "digest": record.digest,
            "path": str(record.path.relative_to(out)),
            "seconds": round(record.seconds, 2),
            "started": record.started,
            "reused": record.reused,
            "peak_bytes": record.peak_bytes,
        }
        for record in records
        if record.name.startswith("interventions-")
    ]
    write_json_atomic(out / "manifest.json", {**manifest, **kept, "stages": [*kept["stages"], *swept]})
    return write_report(out)


def _from_below(entry: Mapping[str, Any]) -> dict[str, Any]:
    """The entry with its path, if it has one, seen from the directory of the sweep."""
    if entry.get("path") is None:
        return dict(entry)
    return {**entry, "path": os.path.join(os.pardir, entry["path"])}  # noqa: PTH118
