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
from pathlib import Path
from typing import Annotated, NoReturn

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


class _Terminated(KeyboardInterrupt):
    """SIGTERM or SIGHUP: the process ends as after Ctrl-C."""

    def __init__(self, number: int) -> None:
        self.number = number


def _end_tidily(number: int, frame: object) -> None:
    signal.signal(number, signal.SIG_DFL)  # a second signal ends the process at once
    raise _Terminated(number)


def main() -> None:
    """Entry point. Exit status 0, or 2 after a user's mistake, or 128 and the signal's number after an interruption."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a path may hold bytes that are no text
    _have_a_home()
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_DFL:  # under nohup it is ignored, and stays so
            signal.signal(number, _end_tidily)
    command: Command | None = None
    try:
        command = tyro.cli(Command, prog="deltaw", description=DESCRIPTION, config=(tyro.conf.FlagCreatePairsOff,))
        status = command.run()
        sys.stdout.flush()
        sys.exit(status)
    except BrokenPipeError:  # the reader, such as head, has ended; nothing more can be written, at exit neither
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except DeltawError as error:
        _fail(error)
    except OSError as error:  # of a path or a disk: what a name that is too long, or no permission, raises
        from deltaw.results.files import disk_trouble

        path = f"{error.filename}: " if error.filename is not None else ""
        message = one_line(f"{path}{error.strerror or error}; mend that, or name another path")
        _fail(disk_trouble(error) or DeltawError(message))
    except KeyboardInterrupt as stop:
        hint = command.resume_hint() if command is not None else ""
        print(f"deltaw: stopped{hint and f'; {hint}'}", file=sys.stderr)  # noqa: T201
        sys.exit(128 + (stop.number if isinstance(stop, _Terminated) else signal.SIGINT))


def _fail(error: DeltawError) -> NoReturn:
    print(f"deltaw: {error}", file=sys.stderr)  # noqa: T201
    sys.exit(2)
