"""The command line: its commands, one a file, and what becomes of their errors.

A user's mistake is one sentence and exit status 2. Modules that take long to load are imported by the command that
needs them, when it runs.
"""

import os

# Before numpy loads: its linear algebra on one thread, so that it computes the same bits on any machine.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import atexit
import io
import signal
import sys
import tempfile
from collections import deque
from pathlib import Path
from typing import Annotated

import tyro

from deltaw.cli.compare import Compare
from deltaw.cli.interventions import Interventions
from deltaw.cli.list import List
from deltaw.cli.pool import Pool
from deltaw.cli.report import Report
from deltaw.cli.safety_tune import SafetyTune
from deltaw.cli.sample.command import Sample
from deltaw.cli.screen import Screen
from deltaw.cli.study import Study
from deltaw.errors import DeltawError, one_line

Command = (
    Annotated[Study, tyro.conf.subcommand("study")]
    | Annotated[Sample, tyro.conf.subcommand("sample")]
    | Annotated[Report, tyro.conf.subcommand("report")]
    | Annotated[Interventions, tyro.conf.subcommand("interventions")]
    | Annotated[Pool, tyro.conf.subcommand("pool")]
    | Annotated[Compare, tyro.conf.subcommand("compare")]
    | Annotated[SafetyTune, tyro.conf.subcommand("safety-tune")]
    | Annotated[Screen, tyro.conf.subcommand("screen")]
    | Annotated[List, tyro.conf.subcommand("list")]
)

DESCRIPTION = "deltaw: how does safety fine-tuning change a language model, and how do jailbreaks get past the change?"


def _have_a_home() -> None:
    """Packages ask for the user's home when they are imported; one without any, as in some containers, gets a place
    that is gone at the end.
    """
    try:
        Path.home()
    except RuntimeError:
        home = tempfile.TemporaryDirectory(prefix="deltaw-home-", ignore_cleanup_errors=True)
        atexit.register(home.cleanup)
        os.environ["HOME"] = home.name


_signals: deque[int] = deque()
"""Numbers of the signals that asked this process to end. (`list` is a command here.)"""


def _end_tidily(number: int, frame: object) -> None:
    """SIGTERM, SIGHUP or Ctrl-C: the process ends as soon as what it does is put away."""
    signal.signal(number, signal.SIG_DFL)  # a second signal ends the process at once
    _signals.append(number)
    raise KeyboardInterrupt


def main() -> None:
    """Entry point. Exit status 0, or 2 after a user's mistake, or 128 and the signal's number after an interruption."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a path may hold bytes that are no text
    _have_a_home()
    _signals.clear()
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):  # under nohup one is ignored
            signal.signal(number, _end_tidily)
    command: Command | None = None
    try:
        command = tyro.cli(Command, prog="deltaw", description=DESCRIPTION, config=(tyro.conf.FlagCreatePairsOff,))
        status = command.run()
        sys.stdout.flush()
    except BaseException as error:
        status = _told(error, command)
    sys.exit(status)


def _told(error: BaseException, command: Command | None) -> int:
    """Say what ended the command, and give its exit status. What nobody foresaw is raised again."""
    if _signals or isinstance(error, KeyboardInterrupt):
        # An interruption that is raised inside of C code may come out of it as any other error.
        hint = command.resume_hint() if command is not None else ""
        print(f"deltaw: stopped{hint and f'; {hint}'}", file=sys.stderr)  # noqa: T201
        return 128 + (_signals[-1] if _signals else signal.SIGINT)
    if isinstance(error, BrokenPipeError):  # the reader, such as head, has ended; nothing more can be written
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    if isinstance(error, OSError):  # of a path or a disk: what a name that is too long, or no permission, raises
        from deltaw.results.files import disk_trouble

        path = f"{error.filename}: " if error.filename is not None else ""
        message = one_line(f"{path}{error.strerror or error}; mend that, or name another path")
        error = disk_trouble(error) or DeltawError(message)
    if not isinstance(error, DeltawError):
        raise error
    print(f"deltaw: {error}", file=sys.stderr)  # noqa: T201
    return 2
