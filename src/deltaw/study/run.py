"""Runs a recipe from nothing to a report: stages, then manifest, measurements, claims, prompts, figures, page."""

import os
import platform
import time
from collections.abc import Iterable, Sequence
from dataclasses import fields, is_dataclass, replace
from datetime import UTC, datetime
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any

from deltaw.claims import decide
from deltaw.component import Component
from deltaw.models import choose_precision
from deltaw.pipeline.artifacts import canonical, plain
from deltaw.pipeline.code_hash import Sources
from deltaw.pipeline.cores import available_cores
from deltaw.pipeline.progress import Listener
from deltaw.pipeline.run_directory import claim_directory, run_lock
from deltaw.pipeline.scheduler import StageRecord, check_engine, execute
from deltaw.plugins import kind_of, origin_of
from deltaw.recipes.config import Recipe
from deltaw.report import write_report
from deltaw.report.render import TABLES
from deltaw.results import (
    Measurement,
    ModelEntry,
    read_measurements,
    write_claims,
    write_json_atomic,
    write_measurements,
    write_text_atomic,
)
from deltaw.results.files import disk_trouble_said, remove_unfinished
from deltaw.results.parsing import parse_json
from deltaw.results.records import CLAIMS, MANIFEST, MEASUREMENTS, PROMPTS
from deltaw.study.graph import stages
from deltaw.study.stages.checkpoints import step_directory
from deltaw.study.stages.finetune import TuneConfig
from deltaw.study.stages.pretrain import BaseConfig
from deltaw.training.pretraining import new_model
from deltaw.world import World

REPORT, WRITTEN = "report.html", ".written.json"
PACKAGES = ("deltaw", "torch", "numpy", "scipy", "safetensors", "pandas", "altair")


def run_study(
    recipe: Recipe,
    run_dir: str | Path,
    *,
    engine: str = "dask",
    workers: int | None = None,
    scheduler: str | None = None,
    listener: Listener | None = None,
    below_gate: bool = False,
) -> Path:
    """Make (or go on making) a study in `run_dir`; returns the path of its report.

    engine: "dask" starts processes, which import the calling script if it is guarded by `if __name__ == "__main__"`;
    "inline" does not. listener: `choose_listener()` shows progress; None: silence. below_gate: go on with base models
    that have not reached the recipe's gate.
    DeltawError if the engine's packages are not installed, the directory belongs to another study or cannot be written,
    or a stage's input is at fault.
    """
    check_engine(engine)
    run_dir, graph = Path(run_dir), stages(replace(recipe, base_gate=None) if below_gate else recipe)
    claim_directory(run_dir, {"recipe": plain(recipe)})
    listener = Listener() if listener is None else listener
    # What gathers the results is under the lock as well: two at once would write the same files.
    with disk_trouble_said(run_dir), run_lock(run_dir, listener.notice):
        started = time.perf_counter()
        records = execute(graph, run_dir, engine, workers, listener, scheduler, locked=True)
        for folder in (run_dir, run_dir / "figures"):
            remove_unfinished(folder)
        if scheduler is None or engine == "inline":
            workers = workers or (available_cores() if engine == "dask" else 1)
        return finish(recipe, run_dir, records, time.perf_counter() - started, engine, workers)


def finish(
    recipe: Recipe,
    run_dir: Path,
    records: Sequence[StageRecord],
    seconds: float,
    engine: str,
    workers: int | None,
) -> Path:
    """Gather the stages' artifacts into the files of a run, and write its report. A finished run stays as it is, unless
    the code that would write it, or one of its files, has changed.
    """
    key = _key(recipe, records)
    if all(record.reused for record in records) and _is_written(run_dir, key):
        return run_dir / REPORT
    measurements: list[Measurement] = []
    for record in records:
        if (record.path / MEASUREMENTS).exists():
            measurements += read_measurements(record.path / MEASUREMENTS)
    write_measurements(run_dir / MEASUREMENTS, measurements)
    # The claims are about one world; a grid is about what differs between worlds.
    write_claims(run_dir / CLAIMS, [] if recipe.cells else decide(measurements, recipe.exploratory))
    samples = [record.path / PROMPTS for record in records if record.name.startswith("samples-")]
    write_text_atomic(run_dir / PROMPTS, "".join(path.read_text(encoding="utf-8") for path in samples))
    write_json_atomic(run_dir / MANIFEST, manifest(recipe, run_dir, records, seconds, engine, workers))
    report = write_report(run_dir)
    write_json_atomic(run_dir / WRITTEN, {"key": key, "files": _digests(run_dir)})
    return report


def _key(recipe: Recipe, records: Sequence[StageRecord]) -> str:
    """What the files of a run depend on, but the time and place of its making."""
    made_from = {
        "recipe": plain(recipe),
        "stages": {record.name: record.digest for record in records},
        "code": Sources().fingerprint(finish),
        "versions": {name: version(name) for name in PACKAGES},
    }
    return sha256(canonical(made_from).encode()).hexdigest()


def _digests(run_dir: Path) -> dict[str, str]:
    """sha256 of every file of the run that a reader may open, by name."""
    files = [run_dir / name for name in (MANIFEST, MEASUREMENTS, CLAIMS, PROMPTS, REPORT)]
    files += [*run_dir.glob(TABLES), *sorted((run_dir / "figures").glob("*.svg"))]
    return {path.relative_to(run_dir).as_posix(): sha256(path.read_bytes()).hexdigest() for path in files}


def _is_written(run_dir: Path, key: str) -> bool:
    try:
        written = parse_json((run_dir / WRITTEN).read_text(encoding="utf-8"))
        return bool(written == {"key": key, "files": _digests(run_dir)})
    except (OSError, ValueError):
        return False  # absent or damaged: it is written anew


def manifest(
    recipe: Recipe,
    run_dir: Path,
    records: Sequence[StageRecord],
    seconds: float,
    engine: str,
    workers: int | None,
) -> dict[str, Any]:
    """What the study was, what made it, and where the time went."""
    parameters = sum(p.numel() for p in new_model(World(recipe.world), recipe.pretraining, 0).parameters())
    return {
        "format": 1,
        "recipe": recipe.name,
        "exploratory": recipe.exploratory,
        "seeds": list(recipe.seeds),
        "config": plain(recipe),
        "components": components(recipe),
        "observations": [observation.recorded() for observation in recipe.added],
        "parameters": parameters,
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "code": Sources().fingerprint(*{stage.run for stage in stages(recipe)}),
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in (*PACKAGES, *(("distributed",) if engine == "dask" else ()))},
        },
        "processor": {
            "name": _processor(),
            "cores": os.cpu_count(),
            "platform": platform.platform(),
            "precision": choose_precision(recipe.pretraining.device).reason,
        },
        "engine": {"name": engine, "workers": workers or "those of a scheduler"},
        "seconds": {
            "this_call": round(seconds, 1),
            "all_stages": round(sum(record.seconds for record in records), 1),
        },
        "peak_bytes": max((record.peak_bytes for record in records), default=0),
        "stages": [
            {
                "name": record.name,
                "key": record.key,
                "digest": record.digest,
                "path": str(record.path.relative_to(run_dir.absolute())),
                "seconds": round(record.seconds, 2),
                "started": record.started,
                "reused": record.reused,
                "peak_bytes": record.peak_bytes,
            }
            for record in records
        ],
        "models": [entry.to_json() for entry in _models(recipe, run_dir.absolute(), records)],
    }


def described(component: Component, kind: str) -> dict[str, str]:
    """What a manifest says of a plug-in."""
    return {"kind": kind, **component.told(), "origin": origin_of(component)}


def components(recipe: object) -> list[dict[str, str]]:
    """Every plug-in that a recipe holds, each once: its kind, name, label, sentence, and where it comes from."""
    held: dict[tuple[str, str], dict[str, str]] = {}

    def collect(value: object) -> None:
        kind = kind_of(value)
        if isinstance(value, Component) and kind is not None:
            held.setdefault((kind, value.name), described(value, kind))
        if is_dataclass(value):
            for part in fields(value):
                collect(getattr(value, part.name))
        elif isinstance(value, list | tuple):
            for part in value:
                collect(part)

    collect(recipe)
    return list(held.values())


def _models(recipe: Recipe, run_dir: Path, records: Sequence[StageRecord]) -> Iterable[ModelEntry]:
    """Every checkpoint that a stage of the study made, as the stages' own configurations name it."""
    paths = {record.name: record.path for record in records}
    for stage in stages(recipe):
        config = stage.config
        if isinstance(config, BaseConfig):
            last = config.checkpoints[-1]
            base = step_directory(paths[stage.name], last).relative_to(run_dir)
            yield ModelEntry(name=config.name, path=str(base), step=last, seed=config.shared.seed)
        elif isinstance(config, TuneConfig):
            tuned = config.tuned
            for step in config.checkpoints:
                path = step_directory(paths[stage.name], step).relative_to(run_dir)
                yield ModelEntry(
                    name=tuned.name,
                    path=str(path),
                    step=step,
                    seed=config.shared.seed,
                    protocol=tuned.protocol,
                    strength=tuned.strength,
                    control=tuned.control,
                )


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
