"""What is shown while a study works."""

import io
import re
import time
from pathlib import Path

import pytest
from rich.console import Console

from deltaw.pipeline.artifacts import Artifact
from deltaw.pipeline.progress import BARS, Listener, PlainListener, RichListener, choose_listener

MADE = Artifact(Path("x"), "key", "digest", 75.0, "2026-01-01T00:00:00+00:00", 1)


def play(listener: Listener) -> None:
    listener.begin(["base", "tuned", "report"])
    listener.reused("base", MADE)
    listener.started("tuned")
    listener.progress("tuned", 100, 800, "loss 0.12")
    if isinstance(listener, RichListener):
        listener._bars.refresh()  # the screen's own clock need not strike within this test
    listener.notice("tuned [1] is made anew")
    listener.finished("tuned", MADE)
    listener.started("report")
    listener.failed("report", ValueError("no figures"))
    listener.end()


def test_plain_lines_say_what_is_left_and_hold_back(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    stream = io.StringIO()
    listener = PlainListener(stream)
    listener.begin(["tuned", "report"])
    listener.started("tuned")
    for second in range(31):
        now[0] = float(second)
        listener.progress("tuned", second, 60, "loss 0.12")
    listener.finished("tuned", MADE)
    assert stream.getvalue().splitlines() == [
        "[0/2] tuned: started",
        "[0/2] tuned: 10 of 60, about 50 s left (loss 0.12)",
        "[0/2] tuned: 20 of 60, about 40 s left (loss 0.12)",
        "[0/2] tuned: 30 of 60, about 30 s left (loss 0.12)",
        "[1/2] tuned: done in 1 min 15 s",
    ]


def test_a_terminal_shows_running_stages_and_how_many_are_left() -> None:
    stream = io.StringIO()
    play(RichListener(Console(file=stream, force_terminal=True, width=100, _environ={})))
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", stream.getvalue())
    for text in (
        "tuned",
        "loss 0.12",
        "of 3 stages left",
        "already made",
        "in 1 min 15 s",
        "failed",
        "tuned [1] is",
    ):
        assert text in shown


def test_the_stream_decides() -> None:
    assert isinstance(choose_listener(io.StringIO()), PlainListener)

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    assert isinstance(choose_listener(Terminal()), RichListener)


def test_bars_do_not_grow_with_the_stages_at_work() -> None:
    stream = io.StringIO()
    listener = RichListener(Console(file=stream, force_terminal=True, width=120, height=60))
    names = [f"stage-{n:02d}" for n in range(3 * BARS)]
    listener.begin(names)
    for name in names:
        listener.started(name)

    def shown() -> list[str]:
        return [task.description for task in listener._bars.tasks][1:]  # the first is the study's

    assert shown() == names[:BARS]
    for name in names[2 : BARS + 2]:
        listener.finished(name, MADE)
    assert sorted(shown()) == [*names[:2], *names[BARS + 2 : 2 * BARS]], "the longest without a bar gets the free one"
    listener._bars.refresh()
    assert f"{2 * BARS} of {3 * BARS} stages left, {BARS} more at work" in stream.getvalue()
    for name in names[:2] + names[BARS + 2 :]:
        listener.finished(name, MADE)
    assert shown() == []
    listener.end()
