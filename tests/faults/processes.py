"""Processes that the faults strike: each has a session of its own, so that what it leaves running can be told.

They are forked from a process that has imported everything and computed nothing: importing PyTorch takes longer than
a stage of the smallest study.
"""

import atexit
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

DEADLINE = 300.0  # seconds after which a process is said to hang


class Hung(Exception):
    """Something was waited for in vain."""


def wait_until(what: str, condition: Callable[[], bool], seconds: float = DEADLINE) -> None:
    """Returns when the condition is true."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise Hung(f"waited {seconds:.0f} s for {what}")
        time.sleep(0.005)


class Process:
    """A forked process that calls `main`, the way a fresh interpreter would."""

    def __init__(self, main: Callable[[], object], said: Path) -> None:
        self.said = said
        self._status: int | None = None
        sys.stdout.flush()
        sys.stderr.flush()
        self.pid = os.fork()
        if self.pid == 0:
            _be_a_process(main, said)

    def poll(self) -> int | None:
        """The exit status, negative after a signal, or None while it runs."""
        if self._status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self._status = os.waitstatus_to_exitcode(status)
        return self._status

    def wait(self) -> int:
        """The exit status. Raises Hung, after killing it, if it does not end."""
        try:
            wait_until(f"the end of a process that said: {self.text()[-500:]}", lambda: self.poll() is not None)
        except Hung:
            self.end()
            raise
        assert self._status is not None
        return self._status

    def text(self) -> str:
        """What it has printed so far."""
        with suppress(FileNotFoundError):
            return self.said.read_text(encoding="utf-8", errors="replace")
        return ""

    def strike(self, number: signal.Signals, whole_group: bool = False) -> None:
        """Sends a signal to it, or to all that Ctrl-C would reach."""
        (os.killpg if whole_group else os.kill)(self.pid, number)

    def left_running(self) -> list[int]:
        """The processes of its session that still run."""
        return [pid for pid in _of_session(self.pid) if pid != self.pid or self.poll() is None]

    def end(self) -> None:
        """Kills it and all that it started."""
        for pid in _of_session(self.pid):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        while self.poll() is None:
            time.sleep(0.005)


def _of_session(session: int) -> list[int]:
    pids = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError, IndexError):
            state, _, _, own_session, *_ = path.read_text(errors="replace").rpartition(")")[2].split()
            if int(own_session) == session and state not in "ZX":
                pids.append(int(path.parent.name))
    return pids


def _be_a_process(main: Callable[[], object], said: Path) -> None:
    status = 1
    try:
        os.setsid()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.default_int_handler if number is signal.SIGINT else signal.SIG_DFL)
        handle = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND)
        nothing = os.open(os.devnull, os.O_RDONLY)
        for source, target in ((nothing, 0), (handle, 1), (handle, 2)):
            os.dup2(source, target)
        try:
            main()
            status = 0
        except SystemExit as stop:
            status = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
        except BaseException:
            traceback.print_exc()
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(status)
