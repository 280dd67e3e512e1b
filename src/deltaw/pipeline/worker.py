"""What passes between the driver of a study and the pool that runs its stages: jobs one way, events the other.

`make` is all that a worker does, whichever pool it belongs to.
"""

import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from deltaw.errors import DeltawError
from deltaw.pipeline.artifacts import Artifact, Provenance, read_artifact, scratch_beside, write_artifact
from deltaw.pipeline.stage import Stage, StageContext, device_of

_SECONDS_BETWEEN_REPORTS = 0.5


@dataclass(frozen=True)
class Job:
    """A stage that is ready to run: all that a worker needs to make its artifact at `path`."""

    stage: Stage
    provenance: Provenance
    path: Path
    inputs: Mapping[str, Path]
    input_digests: Mapping[str, str]
    priority: float


@dataclass(frozen=True)
class Started:
    """A worker has begun a stage."""

    stage: str


@dataclass(frozen=True)
class Progressed:
    """A running stage has reported."""

    stage: str
    done: float
    total: float
    note: str


@dataclass(frozen=True)
class Finished:
    """A stage's artifact is in its place."""

    stage: str
    artifact: Artifact


@dataclass(frozen=True)
class Failed:
    """A stage's function has raised."""

    stage: str
    error: BaseException


@dataclass(frozen=True)
class Noticed:
    """Something about the pool, not about one stage, that a user should know."""

    text: str


Event = Started | Progressed | Finished | Failed | Noticed
Emit = Callable[[Event], None]


class Pool(Protocol):
    """Where stages run. `threads`: how many threads may run at once (None: the pool sees to that itself)."""

    threads: int | None

    def start(self, job: Job) -> None:
        """Takes a job on; returns at once."""

    def wait(self, emit: Emit) -> None:
        """Emits what has happened; blocks until something has."""


def make(job: Job, emit: Emit) -> Artifact:
    """Runs a stage's function where it is called and puts its artifact in place. Runs in the workers."""
    # A worker that died after its work but before its answer has left a whole artifact: the work is done.
    finished = read_artifact(job.path, job.provenance, job.input_digests)
    if isinstance(finished, Artifact):
        return finished
    stage, scratch = job.stage, scratch_beside(job.path)
    emit(Started(stage.name))

    def fill(out: Path) -> None:
        stage.run(StageContext(stage.config, job.inputs, out, _Reporter(stage.name, emit), scratch))

    try:
        with _computing_for(stage):
            artifact = write_artifact(job.path, job.provenance, job.input_digests, fill)
    except (OSError, DeltawError):
        # A scheduler that lost sight of a worker gives its stage to another while the first one may still be at work:
        # whichever ends last finds the other's artifact in its place.
        theirs = read_artifact(job.path, job.provenance, job.input_digests)
        if isinstance(theirs, Artifact):
            return theirs
        raise
    shutil.rmtree(scratch, ignore_errors=True)
    return artifact


@contextmanager
def _computing_for(stage: Stage) -> Iterator[None]:
    """Within this context, torch computes as a stage asks: on so many threads, and on a card to the same bits."""
    with torch_threads(stage.threads):
        device = device_of(stage.config)
        if not device.startswith("cuda"):
            yield
            return
        from deltaw.models.determinism import deterministic  # imports torch: see `torch_threads`

        with deterministic(device):
            yield


class _Reporter:
    """Passes on what a stage reports, but not more than a screen can show; the last word always gets
    through.
    """

    def __init__(self, stage: str, emit: Emit) -> None:
        self._stage, self._emit, self._last = stage, emit, 0.0

    def __call__(self, done: float, total: float, note: str = "") -> None:
        now = time.monotonic()
        if done < total and now - self._last < _SECONDS_BETWEEN_REPORTS:
            return
        self._last = now
        self._emit(Progressed(self._stage, float(done), float(total), note))


@contextmanager
def torch_threads(threads: int) -> Iterator[None]:
    """Within this context, torch computes on so many threads."""
    # Imported only here: a study of which everything is reused need not wait for it.
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
