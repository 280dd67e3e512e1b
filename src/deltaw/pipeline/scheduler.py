"""Runs a study: a graph of stages, on a local Dask cluster or in the process.

The driver (the process that calls `execute`) decides what is reused and what starts when; the two engines
differ only in where a stage's function runs. Either way a stage gets the same number of torch threads, so
that torch computes the same. NumPy's own linear algebra reads its number of threads from the environment
when it is loaded: a local cluster's workers have one, and a process that runs `inline` has one only if it
was started with OPENBLAS_NUM_THREADS=1.
"""

import re
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from heapq import heappop, heappush
from importlib.util import find_spec
from pathlib import Path

from deltaw.errors import DeltawError
from deltaw.pipeline.artifacts import (
    Artifact,
    Provenance,
    config_types,
    plain,
    versions,
)
from deltaw.pipeline.code_hash import Sources
from deltaw.pipeline.progress import Listener
from deltaw.pipeline.resuming import remove_leftovers, reusable
from deltaw.pipeline.run_directory import run_lock
from deltaw.pipeline.stage import Stage
from deltaw.pipeline.worker import Emit, Event, Failed, Finished, Job, Noticed, Pool, Progressed, Started, make
from deltaw.results.files import disk_trouble, disk_trouble_said

ENGINES = ("dask", "inline")
ENGINE_PACKAGES = {"dask": ("dask", "distributed", "cryptography")}
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


@dataclass(frozen=True)
class StageRecord:
    """How one stage came out: its artifact, whether it was reused, what making it took (see `Artifact`)."""

    name: str
    key: str
    path: Path
    seconds: float
    reused: bool
    digest: str
    started: str
    peak_bytes: int


def execute(
    stages: Sequence[Stage],
    run_dir: Path,
    engine: str = "dask",
    workers: int | None = None,
    listener: Listener | None = None,
    scheduler: str | None = None,
    locked: bool = False,
) -> list[StageRecord]:
    """Makes every stage's artifact in `run_dir`/artifacts, reusing those that are still what their stage
    would make.

    engine: `dask` (a local cluster of `workers` single-threaded processes, by default one a core, or the
    `scheduler` at an address such as tcp://host:8786, whose workers share the file system) or `inline` (this
    process).
    locked: whether the caller already holds `run_lock` of `run_dir`.

    Returns one record a stage, in the order given. If a stage fails, what does not depend on it is still made, but for
    trouble with the disk, after which nothing more is started. Then its error is raised: a DeltawError with the stage's
    name before its message, another exception with a note that names it. DeltawError also for an unknown engine and if
    another process is at work in `run_dir`; ValueError for a graph that is not one (a name twice, an unknown input, a
    circle).
    """
    check_engine(engine)
    if workers is not None and workers < 1:
        raise DeltawError(f"The number of workers must be at least 1, got {workers}.")
    run_dir = run_dir.absolute()
    plan = _plan(stages)
    listener = Listener() if listener is None else listener
    planned = {provenance.path(run_dir) for provenance in plan.provenances.values()}
    with disk_trouble_said(run_dir), nullcontext() if locked else run_lock(run_dir, listener.notice):
        remove_leftovers(run_dir, planned)
        driver = _Driver(plan, run_dir, listener)
        listener.begin([stage.name for stage in stages])
        try:
            driver.run(partial(_open_pool, engine, workers, scheduler))
        finally:
            listener.end()
            remove_leftovers(run_dir, planned)
    driver.raise_failures()
    return [driver.records[stage.name] for stage in stages]


def check_engine(engine: str) -> None:
    """DeltawError if there is no such engine, or if the packages that it needs are not installed."""
    if engine not in ENGINES:
        raise DeltawError(f"There is no engine {engine!r}; there are {' and '.join(ENGINES)}.")
    missing = [name for name in ENGINE_PACKAGES.get(engine, ()) if not _is_installed(name)]
    if missing:
        raise DeltawError(
            f"the engine {engine} needs packages that are not installed ({', '.join(missing)}); install the extra, "
            "pip install 'deltaw[study]', or give deltaw study --engine inline"
        )


def _is_installed(package: str) -> bool:
    try:
        return find_spec(package) is not None
    except ImportError:
        return False


class _InlinePool:
    """Runs each stage in this process, one at a time."""

    threads: int | None = 1

    def __init__(self) -> None:
        self._job: Job | None = None

    def start(self, job: Job) -> None:
        self._job = job

    def wait(self, emit: Emit) -> None:
        job, self._job = self._job, None
        if job is None:
            return
        try:
            artifact = make(job, emit)
        except Exception as error:  # whatever a stage raises is its failure, not the driver's
            emit(Failed(job.stage.name, error))
        else:
            emit(Finished(job.stage.name, artifact))


@contextmanager
def _open_pool(engine: str, workers: int | None, scheduler: str | None) -> Iterator[Pool]:
    if engine == "inline":
        yield _InlinePool()
    else:
        # Imported only here: it takes half a second that `inline` and the command line's help need not wait.
        from deltaw.pipeline.dask_backend import open_cluster

        with open_cluster(workers, scheduler) as pool:
            yield pool


class _Driver:
    """The state of one run of a study: what is made, what runs, what waits.

    Each event costs what it changes and no more: with ten thousand stages, a look at all of them at each
    event would take longer than the stages.
    """

    def __init__(self, plan: "_Plan", run_dir: Path, listener: Listener) -> None:
        self.records: dict[str, StageRecord] = {}
        self._plan, self._run_dir, self._listener = plan, run_dir, listener
        self._failed: dict[str, BaseException] = {}
        self._running: dict[str, Job] = {}
        self._begun: set[str] = set()
        self._halted = False
        self._threads = 0
        self._missing = {name: len(set(stage.inputs.values())) for name, stage in plan.stages.items()}
        self._ready: list[tuple[float, int, Job]] = []

    def run(self, open_pool: Callable[[], AbstractContextManager[Pool]]) -> None:
        """Reuses what can be, and opens a pool only if something is left to make."""
        self._settle([name for name in self._plan.order if not self._missing[name]])
        if not self._ready:
            return
        with open_pool() as pool:
            while True:
                self._start(pool)
                if not self._running:
                    return
                pool.wait(self._hear)

    def raise_failures(self) -> None:
        """Raises the first failure in the order of the plan, with its stage's name, naming the others."""
        if not self._failed:
            return
        first, *others = sorted(self._failed, key=self._plan.places.__getitem__)
        error = self._failed[first]
        trouble = disk_trouble(error, self._run_dir)
        if trouble is not None:
            raise DeltawError(f"{first}: {trouble} It goes on from the stages that are finished.") from error
        also = f" (failed too: {', '.join(others)})" if others else ""
        if isinstance(error, DeltawError):
            raise DeltawError(f"{first}: {error}{also}") from error
        error.add_note(f"in the stage {first} of the study in {self._run_dir}{also}")
        raise error

    def _settle(self, names: list[str]) -> None:
        """Of these stages, whose inputs are all there, reuses what it can, and then of those that this frees;
        the others are ready to start, the head of the longest chain first.
        """
        waiting = deque(names)
        while waiting:
            job = self._job(self._plan.stages[waiting.popleft()])
            if self._reuse(job):
                waiting += self._freed_by(job.stage)
            else:
                heappush(self._ready, (-job.priority, self._plan.places[job.stage.name], job))

    def _freed_by(self, stage: Stage) -> list[str]:
        """The stages that a finished one was the last to keep waiting; none if it has not passed its gate."""
        short = stage.gate(self.records[stage.name].path) if stage.gate else None
        if short:
            self._failed[stage.name] = DeltawError(short)
            return []
        freed = []
        for dependent in self._plan.dependents[stage.name]:
            self._missing[dependent] -= 1
            if not self._missing[dependent]:
                freed.append(dependent)
        return freed

    def _job(self, stage: Stage) -> Job:
        made = {local: self.records[source] for local, source in stage.inputs.items()}
        provenance = self._plan.provenances[stage.name]
        return Job(
            stage=stage,
            provenance=provenance,
            path=provenance.path(self._run_dir),
            inputs={local: record.path for local, record in made.items()},
            input_digests={local: record.digest for local, record in made.items()},
            priority=self._plan.priorities[stage.name],
        )

    def _reuse(self, job: Job) -> bool:
        name = job.stage.name
        standing = reusable(job.path, job.provenance, job.input_digests, self._listener.notice)
        if standing is None:
            return False
        self.records[name] = _record(name, standing, reused=True)
        self._listener.reused(name, standing)
        return True

    def _start(self, pool: Pool) -> None:
        """Starts what fits. Strictly in order: a wide stage that waits for room is not passed by narrow ones
        for ever.
        """
        while self._ready and not self._halted:
            job = self._ready[0][-1]
            if self._running and pool.threads is not None and self._threads + job.stage.threads > pool.threads:
                return
            heappop(self._ready)
            self._running[job.stage.name] = job
            self._threads += job.stage.threads
            pool.start(job)

    def _hear(self, event: Event) -> None:
        if isinstance(event, Noticed):
            self._listener.notice(event.text)
            return
        if event.stage not in self._running:
            return  # a report that was overtaken by its stage's end
        match event:
            case Started(stage):
                if stage in self._begun:
                    self._listener.notice(f"{stage} starts again: the process that ran it died")
                self._begun.add(stage)
                self._listener.started(stage)
            case Progressed(stage, done, total, note):
                self._listener.progress(stage, done, total, note)
            case Finished(stage, artifact):
                self._threads -= self._running.pop(stage).stage.threads
                self.records[stage] = _record(stage, artifact, reused=False)
                self._listener.finished(stage, artifact)
                self._settle(self._freed_by(self._plan.stages[stage]))
            case Failed(stage, error):
                self._threads -= self._running.pop(stage).stage.threads
                self._failed[stage] = error
                self._halted |= disk_trouble(error, self._run_dir) is not None
                self._listener.failed(stage, error)


@dataclass(frozen=True)
class _Plan:
    """The stages in an order in which they can run.

    places: where each stands in that order. dependents: which stages take it as an input. provenances: what
    it is made from. priorities: the length of the chain that it heads.
    """

    stages: dict[str, Stage]
    order: list[str]
    places: dict[str, int]
    dependents: dict[str, list[str]]
    provenances: dict[str, Provenance]
    priorities: dict[str, float]


def _plan(stages: Sequence[Stage]) -> _Plan:
    by_name = {stage.name: stage for stage in stages}
    _check(stages, by_name)
    dependents = _dependents(by_name)
    order = _topological(by_name, dependents)
    places = {name: place for place, name in enumerate(order)}
    sources, library_versions = Sources(), versions()
    provenances: dict[str, Provenance] = {}
    for name in order:
        stage = by_name[name]
        made_from = {
            "config": plain(stage.config),
            "code": sources.fingerprint(stage.run, *config_types(stage.config)),
            "versions": library_versions,
            "threads": stage.threads,
            "inputs": {local: provenances[source].key for local, source in sorted(stage.inputs.items())},
        }
        provenances[name] = Provenance(name, made_from)
    priorities: dict[str, float] = dict.fromkeys(order, 0.0)
    for name in reversed(order):
        priorities[name] += by_name[name].weight
        for source in set(by_name[name].inputs.values()):
            priorities[source] = max(priorities[source], priorities[name])
    return _Plan(by_name, order, places, dependents, provenances, priorities)


def _check(stages: Sequence[Stage], by_name: Mapping[str, Stage]) -> None:
    # Names become directories, and not every file system tells a from A.
    if len({stage.name.casefold() for stage in stages}) < len(stages):
        raise ValueError("two stages have the same name")
    for stage in stages:
        if not _NAME.fullmatch(stage.name):
            raise ValueError(f"{stage.name!r} is not fit for a file name: use letters, digits, '.', '_' and '-'")
        if stage.threads < 1 or not stage.weight > 0:
            raise ValueError(f"stage {stage.name} needs at least one thread and a positive weight")
        unknown = sorted({source for source in stage.inputs.values() if source not in by_name})
        if unknown:
            raise ValueError(f"stage {stage.name} takes {', '.join(unknown)}, which no stage makes")


def _dependents(by_name: Mapping[str, Stage]) -> dict[str, list[str]]:
    dependents: dict[str, list[str]] = {name: [] for name in by_name}
    for name, stage in by_name.items():
        for source in sorted(set(stage.inputs.values())):
            dependents[source].append(name)
    return dependents


def _topological(by_name: Mapping[str, Stage], dependents: Mapping[str, list[str]]) -> list[str]:
    missing = {name: len(set(stage.inputs.values())) for name, stage in by_name.items()}
    order = [name for name, count in missing.items() if not count]
    for name in order:  # grows while it is read
        for dependent in dependents[name]:
            missing[dependent] -= 1
            if not missing[dependent]:
                order.append(dependent)
    if len(order) < len(by_name):
        raise ValueError(f"these stages wait for each other: {', '.join(sorted(by_name.keys() - set(order)))}")
    return order


def _record(name: str, artifact: Artifact, reused: bool) -> StageRecord:
    return StageRecord(
        name=name,
        key=artifact.key,
        path=artifact.path,
        seconds=artifact.seconds,
        reused=reused,
        digest=artifact.digest,
        started=artifact.started,
        peak_bytes=artifact.peak_bytes,
    )
