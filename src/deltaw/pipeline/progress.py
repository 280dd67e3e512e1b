"""What a study shows while it works: live bars on a terminal, plain lines in a log."""

import sys
import time
from dataclasses import dataclass, field
from typing import IO

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from deltaw.pipeline.artifacts import Artifact

BARS = 8


class Listener:
    """Hears how a study goes; every method does nothing here. All calls come from one thread, the caller's
    of `execute`.
    """

    def begin(self, stages: list[str]) -> None:
        """The study starts; these stages are to be made or reused."""

    def started(self, stage: str) -> None:
        """A stage has started to run."""

    def progress(self, stage: str, done: float, total: float, note: str) -> None:
        """A running stage has done so much of its total."""

    def finished(self, stage: str, artifact: Artifact) -> None:
        """A stage has been made."""

    def reused(self, stage: str, artifact: Artifact) -> None:
        """A stage needed no work: its artifact is there and still what it was."""

    def failed(self, stage: str, error: BaseException) -> None:
        """A stage has failed; what does not depend on it goes on."""

    def notice(self, text: str) -> None:
        """Something worth a line has happened."""

    def end(self) -> None:
        """The study has come to its end, or was stopped."""


@dataclass
class PlainListener(Listener):
    """Lines for a log: each start and end, and of a running stage at most one line in `every` seconds."""

    stream: IO[str] = field(default_factory=lambda: sys.stderr)
    every: float = 10.0
    _stages: int = 0
    _left: int = 0
    _started: dict[str, float] = field(default_factory=dict)
    _spoken: dict[str, float] = field(default_factory=dict)

    def begin(self, stages: list[str]) -> None:
        """Starts the count of stages left."""
        self._stages = self._left = len(stages)

    def started(self, stage: str) -> None:
        """One line."""
        self._started[stage] = self._spoken[stage] = time.monotonic()
        self._say(f"{stage}: started")

    def progress(self, stage: str, done: float, total: float, note: str) -> None:
        """One line, unless the stage's last line is less than `every` seconds old."""
        now = time.monotonic()
        if now - self._spoken.get(stage, 0.0) < self.every:
            return
        self._spoken[stage] = now
        share = done / total if total else 0.0
        elapsed = now - self._started.get(stage, now)
        left = f", about {_duration(elapsed * (1 - share) / share)} left" if 0 < share < 1 and elapsed > 0 else ""
        self._say(f"{stage}: {done:g} of {total:g}{left}{f' ({note})' if note else ''}")

    def finished(self, stage: str, artifact: Artifact) -> None:
        """One line."""
        self._left -= 1
        self._say(f"{stage}: done in {_duration(artifact.seconds)}")

    def reused(self, stage: str, artifact: Artifact) -> None:
        """One line."""
        self._left -= 1
        self._say(f"{stage}: already made")

    def failed(self, stage: str, error: BaseException) -> None:
        """One line."""
        self._left -= 1
        self._say(f"{stage}: failed ({type(error).__name__}: {error})")

    def notice(self, text: str) -> None:
        """One line."""
        self._say(text)

    def _say(self, text: str) -> None:
        print(f"[{self._stages - self._left}/{self._stages}] {text}", file=self.stream, flush=True)


class RichListener(Listener):
    """Live bars on a terminal: one for each running stage with its time left, and one for the whole study.

    At most `BARS` stages have a bar. Every event draws all bars again, and on a cluster a thousand stages run.
    """

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True)
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.percentage:>3.0f}%"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("[dim]{task.fields[note]}"),
            console=self._console,
        )
        self._tasks: dict[str, TaskID] = {}
        self._without_bar: dict[str, float] = {}  # since when they run, the first one first
        self._whole: TaskID | None = None
        self._stages = self._left = 0

    def begin(self, stages: list[str]) -> None:
        """Shows the bar of the whole study."""
        self._stages = self._left = len(stages)
        self._whole = self._bars.add_task("[bold]study", total=self._stages, note=self._note())
        self._bars.start()

    def started(self, stage: str) -> None:
        """Adds the stage's bar; it only pulses until the stage says how far it is."""
        if len(self._tasks) < BARS:
            self._tasks[stage] = self._bars.add_task(stage, total=None, note="")
        else:
            self._without_bar[stage] = self._bars.get_time()

    def progress(self, stage: str, done: float, total: float, note: str) -> None:
        """Moves the stage's bar."""
        if stage in self._tasks:
            self._bars.update(self._tasks[stage], completed=done, total=total, note=note)

    def finished(self, stage: str, artifact: Artifact) -> None:
        """Replaces the stage's bar by a line above the bars."""
        self._settle(stage, f"[green]done[/]    {stage} [dim]in {_duration(artifact.seconds)}")

    def reused(self, stage: str, artifact: Artifact) -> None:
        """A line above the bars."""
        self._settle(stage, f"[cyan]reused[/]  {stage} [dim]already made")

    def failed(self, stage: str, error: BaseException) -> None:
        """A line above the bars."""
        self._settle(stage, f"[red]failed[/]  {stage} [dim]{type(error).__name__}")

    def notice(self, text: str) -> None:
        """A line above the bars."""
        self._console.print(f"note: {text}", markup=False, highlight=False)

    def end(self) -> None:
        """Takes the bars away."""
        for task in self._bars.task_ids:
            self._bars.remove_task(task)
        self._bars.stop()

    def _settle(self, stage: str, line: str) -> None:
        self._left -= 1
        self._without_bar.pop(stage, None)
        if stage in self._tasks:
            self._bars.remove_task(self._tasks.pop(stage))
            self._show_another()
        if self._whole is not None:
            self._bars.update(self._whole, completed=self._stages - self._left, note=self._note())
        self._console.print(line, highlight=False)

    def _show_another(self) -> None:
        """Gives the bar that is free to the stage that has waited longest for one."""
        if not self._without_bar:
            return
        stage = next(iter(self._without_bar))
        began = self._without_bar.pop(stage)
        number = self._tasks[stage] = self._bars.add_task(stage, total=None, note="")
        next(task for task in self._bars.tasks if task.id == number).start_time = began

    def _note(self) -> str:
        more = f", {len(self._without_bar)} more at work" if self._without_bar else ""
        return f"{self._left} of {self._stages} stages left{more}"


def choose_listener(stream: IO[str] | None = None) -> Listener:
    """Live bars if `stream` (standard error by default) is a terminal, else plain lines."""
    target = sys.stderr if stream is None else stream
    return RichListener(Console(file=target)) if target.isatty() else PlainListener(target)


def _duration(seconds: float) -> str:
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
