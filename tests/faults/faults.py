"""The faults: each strikes a study somewhere, gives the same command again, and says how the study came through.

A round raises `Wrong` if the study ended with other hashes, without a sentence, or left something running or
half-written; `Missed` if the study had ended before it was struck.
"""

import errno
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path

import miniature
from bench import Bench, Wrong, check_clean, is_root, sentence
from processes import Process, wait_until

from deltaw.pipeline.stage import StageContext

SAME_RUN = "went on in the same run"
NEXT_RUN = "went on in the next run"
SENTENCE = "stopped with a sentence, and went on when its cause was gone"
REPORT = "gathering and report"
MID_TRAINING = "{}, after a snapshot"
TRAINING = ("base", "tune")
SNAPSHOT_FILES = ("state.safetensors (of a snapshot)", "meta.json (of a snapshot)", "seal.json (of a snapshot)")
SECONDS_OF_REPORT = 4.0


class Missed(Exception):
    """The study had ended before it was struck, so nothing was tried."""


class Impossible(Exception):
    """This machine cannot make the fault; the message says why."""


Round = Callable[[Bench, str], str]


@dataclass(frozen=True)
class Fault:
    """One way to disturb a study."""

    name: str
    """As in `--only`."""
    title: str
    """As in the table."""
    subjects: tuple[str, ...]
    """What is struck: kinds of stages or of files, or one that says it is drawn."""
    strike: Round
    """Makes one round and returns one of `SAME_RUN`, `NEXT_RUN` and `SENTENCE`."""


# Signals


def signalled(number: signal.Signals, whole_group: bool, bench: Bench, kind: str) -> str:
    """The main process of the study gets a signal while a stage is made, or while the results are gathered."""
    engine = bench.chance.choice(("inline", "inline", "inline", "dask"))
    if kind == REPORT:
        out = bench.copy()
        (out / ".written.json").unlink()
        process = bench.start(out, report=True)
        made = len(bench.artifacts)
        wait_until("the results to be gathered", lambda: process.text().count("already made") == made)
        time.sleep(bench.chance.uniform(0, SECONDS_OF_REPORT))
    else:
        stage = bench.stage_of(kind.partition(",")[0])
        out = bench.copy(without=stage)
        process = bench.start(out, engine)
        bench.wait_for_stage(out, stage, process)
        if kind in map(MID_TRAINING.format, TRAINING):
            wait_until("a snapshot", lambda: bool(snapshots(out)) or process.poll() is not None)
            time.sleep(bench.moment_in(stage) * 0.4)  # most of the stage lies before the first one
        else:
            time.sleep(bench.moment_in(stage))
    if process.poll() is not None:
        raise Missed
    process.strike(number, whole_group)
    if number is signal.SIGKILL:
        process.wait()
        wait_until("the workers to end", lambda: not process.left_running(), 60)
    elif process.wait() == 0:
        raise Missed  # the signal came when all was done
    else:
        sentence(process, 128 + number)
        check_clean(out, process)
    bench.check_end(out, bench.start(out, engine, report=kind == REPORT))
    return NEXT_RUN


def worker_killed(bench: Bench, kind: str) -> str:
    """The process that makes a stage is killed: of the study's own cluster, or of a scheduler that has others."""
    stage = bench.stage_of(kind)
    out = bench.copy(without=stage)
    with ExitStack() as stack:
        cluster = stack.enter_context(running_cluster(bench)) if bench.chance.random() < 0.75 else None
        process = bench.start(out, "dask", cluster.address if cluster else None)
        bench.wait_for_stage(out, stage, process)
        time.sleep(bench.moment_in(stage))
        worker = bench.maker_of(out, stage)
        if worker is None or process.poll() is not None:
            process.end()
            raise Missed
        os.kill(worker, signal.SIGKILL)
        if cluster is not None:
            cluster.workers[0].wait()
            cluster.start_worker()
        bench.check_end(out, process)
    return SAME_RUN


def scheduler_killed(bench: Bench, kind: str) -> str:
    """A scheduler in a process of its own is killed; the same command is given with another."""
    stage = bench.stage_of(kind)
    out = bench.copy(without=stage)
    with running_cluster(bench) as cluster:
        process = bench.start(out, "dask", cluster.address)
        bench.wait_for_stage(out, stage, process)
        time.sleep(bench.moment_in(stage))
        if process.poll() is not None:
            raise Missed
        cluster.scheduler.end()
        if process.wait() == 0:
            raise Missed
        said = sentence(process, 2)
        if "scheduler" not in said:
            raise Wrong(f"the sentence does not name the scheduler: {said}")
        with running_cluster(bench) as other:  # the old worker may be at work still, on the same stage
            second = bench.start(out, "dask", other.address)
            second.wait()
            cluster.end()
            bench.check_end(out, second)
    return SENTENCE


@dataclass
class Cluster:
    """A Dask scheduler and its workers, each a process of its own."""

    bench: Bench
    scheduler: Process
    address: str
    workers: list[Process]

    def start_worker(self) -> None:
        """One more worker of one thread."""
        number = f"{self.bench.number}-{len(self.workers)}"
        local = self.bench.folder / f"worker-{number}"
        words = [self.address, "--nthreads", "1", "--no-nanny", "--no-dashboard", "--local-directory", str(local)]
        self.workers.append(Process(partial(_dask, "worker", words), self.bench.folder / f"worker-{number}.txt"))

    def end(self) -> None:
        """Kills all of it."""
        for process in (self.scheduler, *self.workers):
            process.end()


@contextmanager
def running_cluster(bench: Bench) -> Iterator[Cluster]:
    """A scheduler on a free port, with one worker."""
    bench.number += 1
    file = bench.folder / f"scheduler-{bench.number}.json"
    words = ["--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--scheduler-file", str(file)]
    scheduler = Process(partial(_dask, "scheduler", words), bench.folder / f"scheduler-{bench.number}.txt")
    try:
        wait_until("the scheduler's address", lambda: _address(file) is not None or scheduler.poll() is not None)
        address = _address(file)
        if address is None:
            raise Wrong(f"the scheduler did not start: {scheduler.text()[-1000:]}")
        cluster = Cluster(bench, scheduler, address, [])
        cluster.start_worker()
    except BaseException:
        scheduler.end()
        raise
    try:
        yield cluster
    finally:
        cluster.end()


def _address(file: Path) -> str | None:
    try:
        return str(json.loads(file.read_text())["address"])
    except (OSError, ValueError):
        return None


def _dask(what: str, words: list[str]) -> None:
    from distributed.cli import dask_scheduler, dask_worker

    (dask_scheduler if what == "scheduler" else dask_worker).main(words)


# Files


def kinds_of_files(reference: Path) -> dict[str, list[str]]:
    """The files of a finished study by kind, relative to it."""
    kinds: dict[str, list[str]] = {}
    for path in sorted(reference.rglob("*")):
        if path.is_file() and path.name != ".lock" and path.stat().st_size:
            name = path.relative_to(reference).as_posix()
            if name.startswith("artifacts/"):
                kind = f"{path.name} (of a stage)"
            elif name.startswith("figures/"):
                kind = "figures/*.svg"
            else:
                kind = name
            kinds.setdefault(kind, []).append(name)
    return kinds


def _damage(bench: Bench, path: Path, how: str) -> None:
    content = bytearray(path.read_bytes())
    if how == "flip":
        content[bench.chance.randrange(len(content))] ^= 1 << bench.chance.randrange(8)
    else:
        del content[bench.chance.randrange(len(content)) :]
    path.write_bytes(content)


def damaged(how: str, bench: Bench, kind: str) -> str:
    """A file has another bit somewhere, or ends too early."""
    if kind in SNAPSHOT_FILES:
        return snapshot_damaged(how, bench, kind)
    out = bench.copy()
    path = out / bench.chance.choice(kinds_of_files(bench.reference)[kind])
    _damage(bench, path, how)
    drawn = kind in ("report.html", "figures/*.svg", "tables.md")
    process = bench.start(out, report=drawn)
    if process.wait() == 0:
        bench.check_end(out, process)
        return SAME_RUN
    said = sentence(process, 2)
    if f"remove {path}" not in said:
        raise Wrong(f"the sentence does not say what to do: {said}")
    path.unlink()
    bench.check_end(out, bench.start(out, report=drawn))
    return SENTENCE


def snapshot_damaged(how: str, bench: Bench, kind: str) -> str:
    """The study is killed while it trains, and a file of what it would go on from is damaged."""
    stage = bench.stage_of(bench.chance.choice(TRAINING))
    out = bench.copy(without=stage)
    process = bench.start(out)
    wait_until("a snapshot", lambda: bool(snapshots(out)) or process.poll() is not None)
    time.sleep(bench.moment_in(stage) * 0.4)
    if process.poll() is not None:
        raise Missed
    process.strike(signal.SIGKILL)
    process.wait()
    files = [path for path in (out / "artifacts").glob(f".resume-*/**/{kind.split()[0]}") if path.stat().st_size]
    if not files:
        raise Missed
    _damage(bench, bench.chance.choice(files), how)
    bench.check_end(out, bench.start(out))
    return NEXT_RUN


def snapshots(out: Path) -> list[Path]:
    """The snapshots that training stages have in a study's directory."""
    return [*(out / "artifacts").glob(".resume-*/snapshots/update-*")]


def has_snapshots() -> bool:
    """Whether training stages keep snapshots at all."""
    return "scratch" in {field.name for field in fields(StageContext)}


# The disk


def disk_full(bench: Bench, _: str) -> str:
    """The study is on a file system that runs full while a stage is made, or while its results are gathered."""
    stage = bench.stage_of(bench.chance.choice(miniature.KINDS))
    with mounted("-t", "tmpfs", "-o", "size=64m", "none", on=bench.folder / "full") as out:
        bench.copy(without=stage, to=out)
        needed = sum(_size(bench.reference / name) for name in (f"artifacts/{bench.artifacts[stage]}", "claims.json"))
        needed += _size(bench.reference / "measurements.jsonl")
        ballast = out / "artifacts" / ".ballast"
        with ballast.open("wb") as file:
            file.truncate(0)
            left = shutil.disk_usage(out).free - bench.chance.randrange(needed)
            os.posix_fallocate(file.fileno(), 0, max(1, left))
        process = bench.start(out)
        if process.wait() == 0:
            raise Missed
        said = sentence(process, 2)
        if "full" not in said:
            raise Wrong(f"the sentence does not say that the disk is full: {said}")
        ballast.unlink()
        bench.check_end(out, bench.start(out))
    return SENTENCE


def read_only(bench: Bench, _: str) -> str:
    """The study's directory, or the one of its artifacts, may not be written."""
    stage = bench.stage_of(bench.chance.choice(miniature.KINDS))
    out = bench.copy(without=stage)
    where = bench.chance.choice((out, out / "artifacts"))
    with mounted("--bind", str(where), on=where):
        subprocess.run(["mount", "-o", "remount,bind,ro", where], check=True)
        said = sentence(bench.start(out), 2)
    if "cannot be written" not in said:
        raise Wrong(f"the sentence does not say that it cannot be written: {said}")
    bench.check_end(out, bench.start(out))
    return SENTENCE


def no_locks(bench: Bench, _: str) -> str:
    """The file system has no locks. A study on it keeps out a second one, is killed, and goes on."""
    before = partial(_without_locks, bench.chance.choice((errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS)))
    stage = bench.stage_of(bench.chance.choice(miniature.KINDS))
    out = bench.copy(without=stage)
    first = bench.start(out, before=before)
    bench.wait_for_stage(out, stage, first)
    os.kill(first.pid, signal.SIGSTOP)
    try:
        if first.poll() is not None:
            raise Missed
        second = bench.start(out, before=before)
        second.wait()
    finally:
        os.kill(first.pid, signal.SIGCONT)
    text = second.text()
    if second.wait() != 2 or "Another deltaw is at work" not in text or "has no locks" not in text:
        raise Wrong(f"a second study was not kept out: {text[-2000:]}")
    time.sleep(bench.moment_in(stage))
    if first.poll() is not None:
        raise Missed
    first.strike(signal.SIGKILL)
    first.wait()
    third = bench.start(out, before=before)
    bench.check_end(out, third)
    if "has no locks" not in third.text():
        raise Wrong("it was not said that the file system has no locks")
    return NEXT_RUN


def _without_locks(number: int) -> None:
    import fcntl

    def flock(file: object, operation: int) -> None:
        raise OSError(number, os.strerror(number))

    fcntl.flock = flock


@contextmanager
def mounted(*words: str, on: Path) -> Iterator[Path]:
    """A file system on a directory, in this process's own table of mounts."""
    if not is_root():
        raise Impossible("only root can mount a file system")
    on.mkdir(exist_ok=True)
    done = subprocess.run(["mount", *words, on], capture_output=True, text=True, check=False)
    if done.returncode:
        raise Impossible(f"mount: {done.stderr.strip()}")
    try:
        yield on
    finally:
        subprocess.run(["umount", "--lazy", on], check=True)


def _size(path: Path) -> int:
    return sum(file.stat().st_size for file in (path.rglob("*") if path.is_dir() else [path]) if file.is_file())


# The rest


def two_studies(bench: Bench, _: str) -> str:
    """The same command is given a second time while the first is at work."""
    stage = bench.stage_of(bench.chance.choice(miniature.KINDS))
    out = bench.copy(without=stage)
    first = bench.start(out)
    bench.wait_for_stage(out, stage, first)
    time.sleep(bench.moment_in(stage) / 2)
    second = bench.start(out)
    if second.wait() == 0:
        raise Missed  # the first had ended
    said = sentence(second, 2)
    if f"process {first.pid}" not in said:
        raise Wrong(f"the sentence does not name the first study's process: {said}")
    bench.check_end(out, first)
    bench.check_end(out, bench.start(out))
    return SENTENCE


def clock_set_back(bench: Bench, _: str) -> str:
    """The clock is set back by hours or years while the study is at work; it is killed, and goes on in the past."""
    stage = bench.stage_of(bench.chance.choice(miniature.KINDS))
    out = bench.copy(without=stage)
    back = bench.chance.choice((3_600.0, 86_400.0, 1e8))
    first = bench.start(out, before=partial(_set_back, bench.moment_in(stage), back))
    bench.wait_for_stage(out, stage, first)
    time.sleep(bench.moment_in(stage))
    if first.poll() is not None:
        raise Missed
    first.strike(signal.SIGKILL)
    first.wait()
    bench.check_end(out, bench.start(out, before=partial(_set_back, 0.0, back)))
    return NEXT_RUN


def _set_back(after: float, seconds: float) -> None:
    """From `after` seconds on, this process reads a clock that was set back."""
    from datetime import UTC, datetime

    from deltaw.pipeline import artifacts
    from deltaw.study import run

    real, start = time.time, time.monotonic()

    def now() -> float:
        return real() - (seconds if time.monotonic() - start > after else 0.0)

    class Then(datetime):
        @classmethod
        def now(cls, tz: object = None) -> datetime:  # type: ignore[override]
            return datetime.fromtimestamp(now(), UTC)

    time.time = now
    for module in (artifacts, run):
        module.datetime = Then  # type: ignore[attr-defined]


MEASURING = tuple(kind for kind in miniature.KINDS if kind not in (*TRAINING, "reference", "samples"))


def not_a_number(bench: Bench, kind: str) -> str:
    """A gradient, or a number that is measured, comes out as NaN."""
    stage = bench.stage_of(kind)
    out = bench.copy(without=stage)
    before = partial(_nan_gradient if kind in TRAINING else _nan_measurement, bench.chance.randrange(8))
    said = sentence(bench.start(out, before=before), 2)
    if stage not in said or "nan" not in said:
        raise Wrong(f"the sentence does not say what was not a number in {stage}: {said}")
    bench.check_end(out, bench.start(out))
    return SENTENCE


def _nan_gradient(update: int) -> None:
    import torch

    real, calls = torch.nn.utils.clip_grad_norm_, iter(range(10**9))

    def clip(*arguments: object, **options: object) -> torch.Tensor:
        norm = real(*arguments, **options)  # type: ignore[arg-type]
        return norm * float("nan") if next(calls) == update else norm

    torch.nn.utils.clip_grad_norm_ = clip


def _nan_measurement(call: int) -> None:
    from deltaw.results.recorder import Sheet

    real, calls = Sheet.add, iter(range(10**9))

    def add(self: Sheet, statistic: str, value: float, *rest: object, **fields: object) -> None:
        real(self, statistic, float("nan") if next(calls) == call else value, *rest, **fields)  # type: ignore[arg-type]

    Sheet.add = add  # type: ignore[method-assign]


def all_faults(reference: Path) -> list[Fault]:
    """Every fault, with the kinds of stages and files that there are."""
    at_stages, files, drawn = miniature.KINDS, tuple(kinds_of_files(reference)), ("a stage drawn by chance",)
    anywhere: tuple[str, ...] = (*at_stages, REPORT)
    if has_snapshots():
        anywhere, files = (*anywhere, *map(MID_TRAINING.format, TRAINING)), (*files, *SNAPSHOT_FILES)
    return [
        Fault("kill", "SIGKILL of the main process", anywhere, partial(signalled, signal.SIGKILL, False)),
        Fault("term", "SIGTERM", anywhere, partial(signalled, signal.SIGTERM, False)),
        Fault("ctrl-c", "Ctrl-C", anywhere, partial(signalled, signal.SIGINT, True)),
        Fault("worker", "SIGKILL of a worker", at_stages, worker_killed),
        Fault("scheduler", "SIGKILL of the scheduler", at_stages, scheduler_killed),
        Fault("flip", "a flipped bit", files, partial(damaged, "flip")),
        Fault("truncate", "a truncation", files, partial(damaged, "truncate")),
        Fault("full", "the disk runs full", drawn, disk_full),
        Fault("read-only", "the directory, or its artifacts, may not be written", drawn, read_only),
        Fault("no-locks", "a file system without locks, SIGKILL of the main process", drawn, no_locks),
        Fault("two", "a second study in the same directory", drawn, two_studies),
        Fault("clock", "the clock is set back, SIGKILL of the main process", drawn, clock_set_back),
        Fault("nan", "a gradient or a measurement that is not a number", (*TRAINING, *MEASURING), not_a_number),
    ]
