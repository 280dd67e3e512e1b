"""The engine on toy stages: reuse, rebuilding, failures, and the same artifacts from both engines."""

import json
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
import toy_stages
from distributed import LocalCluster
from toy_stages import Toy

from deltaw.errors import DeltawError
from deltaw.pipeline import artifacts
from deltaw.pipeline import scheduler as engine
from deltaw.pipeline.artifacts import Artifact
from deltaw.pipeline.progress import Listener
from deltaw.pipeline.run_directory import run_lock
from deltaw.pipeline.scheduler import StageRecord, execute
from deltaw.pipeline.stage import Stage
from deltaw.pipeline.worker import Emit, Finished, Job, make


@dataclass
class Recorder(Listener):
    """Keeps all that it hears, with the thread it hears it on."""

    heard: list[tuple[Any, ...]] = field(default_factory=list)
    threads: set[int] = field(default_factory=set)

    def _hear(self, *what: Any) -> None:
        self.heard.append(what)
        self.threads.add(threading.get_ident())

    def begin(self, stages: list[str]) -> None:
        self._hear("begin", tuple(stages))

    def started(self, stage: str) -> None:
        self._hear("started", stage)

    def progress(self, stage: str, done: float, total: float, note: str) -> None:
        self._hear("progress", stage, done, total, note)

    def finished(self, stage: str, artifact: Artifact) -> None:
        self._hear("finished", stage)

    def reused(self, stage: str, artifact: Artifact) -> None:
        self._hear("reused", stage)

    def failed(self, stage: str, error: BaseException) -> None:
        self._hear("failed", stage, type(error))

    def notice(self, text: str) -> None:
        self._hear("notice", text)

    def end(self) -> None:
        self._hear("end")


@dataclass
class CountingPool:
    """Runs the oldest of its jobs at each wait, and notes which it had at the same time."""

    threads: int | None
    jobs: list[Job] = field(default_factory=list)
    order: list[str] = field(default_factory=list)
    seen_together: list[set[str]] = field(default_factory=list)

    def start(self, job: Job) -> None:
        self.jobs.append(job)
        self.order.append(job.stage.name)
        self.seen_together.append({job.stage.name for job in self.jobs})

    def wait(self, emit: Emit) -> None:
        job = self.jobs.pop(0)
        emit(Finished(job.stage.name, make(job, emit)))


def diamond(value: int = 1) -> list[Stage]:
    """Two sources, one of them behind a join that comes first in the list, and a stage beside them."""
    return [
        Stage("join", toy_stages.join, {"x": 0.1}, inputs={"left": "left", "right": "right"}),
        Stage("left", toy_stages.source, {"value": value}),
        Stage("right", toy_stages.source, {"value": 7}),
        Stage("wide", toy_stages.threads, threads=2),
    ]


def inline(stages: Sequence[Stage], run_dir: Path, listener: Listener | None = None) -> dict[str, StageRecord]:
    return {record.name: record for record in execute(stages, run_dir, "inline", listener=listener)}


def rebuilt(records: dict[str, StageRecord]) -> set[str]:
    return {name for name, record in records.items() if not record.reused}


def leftovers(run_dir: Path) -> list[str]:
    return [path.name for path in (run_dir / "artifacts").glob(".building-*")]


def test_an_artifact_says_what_made_it_and_lists_its_files(tmp_path: Path) -> None:
    records = execute(diamond(), tmp_path, "inline")
    assert [record.name for record in records] == ["join", "left", "right", "wide"]
    record = records[1]
    assert record.path == tmp_path / "artifacts" / f"left-{record.key[:12]}"
    written = json.loads((record.path / "artifact.json").read_text())
    assert written["made_from"]["config"] == {"value": 1}
    assert written["made_from"]["versions"].keys() == {"python", "numpy", "scipy", "torch"}
    assert written["files"].keys() == {"draws.txt"}
    assert written["key"] == record.key
    assert record.peak_bytes > 1e6
    assert leftovers(tmp_path) == []


def test_what_is_unchanged_is_reused(tmp_path: Path) -> None:
    first = inline(diamond(), tmp_path)
    second = inline(diamond(), tmp_path)
    assert rebuilt(first) == {"join", "left", "right", "wide"}
    assert rebuilt(second) == set()
    assert [(r.key, r.digest, r.seconds, r.started) for r in first.values()] == [
        (r.key, r.digest, r.seconds, r.started) for r in second.values()
    ]


def test_another_config_rebuilds_what_depends_on_it_and_going_back_reuses(tmp_path: Path) -> None:
    inline(diamond(), tmp_path)
    assert rebuilt(inline(diamond(value=2), tmp_path)) == {"left", "join"}
    assert rebuilt(inline(diamond(), tmp_path)) == set()


def test_threads_versions_and_type_of_config_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage("typed", toy_stages.typed, Toy(0.5))
    inline([stage], tmp_path)
    assert rebuilt(inline([replace(stage, threads=2)], tmp_path)) == {"typed"}
    assert rebuilt(inline([replace(stage, config=Toy(0.25))], tmp_path)) == {"typed"}
    assert rebuilt(inline([stage], tmp_path)) == set()
    monkeypatch.setattr(engine, "versions", lambda: {**artifacts.versions(), "torch": "9.9"})
    assert rebuilt(inline([stage], tmp_path)) == {"typed"}


@pytest.mark.parametrize("damage", ["changed", "removed", "added", "truncated record", "changed record", "no record"])
def test_a_damaged_artifact_is_set_aside_and_made_anew(tmp_path: Path, damage: str) -> None:
    first = inline(diamond(), tmp_path)
    path = first["left"].path
    match damage:
        case "changed":
            (path / "draws.txt").write_text("0x0")
        case "removed":
            (path / "draws.txt").unlink()
        case "added":
            (path / "more.txt").write_text("more")
        case "truncated record":
            (path / "artifact.json").write_text((path / "artifact.json").read_text()[:40])
        case "changed record":
            record = path / "artifact.json"
            record.write_text(record.read_text().replace('"peak_bytes": ', '"peak_bytes": 1'))
        case "no record":
            (path / "artifact.json").unlink()
    recorder = Recorder()
    second = inline(diamond(), tmp_path, recorder)
    assert rebuilt(second) == {"left"}, "made anew with the same content, so what was made from it still stands"
    assert second["left"].digest == first["left"].digest
    (notice,) = [text for kind, *text in recorder.heard if kind == "notice"]
    assert "left is made anew" in notice[0]
    assert len(list((tmp_path / "artifacts").glob(".damaged-left-*"))) == 1


def test_what_was_made_from_another_content_is_made_anew(tmp_path: Path) -> None:
    clock = Stage("clock", toy_stages.source, {"value": 5})
    stages = [clock, Stage("join", toy_stages.join, inputs={"clock": "clock"})]
    first = inline(stages, tmp_path)
    (first["clock"].path / "draws.txt").unlink()
    record = json.loads((first["join"].path / "artifact.json").read_text())
    record["input_digests"] = {"clock": "0" * 64}
    (first["join"].path / "artifact.json").write_text(json.dumps(record))
    assert rebuilt(inline(stages, tmp_path)) == {"clock", "join"}


def test_both_engines_make_the_same_artifacts_and_report_from_the_callers_thread(tmp_path: Path) -> None:
    before = torch.get_num_threads()
    by_inline, by_dask = Recorder(), Recorder()
    pair = [
        Stage(name, toy_stages.meet, {"folder": str(tmp_path), "name": name, "other": other}, weight=9)
        for name, other in (("one", "other"), ("other", "one"))
    ]
    first = execute(diamond(), tmp_path / "inline", "inline", listener=by_inline)
    with socket.socket() as other_study:
        with suppress(OSError):  # Dask's usual port: if it is taken already, so much the better
            other_study.bind(("127.0.0.1", 8787))
            other_study.listen()
        second = execute([*diamond(), *pair], tmp_path / "dask", "dask", workers=2, listener=by_dask)
    assert [(r.key, r.digest) for r in first] == [(r.key, r.digest) for r in second[:4]]
    assert torch.get_num_threads() == before
    for recorder in (by_inline, by_dask):
        heard = recorder.heard
        assert recorder.threads == {threading.get_ident()}
        assert heard[0][1][:4] == ("join", "left", "right", "wide")
        assert heard[-1] == ("end",)
        assert ("progress", "left", 1.0, 2.0, "half") in heard
        assert ("progress", "left", 2.0, 2.0, "") in heard
        assert heard.index(("started", "left")) < heard.index(("finished", "left"))
        assert heard.index(("finished", "right")) < heard.index(("started", "join"))
    assert rebuilt(inline(diamond(), tmp_path / "dask")) == set(), "an artifact does not know its engine"


@pytest.mark.parametrize("budget", [1, 2, 3, None])
def test_the_thread_budget_is_kept_and_a_wide_stage_is_not_passed_by(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, budget: int | None
) -> None:
    pool = CountingPool(budget)
    monkeypatch.setattr(engine, "_open_pool", lambda *_: nullcontext(pool))
    widths = {"a": 1, "b": 1, "wide": 2, "c": 1, "huge": 5, "d": 1}
    stages = [
        Stage(name, toy_stages.threads, threads=threads, weight=9 - place)
        for place, (name, threads) in enumerate(widths.items())
    ]
    execute(stages, tmp_path)
    assert pool.order == list(widths)
    for together in pool.seen_together:
        assert len(together) == 1 or budget is None or sum(widths[name] for name in together) <= budget
    assert max(map(len, pool.seen_together)) == {1: 1, 2: 2, 3: 2, None: 6}[budget]


@pytest.mark.parametrize("kind", ["inline", "dask"])
def test_a_failure_leaves_the_rest_standing_and_is_raised_with_its_stage(tmp_path: Path, kind: str) -> None:
    stages = [
        Stage("bad", toy_stages.our_error, weight=9),
        Stage("after-bad", toy_stages.join, inputs={"bad": "bad"}),
        *diamond(),
    ]
    if kind == "dask":
        stages.append(Stage("dies", toy_stages.dies, weight=0.1))
    recorder = Recorder()
    with pytest.raises(ZeroDivisionError, match="a planted mistake") as caught:
        execute(stages, tmp_path, kind, workers=1, listener=recorder)
    assert "stage bad" in caught.value.__notes__[0]
    assert any(entry.name == "our_error" for entry in caught.traceback), "the traceback leads to the stage's line"
    assert ("failed", "bad", ZeroDivisionError) in recorder.heard
    if kind == "dask":
        assert ("failed", "dies", DeltawError) in recorder.heard
    assert leftovers(tmp_path) == []
    assert rebuilt(inline(diamond(), tmp_path)) == set()


@pytest.mark.parametrize(
    "stage",
    [toy_stages.full_disk, toy_stages.full_disk_of_safetensors, toy_stages.full_disk_of_older_safetensors],
)
def test_a_full_disk_is_said_in_a_sentence_and_nothing_more_is_started(tmp_path: Path, stage: Any) -> None:
    recorder = Recorder()
    stages = [Stage("fills", stage, weight=9), *diamond()]
    with pytest.raises(DeltawError, match=r"^fills: the disk of .* is full \(No space left on device\)\. Free some"):
        inline(stages, tmp_path, recorder)
    assert [name for kind, *name in recorder.heard if kind == "started"] == [["fills"]]
    inline(diamond(), tmp_path)


def test_a_worker_that_dies_once_is_replaced_and_its_stage_tried_again(tmp_path: Path) -> None:
    recorder = Recorder()
    stages = [Stage("unlucky", toy_stages.dies_once, {"mark": str(tmp_path / "mark")})]
    (record,) = execute(stages, tmp_path / "run", "dask", workers=1, listener=recorder)
    assert (record.path / "alive.txt").exists()
    (notice,) = [text for kind, *text in recorder.heard if kind == "notice"]
    assert notice == ["unlucky starts again: the process that ran it died"]
    assert leftovers(tmp_path / "run") == []


def test_a_worker_that_outlived_its_driver_is_waited_for(tmp_path: Path) -> None:
    first = inline(diamond(), tmp_path / "other")
    record = first["left"]
    place = tmp_path / "run" / "artifacts"
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as outlived:
        building = place / f".building-{artifacts.host_mark()}-{outlived.pid}-cafe-{record.path.name}"
        building.mkdir(parents=True)

        def finish() -> None:
            shutil.copytree(record.path, place / record.path.name)
            building.rmdir()
            outlived.communicate(b"\n")

        timer = threading.Timer(1.0, finish)
        timer.start()
        made = inline(diamond(), tmp_path / "run")
        timer.join()
    assert made["left"].started == record.started
    assert made["left"].seconds == record.seconds, "it took what the other had made"


def test_a_users_error_passes_with_the_stages_name(tmp_path: Path) -> None:
    with pytest.raises(DeltawError, match=r"^tuning: the learning rate is too large$"):
        inline([Stage("tuning", toy_stages.user_error)], tmp_path)
    assert leftovers(tmp_path) == []
    assert list((tmp_path / "artifacts").iterdir()) == []


def test_an_interrupt_stops_at_once_and_leaves_nothing_partial(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        inline([Stage("stopped", toy_stages.interrupted), Stage("later", toy_stages.threads)], tmp_path)
    assert list((tmp_path / "artifacts").iterdir()) == []
    inline(diamond(), tmp_path)


def test_a_scheduler_that_is_already_there_runs_the_same_graph(tmp_path: Path) -> None:
    with LocalCluster(  # type: ignore[no-untyped-call]
        n_workers=1,
        threads_per_worker=2,
        processes=False,
        protocol="tcp://",
        host="127.0.0.1",
        dashboard_address="127.0.0.1:0",
    ) as cluster:
        records = execute(diamond(), tmp_path / "remote", "dask", scheduler=cluster.scheduler_address)
    assert [r.digest for r in records] == [r.digest for r in execute(diamond(), tmp_path / "here", "inline")]


def test_one_process_at_a_time(tmp_path: Path) -> None:
    with run_lock(tmp_path), pytest.raises(DeltawError, match="Another deltaw is at work"):
        inline(diamond(), tmp_path)
    inline(diamond(), tmp_path)


def test_longest_chain_first(tmp_path: Path) -> None:
    stages = [
        Stage("short", toy_stages.threads, weight=3),
        Stage("head", toy_stages.threads, weight=2),
        Stage("tail", toy_stages.join, inputs={"head": "head"}, weight=2),
    ]
    recorder = Recorder()
    inline(stages, tmp_path, recorder)
    assert [name for kind, *name in recorder.heard if kind == "started"] == [["head"], ["short"], ["tail"]]


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ([Stage("a", toy_stages.threads), Stage("A", toy_stages.threads)], "same name"),
        ([Stage("../a", toy_stages.threads)], "not fit"),
        ([Stage("a", toy_stages.join, inputs={"x": "b"})], "no stage makes"),
        (
            [Stage("a", toy_stages.join, inputs={"x": "b"}), Stage("b", toy_stages.join, inputs={"x": "a"})],
            "wait for each other",
        ),
        ([Stage("a", toy_stages.threads, threads=0)], "at least one thread"),
        ([Stage("a", toy_stages.threads, {"x": float("nan")})], "nan"),
        ([Stage("a", lambda context: None)], "top level"),
    ],
)
def test_a_graph_that_is_not_one_is_refused_before_anything_is_written(
    tmp_path: Path, stages: list[Stage], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        inline(stages, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_stage_that_writes_nothing_is_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="wrote no file"):
        inline([Stage("a", toy_stages.nothing)], tmp_path)


def test_an_unknown_engine_is_named_with_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(DeltawError, match="'spark'; there are dask and inline"):
        execute(diamond(), tmp_path, "spark")
    with pytest.raises(DeltawError, match="at least 1"):
        execute(diamond(), tmp_path, "dask", workers=0)
