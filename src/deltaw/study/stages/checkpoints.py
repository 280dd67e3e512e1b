"""What a training stage leaves at its checkpoints, kept where it survives the process until the stage is done."""

import json
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from deltaw.models import Transformer, save
from deltaw.results import read_measurements, write_json_atomic, write_measurements
from deltaw.results.records import MEASUREMENTS
from deltaw.results.schema import Measurement
from deltaw.results.sealed import is_intact, sealed_directory
from deltaw.training import Snapshots

NOTES, MODEL = "notes.json", "model"


def step_directory(artifact: Path, step: int) -> Path:
    """Where a training stage puts the model after `step` updates."""
    return artifact / f"step-{step:06d}"


class Checkpoints:
    """The checkpoints of one training stage: measurements, notes, and the model if it is kept."""

    def __init__(self, scratch: Path, steps: Iterable[int]) -> None:
        """scratch: the stage's own directory (see `StageContext`). steps: the updates after which there is one."""
        self._scratch, self._steps = scratch, sorted(steps)

    @property
    def snapshots(self) -> Snapshots:
        """The training's snapshots, of which those are usable whose earlier checkpoints are all intact."""
        return Snapshots(self._scratch / "snapshots", usable_at=self._intact_until)

    def write(
        self,
        step: int,
        lines: Iterable[Measurement],
        notes: Mapping[str, Any] | None = None,
        model: Transformer | None = None,
        meta: Mapping[str, Any] | None = None,
    ) -> None:
        """Keep what was measured after `step` updates; what an interrupted run left of it is written again."""
        directory = self._directory(step)
        shutil.rmtree(directory, ignore_errors=True)
        with sealed_directory(directory) as partial:
            write_measurements(partial / MEASUREMENTS, list(lines))
            write_json_atomic(partial / NOTES, dict(notes or {}))
            if model is not None:
                save(model, partial / MODEL, meta or {})

    def lines(self) -> list[Measurement]:
        """The measurements of all checkpoints, in order."""
        return [line for step in self._steps for line in read_measurements(self._directory(step) / MEASUREMENTS)]

    def notes(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """Each checkpoint's updates and notes, in order."""
        for step in self._steps:
            yield step, json.loads((self._directory(step) / NOTES).read_text(encoding="utf-8"))

    def copy_models(self, artifact: Path) -> None:
        """Put the models that were kept where an artifact has them."""
        for step in self._steps:
            kept = self._directory(step) / MODEL
            if kept.is_dir():
                shutil.copytree(kept, step_directory(artifact, step))

    def _intact_until(self, step: int) -> bool:
        return all(is_intact(self._directory(earlier)) for earlier in self._steps if earlier <= step)

    def _directory(self, step: int) -> Path:
        return step_directory(self._scratch / "checkpoints", step)
