"""Who writes where: an audit hook that sees files opened for writing, and stops those outside given directories."""

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_PATHS = {  # event: which of its arguments are paths that change
    "os.mkdir": 1, "os.remove": 1, "os.rmdir": 1, "os.rename": 2, "os.truncate": 1, "os.symlink": 2, "os.link": 2,
    "os.chmod": 1, "shutil.rmtree": 1, "shutil.move": 2,
}  # fmt: skip
_FORBIDDEN = ("subprocess.Popen", "os.system", "os.exec", "socket.connect")


class Watch:
    """allowed: where may be written. blocked: where a user asked for it, but the test does not. outside: what else."""

    def __init__(self) -> None:
        self.on = False
        self.allowed: Sequence[str] = ()
        self.blocked: Sequence[str] = ()
        self.outside: list[str] = []

    def seen(self, event: str, args: tuple[Any, ...]) -> None:
        """Called by Python for each event, with errors that the caller of open, mkdir, ... gets."""
        if not self.on:
            return
        if event == "open":
            path, _, flags = args
            if isinstance(path, str | bytes | os.PathLike) and isinstance(flags, int) and flags & _WRITING:
                self._check(event, path)
        elif event in _PATHS:
            if not any(isinstance(arg, int) and arg >= 0 for arg in args[_PATHS[event] :]) or event == "os.mkdir":
                for path in args[: _PATHS[event]]:
                    self._check(event, path)
        elif event in _FORBIDDEN:
            self.outside.append(f"{event} {args[:2]}")
            raise PermissionError(event)

    def _check(self, event: str, path: Any) -> None:
        if not isinstance(path, str | bytes | os.PathLike):
            return
        full = os.path.abspath(os.fsdecode(path))  # noqa: PTH100 (which would follow links)
        if full == os.devnull or any(full == root or full.startswith(f"{root}/") for root in self.allowed):
            return
        if not any(
            full == root or full.startswith(f"{root}/") or (event == "os.mkdir" and root.startswith(full))
            for root in self.blocked
        ):
            self.outside.append(f"{event} {full}")
        raise PermissionError(13, "Permission denied", full)

    @contextmanager
    def within(self, *allowed: Path) -> Iterator[None]:
        """Watch until the end of the context."""
        self.allowed, self.on = [str(path) for path in allowed], True
        try:
            yield
        finally:
            self.on = False


watch = Watch()
sys.addaudithook(watch.seen)
