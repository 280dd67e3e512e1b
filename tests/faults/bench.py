"""A finished, undisturbed study, the hashes that every disturbed one must come to, and copies of it to disturb."""

import json
import os
import random
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import miniature
from processes import Process, wait_until

from deltaw.pipeline.stage import Stage

GATHERED = ("measurements.jsonl", "claims.json", "prompts.jsonl")
"""The files of a run that hold no times and so are the same bytes in every run."""
UNFINISHED = ("artifacts/.building-*", ".*.tmp", "figures/.*.tmp")


class Wrong(Exception):
    """A round ended otherwise than it may."""


def load_everything() -> None:
    """Imports what a study needs, so that forked processes need not."""

    import deltaw.cli
    import deltaw.pipeline.dask_backend
    import deltaw.pipeline.progress
    import deltaw.study.all_interventions
    import deltaw.study.run  # noqa: F401

    miniature.register()
    os.environ["DELTAW_SNAPSHOT_SECONDS"] = "0"  # a snapshot after every update
    _fingerprint_once()


def _fingerprint_once() -> None:
    """Reading all sources to tell what made an artifact takes as long as a stage here, and nothing strikes it."""
    from deltaw.pipeline.code_hash import Sources
    from deltaw.study import run

    real, known = Sources.fingerprint, dict[frozenset[object], str]()

    def fingerprint(self: Sources, *definitions: object) -> str:
        key = frozenset(definitions)
        if key not in known:
            known[key] = real(self, *definitions)
        return known[key]

    Sources.fingerprint = fingerprint  # type: ignore[method-assign]
    sources = Sources()
    sources.fingerprint(run.finish)
    sources.fingerprint(*{stage.run for stage in miniature.graph()})
    plan_of(miniature.graph())


def plan_of(stages: Sequence[Stage]) -> None:
    """Draws up the plan of a study as a run does, which asks for the fingerprints of its stages."""
    from deltaw.pipeline import scheduler as engine

    engine._plan(stages)


def draw_little(report: bool) -> None:
    """In this process a report has one section, or is a line of text: drawing it takes longer than all else."""
    from deltaw.report import render as page
    from deltaw.study import run

    real = page.sections  # type: ignore[attr-defined]
    page.sections = lambda tables: dict([*real(tables).items()][:1])  # type: ignore[attr-defined]
    if report:
        return

    def write(run_dir: Path) -> Path:
        page: Path = run_dir / "report.html"
        page.write_text("not drawn\n")
        return page

    run.write_report = write  # type: ignore[attr-defined]


def command(out: Path, engine: str, scheduler: str | None) -> list[str]:
    """The words of the command line that makes the study."""
    words = ["deltaw", "study", "--recipe", miniature.NAME, "--out", str(out), "--engine", engine]
    return [*words, "--scheduler", scheduler] if scheduler else [*words, "--workers", "1"]


def _study(words: list[str], before: Callable[[], None], report: bool) -> None:
    from deltaw import cli

    draw_little(report)
    before()
    sys.argv = words
    cli.main()


def nothing() -> None:
    """Changes nothing in a process."""


@dataclass
class Bench:
    """Where the rounds happen.

    folder: of all that is written. chance: what draws moments, places and engines.
    """

    folder: Path
    chance: random.Random
    seconds: dict[str, float] = field(default_factory=dict)
    hashes: dict[str, str] = field(default_factory=dict)
    artifacts: dict[str, str] = field(default_factory=dict)
    number: int = 0

    @property
    def reference(self) -> Path:
        """The directory of the undisturbed study."""
        return self.folder / "undisturbed"

    def start(
        self,
        out: Path,
        engine: str = "inline",
        scheduler: str | None = None,
        before: Callable[[], None] = nothing,
        report: bool = False,
    ) -> Process:
        """Starts the study's command. before: what is called in its process first."""
        self.number += 1
        main = partial(_study, command(out, engine, scheduler), before, report)
        return Process(main, self.folder / f"said-{self.number:05d}.txt")

    def make_reference(self) -> None:
        """Makes the undisturbed study."""
        process = self.start(self.reference, report=True)
        if process.wait() != 0:
            raise Wrong(f"the undisturbed study failed: {process.text()[-2000:]}")
        manifest = json.loads((self.reference / "manifest.json").read_text())
        self.seconds = {stage["name"]: stage["seconds"] for stage in manifest["stages"]}
        self.artifacts = {stage["name"]: Path(stage["path"]).name for stage in manifest["stages"]}
        self.hashes = hashes(self.reference)

    def copy(self, without: str | None = None, to: Path | None = None) -> Path:
        """A copy of the undisturbed study, without a stage's artifact if one is named."""
        self.number += 1
        out = to or self.folder / f"run-{self.number:05d}"
        shutil.copytree(self.reference, out, dirs_exist_ok=True)
        if without is not None:
            shutil.rmtree(out / "artifacts" / self.artifacts[without])
        return out

    def stage_of(self, kind: str) -> str:
        """One of the stages of a kind."""
        return self.chance.choice(miniature.stage_names()[kind])

    def maker_of(self, out: Path, stage: str) -> int | None:
        """The id of the process that is making a stage's artifact, if one is."""
        for path in (out / "artifacts").glob(f".building-*-{self.artifacts[stage]}"):
            return int(path.name.split("-")[2])
        return None

    def wait_for_stage(self, out: Path, stage: str, process: Process) -> None:
        """Returns when the stage is being made, or the process has ended."""
        wait_until(f"{stage} to start", lambda: self.maker_of(out, stage) is not None or process.poll() is not None)

    def moment_in(self, stage: str) -> float:
        """Seconds from a stage's start to the strike."""
        return self.chance.uniform(0, self.seconds[stage])

    def check_end(self, out: Path, process: Process) -> None:
        """Raises Wrong unless the study has come to its end with the same hashes, and left nothing behind."""
        if process.wait() != 0:
            raise Wrong(f"it ended with status {process.wait()} and said: {process.text()[-2000:]}")
        differing = sorted(name for name, value in hashes(out).items() ^ self.hashes.items())
        if differing:
            raise Wrong(f"{', '.join(dict.fromkeys(differing))} differ from those of the undisturbed study")
        written: dict[str, Any] = json.loads((out / ".written.json").read_text())["files"]
        changed = [name for name, value in written.items() if _hash(out / name) != value]
        if changed:
            raise Wrong(f"{', '.join(changed)} are not what was written")
        check_clean(out, process)
        if left := [path.name for path in (out / "artifacts").glob(".resume-*")]:
            raise Wrong(f"{', '.join(left)} stayed, though the stages are finished")


def check_clean(out: Path, process: Process) -> None:
    """Raises Wrong if a study that has ended left a process, or anything half-written."""
    try:
        wait_until("its processes to end", lambda: not process.left_running(), 30)
    except Exception as error:
        raise Wrong(f"processes {process.left_running()} still run: {error}") from error
    half = [path.name for pattern in UNFINISHED for path in out.glob(pattern)]
    if half:
        raise Wrong(f"{', '.join(half)} stayed")


def sentence(process: Process, status: int) -> str:
    """The one sentence with which a process stopped. Raises Wrong if it stopped otherwise."""
    ended = process.wait()
    text = process.text()
    if ended != status:
        raise Wrong(f"it ended with status {ended}, not {status}, and said: {text[-2000:]}")
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("[")]
    if "Traceback" in text or not lines or not lines[-1].startswith("deltaw: ") or len(lines) > 1:
        raise Wrong(f"it did not stop with one sentence: {text[-3000:]}")
    return lines[-1].removeprefix("deltaw: ")


def hashes(out: Path) -> dict[str, str]:
    """sha256 of every file of every artifact but its record, and of the gathered files that hold no times."""
    found = {name: _hash(out / name) for name in GATHERED}
    for folder in sorted((out / "artifacts").iterdir()):
        if not folder.name.startswith("."):
            for path in sorted(folder.rglob("*")):
                if path.is_file() and path.name != "artifact.json":
                    found[path.relative_to(out).as_posix()] = _hash(path)
    return found


def _hash(path: Path) -> str:
    return sha256(path.read_bytes()).hexdigest()


def is_root() -> bool:
    """Whether file systems can be mounted."""
    return os.geteuid() == 0
