"""A study beyond one machine: a scheduler and workers in processes of their own, one of which is killed."""

import json
import os
import re
import runpy
import signal
import sys
import threading
import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any

import pytest
import toy_stages
from distributed import Client, LocalCluster
from external import External, external

from deltaw.errors import DeltawError
from deltaw.pipeline import artifacts
from deltaw.pipeline.artifacts import Artifact, Provenance
from deltaw.pipeline.progress import Listener
from deltaw.pipeline.scheduler import execute
from deltaw.pipeline.stage import Stage
from deltaw.pipeline.worker import Job, make
from deltaw.recipes import RECIPES, recipe
from deltaw.recipes.config import Recipe
from deltaw.study import run
from deltaw.study.graph import stages
from deltaw.study.run import run_study

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "examples" / "slurm_study.py"
PAGE = (ROOT / "docs" / "scaling.md").read_text(encoding="utf-8")


def small() -> Recipe:
    """`smoke` with one tuning, which is only followed, in two seeds, so that each base model takes one thread."""
    smoke = recipe("smoke")
    (tuned,) = (tuned for tuned in smoke.tunings if tuned.name == "ssft-medium")
    return replace(
        smoke,
        tunings=(replace(tuned, curve_only=True),),
        seeds=(0, 1),
        sizes=replace(smoke.sizes, final=6, checkpoint=4, attacked=4, ceiling=20),
        left_out=None,
        subspaces=None,
        interventions=(),
        model_attacks=replace(smoke.model_attacks, models=(), controls=()),
    )


def digests(run_dir: Path) -> dict[str, str]:
    manifest = json.loads((run_dir / "manifest.json").read_text())
    return {stage["name"]: stage["digest"] for stage in manifest["stages"]}


class Killer(Listener):
    """Kills the worker that makes a stage, while it makes it."""

    def __init__(self, run_dir: Path, stage: str, workers: set[int]) -> None:
        self.killed: int | None = None
        self.notices: list[str] = []
        self._run_dir, self._stage, self._workers = run_dir, stage, workers
        self._begun, self._over = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> "Killer":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()

    def started(self, stage: str) -> None:
        if stage == self._stage:
            self._begun.set()

    def notice(self, text: str) -> None:
        self.notices.append(text)

    def _watch(self) -> None:
        while not self._over.wait(0.002):
            if not self._begun.is_set():
                continue
            for building in self._run_dir.glob(f"artifacts/.building-*-{self._stage}-*"):
                pid = int(building.name.split("-")[2])
                assert pid in self._workers
                os.kill(pid, signal.SIGKILL)
                self.killed = pid
                return


def test_a_study_survives_the_death_of_a_worker_of_another_scheduler_to_the_byte(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_report(run_dir: Path) -> Path:  # it takes as long as all stages, and is another test's
        (run_dir / "report.html").touch()
        return run_dir / "report.html"

    monkeypatch.setattr(run, "write_report", no_report)
    run_study(small(), tmp_path / "inline", engine="inline")
    with (
        external(tmp_path) as cluster,
        Killer(tmp_path / "remote", "base-s1", {worker.pid for worker in cluster.workers}) as killer,
    ):
        run_study(small(), tmp_path / "remote", scheduler=cluster.address, listener=killer)
        dead = [worker.pid for worker in cluster.workers if worker.poll() is not None]
    assert dead == [killer.killed]
    assert "base-s1 starts again: the process that ran it died" in killer.notices
    assert digests(tmp_path / "remote") == digests(tmp_path / "inline")
    for name in ("measurements.jsonl", "claims.json", "prompts.jsonl"):
        assert (tmp_path / "remote" / name).read_bytes() == (tmp_path / "inline" / name).read_bytes()


class LateWorker(Listener):
    """Starts a worker when it is told that there is none."""

    def __init__(self, cluster: External) -> None:
        self.notices: list[str] = []
        self._cluster = cluster

    def notice(self, text: str) -> None:
        self.notices.append(text)
        self._cluster.start_worker()


def test_a_study_on_a_scheduler_without_workers_says_so_once_and_runs_when_one_comes(tmp_path: Path) -> None:
    with external(tmp_path, workers=()) as cluster:
        listener = LateWorker(cluster)
        rescue = threading.Timer(60, cluster.start_worker)  # so that a study that says nothing ends, and fails below
        rescue.start()
        execute([Stage("a", toy_stages.threads)], tmp_path / "run", listener=listener, scheduler=cluster.address)
        rescue.cancel()
        (notice,) = listener.notices
        assert notice.startswith(f"no worker is connected to the Dask scheduler at {cluster.address}, ")
        assert f"dask worker {cluster.address}" in notice


def test_a_stage_of_cuda_goes_to_a_worker_that_declares_a_gpu_one_at_a_time(tmp_path: Path) -> None:
    def where(count: int, device: str) -> list[Stage]:
        return [Stage(f"{device}-{n}", toy_stages.whose, {"n": n}, device=device) for n in range(count)]

    with external(tmp_path, workers=((), ("--resources", "GPU=1", "--nthreads", "3"))) as cluster:
        with Client(cluster.address, set_as_default=False) as client:  # type: ignore[no-untyped-call]
            client.wait_for_workers(2, timeout=120)
        records = execute([*where(4, "cuda"), *where(4, "cpu")], tmp_path / "run", scheduler=cluster.address)
    spans: dict[str, list[tuple[int, float, float]]] = {"cuda": [], "cpu": []}
    for record in records:
        pid, start, end = (record.path / "whose.txt").read_text().split()
        spans[record.name.split("-")[0]].append((int(pid), float(start), float(end)))
    assert {pid for pid, _, _ in spans["cuda"]} == {cluster.workers[1].pid}
    ordered = sorted((start, end) for _, start, end in spans["cuda"])
    assert all(before[1] <= after[0] for before, after in pairwise(ordered))
    assert cluster.workers[0].pid in {pid for pid, _, _ in spans["cpu"]}, "stages of the CPU run anywhere"


def test_stages_that_compute_on_a_gpu_say_so() -> None:
    whole = recipe("smoke")
    tunings = tuple(replace(t, config=replace(t.config, device="cuda")) for t in whole.tunings)
    on_gpu = replace(whole, pretraining=replace(whole.pretraining, device="cuda"), tunings=tunings)
    assert {stage.device for stage in stages(whole)} == {"cpu"}
    kinds = {stage.name.split("-")[0] for stage in stages(on_gpu) if stage.device == "cuda"}
    assert kinds >= {"base", "tune", "reference", "behaviour", "analysis", "attacks", "interventions", "samples"}
    assert {stage.device for stage in stages(on_gpu) if stage.name.startswith("world-")} == {"cpu"}


def test_a_dead_worker_gets_one_more_try_an_error_none_and_cuda_needs_no_declared_gpu(tmp_path: Path) -> None:
    graph = [
        Stage("dies", toy_stages.dies_often, {"count": str(tmp_path / "deaths")}),
        Stage("fails", toy_stages.fails_often, {"count": str(tmp_path / "errors")}),
        Stage("runs", toy_stages.threads, device="cuda"),
    ]
    with pytest.raises(
        DeltawError, match=r"^dies: the process that ran this stage died, again.*\(failed too: fails\)$"
    ):
        execute(graph, tmp_path / "run", workers=1)
    assert (tmp_path / "deaths").read_text() == "xx"
    assert (tmp_path / "errors").read_text() == "x"
    (made,) = (tmp_path / "run" / "artifacts").iterdir()
    assert made.name.startswith("runs-")


def test_two_machines_that_make_the_same_stage_both_have_made_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Of one machine the second would wait for the first; other machines' processes cannot be seen.
    monkeypatch.setattr(artifacts, "_wait_for_others", lambda path: False)
    mark, go = tmp_path / "mark", tmp_path / "go"
    stage = Stage("hang", toy_stages.hang, {"mark": str(mark), "go": str(go)})
    provenance = Provenance("hang", {})
    job = Job(stage, provenance, provenance.path(tmp_path), {}, {}, 1.0)
    made: list[Artifact] = []
    threads = [
        threading.Thread(target=lambda: made.append(make(job, lambda event: None)), daemon=True) for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    end = time.monotonic() + 60
    while len(list((tmp_path / "artifacts").glob(".building-*/half.txt"))) < 2:
        assert time.monotonic() < end
        time.sleep(0.01)
    go.touch()
    for thread in threads:
        thread.join()
    assert [artifact.digest for artifact in made] == [made[0].digest] * 2
    assert [path.name for path in (tmp_path / "artifacts").iterdir()] == [provenance.path(tmp_path).name]


class _Slurm(LocalCluster):
    """Takes what `dask_jobqueue.SLURMCluster` takes, and starts processes of this machine."""

    asked: dict[str, Any]

    def __init__(self, **options: Any) -> None:
        type(self).asked = options
        super().__init__(  # type: ignore[no-untyped-call]
            n_workers=0, threads_per_worker=1, host="127.0.0.1", protocol="tcp://", dashboard_address="127.0.0.1:0"
        )

    def adapt(self, *, minimum_jobs: int, maximum_jobs: int) -> None:  # type: ignore[override]
        assert minimum_jobs == maximum_jobs
        self.scale(minimum_jobs)  # type: ignore[no-untyped-call]


@pytest.mark.slow
def test_the_script_for_slurm_runs_a_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = ModuleType("dask_jobqueue")
    fake.SLURMCluster = _Slurm  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "dask_jobqueue", fake)
    chosen = small()
    monkeypatch.setitem(RECIPES, "small", lambda device, seed: chosen)
    out = tmp_path / "run"
    options = ["--recipe", "small", "--seeds", "2", "--jobs", "2", "--queue", "batch", "--account", "me"]
    monkeypatch.setattr(sys, "argv", [SCRIPT.name, *options, "--out", str(out)])
    runpy.run_path(str(SCRIPT), run_name="slurm_study")["main"]()
    assert (out / "report.html").exists()
    assert json.loads((out / "manifest.json").read_text())["seeds"] == [1001, 1002]
    assert (_Slurm.asked["queue"], _Slurm.asked["account"]) == ("batch", "me")
    assert _Slurm.asked["cores"] == _Slurm.asked["processes"], "one thread a process"


def test_the_page_gives_the_script_options_that_it_has(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fake = ModuleType("dask_jobqueue")
    fake.SLURMCluster = _Slurm  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "dask_jobqueue", fake)
    monkeypatch.setattr(sys, "argv", [SCRIPT.name, "--help"])
    with pytest.raises(SystemExit):
        runpy.run_path(str(SCRIPT), run_name="slurm_study")["main"]()
    options, _, _ = capsys.readouterr().out.partition("pip install")
    (command,) = re.findall(r"python examples/slurm_study\.py([^\n]*)", PAGE)
    assert re.findall(r"--[a-z]+", command)
    for option in re.findall(r"--[a-z]+", command):
        assert f"[{option} " in options or f" {option} " in options


def test_the_recipe_of_the_page_has_a_hundred_seeds() -> None:
    code = next(block for block in re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL) if "seeds=" in block)
    names: dict[str, Any] = {"run_study": lambda recipe, *_, **__: names.update(given=recipe)}
    body = "\n".join(line for line in code.splitlines() if "import run_study" not in line)
    exec(compile(body, "docs/scaling.md", "exec"), {**names, "__name__": "__main__"}, names)
    assert len(set(names["given"].seeds)) == 100
    assert len(stages(names["given"])) > 9000
