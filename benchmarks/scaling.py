"""What the engine costs a stage, and what a hundred seeds on a thousand cores would take.

Stages, names, configurations and edges are those of `small`; each stage only writes one file of 4 kB, so all of
its time is the engine's. Prints three tables: by engine; the driver alone, by the number of stages; and how long
`small` with more seeds takes on more cores, by the seconds that a kept run's manifest holds for each stage.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from heapq import heappop, heappush
from pathlib import Path

import psutil

from deltaw.pipeline import scheduler as engine
from deltaw.pipeline.artifacts import Artifact
from deltaw.pipeline.progress import Listener
from deltaw.pipeline.scheduler import execute
from deltaw.pipeline.stage import Stage, StageContext
from deltaw.pipeline.worker import Emit, Finished, Job
from deltaw.recipes import recipe
from deltaw.study.graph import stages
from deltaw.study.stages.overlap import NEXT

PAIRS = "analysis-angles-seeds"  # the one stage of all seeds: it compares them with each other
MANIFEST = Path(__file__).parents[1] / "docs" / "results" / "standard-s2" / "manifest.json"


def write_little(context: StageContext) -> None:
    """A stage that costs nothing: one small file."""
    (context.out / "little.txt").write_text("x" * 4096, encoding="ascii")


def small_with(seeds: int) -> list[Stage]:
    """The stages of `small` with so many seeds, as they are."""
    return stages(replace(recipe("small"), seeds=tuple(range(1, seeds + 1))))


def trivial(seeds: int, count: int) -> list[Stage]:
    """The first `count` stages of `small` with so many seeds, which do next to nothing."""
    graph = [replace(stage, run=write_little, threads=1) for stage in small_with(seeds)]
    chosen = {stage.name for stage in graph[:count]}
    return [stage for stage in graph if stage.name in chosen and chosen.issuperset(stage.inputs.values())]


@dataclass
class Stopwatch(Listener):
    """When the plan was made, the first stage started and the last one ended."""

    left: int = 0
    planned: float = 0.0
    first: float = 0.0
    last: float = 0.0
    processor_first: float = 0.0
    processor_last: float = 0.0

    def begin(self, stages: list[str]) -> None:
        """The plan is made."""
        self.left = len(stages)
        self.planned = time.perf_counter()

    def started(self, stage: str) -> None:
        """The engine is up."""
        if not self.first:
            self.first, self.processor_first = time.perf_counter(), processor_time()

    def finished(self, stage: str, artifact: Artifact) -> None:
        """One more."""
        self.left -= 1
        self.last = time.perf_counter()
        if not self.left:
            self.processor_last = processor_time()


@contextmanager
def processes(workers: int) -> Iterator[str]:
    """A scheduler and so many workers of one thread, each a process of its own; yields the address."""
    quiet = ("--no-dashboard", "--dashboard-address", "127.0.0.1:0", "--host", "127.0.0.1")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "scheduler.json"
        commands = [
            ("scheduler", "--port", "0"),
            *(("worker", "--nthreads", "1", "--memory-limit", "0") for _ in range(workers)),
        ]
        running = [
            subprocess.Popen(
                (sys.executable, "-m", "dask", *command, "--scheduler-file", str(file), *quiet),
                stderr=subprocess.DEVNULL,
            )
            for command in commands
        ]
        try:
            while not file.exists() or not file.read_text():
                time.sleep(0.1)
            yield json.loads(file.read_text())["address"]
        finally:
            for process in reversed(running):
                process.terminate()
            for process in running:
                process.wait()


def processor_time() -> float:
    """Seconds of processor time of this process and all that it has started and that still run."""
    process, total = psutil.Process(), 0.0
    for each in (process, *process.children(recursive=True)):
        with suppress(psutil.NoSuchProcess):
            times = each.cpu_times()
            total += times.user + times.system
    return total


def time_engine(graph: Sequence[Stage], kind: str, workers: int | None, scheduler: str | None) -> tuple[float, ...]:
    """Seconds: of planning, of starting, from the first stage to the last, and of all processes' processors then."""
    watch = Stopwatch()
    with tempfile.TemporaryDirectory() as folder:
        called = time.perf_counter()
        execute(graph, Path(folder) / "run", kind, workers, watch, scheduler)
    processor = watch.processor_last - watch.processor_first
    return watch.planned - called, watch.first - watch.planned, watch.last - watch.first, processor


def by_engine(graph: Sequence[Stage]) -> float:
    """Prints the first table; returns the largest overhead of a stage in seconds."""
    count = len(graph)
    print(f"{count} stages that write one file of 4 kB, on {os.cpu_count()} cores; milliseconds a stage")
    with tempfile.TemporaryDirectory() as folder:
        execute(graph[:1], Path(folder) / "run", "inline")  # what is imported once is nobody's overhead
    print("| engine | plan | until the first stage (s) | a stage | beyond inline | processor time, all processes |")
    print("|---|---|---|---|---|---|")
    inline, worst = 0.0, 0.0
    with processes(1) as one, processes(2) as two:
        for label, kind, workers, scheduler in (
            ("inline", "inline", None, None),
            ("local cluster, 1 worker", "dask", 1, None),
            ("local cluster, 2 workers", "dask", 2, None),
            ("own scheduler, 1 worker", "dask", None, one),
            ("own scheduler, 2 workers", "dask", None, two),
        ):
            plan, start, run, processor = time_engine(graph, kind, workers, scheduler)
            inline = inline or run
            worst = max(worst, run - inline)
            print(
                f"| {label} | {1000 * plan / count:.1f} | {start:.1f} | {1000 * run / count:.1f} "
                f"| {1000 * (run - inline) / count:.1f} | {1000 * processor / count:.1f} |",
                flush=True,
            )
    return worst / count


class _NoPool:
    """Ends each job as soon as it is asked, without making anything: what is left is the driver."""

    def __init__(self, threads: int | None) -> None:
        self.threads = threads
        self._jobs: list[Job] = []

    def start(self, job: Job) -> None:
        self._jobs.append(job)

    def wait(self, emit: Emit) -> None:
        job = self._jobs.pop()
        emit(Finished(job.stage.name, Artifact(job.path, job.provenance.key, "0" * 64, 0.0, "", 0)))


def driver_alone(seeds: Sequence[int], cores: int) -> None:
    """Prints the second table."""
    print(f"\nThe driver alone, with {cores} jobs at once; milliseconds a stage")
    print("| seeds | stages | plan | run |")
    print("|---|---|---|---|")
    engine._open_pool = lambda *_: nullcontext(_NoPool(cores))  # type: ignore[assignment]
    for count in seeds:
        graph, watch = small_with(count), Stopwatch()
        with tempfile.TemporaryDirectory() as folder:
            called = time.perf_counter()
            execute(graph, Path(folder) / "run", "dask", None, watch)
            total = len(graph)
        plan, run = watch.planned - called, watch.last - watch.planned
        print(f"| {count} | {total:,} | {1000 * plan / total:.2f} | {1000 * run / total:.2f} |", flush=True)


def measured(manifest: Path) -> dict[str, float]:
    """Seconds of each stage of a run, by the name without its seed: the mean over seeds."""
    found: dict[str, list[float]] = {}
    for stage in json.loads(manifest.read_text(encoding="utf-8"))["stages"]:
        found.setdefault(re.sub(r"-s\d+$", "", stage["name"]), []).append(stage["seconds"])
    return {name: sum(seconds) / len(seconds) for name, seconds in found.items()}


def finish_time(graph: Sequence[Stage], seconds: dict[str, float], cores: int, overhead: float) -> tuple[float, float]:
    """(seconds until the last stage ends, core seconds) on so many cores, the longest chain first.

    overhead: seconds that every stage takes on top, on its core. A driver that hands out stages one after another is
    not modelled; it must be faster than stages end, which `driver_alone` says.
    """
    kinds: dict[str, list[float]] = {}
    for name, value in seconds.items():
        kinds.setdefault(name.partition("-")[0], []).append(value)

    def took(name: str) -> float:
        """Of a stage that the run did not have, the mean of its kind: another tuning, another analysis."""
        known = seconds.get(name)
        alike = kinds[name.partition("-")[0]]
        return sum(alike) / len(alike) if known is None else known

    cost = {stage.name: took(re.sub(r"-s\d+$", "", stage.name)) + overhead for stage in graph}
    missing = {stage.name: len(set(stage.inputs.values())) for stage in graph}
    users: dict[str, list[str]] = {stage.name: [] for stage in graph}
    for stage in graph:
        for source in set(stage.inputs.values()):
            users[source].append(stage.name)
    chain: dict[str, float] = {}

    def length(name: str) -> float:
        if name not in chain:
            chain[name] = cost[name] + max((length(user) for user in users[name]), default=0.0)
        return chain[name]

    ready: list[tuple[float, str]] = []
    for name, count in missing.items():
        if not count:
            heappush(ready, (-length(name), name))
    running: list[tuple[float, str]] = []
    now = 0.0
    while ready or running:
        while ready and len(running) < cores:
            _, name = heappop(ready)
            heappush(running, (now + cost[name], name))
        now, name = heappop(running)
        for user in users[name]:
            missing[user] -= 1
            if not missing[user]:
                heappush(ready, (-length(user), user))
    return now, sum(cost.values())


def compared(seeds: int) -> int:
    """Pairs of seeds that `PAIRS` compares."""
    return sum(min(NEXT, seeds - 1 - place) for place in range(seeds))


def projection(manifest: Path, overhead: float) -> None:
    """Prints the third table."""
    seconds = measured(manifest)
    kept = compared(len(json.loads(manifest.read_text(encoding="utf-8"))["seeds"]))
    unknown = {re.sub(r"-s\d+$", "", stage.name) for stage in small_with(2)} - seconds.keys()
    print(f"\n`small` by the seconds of {manifest.parent.name}, with {1000 * overhead:.0f} ms a stage on top")
    if unknown:
        print(f"(the kept run has no stage {', '.join(sorted(unknown))}: counted as nothing)")
    seconds |= dict.fromkeys(unknown, 0.0)
    print(
        "| seeds | cores | stages | core hours | hours | cores at work | hours without that stage | of them overhead |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for seeds, cores in ((6, 2), (100, 16), (100, 100), (100, 1000)):
        graph = small_with(seeds)
        cost = {**seconds, PAIRS: seconds[PAIRS] * compared(seeds) / kept}
        wall, work = finish_time(graph, cost, cores, overhead)
        rest = [stage for stage in graph if stage.name != PAIRS]
        without, _ = finish_time(rest, cost, cores, overhead)
        bare, _ = finish_time(rest, cost, cores, 0.0)
        print(
            f"| {seeds} | {cores} | {len(graph):,} | {work / 3600:.1f} | {wall / 3600:.2f} | {work / wall / cores:.0%} "
            f"| {without / 3600:.2f} | {(without - bare) / 3600:.4f} |"
        )


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--stages", type=int, default=500, help="of the first table")
    parser.add_argument("--manifest", type=Path, default=MANIFEST, help="of a finished run of `small`")
    parser.add_argument("--overhead", type=float, help="seconds a stage; prints the third table only")
    arguments = parser.parse_args()
    if arguments.overhead is not None:
        projection(arguments.manifest, arguments.overhead)
        return
    overhead = by_engine(trivial(6, arguments.stages))
    driver_alone((1, 10, 100), 1000)
    projection(arguments.manifest, overhead)


if __name__ == "__main__":
    main()
